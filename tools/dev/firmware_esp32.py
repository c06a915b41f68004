#!/usr/bin/env python3
"""ESP32 firmware with the bundle frozen in, by MicroPython's own build; flashed too when a port is given.

Needs a MicroPython checkout and ESP-IDF (which version: ports/esp32/README.md there), installed for the chip.
BOARD is one of boards/ here (ESP32_GENERIC_WSS) or any of ports/esp32/boards there (ESP32_GENERIC_S3, ESP32_GENERIC_C3
with --variant QEMU), which then gets boards/manifest_esp32.py.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


class BuildError(Exception):
    """Says in one sentence what to do."""


def arguments_for(mpy_dir: Path, board: str, variant: str | None, build: Path) -> list[str]:
    """For `make -C ports/esp32`. Raises BuildError when there is no such board or variant."""
    own, theirs = ROOT / "boards" / board, mpy_dir / "ports" / "esp32" / "boards" / board
    if (own / "mpconfigboard.cmake").exists():
        where, words = own, [f"BOARD_DIR={own}"]
    elif (theirs / "mpconfigboard.cmake").exists():
        where, words = theirs, [f"BOARD={board}", f"FROZEN_MANIFEST={ROOT / 'boards' / 'manifest_esp32.py'}"]
    else:
        raise BuildError(f"there is no board {board}: ls boards {theirs.parent}")
    if variant:
        if not (where / f"mpconfigvariant_{variant}.cmake").exists():
            raise BuildError(f"{board} has no variant {variant}: ls {where}/mpconfigvariant_*.cmake")
        words.append(f"BOARD_VARIANT={variant}")
    return [*words, f"BUILD={build}"]


def need(mpy_dir: str, idf_path: str) -> tuple[Path, Path]:
    """Both folders, looked into. Raises BuildError."""
    if not mpy_dir:
        raise BuildError("say where MicroPython's source is: make firmware-esp32 MPY_DIR=path IDF_PATH=path")
    mpy = Path(mpy_dir).expanduser().resolve()
    if not (mpy / "ports" / "esp32" / "Makefile").exists():
        raise BuildError(f"MPY_DIR={mpy_dir} is not a MicroPython checkout: it has no ports/esp32")
    if not idf_path:
        raise BuildError("say where ESP-IDF is: make firmware-esp32 IDF_PATH=path (mpy's ports/esp32/README.md: which)")
    idf = Path(idf_path).expanduser().resolve()
    if not (idf / "export.sh").exists():
        raise BuildError(f"IDF_PATH={idf_path} is not ESP-IDF: it has no export.sh")
    if re.search(r"\s", f"{ROOT}{mpy}{idf}"):
        raise BuildError("MicroPython's makefiles cannot build in paths with spaces: move what has one")
    return mpy, idf


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--board", default="ESP32_GENERIC_WSS")
    parser.add_argument("--variant", help="such as SPIRAM, or QEMU of ESP32_GENERIC_C3")
    parser.add_argument("--mpy-dir", default=os.environ.get("MPY_DIR", ""))
    parser.add_argument("--idf-path", default=os.environ.get("IDF_PATH", ""))
    parser.add_argument("--port", help="flash the board there")
    args = parser.parse_args()
    try:
        mpy, idf = need(args.mpy_dir, args.idf_path)
        name = args.board + (f"-{args.variant}" if args.variant else "")
        build = ROOT / "build" / "firmware" / "esp32" / name
        words = arguments_for(mpy, args.board, args.variant, build)
        build.parent.mkdir(parents=True, exist_ok=True)
        steps: list[list[str | Path]] = [["make", "-C", mpy / "mpy-cross"]]
        steps += [["make", "-C", mpy / "ports" / "esp32", *words, target] for target in ("submodules", "all")]
        if args.port:
            steps.append(["make", "-C", mpy / "ports" / "esp32", *words, f"PORT={args.port}", "deploy"])
        env = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "BOARD", "BUILD")}
        for step in steps:
            # ESP-IDF's tools are found by its own script, which is for bash
            command: list[str | Path] = ["bash", "-c", '. "$0/export.sh" >/dev/null && exec "$@"', idf, *step]
            if subprocess.run(command, env=env | {"IDF_PATH": str(idf)}).returncode:
                raise BuildError(f"'make {step[-1]}' failed, its output above says why")
    except BuildError as e:
        print(f"firmware-esp32: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(build / "firmware.bin")
    return 0


if __name__ == "__main__":
    sys.exit(main())
