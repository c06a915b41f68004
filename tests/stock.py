"""MicroPython as Debian ships it, with nothing of ours frozen in: a copy of lib/ must do there.

Fetched once, with the libraries it was linked to, into build/stock; nothing is installed on the machine.
"""

import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools/dev"))

import firmware

ROOT = firmware.BUILD / "stock"


def stock() -> list[str]:
    """The command that starts it. Raises firmware.FirmwareError where Debian's archive cannot be reached."""
    with firmware._lock("stock"):
        if not ROOT.exists():
            _fetch()
    loader = next(ROOT.glob("usr/lib/*/ld-linux*.so.*"))
    return [str(loader), "--library-path", str(loader.parent), str(ROOT / "usr/bin/micropython")]


def _fetch():
    if not firmware.KEYRING.exists():
        raise firmware.FirmwareError(f"{firmware.KEYRING} is missing: run 'apt-get install debian-archive-keyring'")
    part = ROOT.with_name("stock.part")
    shutil.rmtree(part, ignore_errors=True)
    apt = part / "apt"
    for folder in ("lists/partial", "cache/archives/partial"):
        (apt / folder).mkdir(parents=True)
    (apt / "status").touch()  # as if no package were installed: all that it depends on is wanted
    options = {
        "Dir::Etc::sourcelist": apt / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::State::Lists": apt / "lists",
        "Dir::State::status": apt / "status",
        "Dir::Cache": apt / "cache",
        "Debug::NoLocking": "1",
        "APT::Sandbox::User": "root",
    }
    command: list[str | Path] = ["apt-get", "-q", "-y"]
    for name, value in options.items():
        command += ["-o", f"{name}={value}"]
    log = firmware.BUILD / "stock.log"
    log.unlink(missing_ok=True)
    install = ["install", "--download-only", "--no-install-recommends", "micropython"]
    for mirror in firmware._mirrors():
        (apt / "sources.list").write_text(f"deb [signed-by={firmware.KEYRING}] {mirror} {firmware.SUITE} main\n")
        if firmware._run([*command, "update"], log) and firmware._run([*command, *install], log):
            break
    else:
        reason = firmware._first_line(log, "^(Err|E:)")
        raise firmware.FirmwareError(f"Debian's micropython cannot be fetched ({reason}); see {log}")
    for package in (apt / "cache" / "archives").glob("*.deb"):
        subprocess.run(["dpkg", "-x", package, part], check=True)
    shutil.rmtree(apt)
    part.rename(ROOT)
