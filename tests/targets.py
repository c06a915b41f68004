"""What the tests run on: --target picks one or more.

unix: the stand-in firmware with the bundle frozen in, 64 bits. unix32: the same at 32 bits with a 160 KB heap.
mip: unix, with the modules as .mpy files in the board's /lib, as `mpremote mip install` of a release puts them there.
pull: unix, whose stdin pulls from os.dupterm as ESP32's does from 1.28 on (there it is what unix is, too).
slow: unix, whose socket callbacks come every 80 ms, as an ESP32's do while it waits.
lwip: a board like a Pico W: sockets by lwIP, TLS in a Python heap of 192 KB, threads without a GIL (tests/netns.py).
pty, pty32, pty-mpy, pty32-mpy, pty-py, pty32-py, and anything that mpremote opens: tests/port_target.py.
"""

import sys
import time
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools/dev"))

import firmware  # noqa: E402
from board import Board  # noqa: E402
from ports import free_port  # noqa: E402
from wssctl.boards import modules  # noqa: E402

UNIX = ("unix", "unix32", "mip", "pull", "slow", "lwip")
UID = "30aea4b0a2d0"  # BOARD_UID's default in tests/board/


class Running:
    """A board whose boot.py has started the server."""

    def __init__(self, console: Board, address: tuple[str, int], directory: Path, ready: str, prompt: bool):
        self.console, self.port, self.directory = console, address[1], directory
        self.address = address
        self._ready, self._prompt = ready.encode(), prompt
        self.wait()

    def wait(self):
        """Until boot.py is through."""
        self.console.read_until(self._ready, 60)
        if self._prompt:
            self.console.read_until(b">>> ", 60)

    @property
    def url(self) -> str:
        return "wss://%s:%d" % self.address

    def restart(self):
        """A reset; nothing of the old run is left but the files."""
        self.console.restart()
        self.wait()

    def run(self, line: str, timeout=60.0) -> str:
        """Type a line at the board's own console; returns what it printed."""
        self._mark(timeout)  # the console shows what a network session does too: skip that
        self.console.write(line.encode() + b"\r")
        text = self._mark(timeout)
        return text.split("\r\n", 1)[1].rsplit(">>> print(", 1)[0].removesuffix("\r\n")

    def _mark(self, timeout) -> str:
        mark = "~%d~" % time.monotonic_ns()
        self.console.write(b"print('%s' + '%s')\r" % (mark[:5].encode(), mark[5:].encode()))
        text = self.console.read_until(mark.encode(), timeout).decode(errors="replace")
        self.console.read_until(b">>> ", timeout)
        return text


class Unix:
    patience = 1.0  # how many times longer tests wait before they give up
    uid = UID
    capabilities = frozenset(  # port_target.REASONS
        {"directory", "heap", "quick", "loopback", "ports", "stand-in", "hardware timers", "connections", "names"}
    )
    boot = ""
    heap: str | None = None
    binary: Path | None = None

    def __init__(self, name: str):
        self.name = name
        self.bits = 32 if "32" in name else 64
        self.files = "mip" in name
        if self.files:
            self.capabilities -= {"names"}
        self.env = {"pull": {"BOARD_STDIN": "pull"}, "slow": {"BOARD_SOCKET_MS": "80"}}.get(name, {})

    def __repr__(self):
        return self.name

    def free_port(self) -> int:
        return free_port()

    def reach(self, directory: Path, port: int) -> tuple[str, int]:
        return "127.0.0.1", port

    def board(self, directory: Path, boot="", ready="wss_repl: listening", port=None, options="", call=None, **more):
        """Start a board. boot: lines before the server starts; options: more arguments for start(); call: instead of
        start(); ready: what boot.py prints last; prompt=False: no prompt follows; env, heap, binary: as in
        tools/dev/board.py."""
        port = port or free_port()
        directory.mkdir(parents=True, exist_ok=True)
        if call is None:
            call = "wss_repl.start(port=%d, password='secret'%s)" % (port, options)
        (directory / "boot.py").write_text("%s%s\nimport wss_repl\n%s\n" % (self.boot, boot, call))
        if self.files:
            for name, data in modules.compiled().items():
                file = directory / "lib" / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(data)
        return Booted(self, directory, port, ready, **more)


class Lwip(Unix):
    """Needs a network namespace: tests/netns.py."""

    capabilities = Unix.capabilities - {"loopback", "stand-in", "hardware timers", "connections"} | {"lwip"}
    heap = "192k"  # what a Pico W has

    def __init__(self):
        super().__init__("lwip")
        self.bits = 32
        self.binary = firmware.lwip_firmware()

    @property
    def boot(self) -> str:
        """What ntptime.settime() does in a Pico W's boot.py: its clock starts in 2021."""
        now = datetime.now(UTC)
        date = (now.year, now.month, now.day, 0, now.hour, now.minute, now.second, 0)
        return f"import machine\nmachine.RTC().datetime({date})\n"

    def reach(self, directory: Path, port: int) -> tuple[str, int]:
        return f"10.{port >> 8}.{port & 255}.2", port


def make(name: str) -> Unix:
    return Lwip() if name == "lwip" else Unix(name)


class Booted:
    """Context manager around a Running board."""

    def __init__(
        self, target: Unix, directory: Path, port: int, ready: str, prompt=True, env=None, heap=None, binary=None
    ):
        self._args = (target, directory, port, ready, prompt, env, heap, binary)

    def __enter__(self) -> Running:
        target, directory, port, ready, prompt, env, heap, binary = self._args
        lib = directory / "lib" if target.files else None
        address = target.reach(directory, port)
        env = target.env | {"BOARD_ADDRESS": address[0]} | (env or {})
        self._board = Board(
            directory, target.bits, env=env, lib=lib, heap=heap or target.heap, binary=binary or target.binary
        )
        try:
            return Running(self._board, address, directory, ready, prompt)
        except BaseException:
            sys.stderr.write(self._board.log.decode(errors="replace")[-4000:])
            self._board.close()
            raise

    def __exit__(self, kind, *_):
        if kind:
            sys.stderr.write(self._board.log.decode(errors="replace")[-4000:])
        self._board.close()
