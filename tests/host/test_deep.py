"""A program that is deep in its calls: our own find no stack then (RuntimeError), in any of them."""

import os
import time

import pytest
from peers import CLOSE, PROMPT, Ended

PROGRAM = """
import time
def depth(n):
 try: return depth(n + 1)
 except RuntimeError: return n

def prints(n):
 if n: prints(n - 1)
 else: print("at the " + "bottom")

def loops(n, ms):
 if n: return loops(n - 1, ms)
 t = time.ticks_ms()
 while time.ticks_diff(time.ticks_ms(), t) < ms: pass

def forever(n): print(n); forever(n + 1)

"""


@pytest.fixture
def deep(connect):
    """deep() logs in; the functions are there, and `deep.limit` calls of depth() fit on the stack."""

    def log_in():
        return connect().login()

    peer = log_in()
    peer.text("\x05")
    peer.until(b"=== ")
    peer.text(PROGRAM + "\x04")
    peer.until(PROMPT)
    log_in.limit = int(peer.value("depth(0)"))
    peer.close()
    return log_in


def test_what_is_printed_near_the_end_of_the_stack_arrives_or_ends_the_session(deep):
    """The firmware takes the terminal away when write() raises, and one that finds no stack does. A session
    must not stay without it: its client would type into nothing, and the next one be told that the board is in use."""
    peer = deep()
    ended = arrived = 0
    for n in range(deep.limit - 30, deep.limit + 40):
        peer.text("prints(%d)\r" % n)
        try:
            output = peer.until(b"\r\n" + PROMPT)
        except Ended:
            ended += 1
            peer.close()
            peer = deep()
            continue
        if b"RuntimeError" in output:  # of the program's own
            break
        assert b"at the bottom\r\n" in output
        arrived += 1
    assert arrived > 20 and 0 < ended < 12


def test_a_recursion_without_end_that_prints(deep, board):
    peer = deep()
    peer.text("forever(0)\r")
    with pytest.raises(Ended):
        peer.until(b"never")
    assert deep().command("1+1") == b"2\r\n"
    assert "no terminal" in board.run("print(wss_repl.status())")


@pytest.mark.needs("directory")
def test_a_transfer_waits_while_there_is_no_stack_for_it(deep, board):
    """A step that ended in the middle would lose what it had read of the put."""
    content = os.urandom(100_000)
    peer = deep()
    for n in range(deep.limit - 20, deep.limit):
        peer.text("loops(%d, 100)\r" % n)
        time.sleep(0.03)
        assert peer.put(b"deep.bin", content) == 0
        assert (board.directory / "deep.bin").read_bytes() == content
        assert peer.command("1+1").endswith(b"2\r\n")


def test_a_session_whose_terminal_a_program_takes_away_ends(connect):
    peer = connect().login()
    peer.text("import os; _ = os.dupterm(None)\r")
    while (frame := peer.frame())[0] != CLOSE:
        pass
    assert frame[1] == b"\x03\xf3no terminal"
    assert connect().login().command("1+1") == b"2\r\n"
