"""Our timer and a program's: it is named, and who takes it keeps it."""

import re

import pytest
from peers import PROMPT, Peer

pytestmark = pytest.mark.needs("heap", "quick", "hardware timers")

TAKES = """
import machine
n = 0
def tick(t):
    global n
    n += 1
def take(i):
    machine.Timer(i).init(period=50, mode=machine.Timer.PERIODIC, callback=tick)
"""


def test_our_timer_is_named_and_set_once(target, provisioned, keys):
    count = (
        "import machine\ninits = []\nclass Timer:\n PERIODIC = 1\n def __init__(self, i):\n  self.t = _Timer(i)\n"
        " def __repr__(self): return repr(self.t)\n def deinit(self): self.t.deinit()\n"
        " def init(self, **k):\n  inits.append(k)\n  self.t.init(**k)\n"
        "_Timer = machine.Timer\nmine = Timer(2)\n"
    )
    with target.board(provisioned, boot=count, options=", timer=mine") as board:
        assert b"with Timer(2)" in board.console.log
        for _ in range(3):
            with Peer(board.address, keys.host) as peer:
                peer.login()
                assert peer.value("wss_repl.status()['timer']") == "Timer(2)"
                assert peer.value("len(inits)") == 1


def test_a_timer_that_a_program_takes_stays_with_it(board, keys):
    """field-02: ours was set anew with the first client, and the program's callback never came again."""
    named = re.search(rb"with Timer\((\d)\)", board.console.log)[1].decode()
    board.run(f"exec({TAKES!r})")
    board.run(f"take({named})")
    for _ in range(2):
        with Peer(board.address, keys.host) as peer:
            peer.login()
            peer.text("import time\r")
            peer.until(PROMPT)
            before = peer.value("n")
            # What is printed in a rush waits for a timer: there has to be another one, or none to wait for
            peer.text("for i in range(40): print(i)\r\r")
            peer.until(b"39\r\n" + PROMPT)
            peer.text("while n < %d: time.sleep_ms(10)\r\r" % (before + 3))
            peer.until(b"\r\n" + PROMPT)
            assert "period=50" in peer.value(f"repr(machine.Timer({named}))")
    board.run("wss_repl.stop()")
    assert "period=50" in board.run(f"print(machine.Timer({named}))")
    before = int(board.run("print(n)"))
    board.run(f"exec('while n < {before} + 3: pass')")


def test_another_timer_is_taken_when_ours_was(board, keys):
    """Without one, Ctrl-C would not reach a program that computes."""
    named = re.search(rb"with Timer\((\d)\)", board.console.log)[1].decode()
    board.run(f"exec({TAKES!r})")
    board.run(f"take({named})")
    with Peer(board.address, keys.host) as peer:
        peer.login()
        while (now := peer.value("wss_repl.status()['timer']")) == f"Timer({named})":
            pass  # it is noticed when no step has come from it for two seconds
        assert now and now != f"Timer({named})"
        peer.text("while True: pass\r\r")
        peer.until(b"... \r\n")
        peer.text("\x03")
        peer.until(b"KeyboardInterrupt")
        peer.until(PROMPT)
