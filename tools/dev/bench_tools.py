#!/usr/bin/env python3
"""How long a user waits: `wssctl setup` of a factory-fresh board, and a file there and back by mpremote and by wssctl.
Seconds of whole commands, from their start to their end.

The board is the stand-in (32 bits, 160 KB heap) on this desk. Its cable is a pseudo-terminal and its network the
loopback, so this is what protocols and code cost; a UART, a radio and flash come on top.
"""

from __future__ import annotations

import argparse
import os
import platform
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from board import Board
from ports import free_port

TURNS = 5
SIZES = 256 << 10, 1 << 20  # of the files
CP = "mpremote", "desk", "fs", "cp", "file"
KEY = (
    "from wss import enrol\nimport time\nt = time.ticks_us()\nenrol.make('x')\n"
    "print(time.ticks_diff(time.ticks_us(), t) / 1e6)"
)


class Desk:
    """A fresh board and a user without keys, in `folder`. bare: the board's firmware has no bundle."""

    def __init__(self, folder: Path, bare: bool):
        self.folder = folder
        files = folder / "board"
        files.mkdir(parents=True)
        self.port = free_port()
        self.env = os.environ | {"WSSCTL_KEYS": str(folder / "keys"), "WSSCTL_KEEP": "0"}
        self.env |= {n: secrets.token_urlsafe(12) for n in ("WSSCTL_PASSPHRASE", "WSSCTL_PASSWORD")}
        self.board = Board(files, 32, pty=True, env={"BOARD_BARE": "1"} if bare else {})
        self.board.read_until(b">>> ", 60)

    def run(self, *words: str) -> str:
        command = [sys.executable, "-m", "wssctl", *words]
        done = subprocess.run(
            command, env=self.env, cwd=self.folder, capture_output=True, stdin=subprocess.DEVNULL, text=True
        )
        if done.returncode:
            raise SystemExit(f"bench: {' '.join(command)} ended with {done.returncode}: {done.stderr}")
        return done.stdout

    def setup(self) -> None:
        self.run("setup", str(self.board.tty), "--name", "desk", "--ip", "127.0.0.1", "--wss-port", str(self.port))

    def seconds(self, *words: str) -> float:
        return timed(lambda: self.run(*words))


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def setups(folder: Path, bare: bool, turns: int) -> list[float]:
    """Each time a new board, new keys, a new certificate authority."""
    found = []
    for turn in range(turns):
        desk = Desk(folder / f"setup-{bare:d}-{turn}", bare)
        with desk.board:
            found.append(timed(desk.setup))
    return found


def sent(desk: Desk, size: int, turns: int, *words: str) -> list[float]:
    """Other bytes each time: mpremote does not send what the board has."""
    found = []
    for _ in range(turns):
        (desk.folder / "file").write_bytes(os.urandom(size))
        found.append(desk.seconds(*words))
    return found


def got(desk: Desk, turns: int, *words: str) -> list[float]:
    found = [desk.seconds(*words) for _ in range(turns)]
    if (desk.folder / "back").read_bytes() != (desk.folder / "file").read_bytes():
        raise SystemExit("bench: the file came back different")
    return found


def files(folder: Path, turns: int) -> list[tuple[str, list[float]]]:
    """And a key with its request, by the board's clock."""
    desk = Desk(folder / "files", False)
    rows = []
    with desk.board:
        desk.setup()
        rows.append(
            ("a key and its request, on the board", [float(desk.run("exec", "desk", KEY)) for _ in range(turns)])
        )
        for size in SIZES:
            kb = f"{size >> 10} KB"
            rows += [
                (f"`wssctl mpremote BOARD fs cp file :`, {kb}", sent(desk, size, turns, *CP, ":there")),
                (f"`wssctl mpremote BOARD fs cp :file .`, {kb}", got(desk, turns, *CP[:-1], ":there", "back")),
                (f"`wssctl put`, {kb}", sent(desk, size, turns, "put", "desk", "file", ":there")),
                (f"`wssctl get`, {kb}", got(desk, turns, "get", "desk", "there", "back")),
            ]
        label = f"`wssctl mpremote BOARD fs cp file :`, {SIZES[0] >> 10} KB, by the REPL (the name is too long)"
        rows.append((label, sent(desk, SIZES[0], turns, *CP, ":" + "n" * 70)))
        rows.append(("`wssctl exec BOARD pass`", [desk.seconds("exec", "desk", "pass") for _ in range(turns)]))
    return rows


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="everything once: does it work?")
    turns = 1 if parser.parse_args(argv).quick else TURNS
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        rows = [
            ("`wssctl setup`, the bundle frozen in", setups(folder, False, turns)),
            ("`wssctl setup`, the bundle sent as `.mpy`", setups(folder, True, turns)),
            *files(folder, turns),
        ]
    where = f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, {os.cpu_count()} processors"
    print(f"What a user waits for, {where}, {turns} turns\n\n| command | s | |\n|---|--:|---|")
    for label, seconds in rows:
        print(f"| {label} | {statistics.median(seconds):.3g} | {min(seconds):.3g} to {max(seconds):.3g} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
