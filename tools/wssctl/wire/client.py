"""A board: log in over a Link, then its terminal, its files, and code run on it.

with Client.connect("wss://board", Credentials(ca, cert, key, passphrase), password) as board:
    board.exec("print(6*7)").output     # b"42\\r\\n"
    board.put(b"data", "name")
"""

import errno
import json
import os
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

from ..errors import AccessDenied, BoardError, ConnectionLost, LoginError, SessionInUse, UsageError
from .link import Credentials, Link, Target, parse_target

# WebREPL's file protocol (MicroPython extmod/modwebrepl.c): "WA", operation, flags, offset, size, name length, name.
_REQUEST = struct.Struct("<2sBBQLH64s")
_PUT, _GET, _VERSION = 1, 2, 3
_ABOUT = 4  # lib/wss/files.py: a get of what the board says of itself
MAX_NAME = 64
MAX_FILE = 0xFFFFFFFF  # the size field has 32 bits

_PUT_PIECE = 4096  # well under the 16 KB record that a board's TLS buffer holds
# Pieces of a get under way at once on wss. More than 1 saves a round trip a piece and leaves spare acknowledgements
# behind the end: wss_repl ignores them (lib/wss/files.py), stock WebREPL (ws) takes them for the next request.
_ACKS_AHEAD = 8

_LOGGED_IN, _DENIED = b"WebREPL connected", b"Access denied"
PROMPT = b">>> "


@dataclass(frozen=True)
class Result:
    """What exec() brought back: standard output, and the traceback ("" when the code ended well)."""

    output: bytes
    error: str


class Client:
    def __init__(self, link: Link, timeout: float = 10.0):
        self.link = link
        self.timeout = timeout

    @classmethod
    def connect(
        cls,
        url: str | Target,
        credentials: Credentials | None = None,
        password: str | Callable[[], str] = "",
        *,
        takeover: bool = False,
        server_name: str | None = None,
        timeout: float = 10.0,
    ) -> "Client":
        """Connects and logs in. `password` may be a function, called when the board asks. Raises UsageError,
        KeyFileError, Unreachable, TrustError, AccessDenied, SessionInUse, LoginError, ConnectionLost."""
        target = parse_target(url, takeover) if isinstance(url, str) else url
        link = Link.open(target, credentials, server_name=server_name, timeout=timeout)
        try:
            client = cls(link, timeout)
            client._login(password)
        except BaseException:
            link.close()
            raise
        return client

    @property
    def tls_line(self) -> str:
        """The line upydev shows on connecting, e.g. "TLSv1.2 @ ECDHE-ECDSA-AES128-GCM-SHA256 - 128 bits Encryption"."""
        if self.link.tls is None:
            return "no TLS: everything, the password too, is readable on the network"
        return "{} @ {} - {} bits Encryption".format(*self.link.tls)

    def close(self) -> None:
        self.link.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *exc) -> None:
        self.close()

    # Login

    def _login(self, password: str | Callable[[], str]) -> None:
        said = self._login_answer(b"Password: ")
        if b"Password: " not in said:
            raise _login_refusal(said, self.link.target)
        secret = password if isinstance(password, str) else password()
        if not secret or any(c in secret for c in "\r\n\0"):
            raise LoginError("The password is empty or holds a line end; use the one in webrepl_cfg.py on the board.")
        del self.link.text[:]
        self.link.send_text(secret.encode() + b"\r")
        said = self._login_answer(_LOGGED_IN)
        if _LOGGED_IN not in said:
            raise _login_refusal(said, self.link.target)
        self.read_until(PROMPT, self.timeout)

    def _login_answer(self, wanted: bytes) -> bytes:
        """What the board says until `wanted`, a denial, or its end of the connection."""
        text, deadline = self.link.text, time.monotonic() + self.timeout
        try:
            while wanted not in text and _DENIED not in text:
                if not self.link.wait(max(0.0, deadline - time.monotonic())):
                    break
        except ConnectionLost as e:
            if not text:
                raise
            if not bytes(text).strip(b"\r\n"):
                text += str(e).encode()
        return bytes(text)

    # Terminal

    def write(self, data: bytes, block: bool = True) -> None:
        """Types `data` at the board's REPL."""
        self.link.send_text(data, block)

    def read(self, timeout: float | None = None) -> bytes:
        """What the board printed since the last read; waits for at least a byte, b"" after `timeout` seconds."""
        if not self.link.text:
            deadline = None if timeout is None else time.monotonic() + timeout
            while not self.link.text:
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                if not self.link.wait(left):
                    return b""
        data = bytes(self.link.text)
        del self.link.text[:]
        return data

    def read_until(self, end: bytes, timeout: float | None, sink: Callable[[bytes], None] | None = None) -> bytes:
        """Returns what precedes `end`, which is taken too, or hands it to `sink` as it comes. `timeout` counts from the
        last byte that came."""
        text, searched = self.link.text, 0
        while (at := text.find(end, searched)) < 0:
            keep = len(end) - 1  # it may be cut anywhere
            if sink and len(text) > keep:
                piece = bytes(text[: len(text) - keep])
                del text[: len(text) - keep]
                sink(piece)
            searched = max(0, len(text) - keep)
            if not self.link.wait(timeout):
                raise ConnectionLost(
                    f"{self.link.target} has been silent for {timeout:g} s; a program may be holding it: Ctrl-C "
                    "in `wssctl repl`, or a reset, frees it."
                )
        piece = bytes(text[:at])
        del text[: at + len(end)]
        if sink is None:
            return piece
        if piece:
            sink(piece)
        return b""

    # Code: MicroPython's raw REPL (reference/repl.html, shared/runtime/pyexec.c)

    def exec(
        self, code: str | bytes, output: Callable[[bytes], None] | None = None, timeout: float | None = None
    ) -> Result:
        """Runs `code` and returns its Result, or hands standard output to `output` piece by piece as it comes.

        Interrupts what runs on the board. KeyboardInterrupt here interrupts the code there and is then raised again.
        `timeout` is the longest silence in seconds; None waits for ever. Raises BoardError when the board has no room
        for the code.
        """
        self.enter_raw()
        try:
            self._send_code(code.encode() if isinstance(code, str) else code)
            try:
                return self._outcome(output, timeout)
            except KeyboardInterrupt:
                self.write(b"\x03")
                self._outcome(output, self.timeout)
                raise
        finally:
            if not self.link.closed:
                self.leave_raw()

    def enter_raw(self) -> None:
        self.write(b"\r\x03\x03")  # as mpremote: end the line that is typed, stop the program that runs
        self.write(b"\r\x01")
        self.read_until(b"raw REPL; CTRL-B to exit\r\n>", self.timeout)

    def leave_raw(self) -> None:
        try:
            self.write(b"\r\x02")
            self.read_until(PROMPT, self.timeout)
        except ConnectionLost:
            pass  # the session is over either way, and what it said before counts

    def _send_code(self, code: bytes) -> None:
        self.write(b"\x05A\x01")
        answer = self.take(2)
        if answer == b"R\x01":
            self._raw_paste(code)
        else:  # b"R\0" knows and refuses raw paste; a REPL without it (before 1.14) answers with a prompt
            if answer != b"R\x00":
                self.read_until(b">", self.timeout)
            self.write(code + b"\x04")
            if (answer := self.take(2)) != b"OK":
                raise BoardError(f"The board does not take the code (it answered {answer!r}); reset it and try again.")

    def _raw_paste(self, code: bytes) -> None:
        step = int.from_bytes(self.take(2), "little")
        room, at = step, 0
        while at < len(code):
            while self.link.text or room == 0:
                byte = self.take(1)
                if byte == b"\x01":
                    room += step
                elif byte == b"\x04":  # the board wants no more: it is out of memory, or it saw Ctrl-C
                    self.write(b"\x04")
                    return
                else:
                    raise ConnectionLost(
                        f"The board answered {byte!r} where raw paste wants flow control; reset it and try again."
                    )
            piece = code[at : at + room]
            self.write(piece)
            at += len(piece)
            room -= len(piece)
        self.write(b"\x04")
        while (byte := self.take(1)) == b"\x01":
            pass
        if byte != b"\x04":
            raise ConnectionLost(f"The board did not confirm the code (it answered {byte!r}); reset it and try again.")

    def _outcome(self, output: Callable[[bytes], None] | None, timeout: float | None) -> Result:
        out = self.read_until(b"\x04", timeout, output)
        error = self.read_until(b"\x04>", self.timeout)
        return Result(out, error.decode("utf-8", "replace").replace("\r\n", "\n"))

    def take(self, n: int) -> bytes:
        """The next `n` bytes of the terminal. Raises ConnectionLost when they do not come in time."""
        while len(self.link.text) < n:
            if not self.link.wait(self.timeout):
                raise ConnectionLost(
                    f"{self.link.target} stopped in the middle of taking code; reset it and try again."
                )
        data = bytes(self.link.text[:n])
        del self.link.text[:n]
        return data

    # Files: WebREPL's put, get and version

    def put(
        self,
        source: BinaryIO | bytes,
        name: str,
        size: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """Writes `source` to the board's file `name`; the board keeps the old file until all of it has arrived.

        `size` in bytes is needed for a stream that cannot tell. `progress` gets the bytes done. Returns the size.
        Raises BoardError (the board's errno as words), UsageError, ConnectionLost.
        """
        if isinstance(source, (bytes, bytearray)):
            size, stream = len(source), None
        else:
            stream = source
            if size is None:
                size = os.fstat(source.fileno()).st_size
        if size > MAX_FILE:
            raise UsageError(f"{name} has {size} bytes; WebREPL's protocol carries 4 GiB at most.")
        self._request(_PUT, name, size)
        self._answer(f"write {name}")
        done = 0
        while done < size:
            want = min(_PUT_PIECE, size - done)
            piece = source[done : done + want] if stream is None else stream.read(want)
            if not piece:
                # The size was announced: only an end of the session tells the board that the rest will not come.
                self.close()
                raise BoardError(
                    f"The local file for {name} became shorter while it was sent; the board keeps its old one."
                )
            self.link.send_binary(piece)
            done += len(piece)
            if progress:
                progress(done)
        self._answer(f"write {name}")
        return size

    def get(self, name: str, sink: BinaryIO | None = None, progress: Callable[[int], None] | None = None) -> bytes:
        """The board's file `name`: returned, or written to `sink` as it comes (then returns b""). Raises as put()."""
        return self._get(_GET, name, sink, progress)

    def about(self) -> dict[str, Any]:
        """What the board says of itself (lib/wss/about.py), without an interruption of its program. Raises BoardError
        for a board that does not know the question: an older wss_repl, or one without about.py."""
        try:
            said = json.loads(self._get(_ABOUT, "about"))
        except ValueError:
            raise BoardError("The board's status is not readable; update the wss_repl on it.") from None
        if not isinstance(said, dict):
            raise BoardError("The board's status is not readable; update the wss_repl on it.")
        return said

    def _get(
        self,
        operation: int,
        name: str,
        sink: BinaryIO | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> bytes:
        self._request(operation, name, 0)
        self._answer(f"read {name}")
        ahead = _ACKS_AHEAD if self.link.target.secure else 1
        for _ in range(ahead):
            self.link.send_binary(b"\0")
        data, done, binary = bytearray(), 0, self.link.binary
        while True:
            self._need(2, name)
            length = int.from_bytes(binary[:2], "little")
            self._need(2 + length, name)
            piece = bytes(binary[2 : 2 + length])
            del binary[: 2 + length]
            if not length:
                break
            self.link.send_binary(b"\0")
            if sink:
                sink.write(piece)
            else:
                data += piece
            done += length
            if progress:
                progress(done)
        self._answer(f"read {name}")
        return bytes(data)

    def version(self) -> tuple[int, int, int]:
        """The board's MicroPython version."""
        self._request(_VERSION, "", 0)
        self._need(3, "version")
        data = tuple(self.link.binary[:3])
        del self.link.binary[:3]
        return data

    def _request(self, operation: int, name: str, size: int) -> None:
        raw = name.encode()
        if len(raw) > MAX_NAME or (not raw and operation != _VERSION):
            raise UsageError(f"The name {name!r} has {len(raw)} bytes; WebREPL's protocol carries 1 to {MAX_NAME}.")
        if b"\0" in raw:
            raise UsageError("A file name cannot hold a zero byte.")
        del self.link.binary[:]
        self.link.send_binary(_REQUEST.pack(b"WA", operation, 0, 0, size, len(raw), raw))

    def _answer(self, action: str) -> None:
        """Takes "WB" and a 16-bit code: 0, or the board's errno."""
        self._need(4, action)
        head, code = bytes(self.link.binary[:2]), int.from_bytes(self.link.binary[2:4], "little")
        del self.link.binary[:4]
        if head != b"WB":
            raise ConnectionLost(
                f"The board lost the thread of the transfer (it sent {head!r}); connect again and retry."
            )
        if code:
            raise BoardError(f"The board cannot {action}: {errno_words(code)}.")

    def _need(self, n: int, what: str) -> None:
        while len(self.link.binary) < n:
            if not self.link.wait(self.timeout):
                raise ConnectionLost(
                    f"The board went silent for {self.timeout:g} s in the middle of {what!r}; connect again and retry."
                )


def _login_refusal(said: bytes, target: Target) -> LoginError:
    line = " ".join(said.decode("utf-8", "replace").split())
    if _DENIED in said:
        return AccessDenied(
            f"Wrong password for {target}; it is the one in webrepl_cfg.py (or given to start) on the board."
        )
    if "in use" in line.lower() or "/takeover" in line:
        return SessionInUse(f"{target} is in use (it says: {line.rstrip('.')}); --takeover ends the other session.")
    if not line:
        return LoginError(f"{target} does not ask for a password in time; try again, or reset the board.")
    return LoginError(f"{target} refuses the login: {line.rstrip('.')}.")


# Numbers as MicroPython has them (py/mperrno.h); the host's own may differ.
_ERRNO = {
    1: "not permitted",
    2: "there is no such file or folder",
    5: "input/output error (is the flash worn or the card out?)",
    12: "it is out of memory; try a soft reset first",
    13: "permission denied",
    16: "it is busy with another transfer",
    17: "it exists already",
    19: "there is no such device",
    20: "part of the path is not a folder",
    21: "it is a folder; name a file in it",
    22: "the name or request is invalid",
    27: "the file is too large",
    28: "its file system is full",
    30: "its file system is read-only",
    36: "the name is too long for the board",
    39: "the folder is not empty",
}


def errno_words(code: int) -> str:
    """A board's errno as words."""
    return _ERRNO.get(code) or errno.errorcode.get(code, f"error {code}")
