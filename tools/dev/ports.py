"""TCP ports of this machine for servers that are started here."""

import contextlib
import os
import random
import re
import socket
import threading

# Of test processes side by side (pytest-xdist) each has a share of the ports below those that the system gives to
# outgoing connections.
WORKER = int(re.sub(r"\D", "", os.environ.get("PYTEST_XDIST_WORKER", "")) or 0)
SHARE = 20000 // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
FIRST = 12000 + WORKER * SHARE

_next = random.randrange(SHARE)  # by lot, because other processes that have no share of their own do so, too
_lock = threading.Lock()


def free_ports(n: int) -> list[int]:
    """n ports in a row that nobody listens on, and that were not given before: whoever was given one may not listen on
    it yet. (When all had their turn it starts over.)"""
    global _next
    while True:
        with _lock:
            if _next + n > SHARE:
                _next = 0
            first = FIRST + _next
            _next += n
        with contextlib.ExitStack() as stack:
            try:
                for port in range(first, first + n):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return list(range(first, first + n))


def free_port() -> int:
    return free_ports(1)[0]
