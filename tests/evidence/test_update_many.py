"""Updates of many boards of which three can't do with the new version: what is begun, what is told, what runs then."""

import json
import re
import shutil
import sys
import time
from pathlib import Path

import pytest
from evidence_common import LONG
from targets import ROOT
from wssctl.boards import modules

sys.path.insert(0, str(Path(__file__).parent.parent / "host"))

from site_of_boards import PASSWORD, Site
from test_update_firmware import image

BOARDS = 50 if LONG else 5
NEW = "9.8.7"
# What a board's own program makes of the new version. The first is taken back at once, the others by the deadline.
BROKEN = ["wss_repl.start(port=70000)", "1 // 0", f"wss_repl.start(port={{port}}, password={PASSWORD + 'x'!r})"]
BOOT = """\
import wss_repl
{esp32}
if version == {new!r}:
    {broken}
else:
    wss_repl.start(port={port})
"""
PARTITION = 0x10000


class Boards(Site):
    def fill(self, kind, count):
        for n in range(count):
            name = f"b{n:02d}"
            files, port = self.add(name, f"aabbccdd{n:04x}", "ceiling")
            if kind == "firmware":
                shutil.copy(ROOT / "tests/board_api/esp32.py", files)
                (files / "flash_ota_0").write_bytes(image("v1.25.0").ljust(PARTITION, b"\xff"))
                (files / "flash_ota_1").write_bytes(b"".ljust(PARTITION, b"\xff"))
            self.ports = getattr(self, "ports", {}) | {name: port}

    def break_(self, kind, broken):
        """These boards' programs get lines that fail with the new version."""
        of = {"update": "version = wss_repl.VERSION", "firmware": "import esp32; version = esp32.version()"}[kind]
        new = {"update": NEW, "firmware": "v1.26.0"}[kind]
        for name, line in broken.items():
            boot = BOOT.format(esp32=of, new=new, port=self.ports[name], broken=line.format(port=self.ports[name]))
            (self.path / name / "boot.py").write_text(boot)

    def versions(self, kind):
        """What each of them runs, and what its latest update came to, as a login sees it."""
        code = {"update": "wss_repl.VERSION", "firmware": "__import__('esp32').version()"}[kind]
        code = f"import wss_repl; print({code}, wss_repl.status()['update'], sep='|')"
        said = self.run("exec", "@all", "--json", code, timeout=600)
        rows = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
        return {row["board"]: row["output"].strip().split("|") for row in rows}


@pytest.mark.parametrize("kind", ["update", "firmware"])
@pytest.mark.targets("unix")
def test_three_of_many_can_not_do_with_the_new_version(target, tmp_path, kind, row):
    old, new = {"update": (modules.version(), NEW), "firmware": ("v1.25.0", "v1.26.0")}[kind]
    if kind == "update":
        shutil.copytree(ROOT / "tools/wssctl", tmp_path / "site/wssctl", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(ROOT / "lib", tmp_path / "site/wssctl/bundle", ignore=shutil.ignore_patterns("__pycache__"))
        port = tmp_path / "site/wssctl/bundle/wss/port.py"
        port.write_text(re.sub(r'^VERSION = ".+?"', f'VERSION = "{NEW}"', port.read_text(), flags=re.M))
        words, env = ["update", "@ceiling", "--overlay"], {"PYTHONPATH": str(tmp_path / "site")}
    else:
        (tmp_path / "new.bin").write_bytes(image(new))
        words, env = ["firmware", "@ceiling", tmp_path / "new.bin"], {}
    deadline = 60 if LONG else 20
    words += ["--json", "--deadline", deadline]

    def run():
        began = time.monotonic()
        said = site.run(*words, status=1, env=env, timeout=1800)
        rows = {r["board"]: r for r in map(json.loads, filter(lambda line: line[:1] == "{", said.splitlines()))}
        assert set(rows) == set(site.boards)
        return rows, time.monotonic() - began

    (tmp_path / "boards").mkdir()
    with Boards(tmp_path / "boards", target.bits) as site:
        site.fill(kind, BOARDS)
        names = sorted(site.boards)
        failing = dict(zip([names[0], names[BOARDS // 2], names[-1]], BROKEN if LONG else BROKEN[:1] * 3, strict=True))
        site.break_(kind, failing)
        rows, seconds = run()
        assert f"{new} was taken back" in rows[names[0]]["output"] and f"{old} runs again" in rows[names[0]]["output"]
        assert {r["output"] for n, r in rows.items() if n != names[0]} == {f"not begun, because {names[0]} failed"}
        after = site.versions(kind)
        assert {v for v, _ in after.values()} == {old} and new in after[names[0]][1]
        assert [n for n in names if after[n][1]] == names[:1]
        text = f"the canary took {seconds:.0f} s to go back; {BOARDS - 1} boards were not begun, and run the old one"
        row("Updates", f"`{kind}` of {BOARDS} boards, the first among 3 that fail", text)

        # Its program is mended; another one is not
        site.break_(kind, {names[0]: f"wss_repl.start(port={site.ports[names[0]]})"})
        failing = dict(zip([names[1], names[BOARDS // 2], names[-1]], failing.values(), strict=True))
        site.break_(kind, failing)
        rows, seconds = run()
        after = site.versions(kind)
        for name in names:
            if name in failing:
                assert f"{new} was taken back" in rows[name]["output"] and after[name][0] == old, (name, rows[name])
                assert rows[name]["code"] == 1 and not rows[name]["ok"] and new in after[name][1]
            else:
                assert rows[name]["ok"] and after[name] == [new, ""], (name, rows[name], after[name])
        text = f"{BOARDS - 3} were proved and 3 went back by themselves, in {seconds:.0f} s in all; each was told"
        row("Updates", f"`{kind}` of {BOARDS} boards, 3 fail after the first was well", text)
