# The listening socket.
# In: TCP connections.  Out: accepted sockets, and which of them has sent something.  Next: session.py.
import select
import socket
from micropython import const

from wss import port

PENDING_MAX = const(2)  # connections before login: one slow peer must not keep the next one out
_BACKLOG = const(4)


class Listener:
    """Non-blocking accept. callback(sock) is registered where the firmware has socket callbacks."""

    def __init__(self, host, number, callback):
        self._callback = callback
        self.sock = sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(socket.getaddrinfo(host, number)[0][-1])
            sock.listen(_BACKLOG)
        except OSError:
            sock.close()
            raise
        sock.setblocking(False)
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self.driven = port.on_readable(sock, callback)

    def ready(self):
        """Sockets that can be read now: the listening one for a new connection, watched ones for a first byte."""
        found = ()
        for event in self._poll.ipoll(0):
            found += (event[0],)
        return found

    def accept(self):
        """(socket, address) of a new connection, non-blocking and watched for its first byte; None without one."""
        try:
            sock, address = self.sock.accept()
        except OSError:
            return None
        sock.setblocking(False)
        port.no_delay(sock)
        self._poll.register(sock, select.POLLIN)
        port.on_readable(sock, self._callback)
        if not isinstance(address, tuple):  # the unix port gives a raw sockaddr: family, port, IPv4
            address = (".".join([str(b) for b in address[4:8]]), address[2] << 8 | address[3])
        return sock, address

    def forget(self, sock):
        """No longer watch sock."""
        try:
            self._poll.unregister(sock)
        except (KeyError, OSError):
            pass

    def close(self):
        self.sock.close()


def weakest(pending):
    """Which of the sessions before login gives way to a newcomer: the least advanced, of these the oldest."""
    return min(pending, key=lambda s: s.stage)
