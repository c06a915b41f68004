# One at a time: callbacks, the program that prints, and its threads all come into the same server.
# In: who wants to enter.  Out: who is inside.  Next: server.py and terminal.py, which let nobody else in meanwhile.
import os
from io import IOBase

from wss.port import dupterm_notify, sleep_ms

try:
    from _thread import allocate_lock as _Lock
    from _thread import get_ident as _ident
except ImportError:

    def _ident():
        return 1

    class _Lock:
        _taken = False

        def acquire(self, wait):
            taken = self._taken
            self._taken = True
            return not taken

        def release(self):
            self._taken = False


class Guard(IOBase):
    """A lock that knows which thread is inside.

    A print() in another thread waits for its turn. A callback in the thread that is inside, which prints or steps the
    server, is turned away: it would wait for itself.
    """

    def __init__(self):
        self._lock = _Lock()
        self._entering = None
        self.owner = None  # the thread that is inside
        self.by_write = False  # whether it came with enter(True)
        self._interrupt = False

    def enter(self, wait):
        """Enter; False when that is not possible. wait: for another thread to leave. After a KeyboardInterrupt in here,
        call recover()."""
        me = _ident()
        while me != self.owner and me != self._entering:
            # The VM runs callbacks and other threads at jumps (py/vm.c). There is none between these two statements,
            # so whoever comes when the lock is ours finds _entering or owner set.
            self._entering = me
            if self._lock.acquire(0):
                self.owner = me
                self.by_write = wait
                self._entering = None
                return True
            self._entering = None
            if not wait:
                break
            sleep_ms(1)
        return False

    def recover(self, before):
        """After a KeyboardInterrupt in enter() or behind it: leave, unless this thread was inside `before`."""
        me = _ident()
        if self._entering == me:
            self._entering = None
            if self.owner is None:
                self._lock.release()
        if self.owner == me and before != me:
            self.leave()

    def interrupt(self):
        """Raise a KeyboardInterrupt that our own code has caught in the program, to which it belongs.

        Call it last. It makes the exception pending, and the VM raises it at the next jump (py/vm.c), which has to be
        one of the program's.
        """
        # Only a 0x03 that os.dupterm reads makes one pending. So for a moment the terminal is this object, which reads
        # as one 0x03 and nothing else.
        notify = dupterm_notify or id
        self._interrupt = True
        was = os.dupterm(self)
        notify(None)
        os.dupterm(was)

    def readinto(self, buf):
        if not self._interrupt:
            return None
        self._interrupt = False
        buf[0] = 3
        return 1

    def leave(self):
        """Leave."""
        if self.owner is not None:  # None: a callback inside was interrupted, and its recover() has left for us
            self.owner = None
            self._lock.release()
