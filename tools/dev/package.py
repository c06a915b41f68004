#!/usr/bin/env python3
"""Write package.json, which `mpremote mip install` reads: every module in lib/, and where it goes on the board."""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def describe(urls: list[list[str]]) -> str:
    """A package.json of [where it goes on the board, where it is] for each file."""
    return json.dumps({"urls": urls, "deps": [], "version": version()}, indent=2) + "\n"


def version() -> str:
    """That of the bundle, which lib/wss/port.py has."""
    found = re.search(r'^VERSION = "(.+?)"', (ROOT / "lib/wss/port.py").read_text(), re.M)
    assert found, "lib/wss/port.py has no VERSION"
    return found[1]


def package() -> str:
    files = sorted(p.relative_to(ROOT / "lib").as_posix() for p in (ROOT / "lib").rglob("*.py"))
    return describe([[f, "lib/" + f] for f in files])


if __name__ == "__main__":
    (ROOT / "package.json").write_text(package())
    sys.exit(0)
