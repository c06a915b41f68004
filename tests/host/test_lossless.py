"""Nothing is lost: what is pasted arrives whole, what is printed arrives whole."""

import hashlib
import random
import threading

import pytest
from peers import PROMPT, Peer

pytestmark = pytest.mark.needs("heap", "quick")


@pytest.fixture
def board(target, provisioned):
    """A 100 KB program needs 2 MB to be compiled at 64 bits: more heap there, the board's 160 KB at 32."""
    with target.board(provisioned, heap=None if target.bits == 32 else "8M") as running:
        yield running


LINE = "h.update(b'%s')\n"


def source(size: int) -> tuple[list[str], str]:
    """Lines of a program that hashes what it was given, and the hash that must come out."""
    random.seed(size)
    h = hashlib.sha256()
    lines = []
    while sum(map(len, lines)) < size:
        text = "".join(random.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=60))
        h.update(text.encode())
        lines.append(LINE % text)
    return lines, h.hexdigest()


class Reader(threading.Thread):
    """Keeps reading, as a terminal does, while the test pastes."""

    def __init__(self, peer: Peer, end: bytes, timeout=120):
        super().__init__()
        self.peer, self.end, self.timeout, self.got = peer, end, timeout, b""
        self.start()

    def run(self):
        self.got = self.peer.until(self.end, self.timeout)


def chunks(target, lines):
    """A 160 KB heap holds no 100 KB program: there the paste comes in parts of 8 KB."""
    size = 8_000 if target.bits == 32 else 200_000
    part, length = [], 0
    for line in lines:
        if length + len(line) > size:
            yield "".join(part)
            part, length = [], 0
        part.append(line)
        length += len(line)
    yield "".join(part)


@pytest.mark.parametrize("piece", [64, 1024, 65536])
def test_100_kb_in_paste_mode(connect, target, piece):
    peer = connect().login()
    peer.command("import hashlib, binascii; h = hashlib.sha256()")
    lines, digest = source(100_000)
    for text in chunks(target, lines):
        peer.text("\x05")
        peer.until(b"=== ")
        reader = Reader(peer, b"\r\n" + PROMPT)
        for i in range(0, len(text), piece):
            peer.text(text[i : i + piece])
        peer.text("\x04")
        reader.join()
        assert reader.got.endswith(PROMPT) and b"Error" not in reader.got, reader.got[-300:]
    assert peer.value("binascii.hexlify(h.digest())").decode() == digest


def test_100_kb_in_raw_paste_mode(connect, target):
    peer = connect().login()
    peer.command("import hashlib, binascii, gc; h = hashlib.sha256()")
    lines, digest = source(100_000)
    peer.text("\x03\x01")
    peer.until(b"raw REPL; CTRL-B to exit\r\n>")
    for text in chunks(target, lines):
        peer.text("\x05A\x01")
        answer = b""
        while len(answer) < 4:
            answer += peer.frame()[1]
        assert answer[:2] == b"R\x01", answer
        window, room = int.from_bytes(answer[2:4], "little"), int.from_bytes(answer[2:4], "little")
        answer = answer[4:]
        data = text.encode()
        while data:
            while not room:
                assert set(answer) <= {1}, answer
                room += window * len(answer)
                answer = b"" if room else peer.frame()[1]
            room += window * answer.count(1)
            answer = b""
            n = min(room, len(data))
            peer.text(data[:n])
            data, room = data[n:], room - n
        peer.text("\x04")
        out = peer.until(b"\x04>")
        assert out.lstrip(b"\x01") == b"\x04\x04\x04>", out
    peer.text("\x02")
    peer.until(PROMPT)
    assert peer.value("binascii.hexlify(h.digest())").decode() == digest


def test_a_program_reads_50_kb_from_stdin(connect):
    """Faster than it reads, and with every byte value but Ctrl-C's meaning: kbd_intr(-1) makes that data too."""
    random.seed(1)
    data = bytes(random.randrange(256) for _ in range(50_000))
    peer = connect().login()
    peer.command("import sys, hashlib, micropython, time")
    program = (
        "def eat(n):\\n micropython.kbd_intr(-1)\\n h = hashlib.sha256()\\n print('ready')\\n"
        " while n:\\n  b = sys.stdin.buffer.read(min(n, 100)); h.update(b); n -= len(b)\\n"
        "  if n % 10000 == 0: time.sleep_ms(200)\\n"
        " micropython.kbd_intr(3)\\n print(h.digest())\\n"
    )
    peer.command('exec("%s")' % program)
    peer.text("eat(50000)\r")
    peer.until(b"ready\r\n")
    for i in range(0, len(data), 700):
        peer.text(data[i : i + 700])
    out = peer.until(b"\r\n" + PROMPT, 60)
    assert eval(out[: out.index(b"\r\n>>> ")]) == hashlib.sha256(data).digest()


@pytest.mark.parametrize("line", [1, 49, 5000])
def test_10_mb_printed(connect, target, line):
    total = 10_000_000 if line > 1 else 200_000
    count = total // line
    peer = connect(timeout=30).login()
    peer.text("for i in range(%d): print('%%0%dd' %% (i %% 10))\r\r" % (count, line))
    got = hashlib.sha256()
    tail, left = b"", count * (line + 2)
    head = peer.until(b"0" * (line - 1) + b"0\r\n", 60) if line > 1 else peer.until(b"\r\n0\r\n", 60)
    start = head.rindex(b"0" * line + b"\r\n")
    first = head[start:]
    got.update(first)
    left -= len(first)
    while left:
        op, payload = peer.frame()
        got.update(payload[:left])
        tail = payload
        left -= min(left, len(payload))
    want = hashlib.sha256()
    for i in range(count):
        want.update(b"%0*d\r\n" % (line, i % 10))
    assert got.digest() == want.digest(), tail[-100:]
    peer.until(PROMPT)
