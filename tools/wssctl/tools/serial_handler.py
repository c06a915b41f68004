"""pyserial's handler for wss:// addresses: mpremote, and whatever opens its port with serial_for_url(), on a board.

One line in mpremote's config.py (in its config folder), with wssctl installed beside mpremote, is enough:

    from wssctl import protocol_wss; protocol_wss.install()

`wssctl mpremote` needs no line. Keys and secrets come as for every wssctl command: the folder of keys,
$WSSCTL_PASSWORD, $WSSCTL_PASSPHRASE, or install(password_file=..., passphrase_file=..., keys=...), else a question.
"""

import argparse
import contextlib
import errno
import os
import re
import selectors
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

import serial
from serial.serialutil import SerialBase, SerialException

from ..boards.dialler import BOOT, Dialler
from ..errors import (
    AccessDenied,
    BoardError,
    ConnectionLost,
    HandshakeCut,
    KeyFileError,
    Unreachable,
    UsageError,
    WssctlError,
)
from ..text import shown
from ..wire.client import Client
from ..wire.terminal import PROMPT
from . import guard, mpremote_files

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

# A board that the command before has reset, with its network up already.
_BOOTING = 5.0
# mpremote sleeps 10 ms whenever it finds nothing to read, once or more for every 256 bytes of a copy: wait for it.
_LINGER = 0.05
_RAW_BANNER = b"raw REPL; CTRL-B to exit\r\n>"
_REBOOT = b"soft reboot\r\n"
_MARK = b"wssctl is back"
_PASTE, _WINDOW, _FRAME = b"\x05A\x01", 0x7FFF, 4096
# The flow control of a paste: R, 1, its window (16 bits), any number of 1, and a 4 when the board has the code or wants
# no more of it. The rest of it, after the window.
_PASTED, _CONFIRMED = re.compile(rb"R\x01.*?..\x01.*?\x04", re.S), re.compile(rb"\x04")
_MAX_FLOW, _MAX_GULP = 1 << 16, 1 << 20

options: dict[str, Any] = {}


class Lost(SerialException):
    """The session has ended for good. errno is EIO, which mpremote's repl takes for a cable pulled out."""

    def __init__(self, cause: WssctlError):
        super().__init__(errno.EIO, str(cause))
        self.exit_code = cause.exit_code


def install(**given: Any) -> None:
    """Makes serial_for_url() know wss:// and ws://. Takes wssctl's options by name: keys, password_file,
    passphrase_file, host_id, server_name, takeover, timeout."""
    options.update(given)
    package = __package__.partition(".")[0]  # where pyserial looks for protocol_wss
    if package not in serial.protocol_handler_packages:
        serial.protocol_handler_packages.append(package)
        serial.Serial = _Either  # type: ignore[misc]  # what mpremote up to 1.26 opens ports with
    guard.guard(Serial)
    mpremote_files.install(Serial)
    sys.excepthook = _one_sentence


class _Either(serial.Serial):
    """mpremote up to 1.26 opens addresses, too, as serial.Serial(address) (mpremote/transport_serial.py)."""

    def __new__(cls, port: Any = None, *args: Any, **kwargs: Any) -> Any:
        if isinstance(port, str) and port.lower().startswith(("wss://", "ws://")):
            return serial.serial_for_url(port, *args, **kwargs)
        return super().__new__(cls)


def _one_sentence(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What a program does not catch has been said already, in open() or when the connection broke."""
    if not issubclass(kind, Lost):
        sys.__excepthook__(kind, error, trace)


def namespace(url: str) -> argparse.Namespace:
    """wssctl's command line for `url`, from `options`."""
    known = {"keys": None, "password_file": None, "passphrase_file": None, "host_id": None, "server_name": None}
    return argparse.Namespace(**(known | {"takeover": False, "timeout": 10.0, "keep": None} | options | {"url": url}))


def first(dial: Dialler) -> Client:
    """The first connection of a command. Raises what Dialler does."""
    deadline = time.monotonic() + _BOOTING
    while True:
        try:
            return dial()
        except (Unreachable, ConnectionLost, HandshakeCut):
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.3)


def _say(text: str) -> None:
    text = shown(text)
    sys.stdout.flush()
    print(f"\r\nwss: {text}\r" if sys.stderr.isatty() else f"wss: {text}", file=sys.stderr, flush=True)


class Serial(SerialBase):
    """A board's terminal as a serial port. The modem lines, the baud rate and the like change nothing.

    A soft reset takes the board's sockets away. When Ctrl-D was the last thing written the connection is made anew as
    soon as boot.py has brought the server back, and the reader sees what it would see on a cable. So is one that
    breaks at the friendly prompt, where somebody is looking. In the middle of raw REPL commands a break is an error:
    what was in progress is gone. Raises Lost.

    Raw paste has the host wait after every 128 bytes or so, lest a UART overrun. Here nothing is lost: the writer gets
    its windows at once, the board gets the code in one piece, and of five round trips for 256 bytes one is left.
    """

    # mpremote's own connection: made before, so that what can go wrong is said once, by wssctl
    ready: tuple[str, Client, Dialler] | None = None
    lost: Lost | None = None

    def __init__(self, *args: Any, **kwargs: Any):
        self._client: Client | None = None
        self._input = bytearray()
        self._raw = self._raw_left = self._reset_due = False
        self._can_paste: bool | None = None
        self._paste: bytearray | None = None  # code on its way in
        self._window = 0
        self._selector: selectors.BaseSelector | None = None
        self._flagged = False
        self._flow: bytes | None = None  # the board's answer to a paste, until its flow control is over
        self._ends = _PASTED
        super().__init__(*args, **kwargs)

    def open(self) -> None:
        if self.port is None:
            raise SerialException("There is no address: give wss://board.")
        if self.is_open:
            raise SerialException(f"{self.port} is open already.")
        if Serial.ready and Serial.ready[0] == self.port:
            _, self._client, self._dial = Serial.ready
            Serial.ready = None
        else:
            try:
                self._dial = Dialler(namespace(self.port))
                self._client = first(self._dial)
            except WssctlError as e:
                _say(str(e))
                raise Lost(e) from None
        if "mpremote.main" in sys.modules:
            guard.guard_terminal()
        self.is_open = True

    def close(self) -> None:
        self.is_open = False
        guard.close_files()
        if self._client:
            with contextlib.suppress(ConnectionLost):
                if self._raw_left:
                    # A board drops what it has not read when its client goes: it would stay in the raw REPL
                    self._client.read_until(PROMPT, 1.0)
            self._client.close()
            self._client = None
        if self._selector:
            self._selector.close()
            self._selector = None
            for end in self._pipe:
                os.close(end)

    @property
    def fd(self) -> int:
        """For select(), on which mpremote's repl waits: readable while there is something to read, here or on its
        way. POSIX."""
        return self.fileno()

    def fileno(self) -> int:
        if not self._selector:
            # An epoll or kqueue descriptor can itself be waited for
            self._selector = selectors.DefaultSelector()
            self._pipe = os.pipe()
            self._selector.register(self._pipe[0], selectors.EVENT_READ)
            self._selector.register(self._open_client().link, selectors.EVENT_READ)
            self._flag()
        return int(self._selector.fileno())  # type: ignore[attr-defined]  # epoll and kqueue have one

    def _flag(self) -> None:
        """Has a byte in the pipe exactly while there are some in _input."""
        if self._selector and self._flagged != bool(self._input):
            self._flagged = not self._flagged
            if self._flagged:
                os.write(self._pipe[1], b"!")
            else:
                os.read(self._pipe[0], 1)

    @property
    def in_waiting(self) -> int:
        if not self._input and self._paste is None:
            self._fill(_LINGER if self._raw else 0)
        return len(self._input)

    def read(self, size: int = 1) -> bytes:
        deadline = None if self.timeout is None else time.monotonic() + self.timeout
        while len(self._input) < size:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not self._fill(left) and deadline is not None and time.monotonic() >= deadline:
                break
        data = bytes(self._input[:size])
        del self._input[:size]
        self._flag()
        return data

    def write(self, data: "ReadableBuffer") -> int:
        data = bytes(data)
        try:
            self._write(data)
        except ConnectionLost as e:
            self._broken(e)  # what was typed at a prompt that is gone is gone, too
        return len(data)

    def _write(self, data: bytes) -> None:
        client = self._open_client()
        if self._paste is not None:
            self._pasted(client, self._paste, data)
        elif self._raw and data == _PASTE and self._can_paste is not False:
            self._begin_paste(client)
        else:
            self._reset_due = data == b"\x04"
            self._raw_left = self._raw and data[-1:] == b"\x02" and len(data) < 3
            if data in (b"\x01", b"\r\x01", b"\x02", b"\r\x02"):
                self._raw = data[-1] == 1
            client.write(data)

    def _begin_paste(self, client: Client) -> None:
        self._input.clear()  # what a timer or a thread printed behind the prompt would be taken for the answer
        if self._can_paste:
            self._paste, self._flow, self._ends = bytearray(_PASTE), b"", _PASTED
        else:
            self._can_paste = client.offer_code() is not None
            if not self._can_paste:
                self._input += b"R\x00"
                return
            self._paste, self._flow, self._ends = bytearray(), b"", _CONFIRMED
        self._window = _WINDOW
        self._input += b"R\x01" + _WINDOW.to_bytes(2, "little")

    def _pasted(self, client: Client, code: bytearray, data: bytes) -> None:
        code += data
        self._window -= len(data)
        if data == b"\x04":
            self._paste = None
            for at in range(0, len(code), _FRAME):
                client.write(bytes(code[at : at + _FRAME]))
        elif self._window <= 0:
            self._window += _WINDOW
            self._input += b"\x01"

    def _take(self, data: bytes) -> bytes:
        """What the board sent, from the confirmation of a paste on: what comes before is flow control, and what timers
        and threads print meanwhile, for which mpremote has no place."""
        if self._flow is None:
            return data
        self._flow += data
        if not (found := self._ends.search(self._flow)):
            self._flow = self._flow[-_MAX_FLOW:]
            return b""
        data, self._flow = self._flow[found.end() - 1 :], None
        return data

    @property
    def has_file_protocol(self) -> bool:
        """Whether the board runs wss_repl, with whose file protocol transfer() can work."""
        return bool(self._open_client().link.bundle[0])

    def transfer(self, work: Callable[[Client], object]) -> bool:
        """work(client), which puts or gets a file; False when the board, or the protocol, refuses it. Raises Lost."""
        client, self._reset_due = self._open_client(), False
        try:
            work(client)
            done = True
        except (BoardError, UsageError) as e:
            if client.link.closed:  # nobody knows what its next bytes would be
                self._give_up(e)
            done = False
        except ConnectionLost as e:
            self._broken(e)
            return False
        self._fill(0)  # what was printed meanwhile, of which the socket does not tell any more
        return done

    def room(self) -> bool:
        """Whether a write would be taken at once."""
        return not self._open_client().link.backlog

    def flush(self) -> None:
        """Every write has been handed to the network when it returns."""

    def reset_input_buffer(self) -> None:
        deadline = time.monotonic() + _LINGER
        while self._fill(0) and time.monotonic() < deadline:
            pass
        self._input.clear()
        self._flag()

    def reset_output_buffer(self) -> None:
        pass

    cts = dsr = cd = property(lambda self: True)
    ri = property(lambda self: False)

    def _update_rts_state(self) -> None:
        pass

    _update_dtr_state = _update_break_state = _reconfigure_port = _update_rts_state

    def _open_client(self) -> Client:
        if not self._client:
            raise self.lost or SerialException("The port is closed; open it first.")
        return self._client

    def _fill(self, timeout: float | None) -> bool:
        """Takes all that has arrived, so that fd tells the truth; waits up to `timeout` for the first of it."""
        client = self._open_client()
        before = len(self._input)
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            data = client.read(timeout)
            while data:
                self._input += self._take(data)
                if len(self._input) - before > _MAX_GULP:
                    break  # a board that prints without end
                wanted = len(self._input) == before  # flow control alone is nothing to the reader
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                data = client.read(left if wanted else 0)
        except ConnectionLost as e:
            # What came before the end is read first; the end comes again
            if len(self._input) == before or self._reset_due:
                self._broken(e)
        self._flag()
        return len(self._input) > before

    def _broken(self, cause: ConnectionLost) -> None:
        """Connects again and leaves what the reader expects to see, or raises Lost."""
        client, self._client = self._open_client(), None
        if self._selector:
            self._selector.unregister(client.link)
        client.close()
        self._paste = self._flow = None
        reset, self._reset_due = self._reset_due, False
        if not reset:
            if self._raw:
                self._give_up(cause)
            _say(f"{cause} Connecting again, for {BOOT:g} s...")
        self._client = self._redial(cause, reset)
        if self._selector:
            self._selector.register(self._client.link, selectors.EVENT_READ)
        if reset and _REBOOT not in self._input:
            self._input += b"\r\nMPY: " + _REBOOT  # the board may go before its last words do
        try:
            if self._raw:
                self._into_raw(self._client)
            else:
                self._client.write(b"\x02")  # has the REPL say who it is, as after a reset on a cable
        except ConnectionLost as e:
            self._give_up(e)
        if not reset:
            _say("connected again.")

    def _into_raw(self, client: Client) -> None:
        """A soft reset keeps the raw REPL, another does not; and boot.py may still run: then the REPL shows one banner
        by itself and one for our Ctrl-A. Code that answers tells where all of them end."""
        client.write(b"\r\x01")
        client.write(b"print('%s')\x04" % _MARK)
        self._input += client.read_until(b"OK" + _MARK + b"\r\n\x04\x04>", BOOT).partition(b"raw REPL;")[0]
        self._input += _RAW_BANNER

    def _redial(self, cause: ConnectionLost, reset: bool) -> Client:
        deadline = time.monotonic() + BOOT
        while True:
            left = deadline - time.monotonic()
            try:
                return self._dial(timeout=max(1.0, min(self._dial.timeout, left)))
            except (AccessDenied, KeyFileError, UsageError) as e:
                self._give_up(e)
            except WssctlError as e:
                if left <= 0:
                    what = "did its soft reset and does not come back" if reset else "does not come back"
                    hint = "does its boot.py connect to the network and start wss_repl? (`resume` avoids the reset)"
                    end = type(e)(f"{self._dial.target} {what} in {BOOT:g} s; {hint if reset else e}")
                    self._give_up(end)
            time.sleep(0.2)

    def _give_up(self, cause: WssctlError) -> None:
        _say(str(cause))
        self.lost = Serial.lost = Lost(cause)
        raise self.lost from None
