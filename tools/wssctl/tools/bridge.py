"""`wssctl bridge`: a board as a serial port of this machine, for programs that know nothing else: a pseudo-terminal or,
when asked for, a TCP port on the loopback interface, for one program at a time and this user alone.

A TCP port is open to every process of this machine and to every page in a browser, which a pseudo-terminal is not.
"""

import argparse
import contextlib
import os
import select
import socket
import sys
from typing import NoReturn

from ..boards.dialler import Dialler
from ..errors import ConnectionLost, UsageError
from . import loopback, serial_handler

_BUSY = b"\r\nwssctl bridge: another program has the board; close it first.\r\n"
_FOREIGN = b"\r\nwssctl bridge: for another user of this machine.\r\n"
_NO_HTTP = (
    b"HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n"
    b"This is a board's terminal (wssctl bridge), not for a browser.\r\n"
)
# What a browser can send first: a request line (RFC 9110 9, RFC 9113 3.4), a TLS ClientHello (RFC 8446 5.1), or
# STUN (RFC 8489 5), which WebRTC sends to a page's TURN server.
_BROWSERS = tuple(
    m + b" " for m in (b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"TRACE", b"PATCH", b"PRI")
) + (b"\x16\x03", b"\0\x01", b"\0\x03")
_MAX_PENDING = 1 << 20  # bytes that a program has not read; what is more is lost, as on a serial line
_LOOK = 0.1  # s between two looks at whether somebody has opened the pseudo-terminal


def bridge(args: argparse.Namespace) -> int:
    with contextlib.ExitStack() as cleanup:
        ends: list[_Pty | _Tcp] = []
        if hasattr(os, "openpty"):
            ends.append(cleanup.enter_context(contextlib.closing(_Pty())))
        if args.tcp is not None:
            ends.append(cleanup.enter_context(contextlib.closing(_Tcp(args.tcp))))
        if not ends:
            raise UsageError("This system has no pseudo-terminals; end the line with --tcp for a TCP port instead.")
        dial = Dialler(args)
        url = dial.target.url
        serial_handler.Serial.ready = url, dial(), dial
        board = cleanup.enter_context(contextlib.closing(_Port()))
        board.port = url
        board.open()
        print(f"{dial.target} is at", " and ".join(e.name for e in ends), flush=True)
        print("One program at a time. Ctrl-C ends it.", file=sys.stderr)
        try:
            return _pump(board, ends)
        except serial_handler.Lost as e:
            return e.exit_code
        except KeyboardInterrupt:
            return 0


class _Port(serial_handler.Serial):
    """Whoever writes here, writes in pieces of any size, and is told nothing: so the line is always made anew."""

    def _write(self, data: bytes) -> None:
        for byte in data:
            if byte in (1, 2):  # Ctrl-A, Ctrl-B
                self._raw = byte == 1
        self._reset_due = data.endswith(b"\x04")
        self._open_client().write(data)

    def _broken(self, cause: ConnectionLost) -> None:
        self._raw = self._raw and self._reset_due
        super()._broken(cause)

    def take(self) -> bytes:
        self._fill(0)
        return self.read(len(self._input))


def _pump(board: _Port, ends: "list[_Pty | _Tcp]") -> NoReturn:
    user: _Pty | _Connection | None = None
    pending = b""
    while True:
        arrived = [new for end in ends if (new := end.arrived())]
        reads = [board.fileno()]
        if user and board.room():
            reads.append(user.fileno())
        look = 0 if arrived else _LOOK
        ready, writable, _ = select.select(reads, [user.fileno()] if user and pending else [], [], look)
        if board.fileno() in ready:
            data = board.take()
            if user:
                pending = (pending + data)[-_MAX_PENDING:]
        if user and user.fileno() in writable:
            pending = pending[user.write(pending) :]
        if user and user.fileno() in ready:
            typed = user.read()
            if typed:
                board.write(typed)
            elif typed is None:
                user.close()
                user, pending = None, b""
        for new in arrived:  # last, because the one before may just have left
            if user:
                new.refuse(_BUSY)
            else:
                user, pending = new, b""


class _Pty:
    """A pseudo-terminal, 0600. It is its own user: programs come and go on its other side."""

    def __init__(self) -> None:
        import tty

        self._master, slave = os.openpty()
        tty.setraw(slave)
        self.name = os.ttyname(slave)
        os.chmod(self.name, 0o600)
        os.close(slave)  # or nobody would see that a program has left
        os.set_blocking(self._master, False)
        self._open = self._refused = False

    def arrived(self) -> "_Pty | None":
        poll = select.poll()
        poll.register(self._master, 0)
        hung_up = any(event & select.POLLHUP for _, event in poll.poll(0))
        if hung_up:
            self._refused = False
        if self._open or hung_up or self._refused:
            if self._refused:
                self.read()  # what it types is for nobody
            return None
        self._open = True
        self._exclusive()
        return self

    def _exclusive(self) -> None:
        """No second program can open it now (but for root) until the first has closed it."""
        import fcntl
        import termios

        with contextlib.suppress(OSError):
            fd = os.open(self.name, os.O_RDWR | os.O_NOCTTY)
            fcntl.ioctl(fd, termios.TIOCEXCL)
            os.close(fd)

    def refuse(self, why: bytes) -> None:
        self._open, self._refused = False, True
        self.write(why)

    def fileno(self) -> int:
        return self._master

    def read(self) -> bytes | None:
        try:
            return os.read(self._master, 4096) or None
        except BlockingIOError:
            return b""
        except OSError:  # EIO: the last program has closed it
            return None

    def write(self, data: bytes) -> int:
        try:
            return os.write(self._master, data[:4096])
        except BlockingIOError:
            return 0
        except OSError:
            return len(data)

    def close(self) -> None:
        if self._open:
            self._open = False
        else:
            with contextlib.suppress(OSError):
                os.close(self._master)


class _Tcp:
    """A listening socket on 127.0.0.1 for programs of this user."""

    def __init__(self, number: int):
        self._sock = loopback.listen(number, "--tcp")
        self._sock.setblocking(False)
        self.name = "socket://127.0.0.1:%d" % self._sock.getsockname()[1]

    def arrived(self) -> "_Connection | None":
        try:
            sock, ours = loopback.take(self._sock)
        except OSError:  # mostly because nobody waits
            return None
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        new = _Connection(sock)
        if not ours:
            new.refuse(_FOREIGN)
            return None
        return new

    def close(self) -> None:
        self._sock.close()


class _Connection:
    def __init__(self, sock: socket.socket):
        self._sock = sock
        self._first: bytes | None = b""  # until it is known that no browser sent it

    def refuse(self, why: bytes) -> None:
        self.write(why)
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)
        self.close()

    def fileno(self) -> int:
        return self._sock.fileno()

    def read(self) -> bytes | None:
        try:
            data = self._sock.recv(4096)
        except BlockingIOError:
            return b""
        except OSError:
            return None
        if self._first is None or not data:
            return data or None
        self._first += data
        if self._first.startswith(_BROWSERS):
            self.write(_NO_HTTP)
            return None
        if any(b.startswith(self._first) for b in _BROWSERS):
            return b""  # it may become a browser's
        data, self._first = self._first, None
        return data

    def write(self, data: bytes) -> int:
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            return len(data)

    def close(self) -> None:
        self._sock.close()
