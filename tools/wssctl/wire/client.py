"""A board: log in over a Link, then its terminal, its files, and code run on it.

with Client.connect("wss://board", Credentials(ca, cert, key, passphrase), password) as board:
    board.exec("print(6*7)").output     # b"42\\r\\n"
    board.put(b"data", "name")
"""

import errno
import io
import json
import os
import re
import struct
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

from ..errors import AccessDenied, BoardError, ConnectionLost, LoginError, NoAnswer, SessionInUse, UsageError
from ..text import brief
from . import kept
from .link import Credentials, Deadline, Link, Target, parse_target

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

_LOGGED_IN, _DENIED = b"WebREPL connected", b"Access denied"
PROMPT = b">>> "
_PASTE = b"\x05A\x01"
RAW_BANNER = b"raw REPL; CTRL-B to exit\r\n"

# What a board sends in all, at the least, in bytes a second: stock WebREPL's get brings 2,600 of them. A board that
# sends less is one that will not end.
_SLOWEST = 100
MAX_GET = 256 << 20  # bytes of a file, unless more are asked for: the protocol does not tell how many will come
_MAX_ABOUT = 64 << 10
_MAX_LOG = 128 << 10
_MAX_OUTPUT = 16 << 20  # bytes of output that exec() keeps
_LONGEST = 64  # bytes of an answer that is looked for
_FIRST = b"\x1e"  # of a marker: programs do not print it, so that nothing of theirs waits for what follows
_AT_ONCE = 4096  # bytes of code that go to a board with what leads to it
_ENTER_AGAIN = 3.0  # s; a program may have caught the KeyboardInterrupt, or a timer of it


class Result(NamedTuple):
    """What exec() brought back: standard output, and the traceback ("" when the code ended well)."""

    output: bytes
    error: str


class Client:
    def __init__(self, link: Link, timeout: float = 10.0):
        self.link = link
        self.timeout = timeout
        self._before = 0  # bytes of the terminal's that came before the file in transfer was read
        self._leaving = False  # the raw REPL: said, and the answer has not been waited for

    @classmethod
    def connect(
        cls,
        url: str | Target,
        credentials: Credentials | None = None,
        password: str | Callable[[], str] = "",
        *,
        takeover: bool = False,
        server_name: str | Callable[[], str | None] | None = None,
        timeout: float = 10.0,
        keep: float | None = None,
    ) -> "Client":
        """Connects and logs in. `password` may be a function, called when the board asks. Raises UsageError,
        KeyFileError, Unreachable, TrustError, AccessDenied, SessionInUse, LoginError, ConnectionLost.

        With `keep` the connection is another process's, which holds it for so many seconds after its last use and
        lends it to one client after the other (kept.py): only the first one logs in."""
        target = parse_target(url, takeover) if isinstance(url, str) else url
        if keep:
            wanted = kept.Wanted(target, credentials, password, server_name, timeout, keep)
            if held := kept.open(wanted):
                return cls(held, timeout)
        if not keep:
            kept.release(target)
        from .websocket import WebSocketLink

        server_name = server_name() if callable(server_name) else server_name
        link = WebSocketLink.open(target, credentials, server_name=server_name, timeout=timeout)
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

    def __exit__(self, *exc: object) -> None:
        self.close()

    # Login

    def _login(self, password: str | Callable[[], str]) -> None:
        said = self._login_answer(b"Password: ", Deadline(self.timeout))
        if b"Password: " not in said:
            raise _login_refusal(said, self.link.target)
        secret = password if isinstance(password, str) else password()
        if not secret or any(c in secret for c in "\r\n\0"):
            raise LoginError("The password is empty or holds a line end; use the one in webrepl_cfg.py on the board.")
        del self.link.text[:]
        self.link.send_text(secret.encode() + b"\r")
        deadline = Deadline(self.timeout)
        said = self._login_answer(_LOGGED_IN, deadline)
        if _LOGGED_IN not in said:
            raise _login_refusal(said, self.link.target)
        self._find(PROMPT, deadline, "show its prompt")

    def _login_answer(self, wanted: bytes, deadline: Deadline) -> bytes:
        """What the board says until `wanted`, a denial, or its end of the connection."""
        text = self.link.text
        try:
            while wanted not in text and _DENIED not in text:
                if deadline.over or not self.link.wait(deadline.left):
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
        self._settle()
        self.link.send_text(data, block)

    def read(self, timeout: float | None = None) -> bytes:
        """What the board printed since the last read; waits for at least a byte, b"" after `timeout` seconds."""
        self._settle()
        deadline = Deadline(timeout)
        while not self.link.text:
            if not self.link.wait(deadline.left):
                return b""
        data = bytes(self.link.text)
        del self.link.text[:]
        return data

    def read_until(self, end: bytes, timeout: float | None) -> bytes:
        """Returns what precedes `end`, which is taken too. Raises ConnectionLost when it has not come in `timeout`
        seconds, whatever else has."""
        self._settle()
        said = bytearray()
        self._find(re.escape(end), Deadline(timeout), "answer", said.extend)
        return bytes(said)

    def _find(
        self,
        wanted: bytes,
        deadline: Deadline,
        action: str,
        sink: Callable[[bytes], object] | None = None,
        first: bytes = b"",
    ) -> bytes:
        """Takes the terminal's bytes up to the first match of the regular expression `wanted`, which is returned; what
        precedes it goes to `sink` as it comes. `first` is the byte that each match of more than one begins with, if
        there is such a byte: nothing else is held back then. Raises ConnectionLost when the board does not do `action`
        before the deadline."""
        text, pattern = self.link.text, re.compile(wanted, re.S)
        heard, before = b"", self.link.arrived
        while not (found := pattern.search(text)):
            ready = max(0, len(text) - _LONGEST)  # a match may be cut anywhere
            if first:
                ready = at if (at := text.find(first, ready)) >= 0 else len(text)
            if ready:
                heard = bytes(text[:ready])
                del text[:ready]
                if sink:
                    sink(heard)
            if deadline.over or not self.link.wait(deadline.left):
                raise self._no_answer(action, heard + bytes(text) if self.link.arrived > before else b"")
        rest, matched = bytes(text[: found.start()]), found.group()
        del text[: found.end()]
        if sink and rest:
            sink(rest)
        return matched

    def _no_answer(self, action: str, heard: bytes) -> NoAnswer:
        lines = [line for line in heard.decode("utf-8", "replace").splitlines() if line.strip()]
        if not lines:
            return NoAnswer(
                f"{self.link.target} is silent and does not {action}; a program may be holding it: Ctrl-C "
                "in `wssctl repl`, or a reset, frees it."
            )
        return NoAnswer(
            f"{self.link.target} does not {action} in time and prints meanwhile ({brief(lines[-1])}): stop what "
            "prints, a program with Ctrl-C in `wssctl repl`, a timer with its deinit(), a thread with a reset; or give "
            "more --timeout."
        )

    # Code: MicroPython's raw REPL (reference/repl.html, shared/runtime/pyexec.c)
    #
    # A timer or a thread may print at any moment, also between two bytes of the raw REPL's answers, but not within what
    # is one write there. So each answer is looked for among what others print, and code of ours ends with a marker that
    # nobody else can know: behind it there is no traceback, whatever is printed then.

    def exec(
        self,
        code: str | bytes,
        output: Callable[[bytes], object] | None = None,
        timeout: float | Deadline | None = None,
    ) -> Result:
        """Runs `code` and returns its Result, or hands standard output to `output` piece by piece as it comes.

        Interrupts what runs on the board. KeyboardInterrupt here interrupts the code there and is then raised again.
        `timeout`: seconds that the code may take in all; None waits for ever. What else prints meanwhile is part of the
        output. Raises BoardError when the board has no room for the code, ConnectionLost when it does not answer.
        """
        mark = _FIRST + os.urandom(8).hex().encode()
        source = code.encode("utf-8", "surrogateescape") if isinstance(code, str) else code
        source += f"\n__import__('sys').stdout.write({mark.decode()!r})".encode()
        ended = False
        self._settle()
        try:
            if not self._sent_at_once(source):
                self.enter_raw()
                self._send_code(source)
            limit = timeout if isinstance(timeout, Deadline) else Deadline(timeout)
            try:
                result = self._outcome(output, mark, limit)
            except KeyboardInterrupt:
                self.write(b"\x03")
                self._outcome(output, mark, Deadline(self.timeout))
                ended = True
                raise
            ended = True
            return result
        finally:
            if not self.link.closed:
                self.leave_raw(ended)

    def enter_raw(self) -> None:
        deadline = Deadline(self.timeout)
        while True:
            self.write(b"\x03\x03")  # give up the line that is typed, which may be half a command; stop what runs
            self.write(b"\r\x01")
            left = deadline.left or 0.0
            again = Deadline(min(left, _ENTER_AGAIN))
            try:
                self._find(re.escape(RAW_BANNER), again, "enter the raw REPL")
                return
            except NoAnswer:
                if deadline.over:
                    raise

    def leave_raw(self, ended: bool = True) -> None:
        """`ended`: the code has. Otherwise it is interrupted, or what the board has of it is given up."""
        try:
            self.write(b"\r\x02" if ended else b"\x03\r\x02")
            self._leaving = True
            if not (ended and self.link.lingers):
                self._settle(self.timeout if ended else min(1.0, self.timeout))
        except ConnectionLost:
            pass  # the session is over either way, and what it said before counts

    def _settle(self, seconds: float | None = None) -> None:
        """Waits for the prompt that leaving the raw REPL ends with."""
        if self._leaving:
            self._leaving = False
            self._find(PROMPT, Deadline(seconds or self.timeout), "leave the raw REPL")

    def _sent_at_once(self, code: bytes) -> bool:
        """Sends a short program to a board at its prompt together with what leads to it: nothing runs that would have
        to be stopped first, and our server, unlike a UART, loses nothing that comes early. Ctrl-D waits for the board's
        word that it is in raw mode, which its server has to know when code begins to run (lib/wss/modes.py). False for
        other boards and for those that are not at their prompt after all; nothing has run there."""
        if not self.link.clean or not self.link.bundle[0] or len(code) > _AT_ONCE:
            return False
        deadline = Deadline(self.timeout)
        self.write(b"\r\x01" + _PASTE + code)
        try:
            self._find(re.escape(RAW_BANNER), Deadline(min(self.timeout, _ENTER_AGAIN)), "enter the raw REPL")
        except NoAnswer:
            return False
        window = self._window(deadline)
        self.write(b"\x04")
        # without raw paste, which is newer than raw mode, it has taken the code as any other
        self._find(b"OK" if window is None else b"\x04", deadline, "take the code")
        return True

    def _send_code(self, code: bytes) -> None:
        deadline = Deadline(self.timeout + len(code) / _SLOWEST)
        if (window := self.offer_code(deadline)) is not None:
            self._raw_paste(code, window, deadline)
        else:
            self.write(code + b"\x04")
            self._find(b"OK", deadline, "take the code")

    def offer_code(self, deadline: Deadline | None = None) -> int | None:
        """Begins raw paste. Returns its window in bytes, of which two may be sent at once; None for a board without."""
        self.write(_PASTE)
        return self._window(deadline or Deadline(self.timeout))

    def _window(self, deadline: Deadline) -> int | None:
        if self._find(rb"R[\x00\x01]", deadline, "take code") == b"R\x00":
            return None
        # the window's size, 16 bits, and the first window besides it, in one write
        if window := int.from_bytes(self._find(rb"..\x01", deadline, "take code")[:2], "little"):
            return window
        raise NoAnswer(f"{self.link.target} takes no code: its raw paste has a window of 0 bytes. Is that MicroPython?")

    def _raw_paste(self, code: bytes, step: int, deadline: Deadline) -> None:
        room, at = 2 * step, 0
        while at < len(code):
            piece = code[at : at + room]
            if piece:
                self.write(piece)
            at += len(piece)
            room -= len(piece)
            while at < len(code) and (b"\x01" in self.link.text or b"\x04" in self.link.text or not room):
                if self._find(rb"[\x01\x04]", deadline, "take the code") == b"\x04":
                    self.write(b"\x04")  # it wants no more: it is out of memory, or it saw Ctrl-C
                    return
                room += step
        self.write(b"\x04")
        self._find(b"\x04", deadline, "confirm the code")

    def _outcome(self, output: Callable[[bytes], object] | None, mark: bytes, deadline: Deadline) -> Result:
        kept = bytearray()

        def keep(data: bytes) -> None:
            if len(kept) + len(data) > _MAX_OUTPUT:
                raise BoardError(f"The code prints more than {_MAX_OUTPUT >> 20} MB; take its output as it comes.")
            kept.extend(data)

        sink, error = output or keep, bytearray()
        well = self._find(mark + rb"|\x04", deadline, "end the code", sink, _FIRST) == mark
        if well:
            self._find(b"\x04", deadline, "end the code", sink)
        rest = Deadline(self.timeout)
        self._find(b"\x04", rest, "end the code", sink if well else error.extend)
        return Result(bytes(kept), error.decode("utf-8", "replace").replace("\r\n", "\n") if error.strip() else "")

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
        limit = limit or (MAX_GET if sink else _MAX_OUTPUT)
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
            deadline.extend(length / _SLOWEST, self.timeout)
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
            if deadline.over or not self.link.wait(deadline.left):
                self.close()  # nobody knows what its next bytes would be
                raise NoAnswer(
                    f"The board does not go on with {what!r} within {self.timeout:g} s; connect again and retry."
                )


def _login_refusal(said: bytes, target: Target) -> LoginError:
    line = brief(said)
    if _DENIED in said:
        return AccessDenied(
            f"Wrong password for {target}; it is the one in webrepl_cfg.py (or given to start) on the board."
        )
    if "in use" in line.lower() or "/takeover" in line:
        return SessionInUse(f"{target} is in use (it says: {line}); --takeover ends the other session.")
    if not line:
        return LoginError(f"{target} does not ask for a password in time; try again, or reset the board.")
    return LoginError(f"{target} refuses the login: {line}.")


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
