"""Plain ws on one side, wss with a client certificate on the other: what clients without TLS need in front of them."""

import select
import socket
import ssl
import threading


class Forwarder:
    """Listens on 127.0.0.1:port and passes every connection, one at a time, on to a board through TLS."""

    def __init__(self, address: tuple[str, int], context: ssl.SSLContext):
        self._address, self._context = address, context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.suites: list[str] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self):
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            with plain:
                try:
                    with socket.create_connection(self._address, 10) as sock:
                        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                        with self._context.wrap_socket(sock, server_hostname=self._address[0]) as secure:
                            self.suites.append(secure.cipher()[0])
                            _shovel(plain, secure)
                except OSError:
                    pass  # the client sees its connection end

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)
        assert not self._thread.is_alive(), "a client has not gone"


def _hang_up(secure: ssl.SSLSocket):
    """Leave as a polite client: closing with input unread would be a reset, which may overtake what was sent before."""
    secure.shutdown(socket.SHUT_WR)
    secure.settimeout(5)
    while secure.recv(16384):
        pass


def _shovel(plain: socket.socket, secure: ssl.SSLSocket):
    while True:
        ready = [secure] if secure.pending() else select.select([plain, secure], [], [], 60)[0]
        if not ready:
            return
        for source, to in ((plain, secure), (secure, plain)):
            if source in ready:
                data = source.recv(16384)
                if not data:
                    if source is plain:
                        _hang_up(secure)
                    return
                to.sendall(data)
                if source is plain and hasattr(socket, "TCP_QUICKACK"):
                    # These clients write a frame's header and payload apart: without this, 40 ms between them.
                    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
