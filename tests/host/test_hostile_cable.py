"""What a board on a cable may say to wssctl: one that somebody else had in his hands, or a device that is no board."""

import contextlib
import json
import os
import pty
import threading
import tty

import pytest
from board import Board
from targets import UID
from wssctl.cable import port, startup
from wssctl.cable.port import Cable
from wssctl.errors import ConnectionLost, Unreachable

LYING = """\
import sys
class Json:
    def dumps(self, said):
        with open('/lie') as f:
            return f.read() or real.dumps(said)
import json as real
sys.modules['json'] = Json()
"""


@pytest.fixture
def liar(tmp_path):
    """liar(text) makes it what the board says of itself; liar.board is the Board."""
    files = tmp_path / "liar"
    files.mkdir()
    (files / "boot.py").write_text(LYING)
    (files / "lie").touch()

    def say(text):
        (files / "lie").write_text(text)

    with contextlib.closing(Board(files, 64, pty=True)) as board:
        board.read_until(b">>> ", 60)
        say.board = board
        yield say


def test_what_a_board_says_of_itself_is_a_sentence_or_what_was_asked_for(liar):
    with Cable(liar.board.tty) as board:
        about = board.about()
        assert about["uid"] == UID
        honest = {k: v for k, v in about.items() if k not in ("asked", "heard")}
        lies = ["", "[]", "null", "7", '"x"', "{}", "{", "[" * 5000, "9" * 5000, '{"uid":', "\\x1b]0;owned\\x07"]
        others = (None, [], {}, [None], [7, "x"], "x", 7, [[]])
        lies += [json.dumps(honest | {name: value}) for name in honest for value in others]
        lies += [json.dumps({k: v for k, v in honest.items() if k != name}) for name in honest]
        for lie in lies[1:]:
            liar(lie)
            try:
                said = board.about()
            except ConnectionLost as e:
                assert "answers strangely" in str(e)
            else:  # of that kind, or one that need not be there
                assert {k: type(v) for k, v in said.items()} == {k: type(v) for k, v in about.items()}, lie
        for time in ([10**30] * 6, [1 << 62] * 6, [0] * 6, [-1] * 6, [9999, 12, 31, 23, 59, 59]):
            liar(json.dumps(honest | {"time": time}))
            startup.set_clock(board, board.about())
        liar("")
        assert board.about()["uid"] == UID


@pytest.mark.parametrize("code", ["while 1: print(1)", "import time\nwhile 1:\n time.sleep_ms(20)\n print(1)"])
def test_a_board_that_prints_for_ever_is_given_up(liar, monkeypatch, code):
    """By bytes, and one that says little by the time."""
    with Cable(liar.board.tty) as board:
        monkeypatch.setattr(port, "_MOST", 50_000 if "sleep" not in code else 1 << 20)
        monkeypatch.setattr(port, "_LONGEST", 900 if "sleep" not in code else 0.5)
        with pytest.raises(ConnectionLost, match="sends without an end"):
            board.exec(code)
        with pytest.raises(ConnectionLost, match="sends without an end"):
            board.exec(code, lambda data: None)


def test_a_device_that_sends_for_ever_is_no_board(monkeypatch):
    """A port of something else: mpremote would wait until it is silent."""
    monkeypatch.setattr(port, "_MOST", 50_000)
    master, slave = pty.openpty()
    tty.setraw(slave)
    over = threading.Event()

    def send():
        with contextlib.suppress(OSError):
            while not over.is_set():
                os.write(master, b"$GPGGA,123519,4807.038,N,01131.000,E,1,08\r\n")

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    try:
        with pytest.raises(Unreachable, match="does not answer as a MicroPython board"):
            Cable(os.ttyname(slave))
    finally:
        over.set()
        os.close(slave)
        os.close(master)
        sender.join(60)
