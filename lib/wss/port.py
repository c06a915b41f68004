# Every question about the firmware is asked here, by trying; nowhere else.
# In: nothing.  Out: the native TLS module, the dupterm hooks, a timer, a lock.  Next: everybody.
import os
import socket
import sys
import time
from io import IOBase
from micropython import const, schedule

try:
    import tls  # 1.23 and later: the C module
except ImportError:
    try:
        import ssl as tls
    except ImportError:
        tls = None

_SOCKET_CALLBACK = const(20)  # the "register callback" option of ports/esp32/modsocket.c and extmod/modlwip.c
_SOL_SOCKET = const(1)
_IPPROTO_TCP = const(6)

dupterm_notify = getattr(os, "dupterm_notify", None)
ticks = time.ticks_ms
sleep_ms = time.sleep_ms
since = time.ticks_diff  # since(now, then): milliseconds, right across the wrap
later = time.ticks_add  # not +: a sum beyond the largest tick is a long integer at 32 bits, which ticks_diff() misreads

# Where we are part of the firmware, stages can be loaded when they are needed and forgotten again, for next to nothing
try:
    os.stat(__file__)
    frozen = False
except OSError:
    frozen = True
except NameError:  # firmware that doesn't tell
    frozen = False

home = ""  # the folder of what trust.py reads, as it was at the start: a program's os.chdir must not hide it


def roomy():
    """Whether a buffer may be had for speed's sake. Not on ESP32 without PSRAM: if it does not fit, MicroPython's heap
    doubles (py/gc.c) out of the memory that TLS and Wi-Fi live on, and the board is off the network."""
    try:
        import esp32

        for part in esp32.idf_heap_info(esp32.HEAP_DATA):
            if part[2] > 200000:
                return True
        return False
    except (ImportError, AttributeError):
        return True


def forget(*names):
    """Let go of stages that are done: their objects take heap. From a file system they would cost time to come back."""
    if frozen:
        drop(*names)


def drop(*names):
    """The same, wherever they come from."""
    import wss

    for name in names:
        if sys.modules.pop("wss." + name, None):
            delattr(wss, name)


def mend():
    """After a MemoryError in an import: it may have left an empty entry (py/objmodule.c), on which the next crashes."""
    for name in sys.modules:
        if name.startswith("wss.") and not sys.modules.get(name):
            sys.modules.pop(name, None)


def missing():
    """One sentence naming what this firmware lacks for a secure REPL, or None."""
    what = None
    if not hasattr(os, "dupterm"):
        what = "os.dupterm"
    # axTLS (ESP8266) has no CERT_REQUIRED: it can't ask a client for a certificate
    elif not hasattr(tls, "CERT_REQUIRED"):
        what = "the tls module with mbedTLS"
    return what and "wss_repl needs %s, which this firmware was built without" % what


def uid():
    """machine.unique_id() in lower-case hex, "" where there is none: the <uid> of upydev's file names."""
    try:
        from binascii import hexlify

        from machine import unique_id

        return hexlify(unique_id()).decode()
    except ImportError:
        return ""


def addresses():
    """The board's own IPv4 addresses, for messages only."""
    found = []
    try:
        import network

        for i in (network.STA_IF, network.AP_IF):
            nic = network.WLAN(i)
            if nic.active():
                found.append(nic.ifconfig()[0])
    except (ImportError, AttributeError, OSError):
        pass
    return found or ["0.0.0.0"]


def on_certificate(context, callback):
    """Call callback(DER, depth) for each certificate of a peer's chain; False where the firmware can't."""
    try:
        context.verify_callback = callback
        return True
    except AttributeError:
        return False


def set_clock(date):
    """Set the clock to (year, month, day, hour, minute, second) in UTC; False where there is none to set."""
    try:
        from machine import RTC

        y, month, d, h, m, s = date
        RTC().datetime((y, month, d, 0, h, m, s, 0))
        return True
    except (ImportError, OSError, ValueError):
        return False


driven = False  # whether the last on_readable() found a port that can


def on_readable(sock, callback):
    """Call callback(sock) from the event poll hook while sock is readable, where the port can: `driven` tells."""
    global driven
    try:
        sock.setsockopt(_SOL_SOCKET, _SOCKET_CALLBACK, callback)
        driven = True
    except (OSError, TypeError):
        driven = False


def no_delay(sock):
    """Small frames leave at once: by Nagle's algorithm each waits for the peer's delayed acknowledgement, 40 ms."""
    try:
        sock.setsockopt(_IPPROTO_TCP, getattr(socket, "TCP_NODELAY", 1), 1)  # modlwip.c has its own number for it
    except OSError:
        pass


def soon(callback, arg=None):
    """Run callback(arg) at the VM's next check; False when the queue is full."""
    try:
        schedule(callback, arg)
        return True
    except RuntimeError:
        return False


# RFC 6455 section 5.3, in machine code where the firmware can make it: 1 KB in 0.5 us instead of 56. It is made here
# because a .mpy with machine code in it is for one processor only.
try:
    exec("""@micropython.viper
def unmask(data:ptr8,key:ptr8,n:int):
 i=0
 if not int(data)&3:
  d=ptr32(data)
  k=ptr32(key)
  while i<n>>2:
   d[i]^=k[0]
   i+=1
  i<<=2
 while i<n:
  data[i]^=key[i&3]
  i+=1
""")
except (SyntaxError, MemoryError):  # no such emitter, or no memory that may be run

    def unmask(data, key, n):
        """In place; data: a writable memoryview of n bytes, key: 4 bytes."""
        for i in range(n):
            data[i] ^= key[i & 3]


_timer = None  # the one found, kept: a stopped one still prints its last period (ports/esp32/machine_timer.c)


def timer(which=None):
    """A machine.Timer nobody uses, or None.

    which: None finds one, False takes none, an id or a Timer takes that. ESP32 up to 1.26 has hardware
    timers 0 to 3 only, and Timer(id) answers with the existing object (ports/esp32/machine_timer.c), so one
    that runs is known by its period; newer ESP32, RP2 and others have virtual timers under -1.
    """
    if which is False:
        return None
    try:
        from machine import Timer
    except ImportError:
        return None
    if which is not None:
        return Timer(which) if isinstance(which, int) else which
    global _timer
    if not _timer:
        # Virtual timers are new objects; ESP32 up to 1.24 takes two bits of the id, so that -1 is the one and only 3
        for i in (-1, 3, 2, 1, 0):
            try:
                t = Timer(i)
                if "period=0" in repr(t) or t is not Timer(i):
                    _timer = t
                    break
            except (ValueError, OSError):
                pass
    return _timer


# Whether a stretch of bytecode without a jump is done before another thread runs (py/vm.c): no GIL on RP2
gil = sys.platform != "rp2"

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
    """Lets one in at a time. A print() from another thread waits for its turn; what comes from the thread that is
    inside (a callback that prints, a tick) never does."""

    def __init__(self):
        self._lock = _Lock()
        self._entering = None
        self.owner = None  # the thread that is inside
        self.by_write = False  # it is there, or was, with enter(True)
        self._interrupt = False

    def enter(self, wait):
        """True when inside now. After a KeyboardInterrupt, recover()."""
        me = _ident()
        while me != self.owner and me != self._entering:
            # No jump between these two, where the VM looks for callbacks and other threads: what comes as soon as the
            # lock is ours must find out
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
        """After a KeyboardInterrupt in enter() or behind it: leave, unless owner was us `before` already."""
        me = _ident()
        if self._entering == me:
            self._entering = None
            if self.owner is None:
                self._lock.release()
        if self.owner == me and before != me:
            self.leave()

    def interrupt(self):
        """Let a KeyboardInterrupt that rose in our own code rise in the program, to which it belongs. Call it last:
        the VM looks at jumps (py/vm.c), so that none may follow on the way back to the program."""
        # Nothing but a 0x03 from os.dupterm makes one pending, so for a moment that is us, who have nothing else to say
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
        if self.owner is not None:  # a callback inside was interrupted, and has left for us
            self.owner = None
            self._lock.release()
