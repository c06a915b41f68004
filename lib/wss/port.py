# Every question about the firmware is asked here, by trying; nowhere else.
# In: nothing.  Out: the native TLS module, the dupterm hooks, a timer, a lock.  Next: everybody.
import os
import socket
import sys
import time
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

dupterm = getattr(os, "dupterm", None)
dupterm_notify = getattr(os, "dupterm_notify", None)
ticks = time.ticks_ms
since = time.ticks_diff  # since(now, then): milliseconds, right across the wrap
later = time.ticks_add  # not +: a sum beyond the largest tick is a long integer at 32 bits, which ticks_diff() misreads


def missing():
    """One sentence naming what this firmware lacks for a secure REPL, or None."""
    if not dupterm:
        return "wss_repl needs os.dupterm, which this firmware was built without"
    # axTLS (ESP8266) has no CERT_REQUIRED: it can't ask a client for a certificate
    if not hasattr(tls, "CERT_REQUIRED"):
        return "wss_repl needs the tls module with mbedTLS, which this firmware was built without"


def uid():
    """machine.unique_id() in lower-case hex, "" where there is none: the <uid> of upydev's file names."""
    try:
        from machine import unique_id

        return "".join("%02x" % b for b in unique_id())
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


def on_readable(sock, callback):
    """Call callback(sock) from the event poll hook while sock is readable; False where the port can't."""
    try:
        sock.setsockopt(_SOL_SOCKET, _SOCKET_CALLBACK, callback)
        return True
    except (OSError, TypeError):
        return False


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


class _Flag:
    # Without threads only a callback can come in between, and that must never wait.
    def __init__(self):
        self._busy = False

    def enter(self, wait):
        if self._busy:
            return False
        self._busy = True
        return True

    def leave(self):
        self._busy = False

    def busy(self):
        return self._busy


class _Lock:
    # With threads a print() from another one waits for its turn; a callback in the owner's thread does not.
    def __init__(self):
        self._lock = _thread.allocate_lock()
        self._owner = None

    def enter(self, wait):
        me = _thread.get_ident()
        if self._owner == me or not self._lock.acquire(1 if wait else 0):
            return False
        self._owner = me
        return True

    def leave(self):
        self._owner = None
        self._lock.release()

    def busy(self):
        return self._owner is not None


try:
    import _thread

    Guard = _Lock
except ImportError:
    Guard = _Flag


class Ring:
    """Tells whether the firmware's own stdin ring is empty (ports/esp32/mphalport.c: 260 bytes, drops the rest)."""

    def __init__(self):
        import select

        self.asking = False  # our ioctl must answer "nothing" meanwhile: select asks dupterm too
        self._poll = select.poll()
        self._poll.register(sys.stdin, select.POLLIN)

    def empty(self):
        self.asking = True
        try:
            for _ in self._poll.ipoll(0):
                return False
            return True
        finally:
            self.asking = False
