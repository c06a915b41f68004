"""The process that keeps a connection to a board logged in for the commands that come (kept.py).

One command at a time has it; the others wait in a queue. When one leaves, the board is brought back to its friendly
prompt with nothing typed, and says so with its banner; a board that does not, in time, has a program running or a line
half typed: then the connection is given up and made anew for the next command, and the board does what it does whenever
a client goes.
"""

import base64
import contextlib
import hashlib
import hmac
import json
import os
import re
import select
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

from ..errors import (
    AccessDenied,
    ConnectionLost,
    HandshakeCut,
    KeyFileError,
    LoginError,
    SessionInUse,
    TrustError,
    UsageError,
    WssctlError,
)
from . import kept
from .client import Client
from .link import Credentials, Deadline, Target
from .terminal import PROMPT
from .watch import Watch
from .websocket import WebSocketLink

_LOOK = 1.0  # s between two looks at the files and the record
_RESTORE = 3.0  # s in which a board has to come back to its prompt
_LAST_WORDS = 2.0  # s in which a command has to take what is still for it
_MAX_OUT = 1 << 18  # bytes a command has not taken: then the board waits
_BACK = re.compile(rb"MicroPython .*>>> $", re.S)  # what leaving the raw REPL, or Ctrl-B at the prompt, ends with
_TAKEN = re.compile(rb"\r\nTaken over by [^\r\n]*\r\n$")  # a board's last words then (lib/wss/session.py)


class _Board(WebSocketLink):
    """The board's Link, whose frames are passed on as they are once it is logged in."""

    def __init__(self, sock: socket.socket, target: Target, timeout: float = 10.0):
        super().__init__(sock, target, timeout)
        self.relay = False
        self.frames: list[tuple[bytes, bytes]] = []
        self._last = b"T"

    def _take(self, is_text: bool | None, data: bytes) -> None:
        if not self.relay:
            return super()._take(is_text, data)
        if is_text is not None:
            self._last = b"T" if is_text else b"B"
        # a frame in parts is passed on as parts, of which only the first one tells what it is
        self.frames.append((self._last, data))
        self.arrived += len(data)


class _Peer:
    """A command at the other end of a local socket."""

    def __init__(self, sock: socket.socket, pid: int):
        self.sock, self.pid = sock, pid
        self.buffer, self.out = bytearray(), bytearray()
        self.hello: dict[str, Any] | None = None
        self.told = ""
        self.last: Deadline | None = None  # set when nothing more is to come for it

    @property
    def who(self) -> str:
        return f"{(self.hello or {}).get('who', '?')}, process {self.pid}"

    def fileno(self) -> int:
        return self.sock.fileno()

    def send(self, data: bytes = b"") -> bool:
        """False when it has gone."""
        self.out += data
        try:
            while self.out:
                del self.out[: self.sock.send(self.out)]
        except BlockingIOError:
            pass
        except OSError:
            return False
        return True


class Holder:
    def __init__(self, spec: dict[str, Any], listener: socket.socket):
        self.listener, self.path = listener, Path(spec["socket"])
        self.inode = os.lstat(self.path).st_ino
        self.target = Target(*spec["target"])
        self.identity: list[str] = spec["identity"]
        self.watch = Watch([Path(f) for f in spec["files"] or ()], self.target)
        self.files: Credentials | None = None
        if spec["files"]:
            ca, cert, key = map(Path, spec["files"])
            self.files = Credentials(ca, cert, key)
        # the decrypted key is in this context; of the passphrase only what tells another one from it is kept
        self.context = self.files._replace(passphrase=spec["passphrase"]).context() if self.files else None
        self.salt = os.urandom(16)
        self.passphrase = self._digest(spec["passphrase"] or "")
        self.password: str = spec["password"]
        self.server_name: str | None = spec["server_name"]
        self.keep = float(spec["keep"])
        self.used = time.monotonic()
        self.link: _Board | None = None
        self.peers: list[_Peer] = []
        self.queue: list[_Peer] = []
        self.user: _Peer | None = None  # who has the connection, or for whom it is being made
        self.dialling: list[_Board | WssctlError] | None = None  # a thread puts one in
        self.was_in = False  # whether a login has gone well, ever
        self.wake = socket.socketpair()
        self.restoring: Deadline | None = None
        self.clean = False  # at the friendly prompt with nothing typed
        self.tail = bytearray()  # the end of what the board has printed since somebody typed
        self.typed = b""  # its end
        self.binary = self.ending = False

    def run(self) -> None:
        looked = 0.0
        while not self.ending:
            now = time.monotonic()
            if now - looked >= _LOOK:
                looked = now
                if not self._in_place() or self.user is None and self.watch.changed():
                    break
            if self.user is None and not self.restoring:
                if self.queue:
                    self._begin(self.queue.pop(0))
                    continue
                if now - self.used > self.keep:
                    break
            self._turn()
        self._end()

    def _digest(self, secret: str) -> bytes:
        return hashlib.blake2b(secret.encode("utf-8", "surrogateescape"), key=self.salt).digest()

    def _in_place(self) -> bool:
        try:
            return os.lstat(self.path).st_ino == self.inode
        except OSError:
            return False

    # What happens

    def _turn(self) -> None:
        """Waits for something to happen, and does it."""
        user, link = self.user, self.link
        read: list[Any] = [self.listener, self.wake[0], *self.peers]
        if user and link and link.backlog > _MAX_OUT:
            read.remove(user)
        if link and (not user or len(user.out) < _MAX_OUT):
            read.append(link)
        write: list[Any] = [p for p in self.peers if p.out]
        if link and link.backlog:
            write.append(link)
        ready, writable, _ = select.select(read, write, [], 0.2 if self.restoring else _LOOK)
        for peer in [p for p in self.peers if p in writable]:
            if not peer.send():
                self._gone(peer)
        for peer in [p for p in self.peers if p.last and (not p.out or p.last.expired)]:
            self._forget(peer)
        if link and link in writable:
            link._push()
        if self.wake[0] in ready:
            self.wake[0].recv(16)
            self._logged_in()
        if self.listener in ready:
            self._accept()
        for peer in [p for p in self.peers if p in ready]:
            self._hear(peer)
        if self.link:
            self._relay(self.link)
        if self.restoring and self.restoring.expired:
            self._drop()

    def _relay(self, link: _Board) -> None:
        user = self.user
        while (not user or len(user.out) < _MAX_OUT) and link._receive():
            pass
        link._notice_silence()
        frames, link.frames = link.frames, []
        for kind, data in frames:
            if kind == b"T":
                self.tail = (self.tail + data)[-4096:]
            if user and not user.send(kept.message(kind, data)):
                self._gone(user)
                user = None
        if self.restoring and _BACK.search(self.tail):
            self.restoring, self.clean = None, True
        if link.lost:
            lost = link._lost
            self._drop()
            if _TAKEN.search(self.tail):
                self.ending = True  # somebody else has the board, on purpose
            if user and self.user is user:
                self._last(user, lost or ConnectionLost(f"The connection to {self.target} broke."))

    def _drop(self) -> None:
        if self.link:
            self.link.close()
        self.link = self.restoring = None
        self.clean = False

    def _accept(self) -> None:
        try:
            sock, _ = self.listener.accept()
        except OSError:
            return
        uid, pid = kept.peer(sock)
        if uid != os.geteuid():
            sock.close()
            return
        sock.setblocking(False)
        self.peers.append(_Peer(sock, pid))

    def _hear(self, peer: _Peer) -> None:
        try:
            data = peer.sock.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            return self._gone(peer)
        peer.buffer += data
        try:
            for kind, body in kept.messages(peer.buffer):
                self._message(peer, kind, body)
                if peer not in self.peers:
                    return
        except (ValueError, KeyError, TypeError):
            self._gone(peer)

    def _message(self, peer: _Peer, kind: bytes, body: bytes) -> None:
        if peer.last:
            return
        if kind == b"H":
            hello = json.loads(body)
            words = [hello["path"], hello["who"], *hello["identity"]]
            words += [hello[what] for what in ("server_name", "password", "passphrase") if what in hello]
            if peer.hello is not None or not all(isinstance(word, str) for word in words):
                raise ValueError
            float(hello["keep"]), float(hello["timeout"])
            peer.hello = hello
            self.queue.append(peer)
            self._tell()
        elif kind == b"L":
            said = {"target": str(self.target), "keep": self.keep, "user": self.user.who if self.user else ""}
            peer.send(kept.message(b"L", json.dumps(said).encode()))
            self._forget(peer)
        elif kind == b"R":
            if not self.user:
                self._drop()
            peer.send(b"R")
            self._forget(peer)
        elif peer is not self.user or not self.link:
            self._gone(peer)
        elif kind == b"Q":
            if body:  # in the middle of a file, of which only an end of the session tells the board
                self._drop()
            self._leave(peer, True)
        elif kind in (b"T", b"B"):
            try:
                if kind == b"T":
                    self.typed, self.clean = (self.typed + body)[-2:], False
                    self.tail.clear()
                    self.link.send_text(body, block=False)
                else:
                    self.binary = True
                    self.link.send_binary(body, block=False)
            except ConnectionLost:
                pass  # _relay tells

    def _tell(self) -> None:
        if self.user:
            for peer in self.queue:
                if peer.told != self.user.who:
                    peer.told = self.user.who
                    peer.send(kept.message(b"W", self.user.who.encode()))

    # Whose turn it is

    def _begin(self, peer: _Peer) -> None:
        """The connection is this one's now; it is made if it is lost."""
        hello = peer.hello or {}
        if hello["identity"] != self.identity:  # two check sums that are alike
            return self._last(peer, UsageError(f"Another connection is kept in {self.path}; give --keep 0."))
        if not self._in_place() or self.watch.changed() or not self._as_given(hello):
            self.ending = True
            self.queue.insert(0, peer)
            return
        if self.link:
            self._relay(self.link)  # what came meanwhile is for nobody; its end may be part of it
        if self.ending:
            self.queue.insert(0, peer)
            return
        self.keep = float(hello["keep"])
        self.user, self.typed, self.binary = peer, b"", False
        if self.link:
            self._lend(peer, self.link)
        else:
            self._dial(hello)
        self._tell()

    def _as_given(self, hello: dict[str, Any]) -> bool:
        """Whether what a command was given is what this connection was made with. Otherwise it is not for that
        command, which makes one of its own and has the board judge."""
        named = hello.get("server_name") or self.server_name
        if (named or self.target.host) != (self.server_name or self.target.host):
            return False
        pairs = ((hello.get("password"), self._digest(self.password)), (hello.get("passphrase"), self.passphrase))
        return all(given is None or hmac.compare_digest(self._digest(given), ours) for given, ours in pairs)

    def _lend(self, peer: _Peer, link: _Board) -> None:
        info = {
            "tls": link.tls,
            "certificate": base64.b64encode(link.certificate).decode() if link.certificate else None,
            "bundle": link.bundle,
            "clean": self.clean,
        }
        if not peer.send(kept.message(b"O", json.dumps(info).encode())):
            self._gone(peer)

    def _dial(self, hello: dict[str, Any]) -> None:
        """A login, in a thread of its own: it takes seconds, in which the others are told for whom they wait."""
        target = self.target._replace(path=str(hello["path"]))
        timeout = float(hello["timeout"])
        result: list[_Board | WssctlError] = []
        self.dialling = result
        if self.user:
            self.user.send(kept.message(b"M", b""))

        def dial() -> None:
            try:
                link = _Board.open(
                    target, self.files, server_name=self.server_name, timeout=timeout, context=self.context
                )
                try:
                    Client(link, timeout)._login(self.password)
                except BaseException:
                    link.close()
                    raise
                result.append(link)
            except WssctlError as e:
                result.append(e)
            except Exception as e:
                result.append(ConnectionLost(f"The login fails ({type(e).__name__}: {e}); please report this."))
            finally:
                self.wake[1].send(b"!")

        threading.Thread(target=dial, daemon=True).start()

    def _logged_in(self) -> None:
        assert self.dialling
        (result,) = self.dialling
        self.dialling, user = None, self.user
        if isinstance(result, WssctlError):
            # who is refused would be refused again; but who had been let in before may have other secrets by now
            refused = (TrustError, LoginError, KeyFileError)
            self.ending = isinstance(result, refused) and not isinstance(result, (HandshakeCut, SessionInUse))
            if user and self.was_in and isinstance(result, AccessDenied):
                self.queue.insert(0, user)
            elif user:
                self._last(user, result)
            self.user = None
            return
        result.relay = True
        result.text.clear()
        self.tail = bytearray(PROMPT)
        self.link, self.clean, self.was_in = result, False, True
        if user and user in self.peers:
            self._lend(user, result)
        else:
            self.user = None
            self.used = time.monotonic()

    def _gone(self, peer: _Peer) -> None:
        if peer is self.user and self.link:
            self._leave(peer, False)
        else:
            self._forget(peer)

    def _forget(self, peer: _Peer) -> None:
        peer.sock.close()
        if peer in self.peers:
            self.peers.remove(peer)
        if peer in self.queue:
            self.queue.remove(peer)
        if peer is self.user and self.dialling is None:
            self.user = None
            self.used = time.monotonic()

    def _last(self, peer: _Peer, error: WssctlError) -> None:
        """All that is still to come for it, and why nothing more will."""
        peer.last = Deadline(_LAST_WORDS)
        if peer is self.user:
            self.user = None
            self.used = time.monotonic()
        if not peer.send(kept.error_of(error)) or not peer.out:
            self._forget(peer)

    def _leave(self, peer: _Peer, politely: bool) -> None:
        """The board as the next one expects it, or no connection. A command that typed nothing changed nothing."""
        self._forget(peer)
        if not self.link:
            return
        if self.binary and not politely:  # a transfer that was cut off
            return self._drop()
        if not self.typed:
            return
        try:
            if not politely:
                self.tail.clear()
                self.link.send_text(b"\x03\x03\x02", block=False)
            elif not self.typed.endswith(b"\x02"):
                if not self.tail.endswith(PROMPT):
                    return self._drop()
                self.tail.clear()
                self.link.send_text(b"\x02", block=False)  # has a prompt with nothing typed show its banner
        except ConnectionLost:
            return self._drop()
        self.restoring = Deadline(_RESTORE)

    def _end(self) -> None:
        if self._in_place():
            with contextlib.suppress(OSError):
                os.unlink(self.path)
        self.listener.close()
        self._drop()  # before they are told: one of them is the next to log in
        for peer in list(self.peers):
            if peer is not self.user and not peer.last:
                peer.send(kept.message(b"G", b""))
            peer.sock.close()


def private() -> None:
    """No core dumps, and no other process of this user's may look into the memory (prctl(2), PR_SET_DUMPABLE)."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(4, 0, 0, 0, 0)


def main() -> None:
    private()
    spec = json.loads(sys.stdin.buffer.read())
    path = spec["socket"]
    os.umask(0o077)
    listener = socket.socket(socket.AF_UNIX)
    try:
        # only its starter, which holds the lock and found nobody listening, gets here
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        listener.bind(path)
    except OSError as e:
        os.write(1, f"no place no socket can be at {path} ({e.strerror or e})\n".encode("utf-8", "replace"))
        return
    listener.listen(128)
    holder = Holder(spec, listener)
    del spec
    listener.setblocking(False)

    def end(*_: object) -> None:
        holder.ending = True

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    os.write(1, b"ready\n")
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    holder.run()


if __name__ == "__main__":
    main()
