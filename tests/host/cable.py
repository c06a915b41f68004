"""A network cable between this machine and a board, to be pulled: what kill() and close() cannot show, because the
kernel goes on to acknowledge for a dead process."""

import contextlib
import ctypes
import os
import shutil
import subprocess

_PID = os.getpid()  # tests in other processes have cables of their own
HOST, BOARD = (f"10.{192 + (_PID >> 14) % 64}.{(_PID >> 6) % 256}.{_PID % 64 * 4 + i}" for i in (1, 2))
_CLONE_NEWNET = 0x40000000


class NoCable(Exception):
    """This machine cannot have one; the message says why."""


class Cable:
    """Two network interfaces back to back, the second in a network namespace of its own. Needs root on Linux."""

    def __init__(self):
        self.name = f"wss{os.getpid()}"

    def __enter__(self) -> "Cable":
        if not shutil.which("ip") or os.geteuid():
            raise NoCable("a cable to pull needs `ip` (iproute2) and root")
        try:
            self._ip("netns", "add", self.name)
            self._ip("link", "add", f"{self.name}a", "type", "veth", "peer", "name", "eth0", "netns", self.name)
            self._ip("address", "add", f"{HOST}/30", "dev", f"{self.name}a")
            self._ip("-n", self.name, "address", "add", f"{BOARD}/30", "dev", "eth0")
            self._ip("-n", self.name, "link", "set", "eth0", "up")
            self.plug()
        except NoCable:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for words in (("link", "delete", f"{self.name}a"), ("netns", "delete", self.name)):
            with contextlib.suppress(NoCable):
                self._ip(*words)

    def plug(self):
        self._ip("link", "set", f"{self.name}a", "up")

    def unplug(self):
        """Packets are lost from here on, without a word to either side."""
        self._ip("-n", self.name, "address", "delete", f"{BOARD}/30", "dev", "eth0")

    def replug(self):
        self._ip("-n", self.name, "address", "add", f"{BOARD}/30", "dev", "eth0")

    @contextlib.contextmanager
    def board_side(self):
        """Processes started in the block are on the board's side."""
        libc = ctypes.CDLL(None, use_errno=True)
        with open("/proc/thread-self/ns/net") as here, open(f"/run/netns/{self.name}") as there:
            if libc.setns(there.fileno(), _CLONE_NEWNET):
                raise NoCable(f"setns: {os.strerror(ctypes.get_errno())}")
            try:
                yield
            finally:
                libc.setns(here.fileno(), _CLONE_NEWNET)

    @staticmethod
    def _ip(*words):
        done = subprocess.run(["ip", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            raise NoCable(f"ip {' '.join(words)}: {done.stdout.strip()}")
