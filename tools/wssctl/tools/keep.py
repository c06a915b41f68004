"""`wssctl keep`, and the process that keeps a connection logged in for the commands that come (wire/kept.py).

One command at a time has it; the others wait in a queue. When one leaves, the board is as a fresh login finds it, or
the connection is given up and made anew for the next. What tells that is only what was seen: a command that typed
nothing changed nothing; one that left at the prompt is done; of one that died, what ran is interrupted; in any doubt
the connection is dropped.
"""

import argparse
import base64
import contextlib
import hashlib
import json
import os
import re
import select
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from ..errors import ConnectionLost, HandshakeCut, KeyFileError, LoginError, TrustError, UsageError, WssctlError
from ..keys.record import Record
from ..keys.store import Store
from ..text import shown
from ..wire import kept
from ..wire.client import PROMPT, Client
from ..wire.link import Credentials, Link, Target

_LOOK = 1.0  # s between two looks at the files and the record
_RESTORE = 3.0  # s in which a board has to come back to its prompt
_MAX_OUT = 1 << 18  # bytes a command has not taken: then the board waits
_BACK = re.compile(rb"MicroPython .*>>> $", re.S)  # what leaving the raw REPL, or Ctrl-B at the prompt, ends with

_TAKEN = re.compile(rb"\r\nTaken over by [^\r\n]*\r\n$")  # a board's last words then (lib/wss/session.py)

# Commands


def keep(args: argparse.Namespace) -> int:
    """`wssctl keep`, `wssctl keep 5m [BOARD]`, `wssctl keep stop [BOARD]`."""
    store = Store(args.keys)
    if args.what is None:
        for _, info in _held():
            state = f"used by {info['user']}" if info.get("user") else "idle"
            print(shown(f"{info['target']:<32} {state}, process {info['pid']}, for {info['keep']:g} s after its use"))
        return 0
    if args.what == "stop":
        return _stop(store, args.board)
    value = kept.seconds(args.what)
    with store.record.change() as db:
        what = f"keep:{args.board or ''}"
        if value:
            db.execute("INSERT OR REPLACE INTO state VALUES(?, ?)", (what, str(value)))
        else:
            db.execute("DELETE FROM state WHERE what = ?", (what,))
    return 0


def _stop(store: Store, board: str | None) -> int:
    wanted = None
    if board:
        from ..boards.registry import Registry
        from ..wire.link import parse_target

        known = Registry(store).find(board)
        wanted = str(parse_target(known.url if known else board))
    found = False
    for path, info in _held():
        if wanted in (None, info.get("target")) or info.get("target") == "?":
            found = True
            with contextlib.suppress(ProcessLookupError):
                # one that is stopped takes no other signal
                os.kill(info["pid"], signal.SIGKILL if info["target"] == "?" else signal.SIGTERM)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
    if not found:
        raise UsageError("No such connection is kept; `wssctl keep` lists them.")
    return 0


def _held() -> list[tuple[Path, dict[str, Any]]]:
    """The holders of this user; target "?" of one that does not answer."""
    found: list[tuple[Path, dict[str, Any]]] = []
    if (where := kept.folder()) is None:
        return found
    for path in sorted(where.iterdir()):
        if path.suffix or (sock := kept.dial(path)) is None:
            continue
        with sock:
            info = {"target": "?", "pid": kept.peer(sock)[1], "keep": 0.0}
            sock.settimeout(2.0)
            buffer = bytearray()
            with contextlib.suppress(OSError, ValueError):
                sock.sendall(kept.message(b"L", b""))
                while data := sock.recv(4096):
                    buffer += data
                    for _, body in kept.messages(buffer):
                        info |= json.loads(body)
            found.append((path, info))
    return found


# The holder


class _Held(Link):
    """The board's Link, whose frames are passed on as they are once it is logged in."""

    relay = False

    def _begin(self) -> None:
        super()._begin()
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
    def __init__(self, sock: socket.socket, pid: int):
        self.sock, self.pid = sock, pid
        self.buffer, self.out = bytearray(), bytearray()
        self.hello: dict[str, Any] | None = None
        self.told = ""

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
        secure, host, port = spec["target"]
        self.target = Target(secure, host, port)
        self.files = [Path(f) for f in spec["files"] or ()]
        self.credentials = Credentials(*self.files) if self.files else None
        self.context = None
        if self.files:
            # the decrypted key is in this context, and the passphrase is not kept
            self.context = Credentials(*self.files, spec["passphrase"]).context()
        self.password: str = spec["password"]
        self.server_name = spec["server_name"]
        self.keep = float(spec["keep"])
        self.stamp = self._stamp()
        self.link: _Held | None = None
        self.user: _Peer | None = None
        self.peers: list[_Peer] = []
        self.queue: list[_Peer] = []
        self.used = time.monotonic()
        self.ending = False
        self.tail = bytearray()
        self.sent = b""
        self.binary = False

    def run(self) -> None:
        looked = 0.0
        while not self.ending:
            now = time.monotonic()
            if now - looked >= _LOOK:
                looked = now
                if not self._in_place() or self._stamp() != self.stamp and self.user is None:
                    break
            if self.user is None and not self.queue and now - self.used > self.keep:
                break
            if self.user is None and self.queue:
                self._begin(self.queue.pop(0))
                continue
            self._turn()
        self._end()

    def _in_place(self) -> bool:
        try:
            return os.lstat(self.path).st_ino == self.inode
        except OSError:
            return False

    def _stamp(self) -> object:
        """What a login depends on: another one afterwards, and the connection is not what it was."""
        seen: list[object] = []
        for path in (*self.files, *(f.with_name("ROOT_CA_crl.pem") for f in self.files[:1])):
            try:
                info = path.stat()
                seen.append((info.st_mtime_ns, info.st_size, info.st_ino))
            except OSError:
                seen.append(None)
        if self.files:
            with contextlib.suppress(WssctlError), Record(self.files[1].parent).view() as db:
                rows = db.execute(
                    "SELECT name, uid, serial, not_after FROM boards WHERE host = ? AND port = ? ORDER BY name",
                    (self.target.host, self.target.port),
                ).fetchall()
                for row in rows:
                    seen.append(tuple(row))
                    for table in ("trust", "wanted"):
                        found = db.execute(f"SELECT * FROM {table} WHERE board IN ('', ?)", (row["name"],))
                        seen.append(sorted(map(repr, map(tuple, found))))
                    secret = db.execute("SELECT secret FROM secrets WHERE what = ?", (f"password:{row['name']}",))
                    seen.append(hashlib.sha256(repr([tuple(r) for r in secret]).encode()).digest())
        return seen

    def _turn(self) -> None:
        """Waits for something to happen, and does it."""
        user, link = self.user, self.link
        read: list[Any] = [self.listener, *self.peers]
        if user and link and link.backlog > _MAX_OUT:
            read.remove(user)
        if link and (not user or len(user.out) < _MAX_OUT):
            read.append(link)
        write: list[Any] = [p for p in self.peers if p.out]
        if link and link.backlog:
            write.append(link)
        ready, writable, _ = select.select(read, write, [], _LOOK)
        for peer in [p for p in self.peers if p in writable]:
            if not peer.send():
                self._gone(peer)
        if link and link in writable:
            link._push()
        if self.listener in ready:
            self._accept()
        for peer in [p for p in self.peers if p in ready]:
            self._hear(peer)
        if self.link:
            self._relay()

    def _relay(self) -> None:
        link, user = self.link, self.user
        assert link
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
            self.link = None

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
        if kind == b"H":
            hello = json.loads(body)
            if peer.hello is not None or not isinstance(hello["path"] + hello["who"], str):
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
                    self.sent = (self.sent + body)[-8:]
                    self.tail.clear()
                    self.link.send_text(body, block=False)
                else:
                    self.binary = True
                    self.link._protocol.send_binary(body)
                    self.link._flush(False)
            except ConnectionLost:
                pass  # _relay tells

    def _tell(self) -> None:
        if self.user:
            for peer in self.queue:
                if peer.told != self.user.who:
                    peer.told = self.user.who
                    peer.send(kept.message(b"W", self.user.who.encode()))

    def _begin(self, peer: _Peer) -> None:
        """The connection is this one's now; it is made if it is lost."""
        hello = peer.hello or {}
        wanted = hello.get("server_name")
        if self._stamp() != self.stamp or not self._in_place():
            self.ending = True
            self.queue.insert(0, peer)
            return
        self.keep = float(hello["keep"])
        try:
            if wanted and wanted != (self.server_name or self.target.host):
                raise UsageError("The kept connection was checked for another --server-name; `wssctl keep stop` first.")
            if self.link:
                self._relay()  # what came meanwhile, or its end
            if self.link is None:
                self._login(hello)
        except WssctlError as e:
            self._last(peer, e)
            self.ending = isinstance(e, (TrustError, LoginError, KeyFileError)) and not isinstance(e, HandshakeCut)
            return
        link = self.link
        assert link
        self.user, self.sent, self.binary = peer, b"", False
        info = {
            "tls": link.tls,
            "certificate": base64.b64encode(link.certificate).decode() if link.certificate else None,
            "bundle": link.bundle,
        }
        if not peer.send(kept.message(b"O", json.dumps(info).encode())):
            self._gone(peer)
        self._tell()

    def _login(self, hello: dict[str, Any]) -> None:
        target = Target(self.target.secure, self.target.host, self.target.port, str(hello["path"]))
        link = _Held.open(
            target,
            self.credentials,
            server_name=self.server_name,
            timeout=float(hello["timeout"]),
            context=self.context,
        )
        try:
            Client(link, float(hello["timeout"]))._login(self.password)
        except BaseException:
            link.close()
            raise
        link.relay = True
        link.text.clear()
        self.tail = bytearray(PROMPT)
        self.link = link

    def _gone(self, peer: _Peer) -> None:
        if peer is self.user:
            self._leave(peer, False)
        else:
            self._forget(peer)

    def _forget(self, peer: _Peer) -> None:
        peer.sock.close()
        if peer in self.peers:
            self.peers.remove(peer)
        if peer in self.queue:
            self.queue.remove(peer)
        if peer is self.user:
            self.user = None
            self.used = time.monotonic()

    def _last(self, peer: _Peer, error: WssctlError) -> None:
        """All that is still to come for it, and why nothing more will."""
        peer.out += kept.error_of(error)
        with contextlib.suppress(OSError):
            peer.sock.settimeout(2.0)
            peer.sock.sendall(peer.out)
        self._forget(peer)

    def _leave(self, peer: _Peer, politely: bool) -> None:
        """The board as the next one expects it, or no connection."""
        self._forget(peer)
        link = self.link
        if not link or not (self.sent or self.binary):
            return
        if self.binary and not politely or not self.sent:
            # a transfer that was cut off, or one whose spare acknowledgements are on their way
            if not politely:
                self._drop()
            return
        if politely and self.tail.endswith(PROMPT):
            return
        if politely and not self.sent.endswith(b"\x02"):
            return self._drop()
        try:
            if not politely:
                self.tail.clear()
                link.send_text(b"\x03\x03\x02", block=False)
            deadline = time.monotonic() + _RESTORE
            while self.link and not _BACK.search(self.tail):
                if time.monotonic() > deadline:
                    return self._drop()
                if not link._receive():
                    link.select((), 0.2)
                self._relay()
        except ConnectionLost:
            self._drop()

    def _end(self) -> None:
        if self._in_place():
            with contextlib.suppress(OSError):
                os.unlink(self.path)
        self.listener.close()
        for peer in list(self.peers):
            if peer is not self.user:
                peer.send(kept.message(b"G", b""))
            peer.sock.close()
        self._drop()


def _private() -> None:
    """No core dumps, and no other process of this user's may look into the memory (prctl(2), PR_SET_DUMPABLE)."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(4, 0, 0, 0, 0)


def main() -> None:
    _private()
    spec = json.loads(sys.stdin.buffer.read())
    path = spec["socket"]
    # only its starter, which holds the lock and found nobody listening, gets here
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    os.umask(0o077)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
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
