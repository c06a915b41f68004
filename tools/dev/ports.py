"""TCP ports of this machine for servers that are started here."""

import contextlib
import os
import random
import re
import socket


def free_ports(n: int) -> list[int]:
    """n ports in a row that nobody listens on: below those that the system gives to outgoing connections, and drawn by
    lot, because one that is free is free to the next process as well. Of test processes side by side (pytest-xdist)
    each draws from its own."""
    worker = int(re.sub(r"\D", "", os.environ.get("PYTEST_XDIST_WORKER", "")) or 0)
    share = 20000 // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    while True:
        first = 12000 + worker * share + random.randrange(share - n)
        with contextlib.ExitStack() as stack:
            try:
                for port in range(first, first + n):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return list(range(first, first + n))


def free_port() -> int:
    return free_ports(1)[0]
