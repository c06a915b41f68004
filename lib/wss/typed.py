# What was typed and the program has not read yet.
# In: text from receiver.py.  Out: bytes for the firmware, as fast as it takes them.  Next: terminal.py.
#
# ESP32 keeps what it reads from us in a ring of 260 bytes, and drops what does not fit (ports/esp32/mphalport.c). So
# typed text waits here, and the firmware is asked to read when its ring is empty.
import select
import sys
from micropython import const

from wss import port

_MAX = const(1032)  # bytes that wait here; 1 KB and its header in one read
_RING = const(250)  # bytes given to the firmware's ring when it is empty
_HELD_MS = const(60)  # when the ring is not empty for this long, the program is not reading
_AGAIN_MS = const(1000)  # between two questions whether a Ctrl-C is data
_LOOKS = const(50)  # looks at a full ring
_KEPT = const(260)  # for all that ESP32's ring can hold, and a byte
_CTRL_C = const(3)


class Typed:
    """Bytes from the client on their way to the firmware."""

    def __init__(self, step):
        self._step = step  # has hand_on() called
        self._text = bytearray(_MAX)
        self._start = 0
        self._end = 0
        self.fed = 0  # up to where give() gives what is in _kept instead, see _feed()
        self._at = 0  # from where
        self._credit = 0  # bytes for which the ring is sure to have room
        self._looks = 0  # looks at a full ring that are left
        self._held = None  # ticks since when the ring has been untouched
        self.given = False  # whether the firmware has got anything since the REPL's latest prompt
        self.asked = False  # the firmware has been asked to read
        self._ring = None  # a poll object that looks at the ring
        self.looking = False  # ioctl() must answer "nothing" meanwhile, because select asks os.dupterm, too
        if port.dupterm_notify:
            self._ring = select.poll()
            self._ring.register(sys.stdin, select.POLLIN)
            # The latest Ctrl-C has to come through when there is no memory left
            self._kept = bytearray(_KEPT)
            self._ring_empty()  # only the first look needs memory

    def clear(self):
        """The session is over."""
        self._start = self._end = 0
        self._text = b""

    # The receiver's side ----------------------------------------------------------------------------------

    def free(self):
        """Bytes that put() can take now."""
        if self._start and (self._start == self._end or self._end > _MAX // 2):
            n = self._end - self._start
            self._text[:n] = memoryview(self._text)[self._start : self._end]
            self._start = 0
            self._end = n
        return _MAX - self._end

    def room(self, n):
        """Where to read n bytes, at most free(). Frames lose their headers there, and put() moves what was typed to the
        front."""
        return memoryview(self._text)[self._end : self._end + n]

    def put(self, data):
        """Take typed text, at most free() bytes. Without a jump, see frames.Decoder."""
        n = len(data)
        end = self._end
        self._text[end : end + n] = data
        self._end = end + n

    # The firmware's side ----------------------------------------------------------------------------------

    def waits(self):
        """Whether anything is here."""
        return self._start < self._end

    def give(self, buf):
        """Put one byte into buf; 1, or None when the firmware's ring has no room. waits() was true."""
        if port.dupterm_notify:
            if self.fed:
                at = self._at
                self._at = at + 1
                if at == self.fed:
                    return None
                buf[0] = self._kept[at]
                return 1
            if not self._credit:
                if not self._ring_empty():
                    self._looks = _LOOKS
                    port.schedule(self._step)
                    return None
                self._credit = _RING
            self._credit -= 1
        start = self._start  # no jump from here on, or Ctrl-C would lose a byte
        buf[0] = self._text[start]
        self._start = start + 1
        self.given = True
        return 1

    def hand_on(self):
        """Have the firmware read, if it can take something."""
        if self._start == self._end or self.looking or not port.dupterm_notify:
            return
        if not self._credit:
            now = port.ticks_ms()
            if self._ring_empty():
                self._held = None
            elif self._looks:
                # A REPL that reads without echo empties the ring at once, and the timer's next step is far: look again
                # at the VM's next checks, a few times. A program that does not read is left alone.
                self._looks -= 1
                port.schedule(self._step)
                return
            elif self._held is None:
                self._held = now
                return
            else:
                if port.ticks_diff(now, self._held) >= _HELD_MS:
                    self._held = None
                    self._overtake(now)
                return
        # The C function itself is scheduled, so that the KeyboardInterrupt of a 0x03 rises in the program.
        if not self.asked:
            self.asked = True  # first: what is scheduled may run before schedule() returns
            if not port.schedule(port.dupterm_notify):
                self.asked = False

    def is_at_prompt(self):
        """Whether the firmware takes a Ctrl-C as data. Call it in the main thread of firmware with threads: there, and
        only there, the KeyboardInterrupt of one that is none rises in here, and no program sees it."""
        try:
            return port.dupterm_notify and self._ask(0)
        except KeyboardInterrupt:
            return False

    def _overtake(self, now):
        # A Ctrl-C behind more than a program which does not read will ever take: it overtakes, as on a UART.
        n = self._end - self._start
        while n and self._text[self._start + n - 1] != _CTRL_C:
            n -= 1
        if n and self._ask(n):
            self._held = port.ticks_add(now, _AGAIN_MS)

    def _ask(self, n):
        # Whether a Ctrl-C is data, as under micropython.kbd_intr(-1) or at a prompt, only the firmware knows. So it is
        # given one. If that was an interrupt, n bytes of what waits are dropped. If the firmware comes for more, it has
        # put it into its ring: then everything is taken out of there, and put back without it; returns True. Needs no
        # memory.
        kept = self._kept
        kept[0] = _CTRL_C
        self.looking = True
        try:
            answer = self._feed(0, 1)  # no jump from here on
            self._start += n * (answer == 0)
            if answer > 0:
                end = 1
                for _ in range(_KEPT - 1):
                    for _ in self._ring.ipoll(0):
                        # No jump since it was seen: another thread might take it
                        sys.stdin.buffer.readinto(kept, 1)
                        kept[end] = kept[0]
                        end += 1
                self._feed(1, end - (kept[end - 1] == _CTRL_C))
            return answer > 0
        finally:
            self.looking = False

    def _feed(self, at, end):
        # Have the firmware read what is kept. Positive when it has come for more, and 0 when it has not, as after an
        # interrupt.
        self._at = at
        self.fed = end
        port.dupterm_notify(None)
        self.fed = 0
        return self._at - end

    def _ring_empty(self):
        if self.looking:
            return False  # ESP32 calls back for readable sockets inside ipoll(), and our step would look again in there
        self.looking = True
        try:
            for _ in self._ring.ipoll(0):
                return False
            return True
        except MemoryError:
            return False  # the next step looks again
        finally:
            self.looking = False
