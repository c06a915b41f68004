"""`wssctl status`: what boards say of themselves, on one and on several."""

import json
import re
import shutil

import pytest
from desk import WSSCTL, Desk
from targets import Unix
from wssctl.tools import status


@pytest.fixture(params=["unix", "unix32"])
def desk(request, keys, tmp_path):
    shutil.copytree(keys.board, tmp_path / "board")
    (tmp_path / "board/main.py").write_text("import time\nn = 0\nwhile True:\n    n += 1\n    time.sleep_ms(5)\n")
    with Desk(keys, Unix(request.param), tmp_path / "board", prompt=False) as running:
        yield running


def test_a_board_answers_and_its_program_goes_on(desk):
    done = desk.run(*WSSCTL, "status", desk.url)
    assert done.returncode == 0, done
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert re.fullmatch(r".+, serial [0-9a-f]+", lines["host"]), lines["host"]
    assert lines["clock"] == "right" and "free" in lines["heap"] and "days" in lines["certificate"], done.stdout
    assert re.fullmatch(r"\d+ min \d+ s", lines["up"])
    assert "KeyboardInterrupt" not in desk.board.log.decode()
    said = json.loads(desk.run(*WSSCTL, "status", "--json", desk.url).stdout)
    assert said["ok"] and said["reachable"] and said["said"]["heap"][0] > 10_000
    assert said["said"]["status"]["client"], "who asks is in, while asking"
    assert b"KeyboardInterrupt" not in desk.board.log and b"Traceback" not in desk.board.log


@pytest.mark.parametrize(
    ("running", "words"),
    [
        ([61, 61_200], "1 min 1 s"),
        ([61.2, 61_200], "1 min 1 s"),  # a unix port's clock
        ([float("inf"), 61_200], "?"),
        ([30 * 86400, (30 * 86400_000) % 2**30], "30 d 0 h"),
        ([30 * 86400, (30 * 86400_000) % 2**30 - 2**30], "30 d 0 h"),  # negative, as ticks_diff() has the second half
        ([820_000_000, 61_000], "1 min 1 s, or 12 days more than once"),  # the clock was set
        (None, "?"),
        (["x", 1], "?"),
    ],
)
def test_uptime(running, words):
    assert status._uptime(running) == words


def test_pairs_are_words():
    words = status._words({"status": {"client": ["127.0.0.1", 5000], "host": ["HOST ana", "1f"], "lacks": "a,b"}}, None)
    assert (words["client"], words["host"], words["lacks"]) == ("127.0.0.1:5000", "HOST ana, serial 1f", "a,b")


@pytest.mark.parametrize(
    "said",
    [{}, {"firmware": 7, "running": {}, "heap": ["a", 1], "flash": [], "clock": [1, 2], "status": []},
     {"clock": [0, 0, 0, 0, 0, 0], "status": {"refused": [1], "client": None}, "bundle": {"a": 1}},
     {"clock": [1 << 62] * 6}, {"clock": [10**30] * 6}, {"running": [10**400, 1]}, {"running": [1, -(10**400)]},
     {"heap": [10**400, 0], "flash": [-1, -1], "clock": [9999, 12, 31, 23, 59, 59]}, {"clock": [float("inf")] * 6}],
)  # fmt: skip
def test_a_board_may_say_anything(said):
    words = status._words(said, None)
    assert all(isinstance(w, str) for w in words.values())
