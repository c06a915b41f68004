# The stream that os.dupterm reads and writes.
# In: output from the REPL and programs; what was typed (typed.py).  Out: frames to sender.py; bytes for the firmware.
#
# write() only appends to a buffer. The buffer is sent at once when a line ends, else when the program comes to its next
# jump (guard.py), and only then its text becomes frames, in place (text_frames() in native.py). So write() is short,
# needs no memory, and has no jump. Therefore no Ctrl-C, callback or thread can come in between: it either has not
# begun, or is done. Two other ways were tried. A write() that makes the frames itself has to be resumed where a Ctrl-C
# left it, and needs a place for what callbacks print meanwhile. micropython.RingIO drops what does not fit.
#
# Only when the buffer is full does write() wait, for as long as the peer may take to read.
import gc
import os
from io import IOBase
from micropython import const, schedule

from wss import port
from wss.guard import check_stack, interrupt
from wss.sender import Sender
from wss.typed import Typed

_HEADS = const(64)  # for the headers of frames: 32 frames, or 16 lines, are sent in one record
_TEXT = const(512)  # bytes of output that wait
_EXTRA = const(64)  # more of them, when a callback prints inside of our own step, where nothing can be sent
_RUSH = const(8)  # records between two ticks of our timer. With more, what is printed waits for the next tick.
_CTRL_C = const(3)
_LF = const(10)
_CR = const(13)
_REBOOT = const(b"MPY: soft reboot\r\n")

# What the next write() has to do: see _WRITE.
_IDLE = const(0)  # have the buffer sent
_SCHEDULED = const(2)  # that is going to be done: nothing
_RUSHING = const(4)  # nothing, and for a line's end neither: the timer's next tick sends it

_POLL = const(3)  # py/stream.h, where 1 is readable
_POLL_WR = const(4)


class Terminal(IOBase):
    """The REPL's side of a session. What the firmware calls never raises, or it would take the terminal away
    (extmod/os_dupterm.c); it does so when there is no stack for a call."""

    def __init__(self, server, sender):
        self._server = server
        self._sender = sender  # None when the session is over
        self._previous = None  # what os.dupterm held before us
        self.typed = Typed(server.callback)
        # Output: the latest record, and behind it text. A bytearray keeps its memory when it gets shorter, so that
        # extend() needs no more.
        self._out = bytearray(_HEADS + _TEXT + _EXTRA)
        self._out[_HEADS:] = b""
        self._at = _HEADS  # where in it the text begins
        self._made = 0  # bytes of a record that has been made and not taken yet
        self._limit = _HEADS + _TEXT if port.has_gil else -1  # without a GIL each write() has to enter the guard
        self.found = 0  # what text_frames() found in the record that take() has returned; 0 without a record
        self._next = _IDLE
        self._flush_callback = self._flush  # this bound method is made once, because callbacks must not allocate

    def attach(self):
        """Become the REPL's terminal."""
        self._previous = os.dupterm(self)

    def is_attached(self):
        """Whether we still are. A program can take the terminal away, and so does the firmware when a write() of ours
        finds no stack."""
        now = os.dupterm(self)
        if now is not self:
            os.dupterm(now)
        return now is self and bool(self._sender)

    def detach(self):
        """Give the terminal back: the session is over. From now on output is swallowed, and there is no input. The
        buffers go, because the firmware's schedule queue may keep a bound method of ours, and with it this object."""
        server = self._server
        if server.line == 2 and not self.typed.given:
            server.line = 1  # what was typed never came to the REPL
        log = server.log
        if log:
            log.write(self._out[self._at :])  # what was not sent any more
        self._give_up(b"", None)
        self._out = bytearray()
        self._at = 0
        self.typed.clear()
        now = os.dupterm(None)
        # If another terminal has taken our place meanwhile, it stays.
        os.dupterm(self._previous if now is self else now)
        self._previous = None

    def hand_on(self):
        """Have the firmware read what was typed, and have sent what was printed. Called after every step."""
        sender = self._sender
        if sender and len(self._out) > self._at and self._next == _IDLE and not sender.record:
            self._next = _SCHEDULED  # first: what is scheduled may run before schedule() returns
            if not port.schedule(self._flush_callback):
                self._next = _IDLE
        self.typed.hand_on()

    # What the firmware calls ------------------------------------------------------------------------------

    def readinto(self, buf):
        """What the firmware reads: one byte, or None."""
        count = None
        try:
            check_stack(8)
            count = 1
            try:
                return self._read(buf)
            except Exception:  # no memory: the firmware asks again
                return None
        except:  # a KeyboardInterrupt is given on as the Ctrl-C that it was; no stack: nothing  # noqa: E722
            buf[0] = _CTRL_C
            return count

    def _read(self, buf):
        typed = self.typed
        typed.asked = False
        if typed.fed:
            return typed.give(buf)
        # Nothing is given to callbacks inside of our own step: its buffers are in use, and a Ctrl-C would rise in it.
        if self._server.guard.owner is not None:
            return None
        if not typed.waits():
            # Where the firmware pulls (ESP32 from 1.28, unix), the REPL waits in here, and nothing else makes steps.
            self._server.step()
            if not typed.waits():
                return None
        return typed.give(buf)

    def ioctl(self, request, arg):
        """What select asks: readable while typed text waits here. Without a jump, because there may be no stack."""
        typed = self.typed
        ready = _POLL_WR | typed.waits()
        return arg & ready * (request == _POLL) * (not typed.looking)

    def write(self, data):
        """What the firmware prints. Without a jump: which function takes it is looked up. In steps, because a function
        with more than eleven words of locals and stack has them in the heap (py/objfun.c)."""
        way = self._next + (data == b"\r\n")
        way += 6 * ((len(data) + len(self._out) > self._limit) | (data == _REBOOT))
        return _WRITE[way](self, data)

    # Ways to write, without a jump ------------------------------------------------------------------------

    def _keep(self, data):
        self._out.extend(data)
        return len(data)

    def _keep_and_schedule(self, data):
        self._out.extend(data)
        self._next = _SCHEDULED
        try:
            schedule(self._flush_callback, None)
            return len(data)
        except:  # the queue of callbacks is full  # noqa: E722
            self._server.run(Sender.send, self._sender)
            return len(data)

    def _keep_and_send(self, data):
        self._out.extend(data)
        self._server.run(Sender.send, self._sender)
        return 2

    def _full(self, data):
        return _FULL[data == _REBOOT](self, data)

    def _last_words(self, data):
        # ESP32's soft reset says this when it has swept the heap (ports/esp32/main.c). Our objects and our code are
        # free memory then, good as long as nobody allocates, and at a jump the VM would run what is scheduled.
        return _FULL[2 * (not gc.mem_alloc())](self, data)

    def _swallow(self, data):
        return len(data)

    # Waiting for room -------------------------------------------------------------------------------------

    def _wait(self, data):
        kept = None
        try:
            check_stack(30)  # two more than for a step, which _store() has made when it comes to one
            kept = [0, port.ticks_ms()]  # how many bytes of data are in the buffer, and since when no more
            return self._store(data, kept)
        except:  # a KeyboardInterrupt, or there was no stack or memory to begin with  # noqa: E722
            return _AFTER[kept is None](self, data, kept)

    def _give_up(self, data, kept):
        # A client would take what misses for all that was printed: the session ends.
        self._sender = None
        self._limit = -1
        return len(data)

    def _store_interrupted(self, data, kept):
        try:
            self._store(data, kept)
            return interrupt(len(data))
        except:  # another one  # noqa: E722
            return self._store_interrupted(data, kept)

    def _store(self, data, kept):
        # It waits outside of the guard, so that callbacks which print meanwhile can wait, too.
        n = len(data)
        server = self._server
        try:
            while kept[0] < n and self._sender:
                before = kept[0]
                if not server.guard.wait(self._store_part, data, kept):
                    # A callback inside of our own step, where nothing can be sent
                    self._out.extend(data[kept[0] :][: max(0, _HEADS + _TEXT + _EXTRA - len(self._out))])
                    return n
                if kept[0] == before:
                    port.sleep_ms(1)
                    server.step()
            self.hand_on()
        except Exception:  # no heap, or no stack
            if kept[0] < n:
                return self._give_up(data, kept)
        return n

    def _store_part(self, data, kept):
        sender = self._sender
        if not sender:
            return
        part = data
        if len(data) > _TEXT:
            start = kept[0]
            end = min(start + _TEXT, len(data))
            # Not inside of a character in UTF-8 or of a line's end
            while start + _TEXT - 4 < end < len(data) and (data[end] & 0xC0 == 0x80 or data[end - 1] == _CR):
                end -= 1
            part = memoryview(data)[start:end]
        if len(self._out) + len(part) > _HEADS + _TEXT:
            sender.send()
        # All of it or nothing, or another thread's line could come in between. No jump up to the next line's end.
        fits = len(self._out) + len(part) <= _HEADS + _TEXT
        self._out.extend((b"", part)[fits])
        kept[0] += len(part) * fits
        if fits:
            kept[1] = port.ticks_ms()
            if self._next != _RUSHING and part[-1] == _LF:
                sender.send()
        elif port.ticks_diff(port.ticks_ms(), kept[1]) >= self._server.write_ms:
            self._server.end(sender.session, "stopped reading")

    # Sending ----------------------------------------------------------------------------------------------

    def _flush(self, _):
        self._next = _IDLE
        self._server.run(Terminal._flush_inside, self)

    def _flush_inside(self):
        server = self._server
        if not server.timer:
            server.step_all()  # or Ctrl-C would not come in while a program prints
        elif self._sender:
            self._sender.send()

    def take(self):
        """A record of what waits, in frames (memoryview, valid until the next call), or None."""
        server = self._server
        if not server.records:  # the first since the timer's tick
            self._next = _IDLE
        out = self._out
        if not self._made:
            if self._at > _HEADS:
                out[_HEADS : self._at] = b""  # what the latest record was made of
                self._at = _HEADS
            if len(out) <= _HEADS:
                self.found = 0
                return None
            # In a rush, lines wait for the timer's next tick, or a full buffer: one record for all costs less. But a
            # program may have taken the timer for itself.
            server.records += 1
            if server.records % _RUSH == 0 and not (server.timer and port.is_ours(server.timer)):
                server.records = 0
            self._next = _IDLE if server.records < _RUSH else _RUSHING
            try:
                made = port.text_frames(out, _HEADS, len(out))
                self._at = made >> 12 & 4095
                self._made = made & 4095
                self.found = made >> 24
            except:  # a Ctrl-C of the console, where text_frames() is bytecode: it was left half done
                self._give_up(out, None)
                raise
        record = memoryview(out)[: self._made]
        self._made = 0  # no jump from here on
        return record


# What takes it, by _next, [text, line's end]: first when it fits into the buffer, then when it does not.
_WRITE = (
    (Terminal._keep_and_schedule, Terminal._keep_and_send)  # _IDLE
    + (Terminal._keep, Terminal._keep_and_send)  # _SCHEDULED
    + (Terminal._keep, Terminal._keep)  # _RUSHING
    + (Terminal._full,) * 6
)
_AFTER = (Terminal._store_interrupted, Terminal._give_up)
_FULL = (Terminal._wait, Terminal._last_words, Terminal._swallow)
