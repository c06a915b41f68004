"""A connection that another process of this user keeps logged in (tools/keep.py), as a Link.

The two talk over a socket in the user's runtime folder, in messages of a letter, a length (32 bits, big-endian) and so
many bytes. To the holder: H who we are (JSON), T and B a frame of text or binary data, Q we leave (with a byte: in
the middle of a file). From it: W who has
the connection now, O it is ours (JSON: what a Link knows of the board), T and B, E it ended (JSON: which error and its
sentence), G the holder is about to end: start another.
"""

import base64
import contextlib
import hashlib
import json
import os
import re
import socket
import stat
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .. import errors
from ..errors import ConnectionLost, KeyFileError, NoAnswer, SessionInUse, UsageError, WssctlError
from ..text import say, shown
from .link import Credentials, Deadline, Link, Target

HEAD = struct.Struct(">cI")
MAX_MESSAGE = 1 << 21
_PIECE = 1 << 16
_ENDING = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d|)")
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(text: str) -> float:
    """`90`, `90s`, `5m`, `2h`, `1d` in seconds; 0 for not at all. Raises UsageError."""
    if (found := _ENDING.fullmatch(text.strip())) and (value := float(found[1]) * _UNITS[found[2]]) <= 7 * 86400:
        return value
    raise UsageError(f"{text!r} is no time to keep a connection: give 90s, 5m or 2h, a week at most, or 0.")


def folder(make: bool = False) -> Path | None:
    """Where the sockets are; None where there is no runtime folder. Raises KeyFileError for one that others can reach
    or that is no folder of this user's."""
    base = os.environ.get("XDG_RUNTIME_DIR") or (os.environ.get("TMPDIR") if sys.platform == "darwin" else None)
    if not base and Path(usual := f"/run/user/{os.geteuid()}").is_dir():
        base = usual
    if not base:
        return None
    path = Path(base) / "wssctl"
    try:
        if make:
            with contextlib.suppress(FileExistsError):
                path.mkdir(mode=0o700)
        info = os.lstat(path)
    except OSError as e:
        if make:
            raise KeyFileError(f"Cannot make {path} ({e.strerror}); give --keep 0.") from None
        return None
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o077:
        raise KeyFileError(
            f"{path} is not a folder of yours alone (mode 0700), so no connection is kept there; look who made it and "
            "remove it, or give --keep 0."
        )
    return path


def name(target: Target, credentials: Credentials | None) -> str:
    """The socket's: one for each board's address and HOST certificate (by its folder and id)."""
    cert = os.path.realpath(credentials.cert) if credentials else ""
    return hashlib.sha256(f"{target}\0{cert}".encode("utf-8", "surrogateescape")).hexdigest()[:16]


def path_of(target: Target, credentials: Credentials | None, make: bool = False) -> Path | None:
    return where / name(target, credentials) if (where := folder(make)) else None


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
    user's."""
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
    """A Link whose other end is a holder. It begins logged in, at the friendly prompt."""

    fresh = False  # whether this process started the holder

    def _begin(self) -> None:
        self._in = bytearray()
        self._info: dict[str, Any] | None = None
        self._gone = False
        self._waits = ""
        self._sock.setblocking(False)

    def greet(self, hello: dict[str, Any], deadline: Deadline) -> bool:
        """Until the connection is ours. False when the holder ends. Raises what connecting raises, SessionInUse when
        another command does not leave it in time, NoAnswer."""
        _, pid = peer(self._sock)
        self._put(b"H", json.dumps(hello).encode())
        self._flush(False)
        while self._info is None:
            received = self._receive()
            if self._gone:
                return False
            if received:
                continue
            self._check()
            if deadline.over:
                if self._waits:
                    raise SessionInUse(f"{self.target} is in use by {self._waits}; try again later, or end that.")
                raise NoAnswer(
                    f"The process {pid} that keeps the connection to {self.target} does not answer; "
                    "`wssctl keep stop` ends it, --keep 0 goes around it."
                )
            self.select((), deadline.left)
        self.clean = True
        return True

    @property
    def tls(self) -> tuple[str, str, int] | None:
        known = (self._info or {}).get("tls")
        return tuple(known) if known else None

    @property
    def certificate(self) -> bytes | None:
        known = (self._info or {}).get("certificate")
        return base64.b64decode(known) if known else None

    @property
    def bundle(self) -> tuple[str, str]:
        version, note = (self._info or {}).get("bundle", ("", ""))
        return version, note

    def send_text(self, data: bytes, block: bool = True) -> None:
        self.clean = False
        self._send(b"T", data, block)

    def send_binary(self, data: bytes) -> None:
        self._send(b"B", data, True)

    def _send(self, kind: bytes, data: bytes, block: bool) -> None:
        self._check()
        self._put(kind, data)
        self._flush(block)

    def close(self) -> None:
        if self.closed:
            return
        if self._lost is None:
            self._put(b"Q", b"!" if self.transfer else b"")
            self._sock.settimeout(1.0)
            with contextlib.suppress(OSError):
                self._sock.sendall(self._out)
        self.closed = True
        self._sock.close()

    def _put(self, kind: bytes, data: bytes) -> None:
        self._out += message(kind, data)

    def _queue(self) -> None:
        pass

    def _notice_silence(self) -> None:
        pass

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
        if self._lost is None:
            self._lost = ConnectionLost(f"The process that kept the connection to {self.target} has ended; try again.")


def open(
    target: Target,
    credentials: Credentials | None,
    password: str | Callable[[], str],
    server_name: str | Callable[[], str | None] | None,
    timeout: float,
    keep: float,
) -> KeptLink | None:
    """The kept connection to a board, which is made if there is none yet. None where there can be none, which is said.
    Raises what Client.connect() raises."""
    if not hasattr(socket, "AF_UNIX") or (path := path_of(target, credentials, make=True)) is None:
        say("NOTE: this system has no runtime folder for --keep (XDG_RUNTIME_DIR); the connection is not kept.")
        return None
    deadline, fresh = Deadline(timeout), False
    hello = {"who": who(), "keep": keep, "path": target.path, "timeout": timeout}
    if isinstance(server_name, str):
        hello["server_name"] = server_name
    for _ in range(20):
        if (sock := dial(path)) is None:
            fresh = _start(path, target, credentials, password, server_name, timeout, keep) or fresh
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
    raise NoAnswer(f"The connection to {target} can't be kept: each holder ends at once. --keep 0 goes without.")


def who() -> str:
    """This command, for those who wait for it."""
    words = [Path(sys.argv[0]).name.removesuffix(".py") or "python", *sys.argv[1:2]]
    if words[0] in ("__main__", "wssctl"):
        words[0] = "wssctl"
    else:
        del words[1:]
    return shown(" ".join(words))[:40]


def release(target: Target, credentials: Credentials | None) -> None:
    """A login of our own is about to begin: a connection that is kept gives way, if nobody uses it."""
    if not hasattr(socket, "AF_UNIX"):
        return
    try:
        path = path_of(target, credentials)
        if path is None or (sock := dial(path)) is None:
            return
    except (KeyFileError, OSError):
        return  # what is there concerns only those who want it
    with sock:
        sock.settimeout(2.0)
        with contextlib.suppress(OSError):
            sock.sendall(message(b"R", b""))
            sock.recv(1)


def _start(
    path: Path,
    target: Target,
    credentials: Credentials | None,
    password: str | Callable[[], str],
    server_name: str | Callable[[], str | None] | None,
    timeout: float,
    keep: float,
) -> bool:
    """Starts a holder, unless somebody else just does. Secrets are asked for here, and reach it through a pipe."""
    import fcntl  # POSIX
    import subprocess

    asked: list[str] = []
    if credentials:
        if callable(ask := credentials.passphrase):

            def passphrase() -> str:
                asked.append(ask())
                return asked[0]

            Credentials(credentials.ca, credentials.cert, credentials.key, passphrase).context()
        elif isinstance(ask, str):
            credentials.context()
            asked.append(ask)
        else:
            credentials.context()
    spec = {
        "target": [target.secure, target.host, target.port],
        "files": [os.path.abspath(p) for p in (credentials.ca, credentials.cert, credentials.key)]
        if credentials
        else None,
        "passphrase": asked[0] if asked else None,
        "password": password if isinstance(password, str) else password(),
        "server_name": server_name() if callable(server_name) else server_name,
        "timeout": timeout,
        "keep": keep,
        "socket": str(path),
    }
    lock = os.open(path.with_suffix(".lock"), os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        deadline = Deadline(timeout)
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if deadline.over:
                    raise NoAnswer(f"Another command does not get on with starting a holder for {target}.") from None
                time.sleep(0.02)
        if (sock := dial(path)) is not None:
            sock.close()
            return False
        holder = subprocess.Popen(
            [sys.executable, "-m", f"{__package__.partition('.')[0]}.tools.keep"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
            env={k: v for k, v in os.environ.items() if not k.startswith(("WSSCTL_PASS",))},
        )
        assert holder.stdin and holder.stdout
        with contextlib.suppress(BrokenPipeError):
            holder.stdin.write(json.dumps(spec).encode())
            holder.stdin.close()
        with holder.stdout:
            said = holder.stdout.readline()
        holder.returncode = 0  # it lives on; the one who reaps it is init
        if said != b"ready\n":
            raise KeyFileError(f"The process that is to keep the connection does not start ({shown(repr(said))}).")
        return True
    finally:
        os.close(lock)


def error_of(e: WssctlError) -> bytes:
    return message(b"E", json.dumps({"kind": type(e).__name__, "text": str(e)}).encode())
