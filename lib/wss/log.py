# The last bytes that were printed, with no session too: start(log=4096), `wssctl log`.
# In: what the firmware prints while nobody is connected, frames of what it prints in a session.  Out: a file to read.
# Loaded and costing heap only when asked for.
import gc
import io
import os

from wss import port

_REBOOT = b"MPY: soft reboot\r\n"

_current = None


class Log(io.IOBase):
    """Keeps the last bytes printed, at least size of them and a quarter more. Raises ValueError, MemoryError.

    ESP32's os.dupterm has one slot. This object is in it while nobody is connected. A session's terminal takes the
    slot, and its sender passes on to add_frames() what it sends.
    """

    def __init__(self, size):
        global _current
        if not isinstance(size, int) or not 64 <= size <= 65536:
            raise ValueError("log is how many bytes to keep, 64 to 65536")
        self._size = size
        self._room = size + size // 4
        # A bytearray keeps its memory when it becomes shorter: so extend() needs none.
        self._kept = bytearray(self._room)
        self._kept[:] = b""
        self._at = 0  # how much of a record is here already
        self._lock = None
        if not port.has_gil:
            from _thread import allocate_lock

            self._lock = allocate_lock()
        _current = self
        self._previous = None

    def attach(self):
        """Take the slot of os.dupterm."""
        self._previous = os.dupterm(self)

    def detach(self):
        """Give it back."""
        global _current
        _current = None
        now = os.dupterm(None)
        os.dupterm(self._previous if now is self else now)

    def readinto(self, buf):
        return None

    def ioctl(self, request, arg):
        return arg & 4 if request == 3 else 0  # always writable (py/stream.h)

    # The firmware empties the slot when write() raises. So write() has no jump (guard.py), where the VM would raise a
    # pending exception: which function takes the data is looked up in a table.

    def write(self, data):
        return _WRITE[data == _REBOOT](self, data)

    def _add(self, data):
        return _ADD[(len(self._kept) + len(data) > self._room) + 2 * (self._lock is not None)](self, data)

    def _last_words(self, data):
        # ESP32's soft reset says this when it has swept the heap (see terminal.py).
        return _WRITE[2 * (not gc.mem_alloc())](self, data)

    def _swallow(self, data):
        return len(data)

    def _extend(self, data):
        self._kept.extend(data)
        return len(data)

    def _shorten(self, data):
        try:
            n = len(data)
            self._kept[: max(0, len(self._kept) + n - self._size)] = b""
            self._kept.extend(data[-self._size :])
            return n
        except:  # no memory for the slice: this much is missing in the log  # noqa: E722
            return len(data)

    def _add_locked(self, data):
        # Both cores may print at once.
        self._lock.acquire()
        n = _ADD[len(self._kept) + len(data) > self._room](self, data)
        self._lock.release()
        return n

    def add_frames(self, record):
        """Take the payloads of frames that text_frames() has made (native.py). After a KeyboardInterrupt, call it with
        the same record again."""
        while self._at < len(record):
            i = self._at + 2
            end = i + record[i - 1]
            self._add(record[i:end])
            self._at = end  # no jump since it was added
        self._at = 0

    def document(self):
        kept = self._kept
        return io.BytesIO(bytes(memoryview(kept)[max(0, len(kept) - self._size) :]))


def document():
    """A binary stream of what was printed last. Raises OSError where no log is kept."""
    if not _current:
        raise OSError(2)  # ENOENT
    return _current.document()


_WRITE = (Log._add, Log._last_words, Log._swallow)
_ADD = (Log._extend, Log._shorten, Log._add_locked, Log._add_locked)
