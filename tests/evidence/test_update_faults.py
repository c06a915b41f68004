"""Updates under attack: power fails at each write, and the connection is cut at each record."""

import argparse
import contextlib
import functools
import re
import shutil
import sys
from pathlib import Path

import pytest
from cutter import Cutter
from evidence_common import LONG, run
from targets import ROOT
from wssctl.boards import firmware, modules, update
from wssctl.boards.dialler import Dialler
from wssctl.errors import WssctlError

sys.path.insert(0, str(Path(__file__).parent.parent / "host"))

from test_update_firmware import esp32, image


def loaders(folder, form):
    """Two folders with the loader's files: as source, or as bytecode with its beginning; and as another version."""
    for name, more in (("one", b""), ("another", b"\nanother = 1\n")):
        (folder / name).mkdir()
        if form == "source":
            (folder / name / "wss_repl.py").write_bytes(modules.loader() + more)
        else:
            source = modules.loader_source() + more
            (folder / name / "wss_update.mpy").write_bytes(modules.bytecode(source, "wss_update", None, level=3))
            (folder / name / "wss_repl.py").write_bytes(modules.loader_front() + more)
        yield folder / name


@pytest.mark.parametrize("form", ["source", "bytecode"])
@pytest.mark.parametrize("kind", ["lfs", "fat"])
def test_power_cut_at_each_write(target, kind, form, row, tmp_path):
    """Of an update, of its first start, and of what proves it or takes it back: one whole bundle or the other."""
    printed = run(target.bits, "updates.py", kind, 1, *loaders(tmp_path, form), heap="96M")
    lines = [line.split() for line in printed if line.startswith(("UPDATE ", "PROVED ", "BACK "))]
    assert [line[0] for line in lines] == ["UPDATE", "UPDATE", "PROVED", "PROVED", "BACK", "BACK"] * 2 + ["UPDATE"] * 2
    name = {"lfs": "littlefs", "fat": "FAT"}[kind] + f", {target.bits} bits"
    name += ", the loader as bytecode" * (form == "bytecode")
    for what, how, writes, *seen in lines:
        old, new, *first = map(int, seen)
        assert int(writes) > 5 and old + new + sum(first) == int(writes) and old and (new or what == "BACK")
        assert kind == "fat" or not sum(first)
        words = {"UPDATE": "an update", "PROVED": "its proof", "BACK": "its end without a login"}[what]
        text = f"the old bundle {old} times, the new one {new} times"
        if sum(first):
            text += f", {sum(first)} times the one before: FAT can't replace the loader in one step"
        row("Updates", f"power cut at each of {writes} writes of {words} ({how}), {name}", text)


class Cuts:
    """A board that gets the same update again and again, each time with the connection cut one record later."""

    def __init__(self, keys, port, restart, directory, old, new):
        self.restart, self.directory, self.before = restart, directory, directory.parent / "before"
        self.old, self.new = old, new
        self.cutter = Cutter(port)
        self.args = argparse.Namespace(
            url=f"wss://127.0.0.1:{self.cutter.port}", keys=str(keys.directory), takeover=True, timeout=10, deadline=60,
            server_name=None, host_id=None, password_file=None, passphrase_file=None, overlay=True, force=True,
            sign=False, signed=None, progress=lambda name, size: contextlib.nullcontext(),
        )  # fmt: skip
        self.dial = Dialler(self.args)

    def back(self, runs):
        for path in self.directory.iterdir():
            if path.name.startswith(("wss_", "flash_")):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(self.before, self.directory, dirs_exist_ok=True)
        if runs == self.new:
            self.restart()

    def runs(self, code):
        """What runs, once nothing is on trial: nobody but who began it would have proved it."""
        with self.dial() as client:
            code = f"import sys;u=sys.modules.get('wss_update');print({code}, u and u.trial)"
            return client.exec(code).output.decode().split()

    def each(self, attempt, code):
        """(cuts, how often the old one ran after one, how often the new one)"""
        shutil.copytree(self.directory, self.before)
        self.cutter.records = 0
        assert attempt() == f"{self.old} -> {self.new}"
        total, kept, proved = self.cutter.records, 0, 0
        self.back(self.new)
        cuts = range(1, total + 1) if LONG else [total // 2, total - 6]
        for cut in cuts:
            self.cutter.records, self.cutter.limit = 0, cut
            said = None
            try:
                said = attempt()
            except WssctlError as e:
                failure = e
            self.cutter.limit = None
            runs, waits = self.runs(code)
            assert waits == "None" and runs == (self.new if said else self.old), (cut, runs, waits, said or failure)
            kept, proved = kept + (runs == self.old), proved + (runs == self.new)
            # The next attempt, from what this one has left
            if runs == self.old and (cut % 4 == 0 or cut > total - 12):
                assert attempt() == f"{self.old} -> {self.new}", cut
                runs = self.new
            self.back(runs)
        self.cutter.close()
        return len(cuts), kept, proved


@pytest.mark.parametrize("kind", ["update", "firmware"])
@pytest.mark.targets("unix", "unix32")
def test_the_connection_is_cut_at_each_record(target, keys, provisioned, tmp_path, monkeypatch, row, kind):
    """Of an update: the old one runs, or the new one is proved after all; and the next attempt succeeds."""
    for key, value in (("KEYS", keys.directory), ("PASSPHRASE", keys.passphrase), ("PASSWORD", "secret")):
        monkeypatch.setenv(f"WSSCTL_{key}", str(value))
    if kind == "firmware":
        with esp32(keys, tmp_path / "esp32", f"unix{target.bits % 64 or ''}") as desk:

            def restart():
                desk.board.restart()
                desk.ready()

            cuts = Cuts(keys, desk.port, restart, desk.directory, "v1.25.0", "v1.26.0")
            new = firmware.parse(image("v1.26.0"))
            said = cuts.each(lambda: firmware._firmware(cuts.args, cuts.dial, new), "__import__('esp32').version()")
    else:
        sources = dict(modules.sources())
        name = "wss/port.py"

        def bundle(version):
            text = re.sub(r'^VERSION = ".+?"', f'VERSION = "{version}"', sources[name].decode(), flags=re.M)
            monkeypatch.setattr(modules, "sources", lambda: sources | {name: text.encode()})
            monkeypatch.setattr(update, "_compiled", functools.lru_cache(modules.compiled))

        with target.board(provisioned) as board:
            cuts = Cuts(keys, board.port, board.restart, provisioned, "8.0.0", "9.0.0")
            bundle("8.0.0")
            assert update._update(cuts.args, cuts.dial) == f"{modules_version()} -> 8.0.0"
            # From here on most files are there, and are copied on the board
            bundle("9.0.0")
            said = cuts.each(lambda: update._update(cuts.args, cuts.dial), "sys.modules['wss_repl'].VERSION")
    text = "the old one {1} times, the new one {2} times, proved after all; the next attempt succeeds".format(*said)
    row("Updates", f"`{kind}`: connection cut at each of {said[0]} records, {target.bits} bits", text)


def modules_version():
    return re.search(r'^VERSION = "(.+?)"', (ROOT / "lib/wss/port.py").read_text(), re.M)[1]
