#!/usr/bin/env python3
"""How fast is it? This bundle, the stock chain and a bare TLS socket, side by side on one board, in turn.

ours:  wss_repl.  stock: the firmware's C `websocket` and `_webrepl` over the same TLS socket, wired as upydev's
wss_repl.py does.  bare: the firmware's TLS socket and nothing else, the limit.

Without --port the board is the stand-in on this desk. With --port it is any board that mpremote can talk to, that
has the bundle, its keys and a network address: `bench.py --port /dev/ttyACM0 --address 192.168.1.20`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import platform
import re
import secrets
import select
import socket
import ssl
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

import firmware
from mpremote.transport import TransportError
from mpremote.transport_serial import SerialTransport
from ports import free_ports
from wssctl.cable.port import enter_raw_repl
from wssctl.errors import WssctlError
from wssctl.keys import ask
from wssctl.keys.ca import Authority
from wssctl.keys.store import Store
from wssctl.wire.link import Credentials

ROOT = Path(__file__).resolve().parent.parent.parent
OUT = ROOT / "build" / "bench"
UID = "30aea4b0a2d0"  # machine.unique_id() of the board on the desk
KINDS = ("ours", "stock", "bare")
PROMPT = b">>> "
TEXT, BINARY, CLOSE = 1, 2, 8
PIECE = 4096  # of a put with wssctl
SMALL = 1024  # of a put with webrepl_cli or upydev
GET_AHEAD = 8  # acknowledgements that wssctl sends ahead
FILE = "bench.bin"


class BenchError(Exception):
    """It cannot be measured; the message is one sentence and says what to do."""


# The client: as little as possible between the clock and the wire ------------------------------------------------


def frame(op: int, payload: bytes) -> bytes:
    """A masked frame."""
    n = len(payload)
    length = bytes([128 | n]) if n < 126 else b"\xfe" + struct.pack(">H", n)
    mask = secrets.token_bytes(4)
    key = (mask * (n // 4 + 1))[:n]
    return bytes([128 | op]) + length + mask + bytes(a ^ b for a, b in zip(payload, key, strict=True))


class Wire:
    """TLS through memory: one read of the socket may bring many records."""

    def __init__(self, address: tuple[str, int], context: ssl.SSLContext, timeout: float):
        self.sock = socket.create_connection(address, timeout)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._in, self._out, server_hostname=address[0])
        self.buffer = bytearray()  # what has come and is not taken yet
        try:
            while True:
                try:
                    self.tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    self._flush()
                    self._fill()
            self._flush()
        except BaseException:
            self.sock.close()
            raise

    def _flush(self) -> None:
        if self._out.pending:
            self.sock.sendall(self._out.read())

    def _fill(self) -> None:
        data = self.sock.recv(1 << 18)
        if not data:
            raise BenchError("the board closed the connection")
        self._in.write(data)

    def send(self, data: bytes) -> None:
        self.tls.write(data)
        self._flush()

    def more(self) -> None:
        """Wait for more in the buffer."""
        while True:
            try:
                data = self.tls.read(1 << 18)
                if not data:
                    raise BenchError("the board closed the connection")
                self.buffer += data
                while self.tls.pending():
                    self.buffer += self.tls.read(1 << 18)
                return
            except ssl.SSLWantReadError:
                self._fill()

    def take(self, n: int) -> bytes:
        while len(self.buffer) < n:
            self.more()
        data = bytes(self.buffer[:n])
        del self.buffer[:n]
        return data

    def close(self) -> None:
        self.sock.close()


class Session(Wire):
    """A WebREPL client; connected and logged in when made."""

    def __init__(self, address: tuple[str, int], context: ssl.SSLContext, timeout: float, password: str):
        super().__init__(address, context, timeout)
        try:
            self.send(
                b"GET / HTTP/1.1\r\nHost: board\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            )
            self.until(b"\r\n\r\n")
            self.until(b"Password: ")
            self.send(frame(TEXT, password.encode() + b"\r"))
            self.until(PROMPT)
        except BaseException:
            self.sock.close()
            raise

    def until(self, end: bytes) -> bytes:
        """Bytes, frame headers and all, up to and with end."""
        at, start = -1, 0
        while (at := self.buffer.find(end, start)) < 0:
            start = max(0, len(self.buffer) - len(end))
            self.more()
        return self.take(at + len(end))

    def frame(self) -> tuple[int, bytes]:
        head = self.take(2)
        n = head[1]
        if n == 126:
            n = int.from_bytes(self.take(2), "big")
        return head[0] & 15, self.take(n)

    def data(self) -> bytes:
        while True:
            op, payload = self.frame()
            if op == BINARY:
                return payload

    def answer(self, what: str) -> None:
        if (got := self.data()) != b"WB\0\0":
            raise BenchError(f"the board refused to {what} ({got!r}): has its file system room?")

    def settle(self) -> None:
        """A fresh prompt with nothing behind it."""
        self.send(frame(TEXT, b"\x03"))
        self.until(PROMPT)
        self.sock.settimeout(0.15)
        with contextlib.suppress(TimeoutError):
            while True:
                self.more()
        self.sock.settimeout(30)
        self.buffer.clear()


def file_request(op: int, name: str, size: int = 0) -> bytes:
    raw = name.encode()
    return frame(BINARY, struct.pack("<2sBBQLH64s", b"WA", op, 0, 0, size, len(raw), raw))


# What is measured -------------------------------------------------------------------------------------------------


@dataclass
class Sizes:
    """How much of it: of ours and bare, and of the stock chain, which needs minutes for some."""

    turns: int = 5
    keys: tuple[int, int] = (400, 100)
    connects: int = 5
    get: tuple[int, int] = (1 << 20, 16 << 10)
    put: tuple[int, int] = (1 << 20, 1 << 20)
    lines: tuple[int, int] = (1 << 20, 1 << 20)
    paste: tuple[int, int] = (256 << 10, 8 << 10)
    samples: int = 20
    sample_ms: int = 500


QUICK = Sizes(1, (20, 5), 1, (100_000, 2048), (100_000, 100_000), (50_000, 50_000), (16 << 10, 1024), 1, 10)


@dataclass(frozen=True)
class Work:
    name: str
    label: str
    unit: str  # "ms" and "%" are better when less, "MB/s" when more
    targets: tuple[tuple[str, str, float], ...] = ()  # (compared with, "at least" or "at most", ratio)


WORKS = (
    Work("key", "keystroke echo, median", "ms", (("stock", "at least", 100),)),
    Work("key99", "keystroke echo, p99", "ms", (("stock", "at least", 40),)),
    Work("connect", "connect to prompt", "ms", (("bare", "at most", 1.10),)),
    Work("get", "get 1 MB, a round trip a piece", "MB/s", (("stock", "at least", 300),)),
    Work("ahead", "get 1 MB, acknowledged ahead", "MB/s", (("stock", "at least", 300), ("bare", "at least", 0.3))),
    Work("put", "put 1 MB in frames of 4 KB (wssctl)", "MB/s", (("stock", "at least", 4), ("bare", "at least", 0.3))),
    Work("put1k", "put 1 MB in frames of 1 KB (webrepl_cli, upydev)", "MB/s", (("stock", "at least", 4),)),
    Work("lines", "1 MB printed in 50-byte lines", "MB/s", (("stock", "at least", 2),)),
    # Without the waiting for this process, which reads the board's console, too
    Work("print", "the same, by the board's processor", "MB/s", (("stock", "at least", 2),)),
    Work("paste", "raw paste of 256 KB", "MB/s", (("stock", "at least", 2),)),
    Work("slow", "a program's slowdown, session idle", "%", (("", "at most", 1.0),)),
)


@dataclass
class Bench:
    console: Console
    host: str
    ports: dict[str, int]
    context: ssl.SSLContext
    sizes: Sizes
    password: str = field(default_factory=lambda: secrets.token_hex(4))  # 8: stock takes 4 to 9 characters
    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def run(self, say: Callable[[str], None]) -> None:
        listen = repr(self.host if self.host.startswith("127.") else "0.0.0.0")
        self.console.exec("import bench_board")
        kinds = [(k, self.ports[k], self.password) for k in KINDS]
        say("idle session")
        self._slowdown(["(%r, %d, %r, %s)" % (*k, listen) for k in kinds[:2]])
        for k in kinds:
            self.console.exec("bench_board.start(%r, %d, %r, %s)" % (*k, listen))
        works = (self._keys, self._connect, self._get, self._put, self._lines, self._paste)
        for turn in range(self.sizes.turns):
            for work in works:
                for i in range(len(KINDS)):
                    kind = KINDS[(i + turn) % len(KINDS)]
                    say(f"turn {turn + 1} of {self.sizes.turns}: {work.__name__[1:]} {kind}")
                    try:
                        work(kind, 1 if kind == "stock" else 0)
                    except TimeoutError:
                        raise BenchError(f"{work.__name__[1:]}, {kind}: the board was silent for 30 s") from None
        self.console.exec("for k in %r: bench_board.stop(k)" % (KINDS,))
        self.console.exec("import os\nfor f in (%r, 'bench_board.py'): os.remove(f)" % FILE)

    def _note(self, work: str, kind: str, value: float) -> None:
        self.values.setdefault(work, {}).setdefault(kind, []).append(value)

    def _open(self, kind: str) -> Wire:
        address = (self.host, self.ports[kind])
        if kind == "bare":
            return Wire(address, self.context, 30)
        for attempt in range(20):
            try:
                return Session(address, self.context, 30, self.password)
            except (BenchError, OSError):
                # The stock chain rejects a newcomer until it has noticed the end of the session before
                if attempt == 19:
                    raise
                time.sleep(0.1)
        raise AssertionError

    @contextlib.contextmanager
    def _session(self, kind: str) -> Iterator[Wire]:
        """A Session, but for bare TLS."""
        wire = self._open(kind)
        try:
            yield wire
        finally:
            self._close(kind, wire)

    def _close(self, kind: str, wire: Wire) -> None:
        if kind == "ours":
            with contextlib.suppress(OSError, BenchError):
                wire.send(frame(CLOSE, b"\x03\xe8"))
                while True:
                    wire.more()
        wire.close()
        time.sleep(0.05)

    def _keys(self, kind: str, stock: int) -> None:
        times = []
        n = self.sizes.keys[stock]
        with self._session(kind) as s:
            if isinstance(s, Session):
                s.settle()
            else:
                s.send(b"e" + n.to_bytes(4, "big"))
            for i in range(n):
                if isinstance(s, Session) and i % 40 == 39:
                    s.settle()
                time.sleep(0.002)  # nobody types back to back
                key = b"x" if kind == "bare" else frame(TEXT, b"x")
                wanted = b"x" if kind == "bare" else b"\x81\x01x"
                start = time.perf_counter()
                s.send(key)
                got = s.take(len(wanted))
                times.append(time.perf_counter() - start)
                if got != wanted:
                    raise BenchError(f"{kind}: {got!r} came for a keystroke")
        times.sort()
        self._note("key", kind, statistics.median(times) * 1e3)
        self._note("key99", kind, times[min(len(times) - 1, math.ceil(len(times) * 0.99) - 1)] * 1e3)

    def _connect(self, kind: str, stock: int) -> None:
        times = []
        for _ in range(self.sizes.connects):
            start = time.perf_counter()
            wire = self._open(kind)
            if kind == "bare":
                wire.send(b"e\0\0\0\1x")
                wire.take(1)
            times.append(time.perf_counter() - start)
            self._close(kind, wire)
        self._note("connect", kind, statistics.median(times) * 1e3)

    def _get(self, kind: str, stock: int) -> None:
        size = self.sizes.get[stock]
        content = os.urandom(size)
        with self._session(kind) as s:
            if not isinstance(s, Session):
                start = time.perf_counter()
                s.send(b"o" + size.to_bytes(4, "big"))
                left = size
                while left:
                    s.more()
                    left -= len(s.buffer)
                    s.buffer.clear()
                rate = size / (time.perf_counter() - start) / 1e6
                self._note("get", kind, rate)
                self._note("ahead", kind, rate)
                return
            s.settle()
            self._send_file(s, content)
            for work, ahead in (("get", 1), ("ahead", GET_AHEAD)):
                if stock and ahead > 1:  # it takes spare acknowledgements for the next request
                    self._note("ahead", kind, self.values["get"][kind][-1])
                    return
                ack = [frame(BINARY, b"\0" * i) for i in range(ahead + 1)]
                got, due = [], 0
                start = time.perf_counter()
                s.send(file_request(2, FILE))
                s.answer("read " + FILE)
                s.send(ack[ahead])
                while True:
                    piece = s.data()
                    if len(piece) == 2:
                        break
                    due += 1
                    if due * 2 >= ahead:
                        s.send(ack[due])
                        due = 0
                    got.append(piece)
                s.answer("read " + FILE)
                self._note(work, kind, size / (time.perf_counter() - start) / 1e6)
                if b"".join(p[2:] for p in got) != content:
                    raise BenchError(f"{kind}: the file came back different")

    def _send_file(self, s: Session, content: bytes, step: int = PIECE) -> float:
        frames = [frame(BINARY, content[i : i + step]) for i in range(0, len(content), step)]
        request = file_request(1, FILE, len(content))
        start = time.perf_counter()
        s.send(request)
        s.answer("write " + FILE)
        for f in frames:
            s.send(f)
        s.answer("write " + FILE)
        return time.perf_counter() - start

    def _put(self, kind: str, stock: int) -> None:
        size = self.sizes.put[stock]
        content = os.urandom(size)
        with self._session(kind) as s:
            if isinstance(s, Session):
                s.settle()
            for work, step in (("put", PIECE), ("put1k", SMALL)):
                if isinstance(s, Session):
                    took = self._send_file(s, content, step)
                else:
                    start = time.perf_counter()
                    s.send(b"i" + size.to_bytes(4, "big"))
                    for i in range(0, size, step):
                        s.send(content[i : i + step])
                    s.take(1)
                    took = time.perf_counter() - start
                self._note(work, kind, size / took / 1e6)

    def _lines(self, kind: str, stock: int) -> None:
        n = self.sizes.lines[stock] // 50
        with self._session(kind) as s:
            if not isinstance(s, Session):
                start = time.perf_counter()
                s.send(b"l" + (n * 50).to_bytes(4, "big"))
                got = 0
                while got < n * 50:
                    s.more()
                    got += len(s.buffer)
                    s.buffer.clear()
                took = time.perf_counter() - start
            else:
                s.settle()
                s.send(frame(TEXT, b"import bench_board\r"))
                s.until(PROMPT)
                s.send(frame(TEXT, b"bench_board.lines(%d)\r" % n))
                s.until(b"GO")
                start = time.perf_counter()
                while not s.buffer.endswith(b"\x81\x04" + PROMPT):
                    s.more()
                took = time.perf_counter() - start
                text = b""
                parts = []
                s.take(s.buffer.index(b"\x81", 0))
                while s.buffer:
                    parts.append(s.frame()[1])
                text = b"".join(parts).removeprefix(b"\r\n")
                if text != (b"x" * 48 + b"\r\n") * n + PROMPT:
                    raise BenchError(f"{kind}: {n} lines did not come as they were printed")
                processor = float(self.console.exec("print(bench_board.took)"))
                if processor:
                    self._note("print", kind, n * 50 / processor / 1e6)
        self._note("lines", kind, n * 50 / took / 1e6)

    def _paste(self, kind: str, stock: int) -> None:
        size = self.sizes.paste[stock]
        source, result = program(size)
        with self._session(kind) as s:
            if not isinstance(s, Session):
                return
            s.settle()
            s.send(frame(TEXT, b"\x01"))
            inbox = Inbox(s)
            inbox.until(b"raw REPL; CTRL-B to exit\r\n>")
            s.send(frame(TEXT, b"\x05A\x01"))
            if inbox.take(2) != b"R\x01":
                raise BenchError(f"{kind}: the firmware has no raw paste")
            step = int.from_bytes(inbox.take(2), "little")
            room, at, windows = step, 0, 0
            start = time.perf_counter()
            while at < size:
                while not room or inbox.pending():
                    if inbox.take(1) != b"\x01":
                        s.send(frame(TEXT, b"\x04"))
                        why = inbox.until_twice(b"\x04").strip(b"\r\n\x04").split(b"\r\n")[-1].decode()
                        raise BenchError(f"{kind}: the board ended raw paste after {at} bytes: {why}")
                    room += step
                    windows += 1
                piece = source[at : at + room]
                s.send(frame(TEXT, piece))
                at += len(piece)
                room -= len(piece)
            s.send(frame(TEXT, b"\x04"))
            while inbox.take(1) == b"\x01":
                windows += 1
            took = time.perf_counter() - start
            got = inbox.until_twice(b"\x04")
            # A window opens for every `step` bytes that the board has read: were one byte lost, the last would not
            if got != b"%d\r\n\x04\x04" % result or windows != 1 + size // step or size % step:
                raise BenchError(f"{kind}: what ran is not what was pasted ({got[-300:]!r}, {windows} windows)")
            s.send(frame(TEXT, b"\x02"))
            s.until(PROMPT)
        self._note("paste", kind, size / took / 1e6)

    def _slowdown(self, kinds: list[str]) -> None:
        wires: dict[str, Wire] = {}
        counts: dict[str, list[tuple[int, int]]] = {}

        def line(text: str) -> None:
            word, _, rest = text.partition(" ")
            if word == "open":
                wires[rest] = self._open(rest)
            elif word == "close":
                self._close(rest, wires.pop(rest))
            elif word == "count":
                kind, none, opened = rest.split()
                counts.setdefault(kind, []).append((int(none), int(opened)))

        code = "bench_board.slowdown([%s], %d, %d)" % (", ".join(kinds), self.sizes.samples, self.sizes.sample_ms)
        self.console.exec(code, line)
        for kind, pairs in counts.items():
            # The fastest of five and five: what slows a program for other reasons slows some of them, not all
            for i in range(0, len(pairs), 5):
                none, opened = (min(column) for column in zip(*pairs[i : i + 5], strict=True))
                self._note("slow", kind, (opened / none - 1) * 100)


class Inbox:
    """The payloads of a session's text frames as a byte stream."""

    def __init__(self, session: Session):
        self._session = session
        self._bytes = bytearray()

    def pending(self) -> bool:
        return bool(self._bytes or self._session.buffer)

    def take(self, n: int) -> bytes:
        while len(self._bytes) < n:
            self._bytes += self._session.frame()[1]
        data = bytes(self._bytes[:n])
        del self._bytes[:n]
        return data

    def until(self, end: bytes) -> None:
        got = b""
        while not got.endswith(end):
            got += self.take(1)

    def until_twice(self, end: bytes) -> bytes:
        got = b""
        while got.count(end) < 2:
            got += self.take(1)
        return got


def program(size: int) -> tuple[bytes, int]:
    """size bytes of source and what it prints. Mostly comment: a board with 160 KB of heap must have room for it."""
    parts, n, left = [b"n=0\n"], 0, size - 4 - len(b"print(n)\n")
    while left > 0:
        k = min(64, left)
        i = len(parts) if len(parts) % 64 == 1 and k == 64 else 0
        line = b"n+=%d#" % i if i else b"#"
        parts.append((line + secrets.token_hex(32).encode())[: k - 1] + b"\n")
        n += i
        left -= k
    return b"".join([*parts, b"print(n)\n"]), n


# The board ----------------------------------------------------------------------------------------------------------


class Console:
    """A board's serial REPL, by way of mpremote. What is printed between calls is read and dropped."""

    def __init__(self, device: str):
        try:
            self._transport = SerialTransport(device)
        except TransportError as e:
            raise BenchError(f"{e}: is the port right, and nothing else using it?") from None
        self._wake = os.pipe()
        self._drainer = self._drain()

    def _drain(self) -> threading.Thread:
        fd = self._transport.serial.fileno()

        def read() -> None:
            while True:
                ready = select.select([fd, self._wake[0]], [], [])[0]
                if self._wake[0] in ready:
                    os.read(self._wake[0], 1)
                    return
                with contextlib.suppress(OSError):
                    os.read(fd, 1 << 16)

        drainer = threading.Thread(target=read, daemon=True)
        drainer.start()
        return drainer

    @contextlib.contextmanager
    def _raw(self) -> Iterator[SerialTransport]:
        os.write(self._wake[1], b"x")
        self._drainer.join()
        enter_raw_repl(self._transport, 10)
        try:
            yield self._transport
        finally:
            self._transport.exit_raw_repl()
            self._drainer = self._drain()

    def exec(self, code: str, line: Callable[[str], None] | None = None) -> str:
        """Run code; its output, or each line of it to `line` as it comes. Raises BenchError with its traceback."""
        buffer = bytearray()

        def consume(data: bytes) -> None:
            buffer.extend(data)
            while b"\n" in buffer:
                text, _, rest = bytes(buffer).partition(b"\n")
                buffer[:] = rest
                if line:
                    line(text.decode().strip())

        with self._raw() as transport:
            try:
                transport.exec_raw_no_follow(code)
                out, error = transport.follow(60, consume if line else None)
            except TransportError as e:
                raise BenchError(f"the board's console: {e}") from None
        if error:
            raise BenchError("on the board: " + error.decode(errors="replace").strip().replace("\r\n", " | "))
        text: str = out.decode()
        return text

    def upload(self, path: Path, name: str) -> None:
        with self._raw() as transport:
            transport.fs_writefile(name, path.read_bytes())

    def close(self) -> None:
        os.write(self._wake[1], b"x")
        self._drainer.join()
        self._transport.close()
        for fd in self._wake:
            os.close(fd)


def provision(folder: Path) -> tuple[Path, Credentials]:
    """New keys: a directory that is a board's file system with its own, and a host's credentials."""
    authority = Authority.create("bench ROOT CA")
    files = folder / "board"
    files.mkdir()
    device = authority.device(UID, names=["localhost"], addresses=["127.0.0.1"])
    (files / "ROOT_CA_cert.pem").write_bytes(authority.cert_pem)
    (files / f"SSL_key{UID}.der").write_bytes(device.key_der)
    (files / f"SSL_certificate{UID}.der").write_bytes(device.cert_der)
    key, cert = authority.host("bench", "bench bench")
    credentials = Credentials(folder / "ca.pem", folder / "cert.pem", folder / "key.pem", "bench bench")
    credentials.ca.write_bytes(authority.cert_pem)
    credentials.cert.write_bytes(cert)
    credentials.key.write_bytes(key)
    return files, credentials


@contextlib.contextmanager
def desk(bits: int, lib: str | None) -> Iterator[tuple[Console, ssl.SSLContext]]:
    """The stand-in, as a process of its own, with new keys."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        files, credentials = provision(Path(folder))
        command = [sys.executable, str(Path(__file__).with_name("board.py")), "--pty", "--bits", str(bits), str(files)]
        # Callbacks at once, not a period after the one before: the stand-in's grain of 1 ms is not what is measured.
        env = os.environ | {"BOARD_SOCKET_MS": "0"}
        proc = subprocess.Popen(
            [*command, *(["--lib", lib] if lib else [])], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=env
        )
        assert proc.stdout
        try:
            tty = proc.stdout.readline().decode().strip()
            if not tty:
                raise BenchError("the board on the desk did not start")
            time.sleep(0.5)
            console = Console(tty)
            try:
                yield console, credentials.context()
            finally:
                console.close()
        finally:
            proc.terminate()
            proc.wait()


# The report ---------------------------------------------------------------------------------------------------------


class Spread(TypedDict):
    median: float
    min: float
    max: float


class Target(TypedDict):
    against: str  # of KINDS; nothing: an absolute figure
    how: str
    wanted: float
    reached: float
    ok: bool


class Row(TypedDict):
    """What was measured of a Work; figures and ratios by kind."""

    work: str
    name: str
    unit: str
    figures: dict[str, Spread]
    ratios: dict[str, Spread]
    targets: list[Target]


def ratios(work: Work, values: dict[str, list[float]], other: str) -> list[float]:
    """How many times as good as `other` ours is, turn by turn; for connect, how many times as long it takes."""
    pairs = zip(values["ours"], values[other], strict=True)
    if work.unit == "MB/s" or any(kind == "at most" for _, kind, _ in work.targets):
        return [a / b for a, b in pairs]
    return [b / a for a, b in pairs]


def spread(values: list[float]) -> Spread:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def number(x: float) -> str:
    return f"{x:,.0f}" if abs(x) >= 100 else f"{x:.1f}" if abs(x) >= 10 else f"{x:.2f}" if abs(x) >= 1 else f"{x:.3f}"


def report(values: dict[str, dict[str, list[float]]]) -> list[Row]:
    """One row a work: figures, ratios and whether what was to be reached is."""
    rows = []
    for work in WORKS:
        got = values.get(work.name)
        if not got:  # a board that does not tell what its processor did
            continue
        row: Row = {
            "work": work.label,
            "name": work.name,
            "unit": work.unit,
            "figures": {kind: spread(got[kind]) for kind in KINDS if kind in got},
            "ratios": {k: spread(ratios(work, got, k)) for k in KINDS[1:] if k in got and work.unit != "%"},
            "targets": [],
        }
        for other, how, wanted in work.targets:
            reached = row["ratios"][other]["median"] if other else row["figures"]["ours"]["median"]
            ok = reached >= wanted if how == "at least" else reached <= wanted
            row["targets"].append({"against": other, "how": how, "wanted": wanted, "reached": reached, "ok": ok})
        rows.append(row)
    return rows


def draw(rows: list[Row], about: dict[str, object], path: Path) -> None:
    """A picture of the ratios: how many times as good as the stock chain ours is, and where bare TLS would be."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = [r for r in rows if "stock" in r["ratios"]][::-1]
    figure, axes = plt.subplots(figsize=(9, 0.55 * len(shown) + 1.6), layout="constrained")
    for y, row in enumerate(shown):
        better = 1 if row["unit"] == "MB/s" else -1
        stock = row["figures"]["stock"]["median"]

        def times(kind: str, row: Row = row, better: int = better, stock: float = stock) -> Spread:
            got = row["figures"][kind]
            median, *ends = ((x / stock) ** better for x in (got["median"], got["min"], got["max"]))
            return {"median": median, "min": min(ends), "max": max(ends)}

        ours = times("ours")
        axes.plot([1, ours["median"]], [y, y], color="#9ecae1", linewidth=8, solid_capstyle="butt", zorder=1)
        axes.plot([ours["min"], ours["max"]], [y, y], color="#08306b", linewidth=1.5, zorder=2)
        axes.plot(ours["median"], y, "o", color="#08519c", zorder=3, label="wss_repl" if not y else None)
        if "bare" in row["figures"]:
            axes.plot(times("bare")["median"], y, "|", color="#636363", markersize=16, markeredgewidth=2,
                      label="bare TLS, the limit" if not y or "bare" not in shown[0]["figures"] else None)  # fmt: skip
        for t in row["targets"]:
            if t["against"] == "stock":
                axes.plot(t["wanted"], y, "x", color="#cb181d", zorder=2)
        axes.annotate(f"{number(ours['median'])}×", (ours["median"], y), (0, 9), textcoords="offset points",
                      ha="center", fontsize=8)  # fmt: skip
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_yticks(range(len(shown)), [r["work"] for r in shown])
    axes.set_ylim(-0.6, len(shown) - 0.3)
    axes.set_xlabel(
        "times as good as the firmware's C chain (= 1)\ndot: median, line: spread, cross: to reach", fontsize=9
    )
    figure.suptitle("wss_repl against the firmware's C websocket + _webrepl\n" + str(about["board"]), fontsize=10)
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    axes.legend(unique.values(), unique.keys(), loc="lower right", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def table(rows: list[Row]) -> str:
    """Markdown."""

    def cell(figures: Spread | None, unit: str = "") -> str:
        if not figures:
            return ""
        return f"{number(figures['median'])}{unit} ({number(figures['min'])}–{number(figures['max'])})"

    lines = ["| work | ours | stock | bare TLS | ours against stock | ours against bare | to reach |", "|" + "---|" * 7]
    for row in rows:
        unit = " " + row["unit"]
        cells = [cell(row["figures"].get(k), unit) for k in KINDS]
        cells += [cell(row["ratios"].get(k), "×") for k in KINDS[1:]]
        goals = []
        for t in row["targets"]:
            what = f"{t['wanted']:g}" + (f"× {t['against']}" if t["against"] else row["unit"])
            goals.append(f"{t['how']} {what}: {'yes' if t['ok'] else '**no**'}")
        lines.append("| " + " | ".join([row["work"], *cells, ", ".join(goals)]) + " |")
    return "\n".join(lines) + "\n"


def versions(console: Console) -> dict[str, object]:
    def output(*command: str) -> str:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        return done.stdout.strip() if not done.returncode else ""

    cpu = ""
    with contextlib.suppress(OSError):
        cpu = (re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()) or [""])[0]
    return {
        "board": console.exec("import os, sys; print(os.uname().machine + ';', sys.version)").strip(),
        "commit": output("git", "describe", "--always", "--dirty"),
        "python": platform.python_version(),
        "openssl": ssl.OPENSSL_VERSION,
        "host": platform.platform(),
        "cpu": f"{os.cpu_count()} x {cpu}",
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "date": time.strftime("%Y-%m-%d"),
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", metavar="TTY", help="serial port of a board (as mpremote takes it)")
    parser.add_argument("--address", metavar="HOST[:N]", help="its address; N, N+1 and N+2 are listened on (8833)")
    parser.add_argument("--keys", metavar="DIR", help="wssctl's folder of key files")
    parser.add_argument("--passphrase-file", metavar="FILE", help="its first line is the HOST key's passphrase")
    parser.add_argument("--bits", type=int, choices=(64, 32), default=64, help="of the board on the desk")
    parser.add_argument("--lib", metavar="PATH", help="use the modules in PATH before the desk's frozen ones")
    parser.add_argument("--turns", type=int, metavar="N", help="times that everything is measured (5)")
    parser.add_argument("--quick", action="store_true", help="everything once and little of it: does it work?")
    parser.add_argument("--out", metavar="DIR", type=Path, default=OUT, help="where the results go (build/bench)")
    a = parser.parse_args(argv)
    sizes = QUICK if a.quick else Sizes()
    if a.turns:
        sizes.turns = a.turns

    def say(text: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)

    try:
        with contextlib.ExitStack() as stack:
            if a.port:
                if not a.address:
                    raise BenchError("say where the board is on the network: --address HOST")
                host, _, number_ = a.address.partition(":")
                first = int(number_ or 8833)
                ports = dict(zip(KINDS, range(first, first + 3), strict=True))
                store = Store(a.keys)
                key, cert = store.find_host()
                secret = ask.deferred(f"Passphrase of {key.name}", a.passphrase_file, "WSSCTL_PASSPHRASE",
                                   option="--passphrase-file")  # fmt: skip
                context = Credentials(store.find_ca_cert(), cert, key, secret).context()
                console = Console(a.port)
                stack.callback(console.close)
            else:
                host, ports = "127.0.0.1", dict(zip(KINDS, free_ports(3), strict=True))
                console, context = stack.enter_context(desk(a.bits, a.lib))
            console.upload(Path(__file__).with_name("bench_board.py"), "bench_board.py")
            bench = Bench(console, host, ports, context, sizes)
            bench.run(say)
            about = versions(console)
    except (BenchError, WssctlError, firmware.FirmwareError, OSError) as e:
        print(f"bench: {e}", file=sys.stderr)
        return 1
    rows = report(bench.values)
    say("")
    a.out.mkdir(parents=True, exist_ok=True)
    text = table(rows)
    result = {"versions": about, "rows": rows, "values": bench.values, "sizes": vars(sizes)}
    (a.out / "bench.json").write_text(json.dumps(result, indent=1) + "\n")
    (a.out / "bench.md").write_text(text)
    print(text, end="")
    try:
        draw(rows, about, a.out / "bench.png")
    except ImportError:
        print("bench: no picture, because matplotlib is missing: pip install 'wssctl[bench]'", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
