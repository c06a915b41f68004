"""A connection that another process of this user keeps logged in (holder.py), as a Link.

The two talk over a socket in the user's runtime folder, in messages of a letter, a length (32 bits, big-endian) and so
many bytes. To the holder: H who we are and what we would log in with (JSON), T and B a frame of text or binary data, Q
we leave (with a byte: in the middle of a file). From it: W who has the connection now, M it is being made for us, O it
is ours (JSON: what a Link knows of the board), T and B, E it ended (JSON: which error and its sentence), G the holder
ends: start another.
"""

import base64
import contextlib
import json
import os
import re
import socket
import stat
import struct
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from .. import errors
from ..errors import ConnectionLost, KeyFileError, NoAnswer, SessionInUse, UsageError, WssctlError
from ..text import say, shown
from .link import Credentials, Deadline, Link, Target

HEAD = struct.Struct(">cI")
MAX_MESSAGE = 1 << 21
_PIECE = 1 << 16
_LOGIN = 4  # times --timeout: connecting, two answers, and the holder's own start
_LONGEST_KEEP = 7 * 86400
_TIME = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d|)")
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(text: str) -> float:
    """`90`, `90s`, `5m`, `2h`, `1d` in seconds; 0 for not at all. Raises UsageError."""
    if (found := _TIME.fullmatch(text.strip())) and (value := float(found[1]) * _UNITS[found[2]]) <= _LONGEST_KEEP:
        return value
    raise UsageError(f"{text!r} is no time to keep a connection: give 90s, 5m or 2h, a week at most, or 0.")


# Where holders are found


class NoPlace(Exception):
    """No connection can be kept here; why, for the user."""


def folder(make: bool = False) -> Path:
    """Where the sockets are. Raises NoPlace where none can be, KeyFileError for a folder that others can reach or that
    is not this user's."""
    if not hasattr(socket, "AF_UNIX"):
        raise NoPlace("this system has no sockets between its processes (AF_UNIX)")
    base = os.environ.get("XDG_RUNTIME_DIR") or (os.environ.get("TMPDIR") if sys.platform == "darwin" else None)
    if not base or not os.path.isabs(base):  # XDG base directory specification: one that is relative is not valid
        base = f"/run/user/{os.geteuid()}"
    path = Path(base) / "wssctl"
    try:
        above = os.stat(base)
        if make:
            with contextlib.suppress(FileExistsError):
                path.mkdir(mode=0o700)
        info = os.lstat(path)
    except OSError as e:
        raise NoPlace(f"there is no runtime folder {path}, $XDG_RUNTIME_DIR names one ({e.strerror})") from None
    if above.st_uid not in (os.geteuid(), 0) or above.st_mode & 0o022 and not above.st_mode & stat.S_ISVTX:
        raise KeyFileError(f"{base} can be changed by others, so no connection is kept there; give --keep 0.")
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o077:
        raise KeyFileError(
            f"{path} is not a folder of yours alone (mode 0700), so no connection is kept there; look who made it and "
            "remove it, or give --keep 0."
        )
    return path


def identity(target: Target, credentials: Credentials | None) -> list[str]:
    """What a holder is for: one board's address, and one set of key files to log in with."""
    return [str(target), *(os.path.realpath(path) for path in (credentials or ())[:3])]


def path_of(target: Target, credentials: Credentials | None, make: bool = False) -> Path:
    """Two check sums, of the address and of all that identity() has. A name has to be short (sun_path, 104 bytes on
    some systems), and two that are alike do no harm: holders are told the identity. Raises as folder() does."""
    said = identity(target, credentials)
    sums = [zlib.crc32("\0".join(words).encode("utf-8", "surrogateescape")) for words in (said[:1], said)]
    return folder(make) / "{:08x}-{:08x}".format(*sums)


def peer(sock: socket.socket) -> tuple[int, int]:
    """(user id, process id) of the other end of a local socket."""
    if hasattr(socket, "SO_PEERCRED"):
        pid, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return uid, pid
    # macOS and the BSDs: struct xucred by LOCAL_PEERCRED, the process by LOCAL_PEERPID (sys/un.h)
    uid = struct.unpack_from("I", sock.getsockopt(0, 1, 76), 4)[0]
    return uid, struct.unpack("i", sock.getsockopt(0, 2, 4))[0] if sys.platform == "darwin" else 0


def dial(path: Path) -> socket.socket | None:
    """A connection to the holder at `path`; None when there is none. Raises KeyFileError for what is no socket of this
    user's, NoPlace for a path that no socket can have."""
    try:
        info = os.lstat(path)
        if not stat.S_ISSOCK(info.st_mode) or info.st_uid != os.geteuid():
            raise KeyFileError(f"{path} is no socket of yours; look who made it and remove it, or give --keep 0.")
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(str(path))
            if peer(sock)[0] != os.geteuid():
                raise KeyFileError(f"Another user's process listens on {path}; remove it, or give --keep 0.")
            return sock
        except BaseException:
            sock.close()
            raise
    except (FileNotFoundError, ConnectionRefusedError):
        return None
    except OSError as e:
        raise NoPlace(f"{path} cannot be connected to ({e.strerror or e})") from None


def message(kind: bytes, data: bytes) -> bytes:
    return HEAD.pack(kind, len(data)) + data


def messages(buffer: bytearray) -> Iterator[tuple[bytes, bytes]]:
    """Takes the whole ones out of `buffer`. Raises ValueError for what is none."""
    while len(buffer) >= HEAD.size:
        kind, size = HEAD.unpack_from(buffer)
        if size > MAX_MESSAGE:
            raise ValueError(size)
        if len(buffer) < HEAD.size + size:
            return
        data = bytes(buffer[HEAD.size : HEAD.size + size])
        del buffer[: HEAD.size + size]
        yield kind, data


class KeptLink(Link):
    """A Link whose other end is a holder. It begins logged in."""

    fresh = False  # whether this process started the holder
    lingers = True

    def __init__(self, sock: socket.socket, target: Target, timeout: float = 10.0):
        super().__init__(sock, target, timeout)
        self._in = bytearray()
        self._info: dict[str, Any] | None = None
        self._gone = self._making = False
        self._waits = ""
        sock.setblocking(False)

    def greet(self, hello: dict[str, Any], deadline: Deadline) -> bool:
        """Until the connection is ours. False when the holder ends. Raises what connecting raises, SessionInUse when
        another command does not leave it in time, NoAnswer."""
        _, pid = peer(self._sock)
        self._out += message(b"H", json.dumps(hello).encode())
        self._flush(False)
        while self._info is None:
            received = self._receive()
            if self._gone:
                return False
            if self._making:  # how that goes, the holder tells: it waits for the board as long as we would
                self._making, deadline = False, Deadline(_LOGIN * self.timeout)
            if received:
                continue
            self._check()
            if deadline.expired:
                if self._waits:
                    raise SessionInUse(f"{self.target} is in use by {self._waits}; try again later, or end that.")
                raise NoAnswer(
                    f"The process {pid} that keeps the connection to {self.target} does not answer; "
                    "`wssctl keep stop` ends it, --keep 0 goes around it."
                )
            self.select((), deadline.left)
        self.clean = bool(self._info["clean"])
        return True

    @property
    def tls(self) -> tuple[str, str, int] | None:
        version, suite, bits = (self._info or {}).get("tls") or ("", "", 0)
        return (version, suite, bits) if version else None

    @property
    def certificate(self) -> bytes | None:
        known = (self._info or {}).get("certificate")
        return base64.b64decode(known) if known else None

    @property
    def bundle(self) -> tuple[str, str]:
        version, note = (self._info or {}).get("bundle", ("", ""))
        return version, note

    def close(self) -> None:
        if self.closed:
            return
        if self._lost is None:
            self._out += message(b"Q", b"!" if self.transfer else b"")
            self._sock.settimeout(1.0)
            with contextlib.suppress(OSError):
                self._sock.sendall(self._out)
        self.closed = True
        self._sock.close()

    def _put(self, is_text: bool, data: bytes) -> None:
        self._out += message(b"T" if is_text else b"B", data)

    def _receive(self) -> bool:
        if self._lost is not None:
            return False
        try:
            data = self._sock.recv(_PIECE)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._end(None)
            return True
        self._in += data
        try:
            for kind, body in messages(self._in):
                if kind in b"TB":
                    self._take(kind == b"T", body)
                elif kind == b"O":
                    self._info = json.loads(body)
                elif kind == b"W":
                    self._waits = shown(body.decode("utf-8", "replace"))
                    say(f"waiting for {self._waits}")
                elif kind == b"M":
                    self._making, self._waits = True, ""
                elif kind == b"G":
                    self._gone = True
                elif kind == b"E":
                    said = json.loads(body)
                    error = getattr(errors, said["kind"], ConnectionLost)
                    self._lost = error(said["text"])
        except ValueError:
            self._end(None)
        return True

    def _end(self, error: OSError | None) -> None:
        self._gone = self._info is None  # it may have ended while we came
        if self._lost is None:
            self._lost = ConnectionLost(f"The process that kept the connection to {self.target} has ended; try again.")


class Wanted(NamedTuple):
    """A connection that is to be kept, `keep` seconds after its last use; the rest is Client.connect()'s."""

    target: Target
    credentials: Credentials | None
    password: str | Callable[[], str]
    server_name: str | Callable[[], str | None] | None
    timeout: float
    keep: float


def open(wanted: Wanted) -> KeptLink | None:
    """The kept connection to a board, which is made if there is none yet. None where there can be none, which is said.
    Raises what Client.connect() raises."""
    target, credentials, password, server_name, timeout, keep = wanted
    deadline, fresh = Deadline(timeout), False
    hello: dict[str, Any] = {"who": command_name(), "keep": keep, "path": target.path, "timeout": timeout}
    hello["identity"] = identity(target, credentials)
    # What is given, and not only asked for when needed, has to be what the holder has logged in with
    given = {"password": password, "server_name": server_name}
    given["passphrase"] = credentials.passphrase if credentials else None
    hello |= {what: value for what, value in given.items() if isinstance(value, str) and value}
    try:
        path = path_of(target, credentials, make=True)
        for _ in range(20):
            if (sock := dial(path)) is None:
                from .start import start

                fresh = start(path, wanted) or fresh
                deadline = Deadline(timeout)
                continue
            link = KeptLink(sock, target, timeout)
            try:
                if link.greet(hello, deadline):
                    link.fresh = fresh
                    return link
            except BaseException:
                sock.close()
                raise
            sock.close()
            time.sleep(0.02)  # it is about to take its socket away
    except NoPlace as e:
        say(f"NOTE: The connection is not kept: {e}.")
        return None
    raise NoAnswer(f"The connection to {target} can't be kept: each holder ends at once. --keep 0 goes without.")


def command_name() -> str:
    """This command, for those who wait for it."""
    words = [Path(sys.argv[0]).name.removesuffix(".py") or "python", *sys.argv[1:2]]
    if words[0] in ("__main__", "wssctl"):
        words[0] = "wssctl"
    else:
        del words[1:]
    return shown(" ".join(words))[:40]


def release(target: Target) -> None:
    """A login of our own is about to begin: connections that are kept to that address, with whatever keys, give way if
    nobody uses them."""
    try:
        path = path_of(target, None)
        paths = list(path.parent.glob(f"{path.name[:8]}-????????"))
    except (NoPlace, KeyFileError):
        return  # what is there concerns only those who want it
    for path in paths:
        with contextlib.suppress(NoPlace, KeyFileError, OSError):
            if (sock := dial(path)) is not None:
                with sock:
                    sock.settimeout(2.0)
                    sock.sendall(message(b"R", b""))
                    sock.recv(1)


def error_of(e: WssctlError) -> bytes:
    return message(b"E", json.dumps({"kind": type(e).__name__, "text": str(e)}).encode())
