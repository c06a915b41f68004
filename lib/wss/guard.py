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


class _CtrlC(IOBase):
    # As the terminal of a moment, this reads as one Ctrl-C, and then as nothing. Without a jump: see interrupt().
    count = None

    def readinto(self, buf):
        count = self.count
        self.count = None
        buf[0] = 3
        return count

    def write(self, data):
        return self.terminal.write(data)  # of a thread on another core, which does not wait for a jump


_ctrl_c = _CtrlC()
_notify = dupterm_notify or id


def interrupt(result=None):
    """Raise a KeyboardInterrupt that our own code has caught in the program, to which it belongs. Returns result.

    Call it last, after a bare `except:`. It makes the exception pending, and the VM raises it at the next jump, which
    has to be one of the program's. Jumps are if, and, or, loops, the end of a try or of its handler, and the comparison
    in `except KeyboardInterrupt` (py/vm.c, DISPATCH_WITH_PEND_EXC_CHECK). Calls and returns are none.
    """
    _ctrl_c.count = 1
    _ctrl_c.terminal = was = os.dupterm(_ctrl_c)
    _notify(None)  # reads a 0x03 from os.dupterm, and only that makes the exception pending
    os.dupterm(was)
    return result


class Guard:
    """A lock that knows which thread is inside.

    A print() in another thread waits for its turn. A callback in the thread that is inside, which prints or steps the
    server, is turned away: it would wait for itself.
    """

    def __init__(self):
        self._lock = _Lock()
        self._entering = None
        self.owner = None  # the thread that is inside
        self.by_write = False  # whether it came with enter(True)

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

    def leave(self):
        """Leave."""
        if self.owner is not None:  # None: a callback inside was interrupted, and its recover() has left for us
            self.owner = None
            self._lock.release()
