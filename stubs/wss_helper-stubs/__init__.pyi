"""The WebSocket handshake over a blocking stream: upydev's `wss_helper`, strict."""

from typing import Protocol

class Stream(Protocol):
    """A connected socket or TLS socket of MicroPython, where sockets are streams."""

    def readline(self, n: int, /) -> bytes | None: ...
    def write(self, buf: bytes, /) -> int | None: ...

def server_handshake(sock: Stream, ssl: bool = False) -> None:
    """Answer a client's upgrade request. Raises OSError with the reason."""

def client_handshake(
    sock: Stream, ssl: bool = False, host: str = "echo.websocket.org", path: str = "/"
) -> None:
    """Ask a server to upgrade (RFC 6455 section 4.1). Raises OSError when it does not, or answers for another key."""
