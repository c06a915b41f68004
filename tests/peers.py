"""A WebREPL client down to the byte, for tests that count, cut, stall or misbehave. Real clients are in interop/."""

import socket
import ssl
import struct
import threading
import time
from dataclasses import dataclass
from pathlib import Path

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
PROMPT = b">>> "
REQUEST = (
    b"GET %s HTTP/1.1\r\nHost: board\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
FILE_REQUEST = struct.Struct("<2sBBQLH64s")
PUT, GET, VERSION = 1, 2, 3
patience = 1.0  # how many times longer everything here waits before it gives up; the target's


class Ended(Exception):
    """The board closed the connection."""


@dataclass
class Identity:
    """What a client shows: PEM files; no certificate when cert is None."""

    ca: Path
    cert: Path | None = None
    key: Path | None = None
    passphrase: str | None = None

    def context(self, maximum=None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.ca)
        if maximum:
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = maximum
            context.set_ciphers("ALL:@SECLEVEL=0")
        if self.cert:
            context.load_cert_chain(self.cert, self.key, self.passphrase)
        return context


def encode(op: int, payload: bytes = b"", mask: bytes | None = b"\x11\x22\x33\x44", fin: bool = True) -> bytes:
    """One frame as a client sends it (mask=None: unmasked, as webrepl_cli does)."""
    n = len(payload)
    length = bytes([n]) if n < 126 else b"\x7e" + struct.pack(">H", n) if n < 65536 else b"\x7f" + struct.pack(">Q", n)
    head = bytearray([op | (0x80 if fin else 0)]) + length
    if mask is None:
        return bytes(head) + payload
    head[1] |= 0x80
    key = (mask * (n // 4 + 1))[:n]
    body = (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(n, "big")
    return bytes(head) + mask + body


class Wire:
    """TLS (or plain) over one socket, through memory, so that every TLS record and every TCP read can be counted."""

    def __init__(self, address, identity: Identity | None, timeout=30.0, context=None, source=None, rcvbuf=None):
        self.records = 0  # application data records received
        self.reads = 0  # TCP reads that brought something
        self._cipher = bytearray()
        self._plain = bytearray()
        self.timeout = timeout = timeout * patience
        self.sock = socket.socket()
        if rcvbuf:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        self.sock.settimeout(timeout)
        if source:
            self.sock.bind((source, 0))
        self.sock.connect(address)
        self.tls = None
        # One thread may read while another sends; OpenSSL's object must not be entered by both
        self._engine, self._sending = threading.Lock(), threading.Lock()
        if identity:
            self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
            context = context or identity.context()
            self.tls = context.wrap_bio(self._in, self._out, server_hostname="127.0.0.1")

    def handshake(self):
        while True:
            try:
                self.tls.do_handshake()
                self._flush()
                return self
            except ssl.SSLWantReadError:
                self._flush()
                self._fill()

    def _flush(self):
        data = self._out.read()
        if data:
            self.sock.sendall(data)

    def _fill(self):
        data = self.sock.recv(65536)
        if not data:
            if self.tls:
                with self._engine:
                    self._in.write_eof()
            raise Ended
        self.reads += 1
        if not self.tls:
            self._plain += data
            return
        with self._engine:
            self._in.write(data)
        self._cipher += data
        while len(self._cipher) >= 5:
            n = 5 + int.from_bytes(self._cipher[3:5], "big")
            if len(self._cipher) < n:
                break
            self.records += self._cipher[0] == 23
            del self._cipher[:n]

    def send(self, data: bytes):
        if not self.tls:
            self.sock.sendall(data)
            return
        with self._sending:  # records leave in the order they were made
            with self._engine:
                self.tls.write(data)
                data = self._out.read()
            self.sock.sendall(data)

    def recv(self) -> bytes:
        """What is there, at least a byte. Raises Ended, TimeoutError."""
        while True:
            if self._plain:
                data = bytes(self._plain)
                self._plain.clear()
                return data
            if self.tls:
                try:
                    with self._engine:
                        data = self.tls.read(65536)
                    if not data:
                        raise Ended
                    return data
                except ssl.SSLWantReadError:
                    pass
                except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
                    raise Ended from None
            try:
                self._fill()
            except ConnectionError:
                raise Ended from None

    def close(self):
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Peer(Wire):
    """A WebSocket client with login, terminal and files."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._buffer = b""
        self.seen = b""  # all terminal text so far
        self.pongs = True

    def upgrade(self, path=b"/", request=None) -> bytes:
        """Send the request; returns the response head. Raises Ended."""
        if self.tls:
            self.handshake()
        self.send(request or REQUEST % path)
        while b"\r\n\r\n" not in self._buffer:
            self._buffer += self.recv()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        return head

    def login(self, password="secret", path=b"/", prompt=b"\r\nWebREPL connected\r\n>>> ") -> "Peer":
        head = self.upgrade(path)
        assert head.startswith(b"HTTP/1.1 101 "), head
        assert self.frame() == (TEXT, b"Password: ")
        self.text(password + "\r")
        if prompt:
            op, got = self.frame()
            assert (op, got) == (TEXT, prompt), (op, got)
        return self

    def raw_frame(self) -> tuple[int, bytes, bool]:
        def need(n):
            while len(self._buffer) < n:
                self._buffer += self.recv()

        need(2)
        n, at = self._buffer[1] & 127, 2
        assert not self._buffer[1] & 128, "a server's frame is not masked"
        if n == 126:
            need(4)
            n, at = int.from_bytes(self._buffer[2:4], "big"), 4
        elif n == 127:
            need(10)
            n, at = int.from_bytes(self._buffer[2:10], "big"), 10
        need(at + n)
        op, payload = self._buffer[0], self._buffer[at : at + n]
        self._buffer = self._buffer[at + n :]
        return op & 15, payload, bool(op & 128)

    def frame(self) -> tuple[int, bytes]:
        """The next frame; PINGs are answered meanwhile (unless pongs is False)."""
        while True:
            op, payload, fin = self.raw_frame()
            assert fin
            if op == PING:
                if self.pongs:
                    self.send(encode(PONG, payload))
                continue
            if op == TEXT:
                payload.decode()  # RFC 6455 section 8.1
            return op, payload

    def text(self, data: str | bytes):
        self.send(encode(TEXT, data.encode() if isinstance(data, str) else data))

    def until(self, end: bytes, timeout=60.0) -> bytes:
        """Terminal text up to and with end. Raises TimeoutError, Ended."""
        # Not all of it is looked through or copied for each frame: a program that prints fills the sockets' buffers
        # with megabytes while this side has no processor, and the Ctrl-C that stopped it is seen behind them.
        deadline = time.monotonic() + timeout * patience
        got = bytearray()
        at = 0
        try:
            while end not in got[at:]:
                at = max(0, len(got) - len(end))
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError(bytes(got[-500:]))
                self.sock.settimeout(left)
                try:
                    op, payload = self.frame()
                except TimeoutError:
                    raise TimeoutError(bytes(got[-500:])) from None
                if op == CLOSE:
                    raise Ended(bytes(got), payload)
                if op == TEXT or payload[:1] >= b"\x80":  # what is printed and is not UTF-8 (lib/wss/utf8.py)
                    got += payload
        finally:
            self.seen += bytes(got)
        self.sock.settimeout(self.timeout)
        return bytes(got)

    def command(self, line: str, timeout=60.0) -> bytes:
        """Type a line at the prompt; returns its output, echo and next prompt left out."""
        self.text(line + "\r")
        self.until(b"\r\n", timeout)
        got = b""
        while not got.endswith(PROMPT):
            got = got + self.until(PROMPT, timeout)
        return got[: -len(PROMPT)]

    def value(self, expression: str, timeout=60.0):
        """eval() of what the board prints for an expression."""
        import ast

        return ast.literal_eval(self.command("print(repr(%s))" % expression, timeout).decode().strip())

    def binary(self, data: bytes):
        self.send(encode(BINARY, data))

    def reply(self) -> int:
        """The code of a file operation's answer."""
        sig, code = struct.unpack("<2sH", self.data(4))
        assert sig == b"WB"
        return code

    def data(self, n: int) -> bytes:
        """The next binary frame, which must hold n bytes (None: any number)."""
        while True:
            op, payload = self.frame()
            if op == CLOSE:
                raise Ended
            if op == BINARY and (n is None or payload[:1] < b"\x80"):
                assert n is None or len(payload) == n, payload
                return payload

    def request(self, op: int, name: bytes = b"", size=0, length=None):
        self.binary(FILE_REQUEST.pack(b"WA", op, 0, 0, size, len(name) if length is None else length, name))

    def put(self, name: bytes, content: bytes) -> int:
        self.request(PUT, name, len(content))
        code = self.reply()
        if code:
            return code
        for i in range(0, len(content), 1024):
            self.binary(content[i : i + 1024])
        return self.reply()

    def get(self, name: bytes) -> bytes | int:
        self.request(GET, name)
        code = self.reply()
        if code:
            return code
        content = b""
        while True:
            self.binary(b"\0")
            piece = self.data(None)
            n = int.from_bytes(piece[:2], "little")
            assert len(piece) == 2 + n
            if not n:
                code = self.reply()
                assert not code, code
                return content
            content += piece[2:]
