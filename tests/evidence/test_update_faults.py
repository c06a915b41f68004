"""Updates under attack: power fails at each write, and the connection is cut at each record."""

import argparse
import contextlib
import re

import pytest
from cutter import Cutter
from evidence_common import LONG, run
from targets import ROOT
from wssctl.boards import modules, update
from wssctl.boards.dialler import Dialler
from wssctl.errors import WssctlError

LOADER = ROOT / "tools/wssctl/onboard/loader.py"


@pytest.mark.parametrize("kind", ["lfs", "fat"])
def test_power_cut_at_each_write(target, kind, row):
    """Of an update, of its first start, and of what proves it or takes it back: one whole bundle or the other."""
    printed = run(target.bits, "updates.py", kind, 1, LOADER, heap="96M")
    lines = [line.split() for line in printed if line.startswith(("UPDATE ", "PROVED ", "BACK "))]
    assert [line[0] for line in lines] == ["UPDATE", "UPDATE", "PROVED", "PROVED", "BACK", "BACK"] * 2 + ["UPDATE"] * 2
    name = {"lfs": "littlefs", "fat": "FAT"}[kind] + f", {target.bits} bits"
    for what, how, writes, *seen in lines:
        old, new, *first = map(int, seen)
        assert int(writes) > 5 and old + new + sum(first) == int(writes) and old and (new or what == "BACK")
        assert kind == "fat" or not sum(first)
        words = {"UPDATE": "an update", "PROVED": "its proof", "BACK": "its end without a login"}[what]
        text = f"the old bundle {old} times, the new one {new} times"
        if sum(first):
            text += f", {sum(first)} times the one before: FAT can't replace the loader in one step"
        row("Updates", f"power cut at each of {writes} writes of {words} ({how}), {name}", text)


def test_the_connection_is_cut_at_each_record(target, keys, provisioned, monkeypatch, row):
    """Of an update: the old bundle runs, or the new one is proved after all; and the next attempt succeeds."""
    sources = dict(modules.sources())
    name = "wss/port.py"

    def bundle(version):
        text = re.sub(r'^VERSION = ".+?"', f'VERSION = "{version}"', sources[name].decode(), flags=re.M)
        monkeypatch.setattr(modules, "sources", lambda: sources | {name: text.encode()})
        update._compiled.cache_clear()

    for key, value in (("KEYS", keys.directory), ("PASSPHRASE", keys.passphrase), ("PASSWORD", "secret")):
        monkeypatch.setenv(f"WSSCTL_{key}", str(value))
    with target.board(provisioned) as board:
        cutter = Cutter(board.port)
        args = argparse.Namespace(
            url=f"wss://127.0.0.1:{cutter.port}", keys=str(keys.directory), takeover=True, timeout=10, server_name=None,
            host_id=None, password_file=None, passphrase_file=None, overlay=True, force=True, deadline=20,
            sign=False, signed=None,
        )  # fmt: skip
        dial = Dialler(args)
        bundle("8.0.0")
        assert update._update(args, dial) == f"{modules_version()} -> 8.0.0"
        # From here on most files are there, and are copied on the board
        bundle("9.0.0")
        cutter.records = 0
        assert update._update(args, dial) == "8.0.0 -> 9.0.0"
        total = cutter.records
        cuts = range(1, total + 1) if LONG else [total // 2, total - 6]
        old, kept, proved = "9.0.0", 0, 0
        for cut in cuts:
            new = f"9.0.{cut}"
            bundle(new)
            cutter.records, cutter.limit = 0, cut
            with contextlib.suppress(WssctlError):
                update._update(args, dial)
            cutter.limit = None
            with dial() as client:
                runs = client.link.bundle[0]
                waits = client.exec("import sys;print(sys.modules['wss_update'].trial)").output.strip()
            assert runs in (old, new) and waits == b"None", (cut, runs, waits)
            kept, proved = kept + (runs == old), proved + (runs == new)
            bundle(new + ".1")
            assert update._update(args, dial) == f"{runs} -> {new}.1"
            old = new + ".1"
        cutter.close()
    text = f"the old bundle {kept} times, the new one {proved} times, proved by another login; then the next one"
    row("Updates", f"connection cut at each of {len(list(cuts))} records, {target.bits} bits", text)


def modules_version():
    return re.search(r'^VERSION = "(.+?)"', (ROOT / "lib/wss/port.py").read_text(), re.M)[1]
