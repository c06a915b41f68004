#!/usr/bin/env python3
"""A board on the desk: the stand-in firmware with a directory as its file system, and its REPL.

DIR is the board's "/". boot.py and main.py in it run as on a board, then comes the REPL, on stdin and stdout or on a
pseudo-terminal (--pty) that mpremote and other serial tools can open. A soft reset (Ctrl-D, machine.soft_reset()) and
machine.reset() start the board anew while this program stays. Ctrl-] leaves, and so does closing stdin once the board
has read all of it and waits for more (/dev/null does not count: the board runs on). SIGTERM ends it.

As a library: `with Board(directory) as board: board.write(b"1+1\\r"); board.read_until(b"2")`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import selectors
import signal
import stat
import subprocess
import sys
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import firmware

ESCAPE = b"\x1d"  # Ctrl-]
HEAP = {64: "2M", 32: "160k"}  # 160 KB is what an ESP32 has
LOG_MAX = 32 << 20  # bytes of console output kept
QUEUE_MAX = 64 << 10  # bytes of console input waiting for the board before no more is read


class BoardError(Exception):
    """The board cannot be started, has ended, or did not print what was waited for."""


class Board:
    """A running board. All methods may be called from any thread.

    directory: the board's file system. bits: 64 or 32. env: variables for the firmware, over this process's own
    (BOARD_UID: hexadecimal machine.unique_id(); BOARD_STDIN: pull is stdin as ESP32 has it from MicroPython 1.28 on,
    ring as it had it before, default is the firmware's own version; BOARD_SOCKET_MS: period of socket callbacks, 80 on
    an ESP32 with nothing else to do, default 1; BOARD_CLOCK: seconds that the board's clock is ahead of this machine's;
    BOARD_BARE: without the frozen modules).
    pty: offer the REPL on a pseudo-terminal, whose name is in `tty`. lib: a directory whose modules are used before
    the frozen ones, for instance the repository's lib/. heap: size of the MicroPython heap, such as "160k".
    console: two file descriptors, to read and write, that the REPL is connected to besides write() and read_until().
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        bits: int = 64,
        *,
        env: Mapping[str, str] | None = None,
        pty: bool = False,
        lib: str | os.PathLike[str] | None = None,
        heap: str | None = None,
        binary: str | os.PathLike[str] | None = None,
        console: tuple[int, int] | None = None,
    ) -> None:
        # The firmware compares and cuts paths, so they have to be without symbolic links.
        self.directory = Path(directory).resolve()
        if not self.directory.is_dir():
            raise BoardError(f"no such directory: {directory}")
        if lib is not None and not Path(lib).is_dir():
            raise BoardError(f"no such directory: {lib}")
        self.binary = Path(binary) if binary else firmware.firmware(bits)
        self.command = [str(self.binary), "-X", f"heapsize={heap or HEAP[bits]}", "-c", "import _board; _board.run()"]
        own = {name: value for name, value in os.environ.items() if not name.startswith(("MICROPY", "BOARD_STATE"))}
        self.env = own | {"BOARD_DIR": str(self.directory), "BOARD_PARENT": str(os.getpid())} | dict(env or {})
        if lib is not None:
            self.env["BOARD_LIB"] = str(Path(lib).resolve())
        self.left = threading.Event()  # somebody typed Ctrl-]
        self.tty: str | None = None
        self._pty: tuple[int, int] | None = None
        self._console = console
        self._drop = False
        if pty:
            self._pty = os.openpty()
            master, slave = self._pty
            tty.setraw(slave)  # kept open, so that the pair stays when a client closes its end
            os.set_blocking(master, False)
            self._console = (master, master)
            self.tty = os.ttyname(slave)
        self._log = bytearray()
        self._cut = 0  # bytes dropped from the front of the log
        self._read = 0  # position of read_until(), counted from the start of everything
        self._news = threading.Condition()
        self._queue = bytearray()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        self._closed = False
        self._start()

    def _start(self) -> None:
        # In a session of its own: Ctrl-C in the terminal is for the REPL, not a signal for the process.
        self.proc = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            bufsize=0, env=self.env, start_new_session=True,
        )  # fmt: skip
        self._ended = False
        self._thread = threading.Thread(target=self._pump, args=(self.proc,), daemon=True, name="board console")
        self._thread.start()

    @property
    def pid(self) -> int:
        """Process id of MicroPython; a reset does not change it."""
        return self.proc.pid

    @property
    def log(self) -> bytes:
        """What the board printed since power-on (the last 32 MB of it)."""
        with self._news:
            return bytes(self._log)

    def write(self, data: bytes) -> None:
        """Type on the board's serial console."""
        with self._news:
            self._queue += data
        self._wake()

    def read_until(self, wanted: bytes, timeout: float = 60) -> bytes:
        """Wait for bytes on the serial console; returns what came since the last read, up to and including them.

        Raises BoardError, with the end of the console's log, if they do not come within timeout seconds.
        """

        def end(start: int) -> int:
            found = self._log.find(wanted, start)
            return found + len(wanted) if found >= 0 else -1

        return self._wait_for(end, repr(wanted), timeout)

    def read(self, n: int, timeout: float = 60) -> bytes:
        """Wait for n bytes on the serial console. Raises BoardError as read_until() does."""
        return self._wait_for(lambda start: start + n if len(self._log) >= start + n else -1, f"{n} bytes", timeout)

    def _wait_for(self, end: Callable[[int], int], what: str, timeout: float) -> bytes:
        deadline = time.monotonic() + timeout
        with self._news:
            while True:
                start = max(self._read - self._cut, 0)
                stop = end(start)
                if stop >= 0:
                    self._read = stop + self._cut
                    return bytes(self._log[start:stop])
                left = deadline - time.monotonic()
                if left <= 0 or self._ended:
                    why = "the board ended" if self._ended else f"not within {timeout} s"
                    tail = bytes(self._log[-2000:])
                    raise BoardError(f"{what} did not come ({why}); the console's end: {tail!r}")
                self._news.wait(left)

    def restart(self) -> None:
        """Take power away and give it back: nothing of the old run is left but the files."""
        self.kill()
        with self._news:
            self._queue.clear()
            self._read = self._cut + len(self._log)
        self._start()

    def kill(self) -> None:
        """Take power away, without any warning to the program."""
        self.proc.kill()
        self.proc.wait()
        self._thread.join()

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait until the board has ended or Ctrl-] was typed. Returns the exit status, None if it still runs."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._news:
            while not self._ended and not self.left.is_set():
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return None
                self._news.wait(left)
            if not self._ended:
                return None
        return self.proc.wait()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.kill()
            os.close(self._wake_read)
            os.close(self._wake_write)
            for fd in self._pty or ():
                os.close(fd)

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # The pump: one thread that moves bytes between the board, the log and the console.

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_write, b"\0")

    def _pump(self, proc: subprocess.Popen[bytes]) -> None:
        assert proc.stdin and proc.stdout
        board_in, board_out = proc.stdin.fileno(), proc.stdout.fileno()
        os.set_blocking(board_in, False)
        console = self._console[0] if self._console else -1
        # /dev/null says nothing and has not been closed either.
        if console >= 0 and not os.isatty(console) and stat.S_ISCHR(os.fstat(console).st_mode):
            console = -1
        writable = True  # until the board's end is closed
        end_of_input = False
        while True:
            reads = [board_out, self._wake_read]
            with self._news:
                queued = len(self._queue)
            if console >= 0 and queued < QUEUE_MAX:
                reads.append(console)
            if end_of_input and not queued and writable:
                proc.stdin.close()
                writable = False
            for fd in _ready(reads, [board_in] if queued and writable else []):
                if fd == board_out:
                    data = os.read(board_out, 65536)
                    if not data:
                        proc.stdout.close()
                        if writable:
                            proc.stdin.close()
                        with self._news:
                            self._ended = True
                            self._news.notify_all()
                        return
                    self._printed(data)
                elif fd == self._wake_read:
                    os.read(self._wake_read, 4096)
                elif fd == console:
                    typed = _read(console)
                    if typed is None:
                        console, end_of_input = -1, True
                    elif self._pty is None and ESCAPE in typed and os.isatty(console):
                        console = -1
                        with self._news:
                            self._queue += typed.partition(ESCAPE)[0]
                            self.left.set()
                            self._news.notify_all()
                    else:
                        with self._news:
                            self._queue += typed
                else:
                    with self._news:
                        data = bytes(self._queue[:4096])
                    try:
                        sent = os.write(board_in, data)
                    except BlockingIOError:
                        sent = 0
                    except BrokenPipeError:
                        sent = len(data)
                    with self._news:
                        del self._queue[:sent]

    def _printed(self, data: bytes) -> None:
        with self._news:
            self._log += data
            if len(self._log) > LOG_MAX:
                self._cut += len(self._log) - LOG_MAX // 2
                del self._log[: len(self._log) - LOG_MAX // 2]
            self._news.notify_all()
        if self._console is None:
            return
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._console[1], view) :]
                self._drop = False
            except BlockingIOError:
                # Nobody reads the pseudo-terminal. As USB serial does on a board: wait a little, then drop output
                # until somebody reads again.
                if self._drop or not _ready([], [self._console[1]], 0.5):
                    self._drop = True
                    return
            except OSError:
                self._console = (self._console[0], os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC))
                return


def _ready(reads: list[int], writes: list[int], timeout: float | None = None) -> list[int]:
    """The file descriptors that are ready. (select.select() stops at number 1024.)"""
    with selectors.PollSelector() as selector:
        for fd in reads:
            selector.register(fd, selectors.EVENT_READ)
        for fd in writes:
            if fd not in reads:
                selector.register(fd, selectors.EVENT_WRITE)
        return [key.fd for key, _ in selector.select(timeout)]


def _read(fd: int) -> bytes | None:
    """What there is to read, None at the end."""
    try:
        return os.read(fd, 4096) or None
    except BlockingIOError:
        return b""
    except OSError:
        return None


@contextlib.contextmanager
def _raw_terminal(fd: int) -> Iterator[None]:
    """Put a terminal that we are in the foreground of into raw mode for a while."""
    if not os.isatty(fd) or os.tcgetpgrp(fd) != os.getpgrp():
        yield
        return
    saved = termios.tcgetattr(fd)
    try:
        tty.setraw(fd)
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, saved)


class _Ended(BaseException):
    """SIGTERM, SIGHUP or SIGINT came."""


def _end(number: int, frame: object) -> None:
    for each in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(each, signal.SIG_IGN)
    raise _Ended


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n\nAs a library")[0], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dir", metavar="DIR", help="directory that is the board's file system")
    parser.add_argument("--bits", type=int, choices=(64, 32), default=64, help="32: object sizes and heap of an ESP32")
    parser.add_argument("--pty", action="store_true", help="REPL on a pseudo-terminal; its name is the first line")
    parser.add_argument("--lib", metavar="PATH", help="use the modules in PATH before the frozen ones")
    parser.add_argument("--heap", metavar="SIZE", help="heap size (default: 2M with 64 bits, 160k with 32)")
    arguments = parser.parse_args(argv)
    try:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, _end)
        console = None if arguments.pty else (0, 1)
        if not arguments.dir:
            raise BoardError("say which directory is the board's file system: make board DIR=path")
        binary = firmware.firmware(arguments.bits)
        with (
            _raw_terminal(0) if console else contextlib.nullcontext(),
            Board(arguments.dir, arguments.bits, pty=arguments.pty, lib=arguments.lib, heap=arguments.heap,
                  binary=binary, console=console) as board,
        ):  # fmt: skip
            if board.tty:
                print(board.tty, flush=True)
            status = board.wait()
        if status:
            raise BoardError(f"MicroPython ended with status {status}: {board.log[-500:].decode(errors='replace')}")
    except _Ended:
        return 0
    except (BoardError, firmware.FirmwareError) as error:
        print(f"board: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"board: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
