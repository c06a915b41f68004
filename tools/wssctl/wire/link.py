"""A WebSocket to a board: URL -> TCP -> TLS with both certificates -> upgrade -> text and binary byte streams.

One thread and one non-blocking socket, with the `websockets` package's sans-I/O protocol: sending goes on reading,
because a board drops a client that does not take its output, and the terminal's bytes must not be checked for UTF-8,
because the board cuts characters where its buffers end.
"""

import contextlib
import errno
import re
import select
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ..errors import (
    ConnectionLost,
    HandshakeCut,
    KeyFileError,
    NoAnswer,
    SessionInUse,
    TrustError,
    Unreachable,
    UsageError,
)
from ..text import brief

if TYPE_CHECKING:  # a command that goes through a kept connection (kept.py) starts without these
    from websockets.http11 import Response

WSS_PORT, WS_PORT = 8833, 8266

# AES-GCM where the firmware has it, CCM8 for boards that have the seed's suite alone (TLS 1.3 suites are always on).
# OpenSSL 3.2 and later drops CCM8 again at its default security level.
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE-ECDSA-AES128-CCM:ECDHE-ECDSA-AES256-CCM:ECDHE-ECDSA-AES128-CCM8"

# A board's frame is 64 KB plus a header at most; anything larger is not a board.
_MAX_FRAME = 1 << 20
_READ = 1 << 16
_CLOSE_WAIT = 1.0
# Bytes that wait for a reader, at most. Of the terminal's the oldest go, as on a terminal's screen; a transfer's are
# taken as they come, so that more of them are for nobody.
_MAX_TEXT, _MAX_BINARY = 1 << 20, 1 << 21
# A peer that takes bytes one by one shall not hold us: what is sent has to be taken at this rate, in bytes a second.
_SLOWEST = 1024

# A board that lost power answers nothing, and TCP alone would notice after minutes: probe after 3 s of silence and give
# up after 3 + 3 * 2 s. The board's TCP stack answers these even while its program is busy.
_KEEPALIVE = (("TCP_KEEPIDLE", 3), ("TCP_KEEPALIVE", 3), ("TCP_KEEPINTVL", 2), ("TCP_KEEPCNT", 3))
_SERVER_HELLO = 4.0  # s; a board on Wi-Fi sends its own within 1.5
_MAX_UNANSWERED = 5  # retransmissions in a row: about 6 s on a local network


class Deadline:
    """The end of a wait in total, however much comes meanwhile. None seconds: it never ends."""

    def __init__(self, seconds: float | None):
        self._end = None if seconds is None else time.monotonic() + seconds

    @property
    def left(self) -> float | None:
        """Seconds, 0 or more; None for no end."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())

    @property
    def over(self) -> bool:
        return self.left == 0.0

    def extend(self, seconds: float, most: float) -> None:
        """For what has come meanwhile; not to more than `most` seconds from now, so that nothing can be saved up."""
        if self._end is not None:
            self._end = max(self._end, min(self._end + seconds, time.monotonic() + most))


@dataclass(frozen=True)
class Target:
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


@dataclass(frozen=True)
class Credentials:
    """Files (PEM) for mutual TLS. `passphrase` is the HOST key's, or a function that asks for it (called if it is
    encrypted)."""

    ca: Path
    cert: Path
    key: Path
    passphrase: str | Callable[[], str] | None = None

    def context(self) -> ssl.SSLContext:
        """Raises KeyFileError: a missing or damaged file, a wrong passphrase."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # CERT_REQUIRED and check_hostname come with it
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(CIPHERS)
        for path in (self.ca, self.cert, self.key):
            if not path.exists():
                raise KeyFileError(f"There is no {path}; make it with `wssctl ca init` and `wssctl host init`.")
        try:
            context.load_verify_locations(cafile=self.ca)
            if (crl := self.ca.with_name("ROOT_CA_crl.pem")).exists():  # `wssctl boards revoke` makes it
                context.load_verify_locations(cafile=crl)
                context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        except (ssl.SSLError, OSError) as e:
            raise KeyFileError(
                f"Cannot use {self.ca} as the ROOT CA ({_reason(e)}); restore it from a backup."
            ) from None
        try:
            context.load_cert_chain(self.cert, self.key, password=self.passphrase or _no_passphrase)
        except ssl.SSLError as e:
            if e.reason in ("KEY_VALUES_MISMATCH",):
                text = (
                    f"{self.key.name} is not the key of {self.cert.name}; make both anew with `wssctl host "
                    "init --force`."
                )
            elif e.reason in ("BAD_DECRYPT", "BAD_PASSWORD_READ", None) or "DECRYPT" in str(e.reason):
                text = f"Wrong passphrase for {self.key.name} (or the file is damaged); try again."
            else:
                text = (
                    f"Cannot use {self.cert.name} with {self.key.name} ({_reason(e)}); make them anew with "
                    "`wssctl host init --force`."
                )
            raise KeyFileError(text) from None
        except (OSError, ValueError) as e:
            raise KeyFileError(f"Cannot use {self.key} ({_reason(e)}).") from None
        return context


def _no_passphrase() -> str:
    raise KeyFileError("The HOST key needs its passphrase: give --passphrase-file or set WSSCTL_PASSPHRASE.")


class Link:
    """An open WebSocket. `text` and `binary` collect what has arrived; readers delete what they take."""

    def __init__(self, sock: socket.socket, target: Target, timeout: float = 10.0):
        self.target = target
        self.timeout = timeout
        self.text = bytearray()
        self.binary = bytearray()
        self.arrived = 0  # bytes in both, ever
        self.response: Response | None = None
        self.closed = False
        self._sock = sock
        self.text_before = 0  # bytes of text that came before the latest answer about a file
        self.receiving = False  # a file is coming: all binary frames are pieces of it
        self._kind = self.text
        self._out = bytearray()
        self._want_write = False
        self._broken = False  # nothing more can be sent; there may still be something to read
        self._lost: ConnectionLost | TrustError | None = None
        self._begin()

    def _begin(self) -> None:
        from websockets.client import ClientProtocol
        from websockets.uri import parse_uri

        self._protocol = ClientProtocol(parse_uri(self.target.url), max_size=_MAX_FRAME)

    @classmethod
    def open(
        cls,
        target: Target,
        credentials: Credentials | None,
        *,
        server_name: str | None = None,
        timeout: float = 10.0,
        context: ssl.SSLContext | None = None,
    ) -> "Link":
        """Connects within `timeout` seconds. Raises Unreachable, TrustError, KeyFileError, SessionInUse,
        ConnectionLost.

        `server_name` is checked in place of the address's host. `context` replaces the one made from the credentials.
        """
        if target.secure and context is None:
            if credentials is None:
                raise KeyFileError("wss needs key files; make them with `wssctl ca init` and `wssctl host init`.")
            context = (
                credentials.context()
            )  # before connecting: the passphrase is typed on our time, not on the board's
        deadline = Deadline(timeout)
        if target.secure:
            assert context is not None
            sock = _connect_tls(target, context, server_name or target.host, credentials, deadline, timeout)
        else:
            sock = tcp_connect(target, timeout)
        try:
            link = cls(sock, target, timeout)
            link._credentials, link._server_name = credentials, server_name
            sock.setblocking(False)
            link._upgrade(deadline)
        except BaseException:
            sock.close()
            raise
        return link

    transfer = False  # whether a file is on its way
    clean = False  # whether the board is known to be at its friendly prompt, with nothing typed
    _credentials: Credentials | None = None
    _server_name: str | None = None

    @property
    def tls(self) -> tuple[str, str, int] | None:
        """(version, suite, bits) such as ("TLSv1.3", "TLS_AES_256_GCM_SHA384", 256); None on plain ws."""
        if not isinstance(self._sock, ssl.SSLSocket) or not (cipher := self._sock.cipher()):
            return None
        return self._sock.version(), cipher[0], cipher[2]

    @property
    def certificate(self) -> bytes | None:
        """The board's certificate (DER); None on plain ws."""
        return self._sock.getpeercert(True) if isinstance(self._sock, ssl.SSLSocket) else None

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
        self._protocol.send_text(data)
        self._flush(block)

    def send_binary(self, data: bytes) -> None:
        """One binary frame; as send_text."""
        self._check()
        self._protocol.send_binary(data)
        self._flush(True)

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
            if deadline.over:
                return False
            if not received:
                self.select((), deadline.left)

    def select(self, others: Iterable = (), timeout: float | None = None) -> list:
        """Waits until the board has sent something (wait(0) reads it), one of `others` is readable (those are
        returned), the backlog moved, a second passed, or `timeout`. POSIX only for `others` that are no sockets."""
        timeout = 1.0 if timeout is None else min(timeout, 1.0)
        write = [self._sock] if self._want_write else []
        ready, writable, _ = select.select([self._sock, *others], write, [], timeout)
        if writable:
            self._push()
        elif not ready:
            self._notice_silence()
        return [r for r in ready if r is not self._sock]

    def close(self) -> None:
        """Says goodbye (close code 1000) and waits briefly for the answer, so that the board's session ends at once."""
        if self.closed:
            return
        from websockets.protocol import State

        deadline = time.monotonic() + _CLOSE_WAIT
        with contextlib.suppress(ConnectionLost, TrustError):
            if self._protocol.state is State.OPEN and self._lost is None:
                self._protocol.send_close(1000)
                self._queue()
            while self._lost is None and (left := deadline - time.monotonic()) > 0:
                self._push()
                if not self._receive():
                    self.select((), left)
        self.closed = True
        self._sock.close()

    def __enter__(self) -> "Link":
        return self

    def __exit__(self, *exc) -> None:
        self.close()

    def _upgrade(self, deadline: Deadline) -> None:
        from websockets.exceptions import InvalidStatus
        from websockets.protocol import State

        self._protocol.send_request(self._protocol.connect())
        self._queue()
        while self._protocol.state is State.CONNECTING and self._protocol.handshake_exc is None:
            self._push()
            received = self._receive()
            if not received:
                self._check()
            if deadline.over:
                raise Unreachable(
                    f"{self.target} accepts connections but does not answer; is it a board with wss_repl started?"
                )
            if not received:
                self.select((), deadline.left)
        if (problem := self._protocol.handshake_exc) is not None:
            if isinstance(problem, InvalidStatus):
                raise _refused(problem.response, self.target)
            said = brief(str(problem))
            raise ConnectionLost(f"{self.target} does not answer as a WebSocket ({said}); is the port right?")

    @property
    def bundle(self) -> tuple[str, str]:
        """(version of the board's wss_repl, what became of an update it took back), both "" from others (RFC 9110
        section 10.2.4, lib/wss/upgrade.py)."""
        said = self.response.headers.get("Server", "") if self.response else ""
        found = re.fullmatch(r"wss_repl/([0-9A-Za-z.+-]{1,32})(?: \(([ -~]{0,200})\))?", said)
        return (found[1], found[2] or "") if found else ("", "")

    def _check(self) -> None:
        if self._lost is not None:
            raise self._lost
        if self.closed:
            raise ConnectionLost(f"The connection to {self.target} is closed; connect again.")

    def _queue(self) -> None:
        for data in self._protocol.data_to_send():
            self._out += data

    def _flush(self, block: bool) -> None:
        self._queue()
        self._push()
        deadline = Deadline(self.timeout + len(self._out) / _SLOWEST)
        while block and self._out:
            received = self._receive()
            if not received:
                self._check()
            if deadline.over:
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
        except (ssl.SSLWantWriteError, BlockingIOError):
            self._want_write = True
        except ssl.SSLWantReadError:
            pass
        except OSError as e:
            self._broken = True
            while self._receive():  # the board's alert or close frame says why, and may still be in the receive buffer
                pass
            self._end(e)

    def _receive(self) -> bool:
        """Reads what has arrived, one gulp. False when nothing has."""
        from websockets.frames import Opcode
        from websockets.http11 import Response

        if self._lost is not None:
            return False
        try:
            data = self._sock.recv(_READ)
        except (ssl.SSLWantReadError, BlockingIOError):
            return False
        except ssl.SSLWantWriteError:
            self._want_write = True
            return False
        except OSError as e:
            self._end(e)
            return True
        if data:
            self._protocol.receive_data(data)
        else:
            self._protocol.receive_eof()
        for event in self._protocol.events_received():
            if isinstance(event, Response):
                self.response = event
            elif event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                self._take(None if event.opcode is Opcode.CONT else event.opcode is Opcode.TEXT, event.data)
        self._queue()  # pongs, and the answer to a close frame
        self._push()
        if not data or self._protocol.close_rcvd or self._protocol.parser_exc:
            self._end(None)
        return True

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

    def _end(self, error: OSError | None) -> None:
        if self._lost is not None:
            return
        if isinstance(error, ssl.SSLError) and self.response is None:
            # TLS 1.3: the board looks at our certificate after we are done, so its refusal arrives here
            self._lost = _tls_problem(error, self.target, self._server_name or self.target.host, self._credentials)
            return
        from websockets.protocol import State

        broken = self._protocol.parser_exc
        if self._protocol.state is State.CONNECTING:
            text = f"{self.target} closed the connection without answering; "
            if self.target.secure:
                text += "it may not accept this HOST certificate (`wssctl host status`), or be busy with other clients."
            else:
                text += "is it a board with wss_repl started?"
        elif self._protocol.close_rcvd is not None:
            reason = brief(self._protocol.close_rcvd.reason)
            text = f"The board at {self.target} closed the connection{': ' if reason else ''}{reason}."
        elif broken is not None and not isinstance(broken, EOFError):
            text = f"{self.target} does not keep to the WebSocket protocol ({brief(str(broken))}); please report this."
        else:  # a reset or a kill and a lost network look alike: TLS reports a time-out as an end
            text = f"The connection to {self.target} broke; was the board reset, is it on and in reach?"
        self._lost = ConnectionLost(text)

    def _notice_silence(self) -> None:
        """Keep-alive probes rest while sent data is unacknowledged, and retransmission alone takes a quarter of an hour
        to give up. A board whose input is merely full acknowledges the window probes, which puts both counters back to
        0."""
        if (option := getattr(socket, "TCP_INFO", None)) is None or sys.platform != "linux":
            return
        with contextlib.suppress(OSError):
            retransmits, probes = self._sock.getsockopt(socket.IPPROTO_TCP, option, 8)[
                2:4
            ]  # struct tcp_info, linux/tcp.h
            if max(retransmits, probes) >= _MAX_UNANSWERED:
                self._end(TimeoutError(errno.ETIMEDOUT, "no answer"))


def _connect_tls(
    target: Target,
    context: ssl.SSLContext,
    name: str,
    credentials: Credentials | None,
    deadline: Deadline,
    timeout: float,
) -> ssl.SSLSocket:
    """TCP and TLS. A board whose TCP stack (lwIP) still holds the last connection from the same port of ours in
    TIME_WAIT takes the new one and never answers: without a ServerHello in time, once more from another port."""
    for last in (False, True):
        plain = tcp_connect(target, timeout, deadline)
        sock: socket.socket = plain
        try:
            sock = tls = context.wrap_socket(plain, server_hostname=name, do_handshake_on_connect=False)
            tls.setblocking(False)
            with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
                tls.do_handshake()  # sends the ClientHello; a quick peer may have answered all by now
                return tls
            left = deadline.left or 0.0
            patience = left if last else min(left, _SERVER_HELLO)
            if not select.select([tls], [], [], patience)[0]:
                if last or deadline.over:
                    raise TimeoutError
                tls.close()
                continue
            tls.settimeout(max(0.1, deadline.left or 0.0))
            tls.do_handshake()
            return tls
        except (OSError, ValueError) as e:
            sock.close()
            raise _tls_problem(e, target, name, credentials) from None
        except BaseException:
            sock.close()
            raise
    raise AssertionError("the second round returns or raises")


def tcp_connect(target: Target, timeout: float, deadline: Deadline | None = None) -> socket.socket:
    """A TCP connection to it within `timeout` seconds, or what is left of them until the deadline. Raises Unreachable,
    UsageError."""
    where = f"{target.host} port {target.port}"
    try:
        left = timeout if deadline is None else deadline.left
        sock = socket.create_connection((target.host, target.port), left or 0.1)
    except socket.gaierror:
        raise Unreachable(
            f"There is no host named {target.host!r} here; check the name, or use the board's IP address."
        ) from None
    except ConnectionRefusedError:
        raise Unreachable(
            f"{where} refuses connections; start the server on the board with `import wss_repl; wss_repl.start()`."
        ) from None
    except TimeoutError:
        raise Unreachable(
            f"{where} did not answer within {timeout:g} s; is the board on and in this network?"
        ) from None
    except UnicodeError:
        raise UsageError(f"{target.host!r} is not a host name.") from None
    except OSError as e:
        raise Unreachable(f"Cannot reach {where} ({_reason(e)}); check the network and the address.") from None
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE:
        if (option := getattr(socket, name, None)) is not None:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
    return sock


def _reason(e: BaseException) -> str:
    if isinstance(e, ssl.SSLError) and e.reason:
        return e.reason.replace("_", " ").lower()
    return (getattr(e, "strerror", None) or str(e) or type(e).__name__).removesuffix(".")


# OpenSSL's X509_V_ERR_* (x509_vfy.h), as SSLCertVerificationError.verify_code.
_NOT_YET_VALID, _EXPIRED, _REVOKED, _PURPOSE, _HOST_MISMATCH, _IP_MISMATCH = 9, 10, 23, 26, 62, 64

# What the board's TLS alert (RFC 8446 6.2) says about *our* certificate, by the tail of OpenSSL's reason.
_ALERTS = {
    "UNKNOWN_CA": "its CA is not the board's; sign it with the board's ROOT CA, or give the board yours",
    "CERTIFICATE_EXPIRED": "it has expired; make a new one with `wssctl host init --force`",
    "CERTIFICATE_REVOKED": "it is on the board's list of revoked certificates",
    "CERTIFICATE_REQUIRED": "none was sent",
    "CERTIFICATE_UNKNOWN": "to the board it is not valid yet; most likely the board's clock is wrong",
    "BAD_CERTIFICATE": "it cannot be verified there",
    "UNSUPPORTED_CERTIFICATE": "it is not for hosts: use a HOST certificate, not a device's",
    "ACCESS_DENIED": "it is valid but not allowed on this board",
}


def _tls_problem(
    e: BaseException, target: Target, name: str, credentials: Credentials | None
) -> TrustError | Unreachable:
    if isinstance(e, ssl.SSLCertVerificationError):
        ca = credentials.ca if credentials else "the ROOT CA"
        code = e.verify_code
        if code in (_HOST_MISMATCH, _IP_MISMATCH):
            text = (
                f"The board's certificate is valid, but not for {name}: it may be another board. `wssctl setup PORT` "
                "on its cable, with --name or --ip, adds that, or say with --server-name which name it has."
            )
        elif code == _EXPIRED:
            text = (
                f"The certificate of {target.host} (or the ROOT CA's) has expired by this computer's clock "
                f"({datetime.now(UTC):%Y-%m-%d}); if that is right, `wssctl keys status` shows which, and `wssctl "
                "setup PORT` on the board's cable renews its."
            )
        elif code == _NOT_YET_VALID:
            text = (
                f"The certificate of {target.host} is not valid yet by this computer's clock "
                f"({datetime.now(UTC):%Y-%m-%d}); check that."
            )
        elif code == _PURPOSE:
            text = (
                f"{target.host} shows a certificate that is not for devices (extended key usage serverAuth); "
                "do not type a password there."
            )
        elif code == _REVOKED:
            text = (
                f"The certificate of {target.host} has been revoked; `wssctl setup PORT --new-keys` gives the board "
                "another, if it is yours again."
            )
        else:
            text = (
                f"{target.host} shows a certificate that {ca} did not sign; it is not your board, or its keys "
                f"are from another CA ({e.verify_message})."
            )
        return TrustError(text)
    reason = (getattr(e, "reason", None) or "") if isinstance(e, ssl.SSLError) else ""
    if "ALERT" in reason:
        tail = reason.split("ALERT_", 1)[-1].removeprefix("SSLV3_").removeprefix("TLSV1_")
        if tail in _ALERTS:
            why = _by_two_clocks(tail, credentials) or _ALERTS[tail]
            return TrustError(f"The board refuses this HOST certificate: {why}.")
        if tail == "PROTOCOL_VERSION":
            return TrustError(f"{target.host} and this computer share no TLS version; 1.2 or later is needed.")
        if tail == "HANDSHAKE_FAILURE":
            return TrustError(
                f"{target.host} ends the TLS handshake: no shared cipher suite, or no certificate it accepts."
            )
        return TrustError(f'{target.host} ends TLS with the alert "{tail.replace("_", " ").lower()}".')
    if reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"):
        return TrustError(
            f"{target.host} port {target.port} does not speak TLS; is the port right? (Plain "
            "WebREPL needs ws:// typed out.)"
        )
    if isinstance(e, TimeoutError):
        return Unreachable(
            f"{target.host} port {target.port} accepts connections but does not start TLS in time; "
            "try again, or reset the board."
        )
    if isinstance(e, (ConnectionError, ssl.SSLEOFError)) or reason == "UNEXPECTED_EOF_WHILE_READING":
        return HandshakeCut(
            f"{target.host} closed the connection during the TLS handshake; it may not accept this HOST certificate, "
            "lack its own (`wss_repl.status()` there tells), or speak plain WebREPL (ws:// typed out)."
        )
    return TrustError(f"TLS with {target.host} failed: {_reason(e)}.")


def _by_two_clocks(alert: str, credentials: Credentials | None) -> str | None:
    """Why a board finds our certificate out of date, by its dates and this computer's clock; None when that is what it
    says."""
    if alert not in ("CERTIFICATE_EXPIRED", "CERTIFICATE_UNKNOWN") or credentials is None:
        return None
    from ..keys.ca import report

    try:
        ours = report(credentials.cert.read_bytes(), "host")
    except (OSError, KeyFileError):
        return None
    now = datetime.now(UTC)
    dates = f"it is valid from {ours.not_before:%Y-%m-%d} to {ours.not_after:%Y-%m-%d}"
    here = f"this computer's clock shows {now:%Y-%m-%d}"
    if alert == "CERTIFICATE_EXPIRED":
        off = "ahead" if now < ours.not_after else ""
    else:
        off = "behind" if now >= ours.not_before else ""
        if not off:
            return f"{dates}, and {here}; check that"
    if not off:
        return None
    there = "has expired" if off == "ahead" else "is not valid yet"
    return (
        f"to the board it {there}, but {dates}, and {here}. So the board's clock is {off}: `wssctl setup PORT` on its "
        "cable sets it (if it is not this computer's that is wrong)"
    )


def _refused(response: "Response", target: Target) -> ConnectionLost | SessionInUse:
    body = brief((response.body or b"").strip().split(b"\n")[0])
    said = brief(f"{response.status_code} {response.reason_phrase}") + (f": {body}" if body else "")
    if response.status_code in (409, 503):
        return SessionInUse(f"{target} is in use ({said}); try again later, or take the session over with --takeover.")
    return ConnectionLost(f"{target} refuses the WebSocket ({said}); is it a board with wss_repl started?")
