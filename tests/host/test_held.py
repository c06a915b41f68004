"""No peer holds the board: silent, dripping, half-finished and stalled ones, beside a program and a second client."""

import contextlib
import socket
import ssl
import threading
import time

import pytest
from fair import Stopwatch
from peers import CLOSE, TEXT, Ended, Peer
from ports import free_port

pytestmark = pytest.mark.needs("quick")

# A program that counts, and keeps the longest gap between two counts. It runs where a user's would: in the REPL's
# thread, started from the console, with nothing of ours in its loop.
COUNTER = """
import time
def count():
    n = worst = 0
    last = time.ticks_ms()
    try:
        while True:
            now = time.ticks_ms()
            worst = max(worst, time.ticks_diff(now, last))
            last = now
            n += 1
    except KeyboardInterrupt:
        print("worst", worst, "count", n)
"""
CALM = 250  # ms


@pytest.fixture
def board(target, provisioned):
    with target.board(provisioned, boot=COUNTER) as running:
        yield running


@contextlib.contextmanager
def counting(board):
    """Run the counter on the board meanwhile; afterwards its longest gap must be below CALM."""
    watch = Stopwatch(board)
    board.console.write(b"count()\r")
    board.console.read_until(b"count()\r\n")
    yield
    board.console.write(b"\x03")
    text = board.console.read_until(b" count ", 60).decode()
    worst = int(text.rsplit("worst ", 1)[1].split(" ")[0])
    assert worst < CALM + watch.starved() * 1000, "the program stood still for %d ms" % worst


def prompt_within(board, keys, seconds, path=b"/"):
    watch = Stopwatch(board)
    with Peer(board.address, keys.host) as peer:
        peer.login(path=path)
        assert watch.seconds() < seconds


def silent(peer):
    pass


def drips(peer):
    with contextlib.suppress(ssl.SSLWantReadError):
        peer.tls.do_handshake()
    hello = peer._out.read()
    for i in range(4):
        peer.sock.sendall(hello[i : i + 1])
        time.sleep(0.1)


def half_a_request(peer):
    peer.handshake()
    peer.send(b"GET / HTTP/1.1\r\nHost: x\r\nUpgr")


def no_password(peer):
    peer.upgrade()


def half_a_password(peer):
    peer.upgrade()
    peer.text("secr")


@pytest.mark.parametrize("how", [silent, drips, half_a_request, no_password, half_a_password])
@pytest.mark.parametrize("peers", [1, 3, pytest.param(5, marks=pytest.mark.needs("connections"))])
def test_a_peer_that_does_not_go_on(board, keys, how, peers):
    with counting(board), contextlib.ExitStack() as stack:
        for _ in range(peers):
            peer = stack.enter_context(Peer(board.address, keys.host))
            with contextlib.suppress(OSError, Ended):
                how(peer)
        prompt_within(board, keys, 3)


@pytest.mark.needs("loopback")
@pytest.mark.parametrize("gap", [0.02, 0.1])
def test_a_flood_of_handshakes_from_elsewhere_keeps_nobody_out(board, keys, gap):
    """Each begins a handshake and holds its place: the next takes that, not the place of who logs in between."""
    hello = Peer(board.address, keys.nobody)
    with contextlib.suppress(ssl.SSLWantReadError):
        hello.tls.do_handshake()
    data = hello._out.read()
    hello.close()
    over = threading.Event()

    def flood():
        sockets = []
        while not over.wait(gap):
            with contextlib.suppress(OSError):
                sockets.append(socket.create_connection(board.address, 2, source_address=("127.0.0.2", 0)))
                sockets[-1].sendall(data)
            if len(sockets) > 50:
                sockets.pop(0).close()
        for s in sockets:
            s.close()

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        for _ in range(15):
            prompt_within(board, keys, 3)
            time.sleep(0.1)
    finally:
        over.set()
        thread.join()


def test_a_session_is_not_disturbed_by_them(board, keys):
    with Peer(board.address, keys.host) as session, contextlib.ExitStack() as stack:
        session.login()
        for how in (silent, half_a_request, no_password, half_a_password):
            peer = stack.enter_context(Peer(board.address, keys.host))
            with contextlib.suppress(OSError, Ended):
                how(peer)
            assert session.command("1+1") == b"2\r\n"


@pytest.mark.parametrize("deadline", [500, 2000])
def test_a_reader_that_stops_costs_the_deadline_once(target, provisioned, keys, deadline):
    """10 MB printed to a client that stops reading: the print that hits the stall waits for the deadline, no other."""
    with (
        target.board(provisioned, boot=COUNTER, options=", write_timeout=%d" % deadline) as board,
        Peer(board.address, keys.host, rcvbuf=4096) as stalled,
    ):
        stalled.login()
        program = (
            "def flood():\\n"
            " late = []\\n"
            " for i in range(100000):\\n"
            "  t = time.ticks_ms(); print('%06d' % i, 'x' * 93); d = time.ticks_diff(time.ticks_ms(), t)\\n"
            "  if d > 250: late.append(d)\\n"
            " print('late', late, 'end')\\n"
        )
        board.run("exec(\"%s\")" % program)
        stalled.text("flood()\r")
        stalled.until(b"000050")
        time.sleep(0.2)
        watch = Stopwatch(board)
        prompt_within(board, keys, 3)  # while the other one is stuck
        text = board.console.read_until(b" end\r\n", 60).decode()
        late = eval(text.rsplit("late ", 1)[1].split(" end")[0])
        # The second client takes over as soon as the first has not answered for 1.5 s
        # (and its own reading may lag a little on a busy machine).
        busy = watch.starved() * 1000
        assert len([d for d in late if d > 450 + busy]) <= 1 and all(d < deadline + 300 + busy for d in late), late
        assert watch.seconds() < 30


def test_a_hiccup_shorter_than_the_deadline_loses_nothing(board, keys):
    with Peer(board.address, keys.host, rcvbuf=4096) as peer:
        peer.login()
        peer.text("for i in range(20000): print('%06d' % i)\r\r")
        got = peer.until(b"000050")
        time.sleep(1.2)
        got += peer.until(b"019999\r\n>>> ", 60)
        numbers = [int(line) for line in got.split(b"\r\n") if line.strip().isdigit() and len(line.strip()) == 6]
        assert numbers == list(range(20000))


def test_takeover_of_a_session_whose_peer_vanished(board, keys):
    with Peer(board.address, keys.host) as ghost:
        ghost.login()  # and reads no more: it answers no PING
        prompt_within(board, keys, 3)


@pytest.mark.needs("connections")
def test_sessions_whose_peers_vanished_are_not_kept(board, keys):
    """One after the other, each taken over by the next: none may hold on to the one before it."""

    def alloc():
        return int(board.run("import gc; _ = gc.collect(); print(gc.mem_alloc())"))

    with contextlib.ExitStack() as ghosts:
        counts = []
        for _ in range(16):
            ghosts.enter_context(Peer(board.address, keys.host)).login()  # and reads no more
            counts.append(alloc())
        # the console's history of 8 lines is in that heap; a session that is kept is 550 bytes at least
        assert min(counts[13:]) - min(counts[9:12]) < 1000, counts


def test_two_live_clients(board, keys):
    with Peer(board.address, keys.host) as first:
        first.login()
        done = threading.Event()

        def live():
            first.sock.settimeout(0.1)
            while not done.is_set():
                with contextlib.suppress(TimeoutError, Ended):
                    first.frame()

        thread = threading.Thread(target=live)
        thread.start()
        try:
            with Peer(board.address, keys.second) as second:
                second.login(prompt=None)
                op, text = second.frame()
                us = second.sock.getsockname()[0].encode()
                assert op == TEXT and b"In use by " + us in text and b"/takeover" in text
                assert second.frame() == (CLOSE, b"\x03\xf5")
            prompt_within(board, keys, 2, path=b"/takeover")
        finally:
            done.set()
            thread.join()


def test_the_one_taken_over_is_told(board, keys):
    with Peer(board.address, keys.host) as first, Peer(board.address, keys.second) as second:
        first.login()
        second.login(path=b"/takeover")
        op, text = first.frame()
        assert op == TEXT and b"Taken over by " + second.sock.getsockname()[0].encode() in text
        assert first.frame()[0] == CLOSE
        assert second.command("1+1") == b"2\r\n"


ASYNCIO = """
import asyncio, wss_repl
wss_repl.start(port=%d, password='secret', timer=False)
async def serve():
    while True:
        wss_repl.poll()
        await asyncio.sleep_ms(10)
async def blink():
    global n
    while True:
        n += 1
        if n == 50:
            print("fifty", n)
        await asyncio.sleep_ms(5)
async def main():
    asyncio.create_task(blink())
    await serve()
n = 0
asyncio.run(main())
"""


def test_poll_drives_it_beside_asyncio_tasks(target, provisioned, keys):
    port = free_port()
    (provisioned / "main.py").write_text(ASYNCIO % port)
    with target.board(provisioned, port=port, call="", prompt=False) as board, Peer(board.address, keys.host) as peer:
        peer.login()
        board.console.read_until(b"fifty 50")
        peer.text("\x03")  # ends the program, and the REPL answers
        peer.until(b"KeyboardInterrupt")
        peer.until(b">>> ")
        assert peer.value("n") >= 50


def test_start_foreground(target, provisioned, keys):
    port = free_port()
    call = "print('got', wss_repl.start_foreground(%d, 'secret'))" % port
    with (
        target.board(provisioned, port=port, call=call, prompt=False) as board,
        Peer(board.address, keys.host) as peer,
    ):
        peer.login()
        board.console.read_until(b"got True")
        peer.until(b">>> ")  # the banner
        assert peer.command("1+1") == b"2\r\n"
