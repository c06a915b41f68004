"""`wssctl bridge`: a board as a serial port of this machine, for programs that know nothing else: a pseudo-terminal and
a TCP port on the loopback interface, for one program at a time and this user alone."""

import contextlib
import os
import select
import socket
import sys
from pathlib import Path

from ..boards.dialler import Dialler
from ..errors import ConnectionLost, UsageError
from . import serial_handler

_BUSY = b"\r\nwssctl bridge: another program has the board; close it first.\r\n"
_FOREIGN = b"\r\nwssctl bridge: for another user of this machine.\r\n"
_MAX_PENDING = 1 << 20  # bytes that a program has not read; what is more is lost, as on a serial line
_LOOK = 0.1  # s between two looks at whether somebody has opened the pseudo-terminal


def bridge(args) -> int:
    with contextlib.ExitStack() as cleanup:
        ends = []
        if hasattr(os, "openpty"):
            ends.append(cleanup.enter_context(contextlib.closing(_Pty())))
        if args.tcp is not None or _knows_owners() or not ends:
            ends.append(cleanup.enter_context(contextlib.closing(_Tcp(args.tcp or 0))))
        dial = Dialler(args)
        url = dial.target.url
        serial_handler.Serial.ready = url, dial(), dial
        board = cleanup.enter_context(contextlib.closing(_Port()))
        board.port = url
        board.open()
        print(f"{dial.target} is at", " and ".join(e.name for e in ends), flush=True)
        print("One program at a time. Ctrl-C ends it.", file=sys.stderr)
        try:
            _pump(board, ends)
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


def _pump(board: _Port, ends: list) -> None:
    user, pending = None, b""
    while True:
        for end in ends:
            new = end.arrived()
            if new and user:
                new.refuse(_BUSY)
            elif new:
                user, pending = new, b""
        reads = [board.fileno()]
        if user and board.room():
            reads.append(user.fileno())
        ready, writable, _ = select.select(reads, [user.fileno()] if pending else [], [], _LOOK)
        if board.fileno() in ready:
            data = board.take()
            if user:
                pending = (pending + data)[-_MAX_PENDING:]
        if not user:
            continue
        if user.fileno() in writable:
            pending = pending[user.write(pending) :]
        if user.fileno() in ready:
            data = user.read()
            if data:
                board.write(data)
            elif data is None:
                user.close()
                user, pending = None, b""


class _Pty:
    """A pseudo-terminal, 0600. It is its own user: programs come and go on its other side."""

    def __init__(self):
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
        self._sock = socket.socket()
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._sock.bind(("127.0.0.1", number))
        except OSError as e:
            raise UsageError(f"Cannot listen on port {number} ({e.strerror}); choose another with --tcp.") from None
        self._sock.listen(4)
        self._sock.setblocking(False)
        self.name = "socket://127.0.0.1:%d" % self._sock.getsockname()[1]

    def arrived(self) -> "_Connection | None":
        try:
            sock, address = self._sock.accept()
        except OSError:
            return None
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        new = _Connection(sock)
        if _owner(address) not in (None, os.getuid() if hasattr(os, "getuid") else None):
            new.refuse(_FOREIGN)
            return None
        return new

    def close(self) -> None:
        self._sock.close()


class _Connection:
    def __init__(self, sock: socket.socket):
        self._sock = sock

    def refuse(self, why: bytes) -> None:
        self.write(why)
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)
        self.close()

    def fileno(self) -> int:
        return self._sock.fileno()

    def read(self) -> bytes | None:
        try:
            return self._sock.recv(4096) or None
        except BlockingIOError:
            return b""
        except OSError:
            return None

    def write(self, data: bytes) -> int:
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            return len(data)

    def close(self) -> None:
        self._sock.close()


_TABLE = Path("/proc/net/tcp")


def _knows_owners() -> bool:
    return _TABLE.exists()


def _owner(address: tuple[str, int]) -> int | None:
    """The user id at the other end of a loopback connection (proc_pid_net(5)); None where the system does not say."""
    if not _knows_owners():
        return None
    wanted = "%08X:%04X" % (int.from_bytes(socket.inet_aton(address[0]), sys.byteorder), address[1])
    for line in _TABLE.read_text().splitlines()[1:]:
        columns = line.split()
        if columns[1] == wanted:
            return int(columns[7])
    return -1
