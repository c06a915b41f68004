"""A reader much slower than the board, with pauses; a sender with pauses: all of it arrives, or the session ends when
the write deadline says so."""

import os
import random
import time
import zlib

from evidence_common import LONG
from peers import PROMPT, Ended, Peer

# 10 MB at 10 KB/s take a thousand seconds, most of which the board waits. The short cut is faster, and has more to send
# than the operating system's buffers take, too.
SIZE = 10_000_000 if LONG else 3_000_000
RATE = int(os.environ.get("EVIDENCE_RATE", 10_000)) if LONG else 1_000_000
PAUSE = 5 if LONG else 0.5
DEADLINE = 20_000 if LONG else 2000

FLOOD = """
import time, wss_repl
def flood(n):
    start = time.ticks_ms()
    longest = 0
    for i in range(n):
        t = time.ticks_ms()
        print('%09d' % i, 'x' * 88)
        longest = max(longest, time.ticks_diff(time.ticks_ms(), t))
    print('longest', longest)
"""
TAKE = """
import sys, binascii
def take(n):
    crc = got = 0
    while got < n:
        d = sys.stdin.buffer.read(min(256, n - got))
        crc = binascii.crc32(d, crc)
        got += len(d)
    print('took', got, crc)
"""


def test_much_output_to_a_slow_reader(target, provisioned, keys, row):
    lines = SIZE // 100
    rng = random.Random(10)
    with (
        target.board(provisioned, boot=FLOOD, options=f", write_timeout={DEADLINE}") as board,
        Peer(board.address, keys.host, rcvbuf=4096, timeout=60) as peer,
    ):
        peer.login()
        peer.text(f"flood({lines})\r")
        peer.until(b"\r\n")
        start = time.monotonic()
        pauses = line = 0
        paused = 0.0
        rest = b""
        next_pause = SIZE // 20
        got = 0
        while line < lines:
            op, payload = peer.frame()
            rest += payload
            got += len(payload)
            *whole, rest = rest.split(b"\r\n")
            for text in whole:
                if line < lines:
                    assert text == b"%09d " % line + b"x" * 88, (line, text)
                    line += 1
            if got > next_pause:
                next_pause += rng.randrange(SIZE // 20, SIZE // 8)
                time.sleep(PAUSE)
                paused += PAUSE
                pauses += 1
            time.sleep(max(0, got / RATE - (time.monotonic() - start - paused)))
        if not rest.endswith(PROMPT):
            peer.until(PROMPT, 60)
        took = time.monotonic() - start
        longest = board.console.log.rsplit(b"longest ", 1)[1].split()[0].decode()
        assert peer.command("1+1") == b"2\r\n"
    assert pauses >= 5
    row(
        "Backpressure",
        f"{SIZE:,} bytes printed to a reader of {RATE:,} bytes/s that pauses {pauses} times for {PAUSE} s "
        f"(write_timeout={DEADLINE}), {target.bits} bits",
        f"whole after {took:.0f} s; the longest print waited {longest} ms",
    )


def test_a_reader_that_pauses_for_longer_than_the_deadline(target, provisioned, keys, row):
    """With the default deadline a pause ends the session, in time, and the program goes on."""
    boot = FLOOD.replace("print('longest', longest)", "print('longest', longest, wss_repl.status()['last_refusal'])")
    with (
        target.board(provisioned, boot=boot) as board,
        Peer(board.address, keys.host, rcvbuf=4096, timeout=20) as peer,
    ):
        peer.login()
        peer.text("flood(100000)\r")
        peer.until(b"000000100 ")
        text = board.console.read_until(b"longest ", 60) and board.console.read_until(b"\r\n", 60).decode()
        longest, cause = text.strip().split(" ", 1)
        assert cause == "stopped reading" and 1900 <= int(longest) < 4000, text
        try:
            while True:
                peer.frame()
        except (Ended, OSError):
            pass
        with Peer(board.address, keys.host) as after:
            assert after.login().command("1+1") == b"2\r\n"
    row(
        "Backpressure",
        f"10,000,000 bytes printed to a reader that stops (default write_timeout), {target.bits} bits",
        f"closed as '{cause}'; the program waited once, for {longest} ms, and went on",
    )


def test_a_paste_with_pauses(target, provisioned, keys, row):
    size = 1_000_000 if LONG else 100_000
    rng = random.Random(11)
    content = bytes(rng.choices(b"abcdefghijklmnopqrstuvwxyz0123456789 ", k=size))
    with target.board(provisioned, boot=TAKE) as board, Peer(board.address, keys.host, timeout=30) as peer:
        peer.login()
        start = time.monotonic()
        peer.text("take(%d)\r" % size)
        peer.until(b"\r\n")
        at = pauses = 0
        while at < size:
            n = rng.choice([1, 7, 100, 1000, 5000, 30000])
            peer.text(content[at : at + n])
            at += n
            if rng.random() < 0.2:
                pauses += 1
                time.sleep(rng.random() * (1 if LONG else 0.1))
        assert peer.until(PROMPT, 120).endswith(b"took %d %d\r\n>>> " % (size, zlib.crc32(content)))
        took = time.monotonic() - start
    row(
        "Backpressure",
        f"{size:,} bytes pasted with {pauses} pauses, {target.bits} bits",
        f"whole after {took:.0f} s",
    )
