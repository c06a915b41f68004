"""A network that ends a connection at a chosen moment."""

import contextlib
import select
import socket
import struct
import threading


class Cutter:
    """Passes connections on to a board, and cuts all of them once the client has sent so many TLS records."""

    def __init__(self, port: int):
        self._board, self._listener = port, socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.records, self.limit = 0, None
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                with client, contextlib.suppress(OSError):
                    with socket.create_connection(("127.0.0.1", self._board)) as board:
                        for sock in (client, board):  # else each record waits for the other side's late ACK, 40 ms
                            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                        self._pass_on(client, board)

    def _pass_on(self, client, board):
        sent = b""
        while self.limit is None or self.records < self.limit:
            for sock in select.select([client, board], [], [], 60)[0]:
                data = sock.recv(16384)
                if not data:
                    return
                if sock is board:
                    client.sendall(data)
                    continue
                sent += data
                while len(sent) >= 5 and len(sent) >= 5 + struct.unpack(">H", sent[3:5])[0]:
                    size = 5 + struct.unpack(">H", sent[3:5])[0]
                    board.sendall(sent[:size])
                    sent = sent[size:]
                    self.records += 1
                    if self.records == self.limit:
                        self.limit = None  # this one; those after it are let through
                        return

    def close(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
