"""A board's terminal over a Link, and code that runs in its raw REPL."""

import os
import re
from collections.abc import Callable
from typing import NamedTuple

from ..errors import BoardError, ConnectionLost, NoAnswer, UsageError
from ..text import brief
from .link import Deadline, Link

PROMPT = b">>> "
_PASTE = b"\x05A\x01"
RAW_BANNER = b"raw REPL; CTRL-B to exit\r\n"

# What a board sends in all, at the least, in bytes a second: stock WebREPL's get brings 2,600 of them. A board that
# sends less is one that will not end.
SLOWEST = 100
MAX_OUTPUT = 16 << 20  # bytes of output that exec() keeps
_LONGEST = 64  # bytes of an answer that is looked for
_MAX_TRACEBACK = 64 << 10
_RAISED = re.compile(rb"^(Traceback \(most recent call last\):|[A-Za-z_]\w*(Error|Exception|Interrupt|Exit): )", re.M)
_FIRST = b"\x1e"  # of a marker: programs do not print it, so that nothing of theirs waits for what follows
_AT_ONCE = 4096  # bytes of code that go to a board with what leads to it
_ENTER_AGAIN = 3.0  # s; a program may have caught the KeyboardInterrupt, or a timer of it


class Result(NamedTuple):
    """What exec() brought back: standard output, and the traceback ("" when the code ended well)."""

    output: bytes
    error: str


class Terminal:
    """What a client is before it knows of files. `timeout`: seconds that each answer of the board may take."""

    def __init__(self, link: Link, timeout: float = 10.0):
        self.link = link
        self.timeout = timeout
        self._leaving = False  # the raw REPL: said, and the answer has not been waited for

    def close(self) -> None:
        self.link.close()

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
            if deadline.expired or not self.link.wait(deadline.left):
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
        output. Raises UsageError for code that cannot be sent, BoardError when the board has no room for it,
        ConnectionLost when it does not answer.
        """
        mark = _FIRST + os.urandom(8).hex().encode()
        source = code.encode("utf-8", "surrogateescape") if isinstance(code, str) else code
        if found := re.search(rb"[\x03\x04]", source):
            line = source.count(b"\n", 0, found.start()) + 1
            key, written = ("Ctrl-C", "\\x03") if found.group() == b"\x03" else ("Ctrl-D", "\\x04")
            raise UsageError(f"The code has a {key} in line {line}, with which it would end there: write {written}.")
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
        deadline, before = Deadline(self.timeout), self.link.arrived
        while True:
            self.write(b"\x03\x03")  # give up the line that is typed, which may be half a command; stop what runs
            self.write(b"\r\x01")
            left = deadline.left or 0.0
            again = Deadline(min(left, _ENTER_AGAIN))
            try:
                self._find(re.escape(RAW_BANNER), again, "enter the raw REPL")
                return
            except NoAnswer:
                if not deadline.expired:
                    continue
                if self.link.arrived > before:
                    raise
                raise NoAnswer(
                    f"{self.link.target} is silent and does not enter the raw REPL: a program there catches Ctrl-C, or "
                    "has turned it off. `put` and `get` work meanwhile; a reset frees it."
                ) from None

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
        deadline = Deadline(self.timeout + len(code) / SLOWEST)
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
        raise NoAnswer(f"{self.link.target} takes no code: its raw paste has a window of 0 bytes; update its firmware.")

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
            if len(kept) + len(data) > MAX_OUTPUT:
                raise BoardError(f"The code prints more than {MAX_OUTPUT >> 20} MB; take its output as it comes.")
            kept.extend(data)

        sink, error, lead = output or keep, bytearray(), b""

        def is_output() -> None:
            nonlocal lead
            sink(lead + error)
            lead = b""
            error.clear()

        def follows(data: bytes) -> None:
            error.extend(data)
            if len(error) > _MAX_TRACEBACK:
                is_output()

        # The end is our marker and twice \x04; or \x04, a traceback if it is not SystemExit's, \x04 and ">". A program
        # may print a \x04 as well: what follows that one is more output.
        end = self._find(mark + rb"|\x04", deadline, "end the code", sink, _FIRST)
        while end != mark:
            lead = b"\x04"
            try:
                rest = Deadline(self.timeout if deadline.left is None else min(self.timeout, deadline.left))
                end = self._find(mark + rb"|\x04>?", rest, "end the code", follows)
            except NoAnswer:
                if deadline.expired:
                    raise
                is_output()  # a traceback comes at once
                end = self._find(mark + rb"|\x04", deadline, "end the code", sink, _FIRST)
                continue
            if end != mark and (end == b"\x04>" or lead and not error or _RAISED.search(error)):
                text = error.decode("utf-8", "replace").replace("\r\n", "\n")
                return Result(bytes(kept), text if text.strip() else "")
            is_output()
        self._find(b"\x04", deadline, "end the code", sink)
        self._find(b"\x04", Deadline(self.timeout), "end the code", sink)
        return Result(bytes(kept), "")
