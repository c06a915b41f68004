"""A board on the desk with a cable, a network and an operator: for the tools that people work with."""

import contextlib
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import zygote
from board import Board
from cable import BOARD, Cable, NoCable
from ports import free_port
from targets import ROOT, UID, Unix
from zygote import WSSCTL

PASSWORD = "secret"


class Desk:
    """A running board: `url` and `tty` lead to it, `directory` is its file system, `env` has the operator's secrets."""

    def __init__(self, keys, target, directory: Path, address="127.0.0.1", port=None, options="", prompt=True, **more):
        self.keys, self.directory = keys, directory
        self.port = port or free_port()
        self.url = f"wss://{address}:{self.port}"
        (directory / "boot.py").write_text(
            f"import wss_repl\nwss_repl.start(port={self.port}, password={PASSWORD!r}{options})\n"
        )
        lib = ROOT / "lib" if target.files else None
        self.board = Board(directory, target.bits, pty=True, lib=lib, **more)
        self.tty = self.board.tty
        self.env = os.environ | {
            "WSSCTL_KEYS": str(keys.directory),
            "WSSCTL_PASSPHRASE": keys.passphrase,
            "WSSCTL_PASSWORD": PASSWORD,
            "TERM": "xterm",
            "COLUMNS": "100",
            "LINES": "40",
        }
        self.ready(prompt)

    @classmethod
    def new(cls, keys, folder: Path, kind: str) -> "Desk":
        """With a board (`unix` or `unix32`) whose files are in `folder`/board."""
        shutil.copytree(keys.board, folder / "board")
        return cls(keys, Unix(kind), folder / "board")

    def ready(self, prompt=True):
        """Until it listens, and until its REPL waits, unless a program runs on it."""
        self.board.read_until(b"wss_repl: listening", 60)
        if prompt:
            self.board.read_until(b">>> ", 60)

    def __enter__(self) -> "Desk":
        return self

    def __exit__(self, kind, *_):
        if kind:
            sys.stderr.write(self.board.log.decode(errors="replace")[-3000:])
        self.board.close()

    def run(self, *words, timeout=180, cwd=None, env=None, stdin="") -> subprocess.CompletedProcess:
        """A command to its end; stdout and stderr apart, as text. If the board ends meanwhile, its last words."""
        try:
            return zygote.run(
                words,
                env=self.env | (env or {}),
                cwd=cwd or self.directory.parent,
                input=stdin,
                capture_output=True,
                text=True,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired:
            sys.stderr.write(f"the console's end: {self.board.log[-3000:]!r}\n")
            raise
        finally:
            code = self.board.proc.poll()
            assert code is None, f"the board ended with {code}; the console's end: {self.board.log[-3000:]!r}"

    def shell(self, *lines, code=0) -> str:
        """What one `wssctl shell` prints that runs these lines. It must end well unless a code is given."""
        done = self.run(*WSSCTL, "shell", self.url, stdin="\n".join(lines) + "\n")
        assert done.returncode == code, done
        assert "Traceback" not in done.stderr or '"<stdin>"' in done.stderr, "not the board's but ours"
        return done.stdout + done.stderr

    def wssctl(self, command, *words, **more) -> subprocess.CompletedProcess:
        return self.run(*WSSCTL, command, self.url, *words, **more)


@contextlib.contextmanager
def far(keys, folder: Path):
    """A desk whose board is at the end of a `cable`. Skips the test where there can be none."""
    try:
        with Cable() as cable:
            board = folder / "far"
            shutil.copytree(keys.board, board)
            device = keys.ca.device(UID, names=["board"], addresses=[BOARD], ports=[8833])
            (board / f"SSL_key{UID}.der").write_bytes(device.key_der)
            (board / f"SSL_certificate{UID}.der").write_bytes(device.cert_der)
            with cable.board_side():
                desk = Desk(keys, Unix("unix"), board, BOARD, port=8833)
            with desk:
                desk.cable = cable
                yield desk
    except NoCable as e:
        pytest.skip(str(e))


class Terminal:
    """A program on a terminal of its own: type at it, wait for what it prints."""

    def __init__(self, *words: object, env: dict[str, str], cwd: Path | None = None) -> None:
        self.pid, self.fd = pty.fork()
        if not self.pid:
            try:
                os.chdir(cwd or ".")
                os.execvpe(str(words[0]), [str(w) for w in words], env)
            finally:
                os._exit(127)
        self.seen = b""
        self._at = 0
        self._code = None

    def type(self, data: bytes | str):
        data = data.encode() if isinstance(data, str) else data
        while data:
            data = data[os.write(self.fd, data) :]

    def until(self, wanted: bytes | str, timeout=60.0) -> bytes:
        """What it printed from where the last until() ended to the end of `wanted`, a regular expression in bytes."""
        wanted = wanted.encode() if isinstance(wanted, str) else wanted
        deadline = time.monotonic() + timeout
        while not (found := re.search(wanted, self.seen[self._at :], re.S)):
            if not self._read(deadline - time.monotonic()):
                raise AssertionError(f"{wanted!r} did not come: {self.seen[self._at :][-2000:]!r}")
        start, self._at = self._at, self._at + found.end()
        return self.seen[start : self._at]

    def prompt(self):
        """Until the board's prompt answers. What is typed before a program has set its terminal to raw mode is lost."""
        for _ in range(30):
            self.type("\r")
            with contextlib.suppress(AssertionError):
                self.until(">>> ", 0.3)
                break
        while self._read(0.3):
            pass
        self._at = len(self.seen)

    def _read(self, timeout) -> bool:
        if timeout <= 0 or not select.select([self.fd], [], [], timeout)[0]:
            return False
        try:
            data = os.read(self.fd, 65536)
        except OSError:
            return False
        self.seen += data
        return bool(data)

    def wait(self, timeout=60.0) -> int:
        """Its exit code; negative for a signal."""
        deadline = time.monotonic() + timeout
        while self._code is None:
            self._read(0.05)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._code = os.waitstatus_to_exitcode(status)
                while self._read(0.1):
                    pass
            elif time.monotonic() > deadline:
                raise AssertionError(f"still running: {self.seen[-2000:]!r}")
        return self._code

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_):
        if self._code is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.fd)
