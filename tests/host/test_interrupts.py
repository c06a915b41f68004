"""Ctrl-C while a program prints, sleeps, computes, catches what it can: the program stops, and the session stays."""

import random
import re

import pytest
from peers import PROMPT, Peer

pytestmark = [pytest.mark.needs("heap", "quick"), pytest.mark.targets("unix", "unix32", "pull", "slow")]

# Each counts its lines from 1. What a program prints comes whole, in order, and once, whatever interrupts it.
PROGRAMS = {
    "prints": "while True:\n n += 1\n print(n, 60 * 'x', n)\n",
    "sleeps 500 us": "import time\nwhile True:\n n += 1\n print(n, 'x', n)\n time.sleep_us(500)\n",
    "catches everything": "while True:\n try:\n  n += 1\n  print(n, 'x', n)\n except:\n  pass\n",
    "holds the CPU": "print(1, 'x', 1)\nwhile True: pass\n",
    "prints little by little": "import sys\nw = sys.stdout.write\n"
    "while True:\n n += 1\n for c in '%d x %d\\n' % (n, n): _ = w(c)\n",
}  # fmt: skip


def run(peer: Peer, program: str) -> bytes:
    """Start it, and read on until it has printed; returns that."""
    peer.seen = b""  # or each frame would cost a copy of all before it
    peer.text("\x05")
    peer.until(b"=== ")
    peer.text("n = 0\n" + program + "\x04")
    got = peer.until(b"\r\n1 ")
    return got[got.index(b"\r\n1 ") + 2 :]


def stop(peer: Peer) -> bytes:
    """What comes until a prompt that answers. More Ctrl-C are sent until then."""
    got = b""
    while True:
        at = len(peer.seen)
        peer.text("\rprint('a' + 'bc')\r")
        try:
            got += peer.until(b"abc\r\n" + PROMPT, 2)
            return got
        except TimeoutError:
            got += peer.seen[at:]
            peer.text("\x03")  # a program that catches everything may have caught the others


def in_order(output: bytes, whole: bool):
    """Lines `n ... n` from 1 on, each whole and once, before the traceback."""
    lines = output.split(b"Traceback")[0].split(b"\r\n")
    if not whole:  # it was interrupted within a line
        lines = lines[:-1]
    numbers = []
    for line in lines:
        if found := re.fullmatch(rb"(\d+) x+ (\d+)", line):
            assert found[1] == found[2], line
            numbers.append(int(found[1]))
        else:
            assert line == b"" or b"\x03" not in line and not line[:1].isdigit(), line
    assert numbers == list(range(1, len(numbers) + 1)), numbers[:20]


@pytest.mark.parametrize("program", PROGRAMS)
def test_ctrl_c(connect, program):
    peer = connect(timeout=20).login()
    random.seed(program)
    for keys in (b"\x03", b"\x03\x03", b"\r\x03\x03", b"\x03" * 10, b"typed\x03", b"\x03|\x03|\x03\x03"):
        output = run(peer, PROGRAMS[program])
        at = len(peer.seen)
        for part in keys.split(b"|"):
            peer.text(part)
        if program == "catches everything":
            output += stop(peer)
        else:
            output += peer.until(b"KeyboardInterrupt")
            output += peer.until(PROMPT)
            peer.text("\rprint('a' + 'bc')\r")
            peer.until(b"abc\r\n" + PROMPT)
        assert b"KeyboardInterrupt" in peer.seen[at:]
        in_order(output, program != "prints little by little")


def storm(peer: Peer, rounds: int, seed=5):
    """One to four Ctrl-C in a frame, one to three times, into a program that prints without a pause (field-15)."""
    random.seed(seed)
    for _ in range(rounds):
        output = run(peer, PROGRAMS["prints"])
        for _ in range(random.randint(1, 3)):
            peer.text(b"\x03" * random.randint(1, 4))
        output += peer.until(b"KeyboardInterrupt", 30)
        peer.text("print(12*12)\r")
        peer.until(b"144\r\n", 30)
        peer.until(PROMPT)
        in_order(output, True)


def test_a_storm_of_ctrl_c(connect, board):
    storm(connect(timeout=30).login(), 40)
    assert b"deactivating" not in board.console.log


# A tuple of exceptions behind `except` is made when one is matched, which takes memory (py/compile.c).
WITHOUT_MEMORY = """
import micropython, wss_repl
from wss.terminal import Terminal
class Full:
 _server = wss_repl._server
 _sender = True
 def _store_part(self): pass
 def _give_up(self, data, kept): return "given up"
full = Full()
kept = [0, 0]
def fails(on): raise MemoryError
def step(): full._server.run(fails, None)
def write(): return Terminal._store(full, b"x", kept)
def without_memory(work):
 micropython.heap_lock()
 try: return work()
 finally: micropython.heap_unlock()
"""


def test_without_memory_no_ctrl_c_comes_that_nobody_pressed(connect):
    peer = connect().login()
    peer.text("\x05")
    peer.until(b"=== ")
    peer.text(WITHOUT_MEMORY + "\x04")
    peer.until(PROMPT)
    assert peer.command("without_memory(step)") == b""
    assert peer.command("without_memory(write)") == b"'given up'\r\n"
