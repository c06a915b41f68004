"""A Link of our own: TCP -> TLS with both certificates -> WebSocket.

With the `websockets` package's sans-I/O protocol: sending goes on reading, because a board drops a client that does not
take its output, and the terminal's bytes must not be checked for UTF-8, because the board cuts characters where its
buffers end.
"""

import contextlib
import errno
import re
import socket
import ssl
import sys
import time
from typing import Self

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.uri import parse_uri

from ..errors import ConnectionLost, KeyFileError, SessionInUse, TrustError, Unreachable
from ..text import brief
from . import tls
from .link import Credentials, Deadline, Link, Target

# A board's frame is 64 KB plus a header at most; anything larger is not a board.
_MAX_FRAME = 1 << 20
_READ = 1 << 16
_CLOSE_WAIT = 1.0
_MAX_UNANSWERED = 5  # retransmissions in a row: about 6 s on a local network


class WebSocketLink(Link):
    _credentials: Credentials | None = None
    _server_name: str | None = None

    def __init__(self, sock: socket.socket, target: Target, timeout: float = 10.0):
        super().__init__(sock, target, timeout)
        self.response: Response | None = None
        self._protocol = ClientProtocol(parse_uri(target.url), max_size=_MAX_FRAME)

    @classmethod
    def open(
        cls,
        target: Target,
        credentials: Credentials | None,
        *,
        server_name: str | None = None,
        timeout: float = 10.0,
        context: ssl.SSLContext | None = None,
    ) -> Self:
        """Connects within `timeout` seconds. Raises Unreachable, TrustError, KeyFileError, SessionInUse,
        ConnectionLost.

        `server_name` is checked in place of the address's host. `context` replaces the one made from the credentials.
        """
        if target.secure and context is None:
            if credentials is None:
                raise KeyFileError("wss needs key files; make them with `wssctl ca init` and `wssctl host init`.")
            # before connecting: the passphrase is typed on our time, not on the board's
            context = tls.shared_context(credentials)
        deadline = Deadline(timeout)
        sock: socket.socket
        if target.secure:
            assert context is not None
            sock = tls.connect(target, context, server_name or target.host, credentials, deadline, timeout)
        else:
            sock = tls.tcp_connect(target, timeout)
        try:
            link = cls(sock, target, timeout)
            link._credentials, link._server_name = credentials, server_name
            sock.setblocking(False)
            link._upgrade(deadline)
        except BaseException:
            sock.close()
            raise
        return link

    @property
    def tls(self) -> tuple[str, str, int] | None:
        if not isinstance(self._sock, ssl.SSLSocket) or not (cipher := self._sock.cipher()):
            return None
        return self._sock.version() or "", cipher[0], cipher[2]

    @property
    def certificate(self) -> bytes | None:
        return self._sock.getpeercert(True) if isinstance(self._sock, ssl.SSLSocket) else None

    def close(self) -> None:
        """Says goodbye (close code 1000) and waits briefly for the answer, so that the board's session ends at once."""
        if self.closed:
            return
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

    def _upgrade(self, deadline: Deadline) -> None:
        self._protocol.send_request(self._protocol.connect())
        self._queue()
        while self._protocol.state is State.CONNECTING and self._protocol.handshake_exc is None:
            self._push()
            received = self._receive()
            if not received:
                self._check()
            if deadline.expired:
                raise Unreachable(
                    f"{self.target} accepts connections but does not answer; is it a board with wss_repl started?"
                )
            if not received:
                self.select((), deadline.left)
        if (cause := self._protocol.handshake_exc) is not None:
            if isinstance(cause, InvalidStatus):
                raise _refused(cause.response, self.target)
            said = brief(str(cause))
            raise ConnectionLost(f"{self.target} does not answer as a WebSocket ({said}); is the port right?")

    @property
    def bundle(self) -> tuple[str, str]:
        """(version of the board's wss_repl, what became of an update it took back), both "" from others (RFC 9110
        section 10.2.4, lib/wss/upgrade.py)."""
        said = self.response.headers.get("Server", "") if self.response else ""
        found = re.fullmatch(r"wss_repl/([0-9A-Za-z.+-]{1,32})(?: \(([ -~]{0,200})\))?", said)
        return (found[1], found[2] or "") if found else ("", "")

    def _queue(self) -> None:
        for data in self._protocol.data_to_send():
            self._out += data

    def _put(self, is_text: bool, data: bytes) -> None:
        if is_text:
            self._protocol.send_text(data)
        else:
            self._protocol.send_binary(data)
        self._queue()

    def _cannot_send(self, error: OSError) -> None:
        if isinstance(error, ssl.SSLWantWriteError):
            self._want_write = True
        elif not isinstance(error, ssl.SSLWantReadError):
            super()._cannot_send(error)

    def _receive(self) -> bool:
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
            elif isinstance(event, Frame) and event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                self._take(None if event.opcode is Opcode.CONT else event.opcode is Opcode.TEXT, bytes(event.data))
        if len(self._out) < _MAX_FRAME or self._protocol.close_rcvd:
            self._queue()  # pongs, and the answer to a close frame
        else:
            self._protocol.data_to_send()  # pongs for who pings and does not read: dropped
        self._push()
        if not data or self._protocol.close_rcvd or self._protocol.parser_exc:
            self._end(None)
        return True

    def _end(self, error: OSError | None) -> None:
        if self._lost is not None:
            return
        if isinstance(error, ssl.SSLError) and self.response is None:
            # TLS 1.3: the board looks at our certificate after we are done, so its refusal arrives here
            self._lost = tls.problem(error, self.target, self._server_name or self.target.host, self._credentials)
            return
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
            # struct tcp_info, linux/tcp.h
            retransmits, probes = self._sock.getsockopt(socket.IPPROTO_TCP, option, 8)[2:4]
            if max(retransmits, probes) >= _MAX_UNANSWERED:
                self._end(TimeoutError(errno.ETIMEDOUT, "no answer"))


def _refused(response: Response, target: Target) -> ConnectionLost | SessionInUse:
    body = brief(bytes(response.body or b"").strip().split(b"\n")[0])
    said = brief(f"{response.status_code} {response.reason_phrase}") + (f": {body}" if body else "")
    if response.status_code in (409, 503):
        return SessionInUse(f"{target} is in use ({said}); try again later, or take the session over with --takeover.")
    return ConnectionLost(f"{target} refuses the WebSocket ({said}); is it a board with wss_repl started?")
