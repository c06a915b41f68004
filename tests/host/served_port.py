"""A serial port offered on TCP, as ser2net does: as it is (pyserial's socket://) or with RFC 2217 (rfc2217://)."""

import contextlib
import socket
import threading

import serial
import serial.rfc2217


class Pty(serial.Serial):
    """A pseudo-terminal has no modem lines."""

    cts = dsr = ri = cd = False

    def _update_rts_state(self):
        pass

    _update_dtr_state = _update_break_state = _update_rts_state


class ServedPort:
    """Context manager; url is what pyserial, and so mpremote, opens. One client after another."""

    def __init__(self, tty: str, scheme: str):
        self._serial = Pty(tty, 115200, timeout=0.02)
        self._rfc2217 = scheme == "rfc2217"
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> "ServedPort":
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(60)
        assert not self._thread.is_alive(), "a client has not gone"
        self._serial.close()

    def _serve(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client, contextlib.suppress(OSError):
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._shovel(client)

    def _shovel(self, client: socket.socket):
        lock = threading.Lock()  # the manager answers the client in between

        class Connection:
            @staticmethod
            def write(data):
                with lock:
                    client.sendall(data)

        manager = serial.rfc2217.PortManager(self._serial, Connection) if self._rfc2217 else None
        gone = threading.Event()

        def up():
            while not gone.is_set():
                data = self._serial.read(max(1, self._serial.in_waiting))
                if data:
                    with contextlib.suppress(OSError):
                        Connection.write(b"".join(manager.escape(data)) if manager else data)

        reader = threading.Thread(target=up, daemon=True)
        reader.start()
        try:
            while data := client.recv(4096):
                self._serial.write(b"".join(manager.filter(data)) if manager else data)
        finally:
            gone.set()
            reader.join()
