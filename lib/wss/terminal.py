# The stream that os.dupterm reads and writes.
# In: typed text from session.py, output from the REPL.  Out: the firmware's stdin, frames to session.py.
import gc
import os
import select
import sys
from io import IOBase
from micropython import const, schedule

from wss import port
from wss.frames import header
from wss.guard import interrupt

_INPUT_MAX = const(1032)  # typed ahead of the program, beside the ring; 1 KB and its header in one read
_OUT_MAX = const(576)  # output that waits, in frames
_HEAD = const(4)  # a frame's header at most
_SMALL = const(125)  # the payload that goes with a header of two bytes
_TEXT_FRAME = const(0x81)
_END = const(b"\x81\x02\r\n")  # the frame of a line's end
_RUSH = const(16)  # writes between two steps that are sent at once
_RING = const(250)  # of ESP32's 260: what does not fit is dropped there (ports/esp32/mphalport.c)
_HELD_MS = const(60)  # the ring untouched for this long: the program is not reading
_FOLLOW = const(50)
_ASIDE_MAX = const(256)  # printed from inside our own step
_CTRL_C = const(3)
_NEW = const(1)  # a write() is in progress, and what it was given not kept anywhere yet
_KEPT = const(2)
_CAUGHT = const(3)  # it was interrupted
_REBOOT = const(b"MPY: soft reboot\r\n")

_POLL = const(3)  # py/stream.h
_POLL_RD = const(1)
_POLL_WR = const(4)


class Terminal(IOBase):
    """The REPL's side of a session. Never raises: an exception would detach dupterm (extmod/os_dupterm.c).

    Input is handed on only as fast as the firmware takes it; a line's end and a prompt are frames of their own, which
    upydev and others rely on.
    """

    def __init__(self, server, session):
        self._server = server
        self._guard = server.guard
        self._session = session
        self._previous = None  # what os.dupterm held before us
        self._is_whole = True  # whether nothing has been lost
        self._in = bytearray(_INPUT_MAX)
        self._start = 0
        self._end = 0
        self._break = -1  # where in _in a Ctrl-C was typed
        self._credit = 0  # bytes the ring is sure to have room for
        self._held = None  # since when the ring has been untouched
        self._notified = False
        self._ring = None  # a poll object that asks for the ring
        self._asking = False  # our ioctl must answer "nothing" meanwhile: select asks dupterm too
        if port.dupterm_notify:
            self._ring = select.poll()
            self._ring.register(sys.stdin, select.POLLIN)
        self._out = bytearray(_OUT_MAX)  # keeps its room when it is emptied, and then extend() takes no heap
        self._out[:] = b""
        self._taken = 0  # what is in _out up to here has been taken
        self._open = 0  # where the payload of the last frame begins, if something may be added to it
        self._at = 0  # how much of what is being written is in _out
        self._writes = 0  # since the last step
        self._later = False  # a flush is scheduled
        self._writing = 0
        self._aside = b""
        self._flush_cb = self._flush
        self._follow_cb = self._follow

    def attach(self):
        """Become the REPL's terminal."""
        self._previous = os.dupterm(self)

    def is_attached(self):
        """Whether we still are. A program can take the terminal away, and so does the firmware when a write() of ours
        finds no stack."""
        now = os.dupterm(self)
        if now is not self:
            os.dupterm(now)
        return now is self and self._is_whole

    def detach(self):
        """Give the terminal back: the session is over. From now on output is swallowed, and there is no input. The
        buffers go, because the firmware's schedule queue may keep a bound method of ours, and with it this object."""
        self._session = None
        self._start = self._end = self._taken = self._open = self._writes = 0
        self._in = self._aside = b""
        self._out = bytearray()  # a write that is under way may still extend it
        now = os.dupterm(None)
        # If another terminal has taken our place meanwhile, it stays.
        os.dupterm(self._previous if now is self else now)
        self._previous = None

    # Input ------------------------------------------------------------------------------------------------

    def free(self):
        """Bytes that put() can take now. Asked at each step."""
        self._writes = 0
        if self._start:
            if self._start == self._end or self._end > _INPUT_MAX // 2:
                n = self._end - self._start
                self._in[:n] = memoryview(self._in)[self._start : self._end]
                self._break -= self._start
                self._start = 0
                self._end = n
        return _INPUT_MAX - self._end

    def room(self, n):
        """Where to read n bytes, at most free(). Frames lose their headers there, and put() moves what was typed to the
        front."""
        return memoryview(self._in)[self._end : self._end + n]

    def put(self, data):
        """Take typed text, at most free() bytes."""
        n = len(data)
        end = self._end
        self._in[end : end + n] = data
        self._end = end + n
        # Only a keystroke is a Ctrl-C in front of what was typed ahead; inside a longer frame it is data
        # (a program under micropython.kbd_intr(-1), mpremote mount), and there is no way to ask the firmware.
        if 0 < n <= 4 and data[n - 1] == _CTRL_C:
            self._break = end + n - 1

    def readinto(self, buf):
        try:
            self._notified = False
            guard = self._guard
            # From inside of our own step, whose buffers are not to be touched, nothing is given, nor while a
            # KeyboardInterrupt that was caught is given on: another one would be lost.
            if guard.owner or self._writing == _CAUGHT:
                return None
            if self._start == self._end:
                # Where the firmware pulls (ESP32 from 1.28, unix), this is the REPL waiting, and nothing else may drive
                # us
                self._server.step()
                if self._start == self._end:
                    return None
            if port.dupterm_notify:
                if not self._credit:
                    if not self._ring_empty():
                        port.schedule(self._follow_cb, _FOLLOW)
                        return None
                    self._credit = _RING
                self._credit -= 1
            buf[0] = self._in[self._start]
            self._start += 1
            if self._break < self._start:
                self._break = -1
            return 1
        except Exception:  # no stack, no memory: nothing for now
            return None
        except:  # a KeyboardInterrupt, the console's and the program's: it is given on  # noqa: E722
            buf[0] = _CTRL_C
            return 1

    def _follow(self, left):
        # The ring is full and more waits: look again at the VM's next checks, a few times, because a REPL that reads
        # without echo empties it at once and the timer's next tick is far; a program that does not read is left alone.
        if self._start < self._end:
            self.rearm()
            if left and not self._notified:
                port.schedule(self._follow_cb, left - 1)

    def rearm(self):
        """Have the firmware fetch what waits here. Called after every step and write."""
        if self._start == self._end or not port.dupterm_notify:
            return
        if not self._credit:
            now = port.ticks_ms()
            if self._ring_empty():
                self._held = None
            elif self._held is None:
                self._held = now
                return
            elif self._break < self._start or port.ticks_diff(now, self._held) < _HELD_MS:
                return
            else:
                # Ctrl-C behind more than a program that does not read will ever take: it overtakes, as on a tty
                self._start = self._break
                self._credit = 1
                self._held = None
        # The C function itself, not a call of it from Python: the KeyboardInterrupt of a 0x03 must rise in the program
        if not self._notified:
            self._notified = True  # first: what is scheduled may run before schedule() returns
            if not port.schedule(port.dupterm_notify):
                self._notified = False

    def _ring_empty(self):
        # Whether the firmware's own stdin ring is (ports/esp32/mphalport.c: 260 bytes, drops the rest)
        if self._asking:
            return False  # ESP32 calls back for readable sockets inside ipoll(), and our step would ask in there again
        self._asking = True
        try:
            for _ in self._ring.ipoll(0):
                return False
            return True
        except MemoryError:
            return False  # the next step asks again
        finally:
            self._asking = False

    # Output -----------------------------------------------------------------------------------------------

    def take(self):
        """What waits, in frames (memoryview), or None; only when what was taken before has been sent."""
        out = self._out
        start = self._taken
        self._open = 0
        if start == len(out):
            if start:
                out[:] = b""  # needs memory: without it all would be sent again, had _taken been reset before
            self._taken = 0
            return None
        view = memoryview(out)[start:]
        self._taken = len(out)
        return view

    # A function with more than eleven words of locals and stack has them in the heap (py/objfun.c). So what every
    # write needs is in small ones, and takes no heap.

    def write(self, data):
        # No jump leads to any of the ways: see _WAYS. In a rush, what has room and needs no more thought is just kept.
        n = len(data)
        quick = (self._writes > _RUSH) * (n <= _SMALL) * (n + len(self._out) < _OUT_MAX - 2)
        quick *= (self._guard.owner is None) * (n != 4)
        return _WAYS[(data == _REBOOT) + quick * (3 * (not self._open) * (b"\n" not in data) + 4 * (data == b"\r\n"))](
            self, data
        )

    def _text(self, data):
        out = self._out
        out.append(_TEXT_FRAME)
        out.append(len(data))
        self._open = len(out)
        out.extend(data)
        return len(data)

    def _line_end(self, data):
        self._out.extend(_END)
        self._open = 0
        return 2

    def _emit(self, data):
        self._writing = _NEW
        try:
            try:
                return self._print(data)
            except RuntimeError:  # No stack: data is lost, so nothing may follow, and the session ends.
                self._is_whole = False
                self._session = None
                return len(data)
        except:  # a KeyboardInterrupt: nothing else leaves _print()  # noqa: E722
            return self._interrupted(data)

    def _interrupted(self, data):
        writing = self._writing
        self._writing = _CAUGHT
        try:
            return self._recover(data, writing)
        except:  # another one, of the console  # noqa: E722
            self._writing = 0
            return interrupt(len(data))

    def _recover(self, data, writing):
        guard = self._guard
        if writing == _NEW:
            self._put_aside(data)
        guard.recover(None if guard.by_write else guard.owner)
        if not self._later:
            self._later = port.schedule(self._flush_cb)
        self._writing = 0
        return interrupt(len(data))

    def _print(self, data):
        if self._session:
            try:
                self._enter(data)
            except MemoryError:
                # Not on without it: what a client misses it takes for what the program printed
                session = self._session  # asked for once: a step at the next jump may end it
                if session:
                    session.out_of_memory()
            if self._start < self._end:
                self.rearm()
        self._writing = 0
        # What has no line end yet goes out when the REPL waits or the VM next checks, with what is printed until then.
        # No jump may follow schedule() here: the VM checks at jumps (py/vm.c), and this very check would send it.
        if (self._out and self._writes <= _RUSH or self._aside) and not self._later:
            self._later = True
            try:
                schedule(self._flush_cb, None)
                return len(data)
            except RuntimeError:  # the queue is full
                self._later = False
                if self._guard.owner is None:  # else it comes with what is printed next
                    self._flush(None)
        return len(data)

    def _enter(self, data):
        if self._guard.enter(True):
            try:
                if self._aside:
                    aside = self._aside  # no jump up to the next line: a callback there would add to it
                    self._aside = b""
                    self._write(aside)
                    self._writing = _NEW
                self._write(data)
                self._rush()
            finally:
                self._guard.leave()
        else:
            self._put_aside(data)

    def _put_aside(self, data):
        # Printed by a callback that ran inside our own step, whose buffers are not to be touched
        self._aside += bytes(memoryview(data)[: _ASIDE_MAX - len(self._aside)])
        self._writes = 0  # and before what comes next

    def _rush(self):
        # What ends a line is sent at once, unless it's one of many: then the timer's next tick takes them along.
        timer = self._server.timer
        self._writes = self._writes + 1 if timer else 0
        if self._writes == _RUSH + 1 and not port.is_ours(timer):
            self._writes = 0  # a program has taken the timer: no tick will come
        if not self._open and self._writes <= _RUSH and self._session:
            try:
                self._session.sender.send()
            except RuntimeError:  # no stack: later
                pass

    def _flush(self, _):
        self._later = False
        if not self._writing:
            if self._aside:
                self.write(b"")  # a KeyboardInterrupt that it leaves pending rises in step(), which passes it on
            writes = self._writes
            self._server.step()
            self._writes = writes  # a rush of dots is one, too: only the timer's steps begin anew

    def _write(self, data):
        # A line's end is a frame of its own, and so is a prompt; other writes share one. A KeyboardInterrupt comes at
        # jumps: from the first store into a frame to that of its end there is none.
        n = len(data)
        at = len(self._out)
        end = n == 2 and data == b"\r\n"
        if n == 4 or n > _SMALL or at > _OUT_MAX - _HEAD - _SMALL or not end and b"\n" in data:
            self._writing = _KEPT
            self._write_any(data, n)
        elif end:
            self._line_end(data)
            self._writing = _KEPT  # no jump since it was stored
        elif self._open and n + at - self._open <= _SMALL:
            self._out[self._open - 1] = n + at - self._open
            self._out.extend(data)
            self._writing = _KEPT
        elif n:
            self._text(data)
            self._writing = _KEPT

    def _write_any(self, data, n):
        self._at = 0
        try:
            self._pieces(data, n)
        except MemoryError:
            self._pieces(data, n)  # once more, from where it stopped

    def _pieces(self, data, n):
        prompt = n == 4 and data[3] == 32  # ">>> ", "... ", "=== " (shared/runtime/pyexec.c)
        if prompt:
            self._open = self._writes = 0
        while self._at < n:
            i = self._at
            out = self._out
            at = len(out)
            if at > _OUT_MAX - 16:
                if not self.drain(False):
                    return
                continue
            body = self._open
            k = min(n - i, _OUT_MAX - _HEAD - at)
            if data[i] == 10 and body and out[at - 1] == 13:  # written one by one
                left = at - 1 - body
                start = at - 1 if left else body - 2
                out[body - 1] = left
                out[start:] = _END
                self._open = 0
                self._at = i + 1
                continue
            if b"\r\n" in data:  # print() passes it by itself, raw writes have it inside
                j = bytes(memoryview(data)[i : i + k]).find(b"\r\n") if n > 2 else 0
                if not j:
                    out.extend(_END)
                    self._open = 0
                    self._at = i + 2
                    continue
                if j > 0:
                    k = j
            part = data
            if k < n:
                for _ in range(3):  # not in the middle of a character or of a line's end
                    if k > 1 and i + k < n and (data[i + k] & 0xC0 == 0x80 or data[i + k - 1] == 13):
                        k -= 1
                part = memoryview(data)[i : i + k]
            if body and at + k - body <= _SMALL:
                out[body - 1] = at + k - body
                out.extend(part)
            elif k <= _SMALL:
                out.append(_TEXT_FRAME)
                out.append(k)
                out.extend(part)
                self._open = at + 2
            else:
                head = header(1, k)
                out.extend(head)
                out.extend(part)
                self._open = 0
            self._at = i + k
        if prompt:
            self._open = 0

    def drain(self, files):
        """Wait, no longer than the write deadline, until all of it has been sent, and what is acknowledged of a get if
        files. False when the session is gone."""
        server = self._server
        session = self._session
        self._open = 0
        start = port.ticks_ms()
        while self._session and not session.sender.send() and (files or self._out):
            if port.ticks_diff(port.ticks_ms(), start) >= server.write_ms:
                server.end(session, "stopped reading")
                break
            port.sleep_ms(1)
            server.step_all()
        return self._session and not self._out

    def ioctl(self, request, arg):
        """What select asks: readable while typed text waits here."""
        if request == _POLL:
            if self._asking:
                return 0
            ready = arg & _POLL_WR
            if self._start < self._end:
                ready |= arg & _POLL_RD
                self.rearm()
            return ready
        return 0


# ESP32's soft reset says _REBOOT when it has swept the heap (ports/esp32/main.c): our objects and our code are free
# memory then, good for as long as nobody takes any. At a jump the VM would run what is scheduled: our tick, anybody's.
_WAYS = (
    Terminal._emit,
    lambda self, data: _WAYS[2 * (not gc.mem_alloc())](self, data),
    lambda self, data: 18,
    Terminal._text if port.has_gil else Terminal._emit,
    Terminal._line_end if port.has_gil else Terminal._emit,
)
