"""A board on a cable, through mpremote: what it is, its files, code run on it. Several files are replaced together:
written beside their names first, compared, then renamed. While they are renamed their names are in a file (UNFINISHED):
a replacement that was cut off there is finished by finish(), or by the board when it starts (startup.py's lines
in boot.py)."""

import binascii
import contextlib
import errno
import functools
import hashlib
import io
import json
import math
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, TypeAlias

from mpremote.commands import CommandError, do_connect
from mpremote.main import State
from mpremote.transport import TransportError, TransportExecError
from serial import SerialException

from ..boards import foreign
from ..boards.dialler import BOOT
from ..errors import BoardError, ConnectionLost, Unreachable, UsageError
from ..text import brief
from ..wire.remote import NONSENSE

_CHUNK = 768  # bytes of a file a command: its source has a third more, the heap holds both, and a board's is small
_SHORTCUT = {"a": "/dev/ttyACM", "u": "/dev/ttyUSB", "c": "COM"}  # mpremote's own (mpremote/main.py)
_SILENT = 60  # seconds in which a command may say nothing: on slow or full flash a write takes more than mpremote's ten
_MOST = 1 << 20  # bytes that a command may be answered: the longest is a trust list (trustlist.SIZE)
_LONGEST = 900.0  # seconds that a command may go on answering
NEW = ".new"
UNFINISHED = "wss_setup.txt"  # names, one a line, whose NEW files are whole and wait to be renamed
_FULL = "The board's file system is full; delete files there, or use a board with more flash."

_ABOUT = """
import os, sys, time
a = {"python": sys.implementation.name, "path": sys.path, "machine": getattr(sys.implementation, "_machine", "")}
a["mpy"] = getattr(sys.implementation, "_mpy", 0) & 255
try:
    from machine import unique_id
    a["uid"] = "".join("%02x" % b for b in unique_id())
except ImportError:
    a["uid"] = ""
try:
    import wss_repl
    a["bundle"] = True
    from wss.probe import addresses
    a["addresses"] = [i for i in addresses("0.0.0.0") if i != "0.0.0.0"]
except ImportError as e:
    a["bundle"] = False
    a["why"] = str(e)
    a["addresses"] = []
a["files"] = os.listdir("/")
s = os.statvfs("/")
a["free"] = s[0] * s[3]
a["time"] = time.gmtime()[:6]
import json
print(json.dumps(a))
"""

# On slow or full flash a rename takes seconds, and a board that is silent for long is given up: so each file is a dot.
# The list takes its place by a rename, too: there is all of it or none.
_RENAME = """
import os
names = %r
if len(names) > 1:
    with open("wss_setup.txt.new", "w") as f:
        f.write("\\n".join(names))
    os.rename("wss_setup.txt.new", "wss_setup.txt")
for n in names:
    os.rename(n + ".new", n)
    print(".", end="")
if len(names) > 1:
    os.remove("wss_setup.txt")
"""
_FINISH = """
import os
try:
    with open("wss_setup.txt") as f:
        names = f.read().split("\\n")
except OSError:
    names = []
for n in names:
    try:
        os.rename(n + ".new", n)
    except OSError as e:
        if e.errno != 2:
            raise
    print(".", end="")
if names:
    os.remove("wss_setup.txt")
"""
# A line for each name, for the same reason: one command for all of a bundle's files, and each is heard of.
_DIGESTS = """
from binascii import hexlify
from hashlib import sha256
b = memoryview(bytearray(512))
for n in %r.split("\\n"):
    h = sha256()
    try:
        f = open(n, "rb")
    except OSError:
        print("-")
        continue
    with f:
        while True:
            i = f.readinto(b)
            if not i:
                break
            h.update(b[:i])
    print(hexlify(h.digest()).decode())
"""
_REMOVE = """
import os
for n in %r:
    try:
        os.remove(n)
    except OSError as e:
        if e.errno != 2:
            raise
    print(".", end="")
"""


About: TypeAlias = dict[str, Any]  # what Cable.about() gives: a board's words, as JSON has them
_KINDS = {
    "python": str, "machine": str, "uid": str, "mpy": int, "bundle": bool, "free": int, "path": [str], "files": [str],
    "addresses": [str], "time": [int],
}  # fmt: skip


def enter_raw_repl(transport: Any, timeout: float) -> None:
    """What mpremote's transport does under that name, and then it is known that the answers are to what is asked now.
    Raises TransportError when that takes more than `timeout` seconds.

    A session over the network is on the serial console as well. What nobody has read of it there is still in the
    board's buffers and in this system's, comes after mpremote has emptied the one that it can empty, and may hold a
    whole raw REPL (shared/runtime/pyexec.c): its answers would be taken for those to come, each one too early.
    """
    mark = secrets.token_hex(8)
    with contextlib.redirect_stdout(io.StringIO()):  # mpremote prints what confused it
        transport.enter_raw_repl(soft_reset=False, timeout_overall=timeout)
    transport.serial.write(b"print('%s'+'%s')\x04" % (mark[:8].encode(), mark[8:].encode()))
    wanted = b"OK%s\r\n\x04\x04" % mark.encode()  # the prompt that follows is for the next command
    if not transport.read_until(1, wanted, timeout=timeout, timeout_overall=timeout).endswith(wanted):
        transport.in_raw_repl = False
        raise TransportError("could not enter raw repl")


class Cable:
    """`with Cable(port) as board: ...`. Raises Unreachable, ConnectionLost, BoardError. `transport` is mpremote's."""

    def __init__(self, port: str):
        self.port = port
        if m := re.fullmatch(r"([auc])(\d+)", port):
            port = _SHORTCUT[m[1]] + m[2]
        state = State()
        args = type("Args", (), {"device": [port]})
        try:
            do_connect(state, args)
        except (CommandError, TransportError, OSError, ValueError) as e:
            raise Unreachable(
                f"Cannot open {self.port} ({_cause(port, e)}); is the board plugged in? `mpremote connect list` "
                "shows the ports there are."
            ) from None
        self.transport = state.transport
        self.transport.exec_raw = functools.partial(self.transport.exec_raw, timeout=_SILENT)
        # On a pseudo-terminal mpremote reads without looking first, and would wait for ever
        self.transport.serial.timeout = 2
        self._room = self._end = math.inf
        self._read_port, self.transport.serial.read = self.transport.serial.read, self._read
        try:
            with self._words():
                enter_raw_repl(self.transport, 5)
            self.transport.serial.timeout = 10
            self.exec("import os\nos.chdir('/')")  # all names are relative to it
        except BaseException as e:
            self._hang_up()
            if isinstance(e, ConnectionLost):
                raise Unreachable(
                    f"{self.port} does not answer as a MicroPython board; is it the right port, with MicroPython "
                    "on it?"
                ) from None
            raise

    def __enter__(self) -> "Cable":
        return self

    def __exit__(self, *exc: object) -> None:
        with contextlib.suppress(Exception):
            if self.transport.in_raw_repl:
                self.transport.exit_raw_repl()
        self._hang_up()

    def _hang_up(self) -> None:
        with contextlib.suppress(OSError, SerialException):
            self.transport.close()

    def _read(self, size: int = 1) -> bytes:
        """mpremote's time-outs are for silence: it would hear for ever what prints for ever."""
        data: bytes = self._read_port(size)
        self._room -= len(data)
        if data and (self._room < 0 or time.monotonic() > self._end):
            raise ConnectionLost(f"{self.port} sends without an end; is it the right port? Reset the board, try again.")
        return data

    @contextlib.contextmanager
    def _words(self) -> Iterator[None]:
        self._room, self._end = _MOST, time.monotonic() + _LONGEST
        try:
            yield
        except TransportExecError as e:
            lines = e.error_output.strip().splitlines() or ["it gave no reason"]
            raise BoardError(_board_words(lines[-1])) from None
        except OSError as e:
            # mpremote turns the board's errno into this process's OSError; a port that went away is one as well
            if isinstance(e, SerialException) or e.errno in (None, errno.EIO, errno.EBADF, errno.ENXIO, errno.ENODEV):
                raise self._gone(e) from None
            if e.errno == errno.ENOSPC:
                raise BoardError(_FULL) from None
            raise BoardError(f"The board refuses ({errno.errorcode.get(e.errno, e.errno)}: {e.strerror}).") from None
        except TransportError as e:
            raise self._gone(e) from None
        except NONSENSE:
            raise self._nonsense() from None
        finally:
            self._room = self._end = math.inf  # who listens to the console hears what there is

    def _nonsense(self) -> ConnectionLost:
        return ConnectionLost(f"{self.port} answers strangely; reset the board and try again.")

    def _gone(self, e: Exception) -> ConnectionLost:
        return ConnectionLost(f"The board on {self.port} stopped answering ({str(e).rstrip('.')}); is it plugged in?")

    def exec(self, code: str, output: Callable[[bytes], None] | None = None) -> str:
        """Runs code; returns what it printed, or hands that to `output` as it comes."""
        # mpremote passes the end mark on
        consumer = output and (lambda data: None if data == b"\x04" else output(data))
        with self._words():
            got = self.transport.exec(code, data_consumer=consumer)
        return str(got, "utf-8", "replace").replace("\r\n", "\n")

    def foreign(self) -> str:
        """Where on its path the board has another program that is called wss_repl; "" when it has none."""
        return self.exec(foreign.CODE + "print(_wssctl_foreign())").strip()

    def about(self) -> About:
        """uid, bundle (whether wss_repl imports), why (not), addresses, files, free (bytes), time, path, machine, mpy
        (the version it reads); asked and heard, when that was by this machine's clock."""
        asked = datetime.now(UTC)
        try:
            said: About = json.loads(self.exec(_ABOUT))
            if not all(_is(said[name], kind) for name, kind in _KINDS.items()) or len(said["time"]) != 6:
                raise TypeError
            return said | {"asked": asked, "heard": datetime.now(UTC), "why": str(said.get("why", ""))}
        except NONSENSE:
            raise self._nonsense() from None

    def read(self, name: str) -> bytes | None:
        """A file's content, None when there is none."""
        with self._words():
            return self.transport.fs_readfile(name, chunk_size=_CHUNK) if self.transport.fs_exists(name) else None

    def digests(self, names: list[str]) -> dict[str, str]:
        """SHA-256 of the content, in hexadecimal, of those files that there are."""
        found = self.exec(_DIGESTS % "\n".join(names)).split() if names else []
        if len(found) != len(names):
            raise self._nonsense()
        return {name: digest for name, digest in zip(names, found, strict=True) if digest != "-"}

    def holds(self, name: str, data: bytes) -> bool:
        """Whether the board's file holds `data`."""
        return not self.differing({name: data})

    def differing(self, files: dict[str, bytes]) -> list[str]:
        """The names of those that the board does not hold with that content."""
        there = self.digests(list(files))
        return [name for name, data in files.items() if there.get(name) != hashlib.sha256(data).hexdigest()]

    def replace(self, files: dict[str, bytes], progress: Callable[[str], None] = lambda name: None) -> None:
        """Writes all of `files` or, when there is no room for one of them, none; they take their places at the end, in
        the order given."""
        self.stage(files, progress)
        self.commit(list(files))

    def stage(self, files: dict[str, bytes], progress: Callable[[str], None] = lambda name: None) -> None:
        try:
            for name, data in files.items():
                progress(name)
                self._write(name + NEW, data)
            for name in self.differing({name + NEW: data for name, data in files.items()}):
                raise BoardError(f"The board did not store {name.removesuffix(NEW)} as sent; is its flash worn?")
        except BoardError as e:
            # the last one first: a certificate that waits without its key would be put in place (wss/credentials.py)
            with contextlib.suppress(BoardError, ConnectionLost):
                self.exec("try:\n f.close()\nexcept Exception:\n pass")
                self.remove([name + NEW for name in reversed(files)])
            raise BoardError(f"{e} Nothing was changed.") from None

    def _write(self, name: str, data: bytes) -> None:
        # A command more for each file to open and to close it would be most of what a bundle of small ones takes.
        # Base64 is half as long as what Python makes of bytes.
        code = f"from binascii import a2b_base64\nf = open({name!r}, 'wb')\nprint(end='.')\n"
        for at in range(0, len(data), _CHUNK):
            code += f"f.write(a2b_base64({binascii.b2a_base64(data[at : at + _CHUNK], newline=False)!r}))\n"
            if at + _CHUNK < len(data):
                self.exec(code)
                code = ""
        self.exec(code + "f.close()")

    def commit(self, names: list[str], progress: Callable[[bytes], None] = lambda dots: None) -> None:
        """Renames what stage() has written. progress gets a dot for each file."""
        self.exec(_RENAME % (names,), progress)

    def finish(self) -> bool:
        """Finishes a commit() that was cut off; whether there was one. Raises BoardError."""
        dots: list[bytes] = []
        self.exec(_FINISH, dots.append)
        return bool(dots)

    def remove(self, names: list[str]) -> None:
        self.exec(_REMOVE % (names,), lambda dots: None)

    def folder(self, name: str) -> None:
        self.exec(f"import os\ntry:\n os.mkdir({name!r})\nexcept OSError as e:\n if e.errno != 17:\n  raise\n")

    def set_clock(self, utc: datetime) -> bool:
        """Sets the board's clock; False when it has none."""
        fields = (utc.year, utc.month, utc.day, utc.weekday(), utc.hour, utc.minute, utc.second, 0)
        code = f"try:\n from machine import RTC\n RTC().datetime({fields})\n print(1)\nexcept ImportError:\n print(0)"
        return self.exec(code).strip() == "1"

    def restart(self, wanted: bytes, timeout: float = BOOT) -> str:
        """A soft reset, as Ctrl-D does it; returns what boot.py printed up to the end of the line with `wanted` in it,
        or all of it until the prompt or the timeout."""
        transport = self.transport
        with self._words():
            transport.exit_raw_repl()
            transport.serial.timeout = 0.1
            transport.read_until(1, b">>> ", timeout=2)
            transport.serial.write(b"\x04")
            said = transport.read_until(1, b"soft reboot", timeout_overall=timeout)
            if not said.endswith(b"soft reboot"):
                raise ConnectionLost("The board does not take the soft reset; press its reset button, then try again.")
            said, deadline = b"", time.monotonic() + timeout
            while time.monotonic() < deadline and not said.endswith(b"\n>>> "):
                said += transport.serial.read(transport.serial.in_waiting or 1)
                if (at := said.find(wanted)) >= 0 and b"\n" in said[at:]:
                    break
            return str(said, "utf-8", "replace").replace("\r", "")


def _is(value: object, kind: Any) -> bool:
    if isinstance(kind, list):
        return isinstance(value, list) and all(isinstance(v, kind[0]) for v in value)
    return isinstance(value, kind)


def _cause(port: str, e: Exception) -> str:
    """mpremote says of all of them that the port may be in use."""
    if port.startswith("/") and not os.path.exists(port):
        return "it is not there"
    if port.startswith("/") and not os.access(port, os.R_OK | os.W_OK):
        return "you are not in the group that may, often dialout: `sudo usermod -aG dialout $USER`, then log in anew"
    return str(e).rstrip(".")


def _board_words(line: str) -> str:
    if "ENOSPC" in line or "[Errno 28]" in line or line.startswith("OSError: 28"):
        return _FULL
    if line.startswith("MemoryError"):
        return "The board is out of memory; reset it and try again."
    return f"The board refuses ({brief(line)})."


def refuse_network(port: str, asked: bool) -> None:
    """Keys and passwords go over a cable unless the network is asked for by name."""
    if "://" in port and not asked:
        raise UsageError(
            f"{port} is a network, and this sends secrets: use the cable, or say --over-network if you trust every "
            "machine on the way."
        )
