"""What every board has to pass, whatever it is and however the bundle got onto it.

On the stand-in directly, through mpremote on a pseudo-terminal, and on a board: `make test TARGET=PORT`. The waits are
for the slowest; nothing here is a claim about speed.
"""

import contextlib
import hashlib
import os
import random
import ssl
import threading
import time

import pytest
from peers import CLOSE, PROMPT, TEXT, Ended, encode

pytestmark = pytest.mark.every_board

HEAPS = """
import gc
def heaps():
    gc.collect()
    gc.collect()
    used = gc.mem_alloc()
    try:
        import esp32
        free = [sum(x) for x in zip(*esp32.idf_heap_info(esp32.HEAP_DATA))][1]
    except (ImportError, AttributeError):
        free = 0
    print('heaps', used, free)
"""


def heaps(board) -> tuple[int, int]:
    """Bytes: MicroPython's heap in use, and what is free of the system's (0 where there is none to ask)."""
    return tuple(map(int, board.run("heaps()").rsplit("heaps ", 1)[1].split()[:2]))


def leave(peer):
    """As a client ends a session in good order."""
    peer.send(encode(CLOSE, b"\x03\xe8"))
    with contextlib.suppress(Ended, ConnectionError):
        while peer.frame()[0] != CLOSE:
            pass
    peer.close()


def refused(peer) -> None:
    with pytest.raises((ssl.SSLError, Ended, ConnectionError)):
        peer.upgrade()
        peer.recv()
    assert b"Password" not in peer._buffer and b"101" not in peer._buffer


class Reading(threading.Thread):
    """Keeps reading, as a terminal does, until `end` or an error."""

    def __init__(self, peer, end: bytes, timeout: float):
        super().__init__(daemon=True)
        self.peer, self.end, self.timeout, self.got, self.error = peer, end, timeout, b"", None
        self.start()

    def run(self):
        try:
            self.got = self.peer.until(self.end, self.timeout)
        except Exception as e:
            self.error = e

    def result(self) -> bytes:
        self.join()
        if self.error:
            raise self.error
        return self.got


def test_mutual_tls_login_and_repl(connect):
    peer = connect().login()
    assert peer.tls.version() in ("TLSv1.2", "TLSv1.3")
    assert peer.command("print(6 * 7)") == b"42\r\n"
    peer.text("for i in range(5):\rprint('line', i)\r\r\r\r")  # typed: the REPL indents, and ends at empty lines
    assert b"line 4\r\n" in peer.until(b"line 4\r\n" + PROMPT)
    assert b"ZeroDivisionError" in peer.command("1/0")
    leave(peer)


@pytest.mark.parametrize(("who", "why"), [("nobody", "certificate"), ("foreign", "signed"), ("expired", "expired")])
def test_refused(connect, keys, who, why):
    refused(connect(getattr(keys, who)))
    peer = connect().login()
    assert why in peer.command("import wss_repl; print(wss_repl.status()['last_refusal'])").decode().lower()
    leave(peer)


def test_wrong_password(connect):
    peer = connect().login("wrong", prompt=None)
    assert peer.frame() == (TEXT, b"\r\nAccess denied\r\n")
    assert peer.frame()[0] == CLOSE
    peer = connect().login()
    assert peer.command("1+1") == b"2\r\n"
    leave(peer)


def test_put_and_get_with_equal_hashes(connect):
    content = os.urandom(20_000)
    peer = connect().login()
    assert peer.put(b"every.bin", content) == 0
    peer.command("import hashlib, os; h = hashlib.sha256(); f = open('every.bin', 'rb'); b = bytearray(512)")
    peer.command(r'exec("n = 1\nwhile n:\n n = f.readinto(b)\n h.update(memoryview(b)[:n])")')
    assert peer.value("h.digest()", 30) == hashlib.sha256(content).digest()
    got = peer.get(b"every.bin")
    assert not isinstance(got, int) and hashlib.sha256(got).digest() == hashlib.sha256(content).digest()
    peer.command("f.close(); os.remove('every.bin')")
    leave(peer)


def test_20_kb_typed_at_a_program_that_reads(connect):
    random.seed(2)
    data = bytes(random.randrange(32, 127) for _ in range(20_000))
    peer = connect().login()
    peer.command("import sys, hashlib")
    program = (
        "def eat(n):\\n h = hashlib.sha256()\\n print('ready')\\n"
        " while n:\\n  b = sys.stdin.buffer.read(min(n, 100)); h.update(b); n -= len(b)\\n print(h.digest())\\n"
    )
    peer.command('exec("%s")' % program)
    peer.text("eat(20000)\r")
    peer.until(b"ready\r\n")
    reading = Reading(peer, b"\r\n" + PROMPT, 60)
    for i in range(0, len(data), 1000):
        peer.text(data[i : i + 1000])
    out = reading.result()
    assert eval(out[out.rindex(b"b'") if b"b'" in out else out.index(b'b"') : out.rindex(b"\r\n>>> ")]) == (
        hashlib.sha256(data).digest()
    )
    leave(peer)


def paste(peer, lines: list[str]) -> bytes:
    peer.text("\x05")
    peer.until(b"=== ")
    reading = Reading(peer, b"\r\n" + PROMPT, 60)
    text = "".join(lines)
    for i in range(0, len(text), 1000):
        peer.text(text[i : i + 1000])
    peer.text("\x04")
    return reading.result()


def random_lines(size: int) -> list[str]:
    random.seed(size)
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    return ["# %s\r" % "".join(random.choices(letters, k=60)) for _ in range(size // 63)]


def test_20_kb_in_paste_mode_in_pieces(connect):
    """Each fits the heap of any board; what comes back is what was sent."""
    peer = connect().login()
    for i in range(20):
        lines = [*random_lines(1000 + i), f"print('piece', {i} * 11)\r"]
        out = paste(peer, lines)
        assert b"\r\npiece %d\r\n" % (i * 11) in out
        assert out.startswith("".join(lines).replace("\r", "\r\n=== ").encode()), "echo differs"
    leave(peer)


def test_20_kb_in_paste_mode_at_once(connect, board):
    """MicroPython keeps the text whole: needs 60 KB of heap beside the session, on ESP32 without taking it from the
    system's."""
    peer = connect().login()
    if peer.value("__import__('sys').platform") == "rp2":
        leave(peer)
        # Seen with 140 KB free, 67 of them in one piece: no memory for 18,824 bytes. There TLS is in that heap, too.
        pytest.skip("paste mode stops RP2 for good where it finds no piece of memory for its text (nlr_jump_fail)")
    peer.command("import gc; gc.collect()")
    free = peer.value("gc.mem_free()")
    with contextlib.suppress(SyntaxError, ValueError):
        free = min(free, peer.value("max(x[2] for x in __import__('esp32').idf_heap_info(4)) - 60000"))
    if free < 60_000:
        leave(peer)
        pytest.skip("paste mode keeps 20 KB whole, and this board has no heap for it beside a session")
    lines = [*random_lines(20_000), "print('pasted', 6 * 7)\r"]
    out = paste(peer, lines)
    assert b"\r\npasted 42\r\n" in out
    assert out.startswith("".join(lines).replace("\r", "\r\n=== ").encode()), "echo differs"
    leave(peer)


def test_500_lines_printed_arrive_whole(connect):
    peer = connect().login()
    peer.text("for i in range(500): print('%06d' % i)\r\r")
    got = peer.until(b"000499\r\n" + PROMPT, 60)
    assert [int(x) for x in got.split(b"\r\n") if len(x) == 6 and x.isdigit()] == list(range(500))
    leave(peer)


@pytest.mark.parametrize("ahead", [0, 900])
def test_ctrl_c_stops_a_busy_loop(connect, ahead):
    peer = connect().login()
    peer.text("while True: pass\r\r")
    peer.until(b"\r\n")
    time.sleep(0.5)
    for _ in range(ahead // 100):
        peer.text("y" * 100)
    peer.text("\x03")
    peer.until(b"KeyboardInterrupt")
    peer.until(PROMPT)
    peer.text("\x03")  # what of it had reached the REPL's own buffer is on its line now
    peer.until(b"\r\n" + PROMPT)
    assert peer.command("1+1") == b"2\r\n"
    leave(peer)


def test_a_silent_client_does_not_keep_others_out(connect):
    connect()  # and says nothing
    half = connect()
    half.handshake()
    half.send(b"GET / HTTP/1.1\r\nHost:")
    peer = connect().login()
    assert peer.command("1+1") == b"2\r\n"
    leave(peer)


FLOOD = (
    r'exec("def flood(ms):\n t = time.ticks_ms()\n n = 0\n while time.ticks_diff(time.ticks_ms(), t) < ms:\n'
    r"  n += 1\n  print(n, 60 * 'x')\n print('printed', n)"
    r'")'
)


def test_a_client_that_stops_reading_does_not_hold_the_board(connect, target):
    stalled = connect(rcvbuf=4096).login()
    stalled.command("import time")
    stalled.command(FLOOD)
    stalled.text("flood(%d)\r" % (4000 * target.patience))
    stalled.until(b"\r\n20 x")
    time.sleep(0.5)
    peer = connect().login(prompt=None)  # the program prints on, so what comes first is not the prompt
    peer.until(b"xxxxx\r\n", 60)
    tail = b""
    while not (b"printed " in tail and tail.endswith(b"\r\n" + PROMPT)):  # megabytes on a fast one
        tail = tail[-200:] + peer.frame()[1]
    assert peer.command("1+1") == b"2\r\n"
    leave(peer)


def test_ctrl_c_stops_a_program_that_prints(connect):
    peer = connect().login()
    peer.command("import time")
    peer.command(FLOOD)
    peer.text("flood(9000)\r")
    peer.until(b"\r\n20 x")
    peer.text("\x03")
    try:
        peer.until(b"KeyboardInterrupt", 60)
        peer.until(PROMPT)
    finally:
        leave(peer)


def test_takeover(connect, board):
    first = connect().login()
    try:
        second = connect().login(path=b"/takeover")
    except (Ended, ConnectionError):
        # RP2's TLS buffers come from MicroPython's heap, each in one piece, and those of two sessions fill half of it
        refusal = board.run("import wss_repl") + board.run("wss_repl.status()['last_refusal']")
        assert refusal == "'out of memory'"
        first.text("6 * 7777\r")
        first.until(b"46662\r\n")  # behind what the console was asked, which it sees, too
        pytest.skip("the heap has no piece left for the buffers of a second TLS session")
    text = b""
    with contextlib.suppress(Ended, ConnectionError):
        while True:
            op, payload = first.frame()
            if op == CLOSE:
                break
            text += payload
    assert b"Taken over" in text
    assert second.command("1+1") == b"2\r\n"
    leave(second)


def test_20_logins_leave_the_heaps_as_they_were(connect, board):
    def once():
        peer = connect().login()
        assert peer.command("1+1") == b"2\r\n"
        leave(peer)
        time.sleep(0.05)

    board.run(f"exec({HEAPS!r})")  # once: the REPL keeps the lines typed at it, and they are in that heap
    for _ in range(5):
        once()
        first, system = heaps(board)
    for _ in range(20):
        once()
    for _ in range(4):  # a conservative collector may keep something for once; what 20 logins leave behind stays
        time.sleep(0.2)
        now, system_now = heaps(board)
        if now - first < 800:
            break
        once()
    if system - system_now >= 4096:  # lwIP keeps 212 bytes of each connection for two minutes after it: TIME_WAIT
        time.sleep(130)
        now, system_now = heaps(board)
    assert now - first < 800, (first, now)
    assert system - system_now < 4096, (system, system_now)


def test_a_users_timer_goes_on(connect, board):
    peer = connect().login()
    peer.command("from machine import Timer")
    peer.command(r'exec("try:\n mine = Timer(0)\nexcept ValueError:\n mine = Timer(-1)")')
    peer.command("ticks = [0]")
    peer.command("def tick(_): ticks[0] += 1\r")
    peer.command("mine.init(period=100, mode=Timer.PERIODIC, callback=tick)")
    try:
        before = peer.value("ticks[0]")
        assert peer.put(b"every.bin", bytes(3000)) == 0
        time.sleep(2)
        between = peer.value("ticks[0]")
        assert between > before + 5
        leave(peer)
        peer = connect().login()
        time.sleep(1)
        assert peer.value("ticks[0]") > between
    finally:
        peer.command("mine.deinit(); import os; os.remove('every.bin')")
        leave(peer)


def test_soft_reset_and_back(connect, board):
    peer = connect().login()
    peer.command("before = 1")
    board.console.write(b"\r")
    peer.text("\x04")
    with pytest.raises((Ended, ConnectionError)):
        peer.until(b"never")
    board.wait()
    again = connect().login()
    assert b"NameError" in again.command("before")
    leave(again)


def test_a_reset_over_the_console_and_back(connect, board):
    with connect().login() as peer:
        assert peer.command("1+1") == b"2\r\n"
    board.restart()
    peer = connect().login()
    assert peer.command("1+1") == b"2\r\n"
    leave(peer)
