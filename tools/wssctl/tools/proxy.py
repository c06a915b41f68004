"""`wssctl proxy`: a board as plain ws:// on the loopback interface, for clients that know no TLS: webrepl_cli, belay,
Thonny, the official page.

In: connections of this user's programs.  Out: for each a TLS connection to the board, and the bytes of both as they
are: frames, subprotocols and refusals are the board's, and it asks for its password itself.

A web page can open a WebSocket to 127.0.0.1, too. The browser says which page it is in Origin, which a page cannot
change (RFC 6455 section 10.2): only pages that were asked for by name get through.
"""

import argparse
import contextlib
import select
import socket
import ssl
import sys
import threading
import time
from urllib.parse import urlsplit

from ..boards.dialler import credentials_for
from ..boards.registry import Registry, server_name
from ..errors import UsageError, WssctlError
from ..keys.store import Store
from ..text import brief, say
from ..wire import tls
from ..wire.link import Credentials, Deadline, Target, parse_target
from . import loopback

_MOST = 8  # connections at a time; a board takes one session, and turns others away itself
_HEAD_MAX = 8192  # bytes of a request; the board takes fewer and says so
_HEAD_TIME = 10.0  # s for a request to arrive
_LAST_WORDS = 1.0  # s for who is refused to take the answer
_AGAIN = 1.0  # s until the next try, when this machine has no descriptor left
_ROOM = 1 << 16  # bytes that wait for one side before no more is read from the other
_PIECE = 1 << 14  # a TLS record


class _Refused(Exception):
    """An HTTP status and why."""


def proxy(args: argparse.Namespace) -> int:
    store = Store(args.keys)
    board = Registry(store).find(args.url)
    target = parse_target(board.url if board else args.url, args.takeover)
    if not target.secure:
        raise UsageError(f"{target} is plain ws already; give it to the program as it is.")
    allowed = {_origin(text) for text in args.origin}
    credentials = credentials_for(args)
    name = args.server_name or (server_name(store, board) if board else None) or target.host
    # the passphrase is asked for now, and nobody has to wait for it later
    there = _Board(target, credentials, credentials.context(), name, args.timeout)
    with loopback.listen(args.local_port, "--local-port") as listener:
        port = listener.getsockname()[1]
        print(f"{target} is at ws://127.0.0.1:{port}", flush=True)
        print("For programs of this user; the board asks for its password. Ctrl-C ends it.", file=sys.stderr)
        free = threading.BoundedSemaphore(_MOST)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                try:
                    sock, ours = loopback.take(listener)
                except OSError as e:  # out of descriptors, for instance; who waits in the queue is served later
                    say(f"proxy: no connection can be taken ({e.strerror}); trying again.")
                    time.sleep(_AGAIN)
                    continue
                if not ours:
                    _end(sock, _Refused("403 Forbidden", "this port is for another user of this machine"))
                elif not free.acquire(blocking=False):
                    _end(sock, _Refused("503 Service Unavailable", f"{_MOST} connections are open already"))
                else:
                    words = (sock, there, port, allowed, free)
                    threading.Thread(target=_serve, args=words, daemon=True).start()
    return 0


def _origin(text: str) -> str:
    """As browsers send it (RFC 6454 section 6.2): scheme://host[:port] in lower case, or null for a file."""
    parts = urlsplit(text)
    if text != "null" and (parts.scheme not in ("http", "https") or not parts.netloc or parts.path not in ("", "/")):
        raise UsageError(f"{text!r} is no origin of a page: give http://micropython.org, for instance, or null.")
    return text.lower().rstrip("/")


class _Board:
    """Where connections go to."""

    def __init__(
        self, target: Target, credentials: Credentials, context: ssl.SSLContext, name: str, timeout: float
    ) -> None:
        self.target, self.path = target, target.path
        self._credentials, self._context, self._name, self._timeout = credentials, context, name, timeout

    def connect(self) -> ssl.SSLSocket:
        """Raises WssctlError."""
        deadline = Deadline(self._timeout)
        return tls.connect(self.target, self._context, self._name, self._credentials, deadline, self._timeout)


def _serve(
    user: socket.socket, board: _Board, port: int, allowed: set[str], free: threading.BoundedSemaphore
) -> None:
    try:
        user.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        head, rest = _request(user)
        request = checked_request(head, port, allowed, board.path)
        try:
            there = board.connect()
        except WssctlError as e:
            say(f"proxy: {e}")
            raise _Refused("502 Bad Gateway", str(e)) from None
        with there:
            _pump(user, there, request + rest)
    except _Refused as e:
        _end(user, e)
    except OSError:
        pass  # one of the two has gone
    finally:
        user.close()
        free.release()


def _request(user: socket.socket) -> tuple[bytes, bytes]:
    """(a request up to its empty line, what came behind it)."""
    deadline, data = Deadline(_HEAD_TIME), b""
    while b"\r\n\r\n" not in data[:_HEAD_MAX]:
        if len(data) >= _HEAD_MAX:
            raise _Refused("431 Request Header Fields Too Large", "the request is too long")
        user.settimeout(max(0.01, deadline.left or 0.0))
        try:
            more = user.recv(4096)
        except TimeoutError:
            raise _Refused("408 Request Timeout", "no WebSocket request came") from None
        if not more:
            raise _Refused("400 Bad Request", "the request ends early")
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def checked_request(head: bytes, port: int, allowed: set[str], path: str = "/") -> bytes:
    """The request (without its empty line) as the board gets it, the empty line included. Raises _Refused.

    Without the Origin that was allowed: the board knows pages of its own alone. path: what is asked for in place of /.
    """
    first, *lines = head.split(b"\r\n")
    words = first.split(b" ")
    if len(words) != 3 or words[0] != b"GET" or not words[2].startswith(b"HTTP/1."):
        raise _Refused("405 Method Not Allowed", "only a WebSocket upgrade by GET goes to the board")
    fields: list[tuple[bytes, bytes]] = []
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not name or name != name.strip() or b"\n" in line or b"\r" in line:
            raise _Refused("400 Bad Request", "a header line is malformed")
        fields.append((name.lower(), value.strip()))
    known = dict(fields)
    if known.get(b"upgrade", b"").lower() != b"websocket":
        raise _Refused("426 Upgrade Required", "this is a board's REPL (wssctl proxy), for WebSocket clients")
    origins = [value.decode("latin-1").lower() for name, value in fields if name == b"origin"]
    if origins and not _is_allowed(origins, known, port, allowed):
        raise _Refused("403 Forbidden", f"pages of {origins[0][:80]} may not open a REPL; --origin lets one in")
    if words[1] == b"/":
        words[1] = path.encode()
    kept = [line for line in lines if line.partition(b":")[0].lower() != b"origin"]
    return b"\r\n".join([b" ".join(words), *kept]) + b"\r\n\r\n"


def _is_allowed(origins: list[str], known: dict[bytes, bytes], port: int, allowed: set[str]) -> bool:
    """A page that was allowed and has come by this address; or a program that names the address itself as its origin
    (websocket-client), which is none of a browser's: those always send User-Agent, and a page cannot take it away."""
    here = {f"127.0.0.1:{port}", f"localhost:{port}"}
    if len(origins) != 1:
        return False
    if origins[0] in allowed:
        return known.get(b"host", b"").decode("latin-1").lower() in here
    return b"user-agent" not in known and origins[0] in {f"http://{place}" for place in here}


def _end(user: socket.socket, refused: _Refused) -> None:
    status, why = refused.args
    body = f"{brief(why)}\n".encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    deadline = Deadline(_LAST_WORDS)  # in total: the caller accepts nobody meanwhile
    with contextlib.suppress(OSError):
        user.settimeout(_LAST_WORDS)
        user.sendall(head.encode() + body)
        user.shutdown(socket.SHUT_WR)
        # To close with something unread would send a reset, and the client might never see the answer
        while not deadline.expired and user.recv(4096):
            user.settimeout(max(0.01, deadline.left or 0.0))
    user.close()


def _pump(user: socket.socket, board: ssl.SSLSocket, first: bytes) -> None:
    """Both ways until one ends; what it had sent still reaches the other. Raises OSError."""
    to_board, to_user = bytearray(first), bytearray()
    user.setblocking(False)
    board.setblocking(False)
    user_ended = board_ended = False
    while not (user_ended and not to_board) and not (board_ended and not to_user):
        listens = not board_ended and len(to_user) < _ROOM
        reads = [user] if not user_ended and len(to_board) < _ROOM else []
        reads += [board] if listens else []
        writes = ([board] if to_board and not board_ended else []) + ([user] if to_user else [])
        wait = 0.0 if listens and board.pending() else None
        ready, writable, _ = select.select(reads, writes, [], wait)
        if user in ready:
            with contextlib.suppress(BlockingIOError):
                data = user.recv(_PIECE)
                to_board += data
                user_ended = not data
        if listens and (board in ready or board.pending()):
            with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
                data = board.recv(_PIECE)
                to_user += data
                board_ended = not data
        if board in writable:
            with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
                del to_board[: board.send(to_board[:_PIECE])]
        if user in writable:
            with contextlib.suppress(BlockingIOError):
                del to_user[: user.send(to_user[:_PIECE])]
