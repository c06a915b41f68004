"""Ports for servers that a test starts."""

import random
import socket


def free_port() -> int:
    """A port nobody listens on. Below those that the system gives to outgoing connections, and drawn by lot: the tests
    run in several processes, and a port that the system names free it names free to the next process as well."""
    while True:
        port = random.randrange(12000, 32000)
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
