"""What must hold on the board with lwIP's sockets (pytest --target lwip): Ctrl-C, logins, a bad link, no cable."""

import hashlib
import random
import sys
import time

import pytest
from evidence_common import LONG
from lwip_link import Link
from peers import CLOSE, PROMPT, Ended, Peer, encode
from targets import ROOT

sys.path.insert(0, str(ROOT / "tests" / "host"))
from test_interrupts import storm

pytestmark = [pytest.mark.targets("lwip"), pytest.mark.needs("lwip")]
WAIT = 90  # seconds: a lost segment costs lwIP 3 s at first, and each further loss of it twice as long


@pytest.fixture
def link(tmp_path):
    return Link(tmp_path / "link")


@pytest.fixture
def board(target, provisioned, link):
    with target.board(provisioned, env=link.env) as running:
        yield running


def leave(peer):
    peer.send(encode(CLOSE, b"\x03\xe8"))
    with pytest.raises(Ended):
        while True:
            peer.frame()
    peer.close()


def used(board) -> int:
    return int(board.run("import gc; gc.collect(); gc.collect(); print(gc.mem_alloc())").split()[-1])


def test_a_storm_of_ctrl_c(board, keys, link, row):
    rounds = 1000 if LONG else 15
    with Peer(board.address, keys.host, timeout=30) as peer:
        storm(peer.login(), rounds)
    assert b"deactivating" not in board.console.log
    assert link["no_memory"] == 0
    row("lwIP", f"{rounds} programs that print without a pause, one to twelve Ctrl-C each",
        "each stopped, its output whole and in order, the session stayed")  # fmt: skip


def test_logins(board, keys, link, row):
    n = 1000 if LONG else 12
    before = 0
    start = time.monotonic()
    for i in range(n):
        if i == 10:
            before = used(board)
        with Peer(board.address, keys.host, timeout=30) as peer:
            peer.login()
            assert peer.command(f"{i}+1") == b"%d\r\n" % (i + 1)
            leave(peer)
    seconds = time.monotonic() - start
    after = used(board)
    assert board.run("print(wss_repl.status()['refused'])") == "{}"
    assert after - before < 1500, (before, after)  # the console keeps its last lines there
    assert link["no_memory"] == 0
    row("lwIP", f"{n} logins one after the other, of which TCP has five places for connections",
        f"all got in, {seconds / n:.2f} s each with a command; Python heap {after - before:+} bytes after")  # fmt: skip


def test_a_link_that_loses_and_reorders(target, provisioned, keys, link, row):
    # A segment that is lost twice in a row takes longer than the 2 s that a write may wait unless start() says more:
    # of 12 times 2,000 lines two ended as "stopped reading", and with 10 s of 24 none.
    with target.board(provisioned, env=link.env, options=", write_timeout=10000") as board:
        on_a_bad_link(board, keys, link, row)


def on_a_bad_link(board, keys, link, row):
    link["loss"], link["reorder"] = 50, 100
    n = 40 if LONG else 1
    size = 100_000 if LONG else 4_000
    content = random.Random(1).randbytes(size)
    lines = 2000 if LONG else 100
    for i in range(n):
        with Peer(board.address, keys.host, timeout=WAIT) as peer:
            peer.login()
            peer.text(f"print({i}+1)\r")
            peer.until(b"\r\n%d\r\n" % (i + 1) + PROMPT, WAIT)
            leave(peer)
    with Peer(board.address, keys.host, timeout=WAIT) as peer:
        peer.login()
        assert peer.put(b"lossy.bin", content) == 0
        assert hashlib.sha256(peer.get(b"lossy.bin")).digest() == hashlib.sha256(content).digest()
        peer.text(f"for i in range({lines}): print('%06d' % i)\r\r")
        got = peer.until(b"%06d\r\n" % (lines - 1) + PROMPT, 10 * WAIT)
        assert [int(x) for x in got.split(b"\r\n") if len(x) == 6 and x.isdigit()] == list(range(lines))
    assert link["lost"] > 0 and link["reordered"] > 0
    row("lwIP", f"a link that loses 5 % of its packets and reorders 10 %: {n} logins, {size} bytes put and got, "
        f"{lines} lines printed, write_timeout=10000", "all of it whole; "
        f"{link['lost']} of {link['packets']} packets lost, "
        f"{link['reordered']} overtaken; lwIP without memory {link['no_memory']} times")  # fmt: skip


def test_a_cable_pulled_under_a_program_that_prints(board, keys, link, row):
    """The program is held for the write deadline once, the session ends, and whoever comes next gets in at once."""
    seconds = 60 if LONG else 4
    with Peer(board.address, keys.host, timeout=30) as peer:
        peer.login()
        program = (
            "import time\nlate = []\nn = 0\nrun = True\nwhile run:\n t = time.ticks_ms()\n n += 1\n print(n)\n"
            " d = time.ticks_diff(time.ticks_ms(), t)\n if d > 1000: late.append(d)\n"
        )
        peer.text(f"exec({program!r})\r")
        peer.until(b"\r\n100\r\n")
        link["unplugged"] = 1
        board.console.read_until(b"\r\n100\r\n", 60)
        time.sleep(seconds)  # the cable is out: this is no wait for something
        link["unplugged"] = 0
        board.console.write(b"\x03")
        board.console.read_until(b"KeyboardInterrupt", 60)
        board.console.read_until(PROMPT, 60)
        late = board.run("print(late)")
        assert len(eval(late)) <= 1, late
        assert "stopped reading" in board.run("print(wss_repl.status()['refused'])")
        start = time.monotonic()
        with Peer(board.address, keys.host, timeout=30) as after:
            after.login()
            assert after.command("1+1") == b"2\r\n"
        took = time.monotonic() - start
        with pytest.raises((Ended, OSError)):
            while True:
                peer.frame()
    assert link["no_memory"] == 0
    row("lwIP", f"cable pulled for {seconds} s under a program that prints",
        f"the program stood still once ({late} ms), then ran on; the next login took {took:.2f} s")  # fmt: skip


def test_a_cable_pulled_under_a_quiet_session(board, keys, link, row):
    """Nothing was on its way to the client, and the session is there when the cable is back."""
    seconds = 60 if LONG else 3
    with Peer(board.address, keys.host, timeout=WAIT) as peer:
        peer.login()
        assert peer.command("1+1") == b"2\r\n"
        link["unplugged"] = 1
        peer.text("print(6*7)\r")
        time.sleep(seconds)  # as above
        link["unplugged"] = 0
        assert peer.until(b"42\r\n" + PROMPT, 2 * WAIT).count(b"42\r\n") == 1
    row("lwIP", f"cable pulled for {seconds} s under a quiet session, and a line typed meanwhile",
        "the session went on, and the line ran once")  # fmt: skip
