#!/usr/bin/env python3
"""An application image of 1.7 MB onto a board: `wssctl firmware` with all that it does, a put of the same bytes by the
firmware's own C chain, and what a cable at 460800 baud needs for them by arithmetic.

The board is the stand-in (32 bits, 160 KB heap) on this desk: its network is the loopback and its flash a file, so the
first two are what the protocols and the code cost. On an ESP32 the flash comes on top, for all three.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import bench
from board import Board
from ports import free_port

ROOT = Path(__file__).resolve().parent.parent.parent
SIZE = 1_700_000
PARTITION = 0x1F0000
BAUD = 460800
TURNS = 3
PASSWORD = "bench"


def image(version: str, size: int) -> bytes:
    """An application image of one segment for ESP-IDF's bootloader (esp_app_format.h), of bytes that do not shrink."""
    described = struct.pack("<II8x32s", 0xABCD5432, 0, version.encode()).ljust(256, b"\1")
    body = described + hashlib.shake_128(version.encode()).digest(size - 256)
    head = struct.pack("<BBBBIB3sHBHH4sB", 0xE9, 1, 0, 0, 0x40080000, 0, b"", 0, 0, 0, 0, b"", 1)
    data = head + struct.pack("<II", 0x3F400000, len(body)) + body
    data += bytes(15 - len(data) % 16) + b"\xef"
    return data + hashlib.sha256(data).digest()


def ours(folder: Path) -> list[float]:
    """Seconds of `wssctl firmware` from the command to its end, TURNS times."""
    files, credentials = bench.provision(folder)
    keys = folder / "keys"
    keys.mkdir()
    shutil.copy(credentials.ca, keys / "ROOT_CA_cert.pem")
    shutil.copy(credentials.cert, keys / "HOST_cert@62656e6368.pem")
    shutil.copy(credentials.key, keys / "HOST_key@62656e6368.pem")
    shutil.copy(ROOT / "tests/board_api/esp32.py", files)
    (files / "flash_ota_0").write_bytes(image("v1.0.0", 20_000).ljust(PARTITION, b"\xff"))
    (files / "flash_ota_1").write_bytes(bytes(PARTITION))
    port = free_port()
    (files / "boot.py").write_text(f"import wss_repl\nwss_repl.start(port={port}, password={PASSWORD!r})\n")
    env = os.environ | {"WSSCTL_KEYS": str(keys), "WSSCTL_PASSPHRASE": "bench bench", "WSSCTL_PASSWORD": PASSWORD}
    seconds = []
    with Board(files, 32) as board:
        board.read_until(b"wss_repl: listening", 60)
        for turn in range(TURNS):
            (folder / "new.bin").write_bytes(image(f"v1.{turn + 1}.0", SIZE))
            start = time.perf_counter()
            command = [sys.executable, "-m", "wssctl", "firmware", f"wss://127.0.0.1:{port}", str(folder / "new.bin")]
            subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL)
            seconds.append(time.perf_counter() - start)
    return seconds


def stock() -> list[float]:
    """Seconds of a put by the C chain, in frames of 1 KB as its own client sends them."""
    with bench.desk(32, None) as (console, context):
        port = free_port()
        console.upload(Path(__file__).with_name("bench_board.py"), "bench_board.py")
        measured = bench.Bench(console, "127.0.0.1", {"stock": port}, context, bench.Sizes())
        console.exec("import bench_board")
        console.exec(f"bench_board.start('stock', {port}, {measured.password!r}, '127.0.0.1')")
        data, seconds = image("v1.1.0", SIZE), []
        for _ in range(TURNS):
            with measured._session("stock") as session:
                assert isinstance(session, bench.Session)
                session.settle()
                seconds.append(measured._send_file(session, data, bench.SMALL))
        return seconds


def esptool() -> float:
    """Seconds on the wire alone: 10 bits a byte (8N1), a packet of 24 bytes of headers and two ends for each 16 KB of
    esptool's loader, two bytes of 256 sent as two (SLIP, RFC 1055); without compression, which these bytes do not
    take, answers, and flash."""
    packets = -(-SIZE // 16384)
    return (SIZE * (1 + 2 / 256) + packets * 26) * 10 / BAUD


def main() -> int:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        rows = [
            ("`wssctl firmware`: login, checks, sending, reading back, restart, proof", ours(folder)),
            ("stock WebREPL's put over TLS, into a file, nothing checked", stock()),
            (f"esptool at {BAUD} baud, by arithmetic: the wire alone", [esptool()]),
        ]
    where = f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, {os.cpu_count()} processors"
    print(f"An image of {SIZE / 1e6:g} MB, {where}\n\n| way | s | |\n|---|--:|---|")
    for label, seconds in rows:
        spread = f"{min(seconds):.1f} to {max(seconds):.1f}" if len(seconds) > 1 else ""
        print(f"| {label} | {statistics.median(seconds):.1f} | {spread} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
