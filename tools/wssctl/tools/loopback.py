"""A port on 127.0.0.1 that is for the processes of one user, as far as the system tells whose they are (Linux)."""

import os
import socket
import sys
from pathlib import Path

from ..errors import UsageError

_TABLES = Path("/proc/net/tcp"), Path("/proc/net/tcp6")
_ESTABLISHED = "01"  # include/net/tcp_states.h


def listen(number: int, option: str) -> socket.socket:
    """A listening socket; number 0 takes a free port. Raises UsageError, which names the option to choose with."""
    sock = socket.socket()
    if os.name == "posix":  # on Windows it would let another process have the same port
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(("127.0.0.1", number))
        sock.listen(4)
    except OSError as e:
        sock.close()
        raise UsageError(f"Cannot listen on port {number} ({e.strerror}); choose another with {option}.") from None
    return sock


def take(listener: socket.socket) -> tuple[socket.socket, bool]:
    """The next connection, and whether it is this user's. Raises OSError: there is no descriptor left for it, or to see
    whose it is; then it is closed."""
    sock, address = listener.accept()
    try:
        return sock, is_ours(address, listener.getsockname())
    except OSError:
        sock.close()
        raise


def is_ours(address: tuple[str, int], ours: tuple[str, int]) -> bool:
    """Whether who has connected from `address` to `ours` is this user; True where the system does not tell."""
    return not _TABLES[0].exists() or _owner(address, ours) == os.getuid()


def _owner(address: tuple[str, int], ours: tuple[str, int]) -> int | None:
    """The user id at the other end of a loopback connection (proc_pid_net(5)), None if nobody's is known. A socket that
    its program has closed belongs to nobody any more and is shown as root's, without an inode: it is not believed. An
    IPv6 socket can have an IPv4 connection (Java, .NET and Go make such)."""
    ends = {(_as_shown(address, "%s"), _as_shown(ours, "%s"))}
    ends.add((_as_shown(address, _MAPPED), _as_shown(ours, _MAPPED)))
    for table in _TABLES:
        if not table.exists():
            continue
        for line in table.read_text().splitlines()[1:]:
            columns = line.split()
            if (columns[1], columns[2]) in ends and columns[3] == _ESTABLISHED and columns[9] != "0":
                return int(columns[7])
    return None


_MAPPED = "".join("%08X" % int.from_bytes(word, sys.byteorder) for word in (bytes(4), bytes(4), b"\0\0\xff\xff")) + "%s"


def _as_shown(address: tuple[str, int], form: str) -> str:
    return form % ("%08X" % int.from_bytes(socket.inet_aton(address[0]), sys.byteorder)) + ":%04X" % address[1]
