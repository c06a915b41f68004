"""A connection to a board as all tools see it: text and binary byte streams. And what one connects to, and with.

One thread and one non-blocking socket. What is behind it is a WebSocket of our own (websocket.py) or one that another
process keeps (kept.py). A command that goes through a kept one starts without TLS and WebSocket: nothing here imports
them.
"""

import select
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from ..errors import ConnectionLost, NoAnswer, UsageError, WssctlError

if TYPE_CHECKING:
    import ssl

WSS_PORT, WS_PORT = 8833, 8266

# Bytes that wait for a reader, at most. Of the terminal's the oldest go, as on a terminal's screen; a transfer's are
# taken as they come, so that more of them are for nobody.
_MAX_TEXT, _MAX_BINARY = 1 << 20, 1 << 21
# A peer that takes bytes one by one shall not hold us: what is sent has to be taken at this rate, in bytes a second.
_SLOWEST = 1024


class Deadline:
    """The end of a wait in total, however much comes meanwhile. None seconds: it never ends."""

    def __init__(self, seconds: float | None):
        self._end = None if seconds is None else time.monotonic() + seconds

    @property
    def left(self) -> float | None:
        """Seconds, 0 or more; None for no end."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())

    @property
    def expired(self) -> bool:
        return self.left == 0.0

    def extend(self, seconds: float, most: float) -> None:
        """For what has come meanwhile; not to more than `most` seconds from now, so that nothing can be saved up."""
        if self._end is not None:
            self._end = max(self._end, min(self._end + seconds, time.monotonic() + most))


class Target(NamedTuple):
    secure: bool
    host: str
    port: int
    path: str = "/"

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'wss' if self.secure else 'ws'}://{host}:{self.port}{self.path}"

    def __str__(self) -> str:
        return self.url.removesuffix(self.path)


def parse_target(url: str, takeover: bool = False) -> Target:
    """`board`, `board:9000`, `[::1]:8833`, `wss://board`, `ws://board`. wss on port 8833 unless typed otherwise; ws
    (8266) only when typed so. Raises UsageError."""
    try:
        parts = urlsplit(url if "://" in url else f"wss://{url}")
        host, port = parts.hostname, parts.port
    except ValueError as e:
        raise UsageError(
            f"{url!r} is not a board's address ({e}); write for example wss://192.168.1.20:8833."
        ) from None
    if parts.scheme not in ("ws", "wss") or not host:
        raise UsageError(f"{url!r} is not a board's address; write for example wss://192.168.1.20 or esp-room1.local.")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UsageError(
            "An address holds no user, password, '?' or '#'; the password is asked for or read with --password-file."
        )
    secure = parts.scheme == "wss"
    path = "/takeover" if takeover else parts.path or "/"
    return Target(secure, host, port or (WSS_PORT if secure else WS_PORT), path)


class Credentials(NamedTuple):
    """Files (PEM) for mutual TLS. `passphrase` is the HOST key's, or a function that asks for it (called if it is
    encrypted)."""

    ca: Path
    cert: Path
    key: Path
    passphrase: str | Callable[[], str] | None = None

    def context(self) -> "ssl.SSLContext":
        """Raises KeyFileError: a missing or damaged file, a wrong passphrase."""
        from . import tls

        return tls.context(self)


class Link:
    """An open connection. `text` and `binary` collect what has arrived; readers delete what they take."""

    def __init__(self, sock: socket.socket, target: Target, timeout: float = 10.0):
        self.target = target
        self.timeout = timeout
        self.text = bytearray()
        self.binary = bytearray()
        self.arrived = 0  # bytes in both, ever
        self.closed = False
        self._sock = sock
        self.text_before = 0  # bytes of text that came before the latest answer about a file
        self.receiving = False  # a file is coming: all binary frames are pieces of it
        self._kind = self.text
        self._out = bytearray()
        self._want_write = False
        self._broken = False  # nothing more can be sent; there may still be something to read
        self._lost: WssctlError | None = None

    transfer = False  # whether a file is on its way
    clean = False  # whether the board is known to be at its friendly prompt, with nothing typed
    lingers = False  # whether what is sent just before close() is still carried out

    @property
    def tls(self) -> tuple[str, str, int] | None:
        """(version, suite, bits) such as ("TLSv1.3", "TLS_AES_256_GCM_SHA384", 256); None on plain ws."""
        raise NotImplementedError

    @property
    def certificate(self) -> bytes | None:
        """The board's certificate (DER); None on plain ws."""
        raise NotImplementedError

    @property
    def bundle(self) -> tuple[str, str]:
        """(version of the board's wss_repl, what became of an update it took back), both "" from others."""
        raise NotImplementedError

    def fileno(self) -> int:
        """The socket's: readable means that wait(0) may find something."""
        return self._sock.fileno()

    @property
    def lost(self) -> bool:
        """Whether the connection has ended."""
        return self._lost is not None or self.closed

    @property
    def backlog(self) -> int:
        """Bytes the board has not taken yet."""
        return len(self._out)

    def send_text(self, data: bytes, block: bool = True) -> None:
        """One text frame. Waits while the board does not take it, reading meanwhile, unless `block` is false: then what
        is left is the `backlog`, which wait() and select() go on sending. Raises ConnectionLost."""
        self._check()
        self.clean = False
        self._put(True, data)
        self._flush(block)

    def send_binary(self, data: bytes, block: bool = True) -> None:
        """One binary frame; as send_text."""
        self._check()
        self._put(False, data)
        self._flush(block)

    def wait(self, timeout: float | None = None) -> bool:
        """Until something arrives in `text` or `binary`, or `timeout` seconds pass: False then. Raises ConnectionLost
        when the connection has ended and nothing more came."""
        deadline = Deadline(timeout)
        before = self.arrived
        while True:
            received = self._receive()
            if self.arrived > before:
                return True
            if not received:
                self._check()
            if deadline.expired:
                return False
            if not received:
                self.select((), deadline.left)

    def select(self, others: Iterable[int] = (), timeout: float | None = None) -> list[int]:
        """Waits until the board has sent something (wait(0) reads it), one of the files `others` is readable (those are
        returned), the backlog moved, a second passed, or `timeout`. POSIX only for `others` that are no sockets."""
        timeout = 1.0 if timeout is None else min(timeout, 1.0)
        write = [self._sock] if self._want_write else []
        read: list[socket.socket | int] = [self._sock, *others]
        ready, writable, _ = select.select(read, write, [], timeout)
        if writable:
            self._push()
        elif not ready:
            self._notice_silence()
        return [r for r in ready if isinstance(r, int)]

    def close(self) -> None:
        """Ends the session at once, for the board too."""
        raise NotImplementedError

    def _put(self, is_text: bool, data: bytes) -> None:
        """A frame, into `_out`."""
        raise NotImplementedError

    def _receive(self) -> bool:
        """Reads what has arrived, one gulp. False when nothing has."""
        raise NotImplementedError

    def _end(self, error: OSError | None) -> None:
        """Sets `_lost`: the other side has closed the connection, or `error` came up."""
        raise NotImplementedError

    def _notice_silence(self) -> None:
        """A second has passed without a word."""

    def __enter__(self) -> "Link":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _check(self) -> None:
        if self._lost is not None:
            raise self._lost
        if self.closed:
            raise ConnectionLost(f"The connection to {self.target} is closed; connect again.")

    def _flush(self, block: bool) -> None:
        self._push()
        deadline = Deadline(self.timeout + len(self._out) / _SLOWEST)
        while block and self._out:
            received = self._receive()
            if not received:
                self._check()
            if deadline.expired:
                self._lost = NoAnswer(
                    f"{self.target} does not take what is sent to it; a program may be holding it: a reset frees it."
                )
                raise self._lost
            if not received:
                self.select((), deadline.left)
            self._push()

    def _push(self) -> None:
        """Sends what the socket takes now. TLS retries with the same bytes, which stay at the front of the buffer."""
        self._want_write = False
        if self._broken:
            self._out.clear()
        try:
            while self._out and self._lost is None:
                with memoryview(self._out) as view:
                    sent = self._sock.send(view)
                del self._out[:sent]
        except BlockingIOError:
            self._want_write = True
        except OSError as e:
            self._cannot_send(e)

    def _cannot_send(self, error: OSError) -> None:
        self._broken = True
        while self._receive():  # the other side's last words say why, and may still be in the receive buffer
            pass
        self._end(error)

    def _take(self, is_text: bool | None, data: bytes) -> None:
        """A frame of the board's; None: the one before goes on."""
        if is_text is not None:
            self._kind = self._kind_of(is_text, data)
        self._kind += data
        self.arrived += len(data)
        if len(self.text) > _MAX_TEXT:
            del self.text[: -_MAX_TEXT // 2]
        if len(self.binary) > _MAX_BINARY:
            self._lost = NoAnswer(f"{self.target} sends files that nobody asked for; is it a board?")
            self._out.clear()

    def _kind_of(self, is_text: bool, data: bytes) -> bytearray:
        """What the board printed and is not UTF-8 comes in binary frames that begin with 0x80 or more, as no answer of
        the file protocol does; it sends none of them with the pieces of a file (lib/wss/utf8.py)."""
        if is_text:
            return self.text
        if self.receiving:
            self.receiving = data != b"\0\0"  # the piece without data is the last one
            return self.binary
        if data[:1] >= b"\x80":
            return self.text
        self.text_before = len(self.text)
        return self.binary

