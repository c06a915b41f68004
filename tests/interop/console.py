"""A client program under test: on a pseudo-terminal, where it believes a person is typing, or on pipes."""

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time

_ESCAPES = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]|[\r\x08]")


class Console:
    """Start argv; send() types, until() reads. On a terminal what is read has no escape sequences and no CR."""

    def __init__(self, argv, *, terminal=True, **kwargs):
        self._terminal = terminal
        if terminal:
            self._in, end = pty.openpty()
            fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
            self._out = self._in
            # A controlling terminal, or Ctrl-C would be no signal.
            control = lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # noqa: E731
            ends = {"stdin": end, "stdout": end, "stderr": end, "preexec_fn": control}
        else:
            ends = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "bufsize": 0}
        self.proc = subprocess.Popen([str(a) for a in argv], start_new_session=True, **ends, **kwargs)
        if terminal:
            os.close(end)
        else:
            self._in, self._out = self.proc.stdin.fileno(), self.proc.stdout.fileno()
        self._raw = b""
        self._at = 0

    @property
    def seen(self) -> bytes:
        return _ESCAPES.sub(b"", self._raw) if self._terminal else self._raw

    def send(self, data: bytes):
        os.write(self._in, data)

    def until(self, wanted: bytes, timeout=60.0) -> bytes:
        """What came since the last call, up to and with wanted. AssertionError, with what came, when it does not."""
        deadline = time.monotonic() + timeout
        while (found := self.seen.find(wanted, self._at)) < 0:
            left = deadline - time.monotonic()
            assert left > 0 and self._read(left), f"{wanted!r} did not come: {self.seen[-2000:]!r}"
        start, self._at = self._at, found + len(wanted)
        return self.seen[start : self._at]

    def end(self, timeout=60.0) -> int:
        """Read until the program ends; its exit code."""
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0 and self._read(left):
            pass
        return self.proc.wait(max(left, 0.5))

    def _read(self, timeout) -> bool:
        if not select.select([self._out], [], [], timeout)[0]:
            return False
        try:
            data = os.read(self._out, 65536)
        except OSError:  # EIO: a terminal whose programs have all ended
            return False
        if self._terminal and b"\x1b[6n" in data:  # prompt_toolkit asks the terminal where its cursor is
            self.send(b"\x1b[1;1R")
        self._raw += data
        return bool(data)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # The whole group: upydev and wscat have programs of their own under them.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.proc.pid, signal.SIGKILL)
        self.proc.wait()
        if self._terminal:
            os.close(self._in)
        else:
            self.proc.stdin.close()
            self.proc.stdout.close()
