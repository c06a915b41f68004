#!/usr/bin/env python3
"""A release: every module of lib/ as bytecode for any board (short names, mpy-cross -O3), package.json for mip,
SHA256SUMS, and names.json, by which a traceback is read; and an index of packages for mip, files only, which any static
web page can serve.

    mpremote connect PORT mip install build/dist/package.json
    mpremote connect PORT mip install --index https://USER.page/index wss-repl
    make dist-check PORT=PORT           # what is on the board against SHA256SUMS

The bytecode has no machine code in it: one release fits every processor whose MicroPython reads that mpy version.
"""

import argparse
import hashlib
import json
import shutil
import sys
from pathlib import Path

import package
from wssctl.boards import modules, shorten
from wssctl.cable.port import Cable
from wssctl.errors import WssctlError

ROOT = Path(__file__).resolve().parent.parent.parent
DIST = ROOT / "build" / "dist"
NAME = "wss-repl"


def sums(files: dict[str, bytes]) -> str:
    """As `sha256sum` prints them."""
    return "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in files.items())


def names() -> dict[str, dict[str, str]]:
    """{module, as a traceback names it: {short name: long name}}."""
    short = shorten.short_names(modules.sources())
    return {Path(name).stem: {s: long for long, s in found.items()} for name, found in short.items() if found}


def build(to: Path = DIST, made: dict[str, bytes] | None = None) -> Path:
    """Makes the release in `to`, in place of an old one; returns its package.json. made: bytecode that is there.
    Raises modules.NoCompiler."""
    part = to.with_name(to.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    made = made or modules.compiled()
    for name, data in made.items():
        (part / name).parent.mkdir(parents=True, exist_ok=True)
        (part / name).write_bytes(data)
    (part / "package.json").write_text(package.describe([[f, f] for f in made]))
    (part / "SHA256SUMS").write_text(sums(made))
    (part / "names.json").write_text(json.dumps(names(), indent=1) + "\n")
    index(part / "index", str(made["wss_repl.mpy"][1]), made)
    index(part / "index", "py", modules.sources())  # for `mip install --no-mpy`
    shutil.rmtree(to, ignore_errors=True)
    part.rename(to)
    return to / "package.json"


def index(to: Path, kind: str, files: dict[str, bytes]) -> None:
    """The package in mip's index `to`: package/KIND/NAME/VERSION.json names files by their hashes, under which they lie
    (micropython-lib tools/build.py; kind: the mpy version that a board reads, or "py")."""
    hashes = [[name, hashlib.sha256(data).hexdigest()[:8]] for name, data in files.items()]
    for (_, short), data in zip(hashes, files.values(), strict=True):
        (to / "file" / short[:2]).mkdir(parents=True, exist_ok=True)
        (to / "file" / short[:2] / short).write_bytes(data)
    text = json.dumps({"v": 1, "hashes": hashes, "version": package.version()})
    for version in ("latest", package.version()):
        path = to / "package" / kind / NAME / f"{version}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def check(board: Cable, wanted: str, root: str = "lib") -> list[str]:
    """What differs on a board (wssctl.cable.Cable) from SHA256SUMS, in words: nothing when it is as released."""
    differ = []
    files = {name: digest for digest, name in (line.split("  ", 1) for line in wanted.splitlines())}
    there = board.digests([f"{root}/{n}" for name in files for n in (name, modules.other(name))])
    for name, digest in files.items():
        found = there.get(f"{root}/{name}")
        if found != digest:
            differ.append(f"{name} is {'another' if found else 'missing'}")
        if name.endswith(".mpy") and f"{root}/{modules.other(name)}" in there:
            differ.append(f"{modules.other(name)} is there too, and is what would be imported")
    return differ


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", metavar="PORT", help="compare what a board has with the release")
    arguments = parser.parse_args()
    try:
        if arguments.check is None:
            print(build())
            return 0
        if not arguments.check:
            raise WssctlError("say which board: make dist-check PORT=/dev/ttyUSB0")
        if not (DIST / "SHA256SUMS").exists():
            raise WssctlError("there is no release to compare with: make dist")
        wanted = (DIST / "SHA256SUMS").read_text()
        with Cable(arguments.check) as board:
            differ = check(board, wanted)
        if differ:
            raise WssctlError(f"the board has not this release: {'; '.join(differ)}")
        print(f"the board has this release: {len(wanted.splitlines())} files")
    except (WssctlError, modules.NoCompiler) as e:
        print(f"dist: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
