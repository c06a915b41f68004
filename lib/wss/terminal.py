# The stream that os.dupterm reads and writes.
# In: typed text from session.py, output from the REPL.  Out: the firmware's stdin, frames to session.py.
from io import IOBase
from micropython import const, schedule

from wss import port
from wss.frames import HEADROOM, TEXT, header

INPUT_MAX = const(1024)  # typed ahead of the program, beside the firmware's own ring
_LINE_MAX = const(1020)  # payload of one output frame
_RING = const(250)  # of ESP32's 260: what does not fit is dropped there (ports/esp32/mphalport.c)
_HELD_MS = const(60)  # the ring untouched for this long: the program is not reading
_FOLLOW = const(50)
_ASIDE_MAX = const(256)  # printed from inside our own step
_CTRL_C = const(3)

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
        self._in = bytearray(INPUT_MAX)
        self._start = 0
        self._end = 0
        self._break = -1  # where in _in a Ctrl-C was typed
        self._credit = 0  # bytes the ring is sure to have room for
        self._held = None  # since when the ring has been untouched
        self._notified = False
        self._interrupt = False  # a KeyboardInterrupt that hit our own code and is owed to the program
        self._out = bytearray(HEADROOM + _LINE_MAX + 2)
        self._spare = bytearray(HEADROOM + _LINE_MAX + 2)
        self._n = 0
        self._whole = False  # _out ends a line or is a prompt: nothing may be added
        self._later = False  # a flush is scheduled
        self._writing = False
        self._aside = b""
        self._flush_cb = self._flush
        self._follow_cb = self._follow
        self.lost = 0  # bytes printed from inside our own step that found no room

    def detach(self):
        """The session is over: swallow output, give no input, and let go of the buffers: the firmware's schedule queue
        may keep a bound method of ours, and with it this object, for long."""
        self._session = None
        self._start = self._end = self._n = 0
        self._in = self._out = self._spare = self._aside = b""

    # Input ------------------------------------------------------------------------------------------------

    def free(self):
        """Bytes that put() can take now."""
        if self._start:
            if self._start == self._end or self._end > INPUT_MAX // 2:
                n = self._end - self._start
                self._in[:n] = memoryview(self._in)[self._start : self._end]
                self._break -= self._start
                self._start = 0
                self._end = n
        return INPUT_MAX - self._end

    def typed(self):
        """True while typed text waits here."""
        return self._start < self._end or self._interrupt

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
        self._notified = False
        if self._server.guard.busy():  # called from inside our own step, whose buffers are not to be touched
            return None
        if self._interrupt:
            self._interrupt = False
            buf[0] = _CTRL_C
            return 1
        if self._start == self._end:
            # Where the firmware pulls (ESP32 from 1.27, unix), this is the REPL waiting, and nothing else may drive us
            self._server.step()
            if self._start == self._end:
                return None
        if port.dupterm_notify:
            if not self._credit:
                if not self._server.ring.empty():
                    port.soon(self._follow_cb, _FOLLOW)
                    return None
                self._credit = _RING
            self._credit -= 1
        buf[0] = self._in[self._start]
        self._start += 1
        if self._break < self._start:
            self._break = -1
        return 1

    def _follow(self, left):
        # The ring is full and more waits: look again at the VM's next checks, a few times, because a REPL that reads
        # without echo empties it at once and the timer's next tick is far; a program that does not read is left alone.
        if self._start < self._end:
            self.rearm()
            if left and not self._notified:
                port.soon(self._follow_cb, left - 1)

    def rearm(self):
        """Have the firmware fetch what waits here. Called after every step and write."""
        if not (self._interrupt or self._start < self._end) or not port.dupterm_notify:
            return
        if not self._credit and not self._interrupt:
            now = port.ticks()
            if self._server.ring.empty():
                self._held = None
            elif self._held is None:
                self._held = now
                return
            elif self._break < self._start or port.since(now, self._held) < _HELD_MS:
                return
            else:
                # Ctrl-C behind more than a program that does not read will ever take: it overtakes, as on a tty
                self._start = self._break
                self._credit = 1
                self._held = None
        # The C function itself, not a call of it from Python: the KeyboardInterrupt of a 0x03 must rise in the program
        if not self._notified:
            self._notified = True  # first: what is scheduled may run before schedule() returns
            if not port.soon(port.dupterm_notify):
                self._notified = False

    def interrupted(self):
        """Hand a KeyboardInterrupt that was raised in our own code on to the program."""
        self._interrupt = True

    # Output -----------------------------------------------------------------------------------------------

    def pending(self):
        """True when output waits for a frame."""
        return self._n

    def take(self):
        """What waits, framed (memoryview, valid until the next take); only when nothing else is in flight."""
        out = self._out
        n = self._n
        end = HEADROOM + n
        # A line's end is a frame of its own, in the same record: PyPI's webrepl waits for exactly that, and stock
        # WebREPL sends text and end, which print() writes one by one, as two
        if n > 2 and out[end - 1] == 10 and out[end - 2] == 13:
            n -= 2
            out[end - 2 : end + 2] = b"\x81\x02\r\n"
            end += 2
        start = header(out, TEXT, n)
        self._out = self._spare
        self._spare = out
        self._n = 0
        self._whole = False
        return memoryview(out)[start:end]

    def write(self, data):
        self._writing = True
        n = len(data)
        if not self._session:
            return n
        guard = self._guard
        if guard.enter(True):
            try:
                if self._aside:
                    aside = self._aside
                    self._aside = b""
                    self._write(aside, len(aside))
                self._write(data, n)
            except KeyboardInterrupt:
                self._interrupt = True
            except MemoryError:
                self.lost += n  # the program's own MemoryError must still be printable
            finally:
                guard.leave()
            if self._start < self._end or self._interrupt:
                self.rearm()
        else:
            # Printed by a callback that ran inside our own step, whose buffers are not to be touched
            k = min(n, _ASIDE_MAX - len(self._aside))
            self._aside += bytes(memoryview(data)[:k])
            self.lost += n - k
        self._writing = False
        # What has no line end yet goes out when the REPL waits or the VM next checks, with what is printed until then.
        # No jump may follow schedule() here: the VM checks at jumps (py/vm.c), and this very check would send it.
        if (self._n or self._aside) and not self._later:
            self._later = True
            try:
                schedule(self._flush_cb, None)
                return n
            except RuntimeError:  # the queue is full
                self._flush(None)
        return n

    def _flush(self, _):
        self._later = False
        if not self._writing:
            if self._aside:
                self.write(b"")
            self._server.step()

    def _write(self, data, n):
        if not self._session:  # ended while we waited for the guard, or by what was written before
            return
        prompt = n == 4 and data[3] == 32  # ">>> ", "... ", "=== " (shared/runtime/pyexec.c)
        if prompt and self._n:
            self._whole = True
        i = 0
        while i < n:
            at = self._n
            if (self._whole or at == _LINE_MAX) and not self._send():
                return
            at = self._n + HEADROOM
            k = min(n - i, HEADROOM + _LINE_MAX - at)
            if k > 2 and b"\r\n" in data:  # only raw writes have one inside: print() passes it by itself
                j = bytes(memoryview(data)[i : i + k]).find(b"\r\n")
                if j >= 0:
                    k = j + 2
            out = self._out
            end = at + k
            out[at:end] = data if k == n else memoryview(data)[i : i + k]
            self._n = end - HEADROOM
            i += k
            if prompt or out[end - 1] == 10 and out[end - 2] == 13 and end > HEADROOM + 1:
                self._whole = True
        if self._whole:
            self._server.pump(self._session)

    def _send(self):
        # Wait, no longer than the write deadline, until what waits is in flight. False when the session is gone.
        server = self._server
        session = self._session
        server.pump(session)
        start = port.ticks()
        while self._session and (self._whole or self._n == _LINE_MAX):
            if port.since(port.ticks(), start) >= server.write_ms:
                server.drop(session, "stopped reading")
                break
            server.wait(session)
            server.cycle()
        return self._session

    def raw(self, data):
        """Write bytes past the framing, for upydev's rcat; returns their count. Raises OSError: the session is gone."""
        guard = self._server.guard
        if not self._session or not guard.enter(True):
            raise OSError(128)  # ENOTCONN
        try:
            self._whole = self._n > 0
            if self._whole and not self._send() or not self._server.write_raw(self._session, data):
                raise OSError(128)
        finally:
            guard.leave()
        return len(data)

    def ioctl(self, request, arg):
        if request == _POLL:
            if self._server.ring.asking:
                return 0
            ready = arg & _POLL_WR
            if self._start < self._end:
                ready |= arg & _POLL_RD
                self.rearm()
            return ready
        return 0
