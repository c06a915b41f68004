# One at a time, and Ctrl-C for the program only. Callbacks, threads, and the program that prints all come into the same
# server, and a KeyboardInterrupt can come with each of them.
#
# The VM raises KeyboardInterrupt, and runs callbacks and other threads, at jumps and nowhere else (py/vm.c,
# DISPATCH_WITH_PEND_EXC_CHECK). Jumps are: if, and, or, loops, the end of a try or of its handler, and the comparison
# in `except SomeError`. Calls, returns, raise, with, and a bare `except:` are none. Code without a jump cannot be
# interrupted, and where there is a GIL no other thread runs in between.
# In: who wants to enter.  Out: who is inside.  Next: server.py, terminal.py.
import os
from io import BytesIO
from micropython import const

from wss.port import dupterm_notify, sleep_ms

try:
    from _thread import allocate_lock as _Lock
    from _thread import get_ident as _ident

    MAIN = _ident()  # the main thread: who imports us
except ImportError:
    MAIN = None

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


_CALLS = const(28)  # nested calls in a step: 21 of ours, and some for mbedTLS, which does not check the stack's end


def check_stack(calls=_CALLS):
    """Raise RuntimeError when the stack has no room for so many nested calls: a step would end in the middle, and lose
    what it has read.

    It has no jump, because the VM would run a callback there. When that finds no stack, the firmware never runs one
    again: it prints the exception (py/runtime.c, mp_call_function_1_protected), which takes stack, too, and leaves
    py/scheduler.c locked.
    """
    _CHECK[calls > 1](calls - 1)


_CHECK = (id, check_stack)

# Raised when somebody is inside. A class of our own would take 170 bytes of heap. EOFError will do, because nothing
# that runs inside raises it.
Busy = EOFError
_FREE = (None,)


class Guard:
    """`with guard:` lets one in at a time, and raises Busy when somebody is inside. Call check_stack() before: without
    stack there is no way out."""

    def __init__(self):
        self._lock = _Lock()
        self.owner = None  # the thread that is inside

    def __enter__(self):
        me = _ident()
        try:  # no jump from here to the end, nor in __exit__()
            _FREE[not self._lock.acquire(0)]  # raises IndexError when it is somebody's
            self.owner = me
            return
        except:  # noqa: E722
            raise Busy from None

    def __exit__(self, kind, value, traceback):
        self.owner = None
        self._lock.release()

    def wait(self, work, *args):
        """work(*args) inside; waits for other threads. Returns True, or False when this thread is inside already: it
        is a callback then, which would wait for itself. Call check_stack() before."""
        while True:
            try:
                with self:
                    work(*args)
                    return True
            except Busy:
                if self.owner == _ident():
                    return False
                sleep_ms(1)


def interrupted(work, on):
    """work(on); returns whether a KeyboardInterrupt came before it was done. Then call it again, still inside of the
    guard: it goes on where it was, and nobody else comes to see what is half done.

    While somebody is inside, terminal.py hands out no Ctrl-C, so it can only be the console's, or was pending before.
    """
    try:
        work(on)
        return False
    except KeyboardInterrupt:
        return True


_ctrl_c = BytesIO(b"\x03")
_notify = dupterm_notify or id


def interrupt(result=None):
    """Raise a KeyboardInterrupt that our own code has caught in the program, to which it belongs. Returns result.

    Call it last, and only after a bare `except:`. It makes the exception pending, and the VM raises it at the next
    jump, which has to be one of the program's.
    """
    _ctrl_c.seek(0)
    was = os.dupterm(_ctrl_c)
    _notify(None)  # reads a 0x03 from os.dupterm, and only that makes the exception pending
    os.dupterm(was)
    return result
