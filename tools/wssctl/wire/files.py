"""A board's files and what it says of itself, over the file protocol of WebREPL."""

import errno
import io
import json
import os
import struct
from collections.abc import Callable
from typing import Any, BinaryIO

from ..errors import BoardError, ConnectionLost, NoAnswer, UsageError
from .link import Deadline, Link
from .terminal import MAX_OUTPUT, SLOWEST, Terminal

# WebREPL's file protocol (MicroPython extmod/modwebrepl.c): "WA", operation, flags, offset, size, name length, name.
_REQUEST = struct.Struct("<2sBBQLH64s")
_PUT, _GET, _VERSION = 1, 2, 3
_LOG = 5  # and of what was printed last
_ABOUT = 4  # lib/wss/files.py: a get of what the board says of itself
MAX_NAME = 64
MAX_FILE = 0xFFFFFFFF  # the size field has 32 bits

_PUT_PIECE = 4096  # well under the 16 KB record that a board's TLS buffer holds
# Pieces of a get under way at once on wss. More than 1 saves a round trip a piece and leaves spare acknowledgements
# behind the end: wss_repl ignores them (lib/wss/files.py), stock WebREPL (ws) takes them for the next request.
_ACKS_AHEAD = 8

MAX_GET = 256 << 20  # bytes of a file, unless more are asked for: the protocol does not tell how many will come
_MAX_ABOUT = 64 << 10
_MAX_LOG = 128 << 10


class Files(Terminal):
    """A terminal and WebREPL's put, get and version, and our own questions to a board."""

    def __init__(self, link: Link, timeout: float = 10.0):
        super().__init__(link, timeout)
        self._before = 0  # bytes of the terminal's that came before the file in transfer was read

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
            stream: BinaryIO = io.BytesIO(source)
            size = len(source)
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
            piece = stream.read(want)
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
        self.link.transfer = False
        return size

    def get(
        self,
        name: str,
        sink: BinaryIO | None = None,
        progress: Callable[[int], None] | None = None,
        limit: int | None = None,
    ) -> bytes:
        """The board's file `name`: returned, or written to `sink` as it comes (then returns b""). Raises as put(), and
        BoardError when more than `limit` bytes come: 256 MB to a sink, 16 MB into memory, unless told otherwise."""
        return self._get(_GET, name, sink, progress, limit)

    def get_if_there(self, name: str) -> bytes | None:
        """As get(), but None where there is no such file."""
        try:
            return self.get(name)
        except BoardError as e:
            if "no such file" in str(e):
                return None
            raise

    def about(self) -> dict[str, Any]:
        """What the board says of itself (lib/wss/about.py), without an interruption of its program. Raises BoardError
        for a board that does not know the question: an older wss_repl, or one without about.py."""
        try:
            said = json.loads(self._get(_ABOUT, "about", limit=_MAX_ABOUT))
        except (ValueError, RecursionError):
            raise BoardError("The board's status is not readable; update the wss_repl on it.") from None
        if not isinstance(said, dict):
            raise BoardError("The board's status is not readable; update the wss_repl on it.")
        return said

    def log(self) -> bytes:
        """What the board printed last; read() goes on from there. Its program is not interrupted. Raises BoardError for
        a board that keeps no log."""
        try:
            said = self._get(_LOG, "log", limit=_MAX_LOG)
        except BoardError:
            if self.link.closed:
                raise
            raise BoardError("The board keeps no log; have it call wss_repl.start(log=4096).") from None
        del self.link.text[: self._before]  # it is in the log, too
        return said

    def _get(
        self,
        operation: int,
        name: str,
        sink: BinaryIO | None = None,
        progress: Callable[[int], None] | None = None,
        limit: int | None = None,
    ) -> bytes:
        limit = limit or (MAX_GET if sink else MAX_OUTPUT)
        self._request(operation, name, 0)
        self._answer(f"read {name}")
        self._before = self.link.text_before
        self.link.receiving = True
        ahead = _ACKS_AHEAD if self.link.target.secure else 1
        for _ in range(ahead):
            self.link.send_binary(b"\0")
        data, done, binary = bytearray(), 0, self.link.binary
        deadline = Deadline(self.timeout)  # in all: what comes extends it, but not for a board that sends a byte a time
        while True:
            self._need(2, name, deadline)
            length = int.from_bytes(binary[:2], "little")
            self._need(2 + length, name, deadline)
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
            deadline.extend(length / SLOWEST, self.timeout)
            if done > limit:
                self.close()  # only an end of the session tells the board that no more is wanted
                raise BoardError(f"The board sends more than {limit} bytes for {name}; the file was not kept.")
            if progress:
                progress(done)
        self._answer(f"read {name}")
        self.link.transfer = False
        return bytes(data)

    def version(self) -> tuple[int, int, int]:
        """The board's MicroPython version."""
        self._request(_VERSION, "", 0)
        self._need(3, "version")
        major, minor, micro = self.link.binary[:3]
        del self.link.binary[:3]
        self.link.transfer = False
        return major, minor, micro

    def _request(self, operation: int, name: str, size: int) -> None:
        raw = name.encode("utf-8", "surrogateescape")
        if len(raw) > MAX_NAME or (not raw and operation != _VERSION):
            raise UsageError(f"The name {name!r} has {len(raw)} bytes; WebREPL's protocol carries 1 to {MAX_NAME}.")
        if b"\0" in raw:
            raise UsageError("A file name cannot hold a zero byte.")
        self._settle()
        del self.link.binary[:]
        self.link.transfer = True
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
            self.link.transfer = False
            raise BoardError(f"The board cannot {action}: {errno_words(code)}.")

    def _need(self, n: int, what: str, deadline: Deadline | None = None) -> None:
        deadline = deadline or Deadline(self.timeout)
        while len(self.link.binary) < n:
            if deadline.expired or not self.link.wait(deadline.left):
                self.close()  # nobody knows what its next bytes would be
                raise NoAnswer(
                    f"The board does not go on with {what!r} within {self.timeout:g} s; connect again and retry."
                )


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
