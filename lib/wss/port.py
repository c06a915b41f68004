# What the firmware can do is found out here, and in probe.py, by trying it, and nowhere else.
# In: nothing.  Out: the native TLS module, the dupterm hooks, the clock, a timer.  Next: every other stage.
import os
import socket
import sys
import time
from micropython import const
from micropython import schedule as _schedule

try:
    import tls  # 1.23 and later: the C module
except ImportError:
    try:
        import ssl as tls
    except ImportError:
        tls = None

try:
    import esp32
except ImportError:
    esp32 = None

VERSION = "0.1.0"  # of the whole bundle. Everything else that names it reads it here.
update_note = ""  # why an update was taken back, in a sentence, for status() and the next client
update_keys = None  # whose signature an update needs: signed.trusted_keys() for start(update_key=...)

_SOCKET_CALLBACK = const(20)  # the "register callback" option of ports/esp32/modsocket.c and extmod/modlwip.c
_SOL_SOCKET = const(1)
_IPPROTO_TCP = const(6)

dupterm_notify = getattr(os, "dupterm_notify", None)
ticks_ms = time.ticks_ms
ticks_diff = time.ticks_diff
# Ticks are added with ticks_add(), not with +: a sum beyond the largest tick is a long integer at 32 bits, and
# ticks_diff() misreads that.
ticks_add = time.ticks_add
sleep_ms = time.sleep_ms

# An import of one of these looks for a file of that name first, each time, because a file may replace the module
# (py/builtinimport.c). It does not when the module is in sys.modules. While mpremote has a folder mounted, it is the
# host that is asked for the file. If the host is lost, our step would wait for its answer for ever.
for name in ("binascii", "gc", "hashlib", "io", "json", "os", "select", "socket", "struct", "sys", "time"):
    sys.modules[name] = __import__(name)

# Where we are part of the firmware, a stage can be loaded when it is needed and unloaded again at almost no cost.
try:
    os.stat(__file__)
    frozen = False
except OSError:
    frozen = True
except NameError:  # this firmware has no __file__
    frozen = False


# The current folder at start(), where boot.py is: for updates.
home = ""


def memory_to_spare():
    """Whether a buffer may be allocated for the sake of speed.

    Not on an ESP32 without PSRAM: when the buffer does not fit, MicroPython doubles its heap (py/gc.c). It takes that
    from the memory in which TLS and Wi-Fi live, and the board loses the network.
    """
    try:
        for part in esp32.idf_heap_info(esp32.HEAP_DATA):
            if part[2] > 200000:
                return True
        return False
    except AttributeError:
        return True


def unload_frozen(*names):
    """unload() for modules that are frozen. To load one again from a file system would take too long."""
    if frozen:
        unload(*names)


def unload(*names):
    """Remove modules of wss whose work is done, so that the heap which their objects take becomes free."""
    import wss

    for name in names:
        if sys.modules.pop("wss." + name, None):
            delattr(wss, name)


def remove_failed_imports():
    """Call this after a MemoryError. One inside of an import can leave an empty entry in sys.modules (py/objmodule.c),
    and the next import of that module would crash the firmware."""
    for name in sys.modules:
        if name.startswith("wss.") and not sys.modules.get(name):
            sys.modules.pop(name, None)


def uid():
    """machine.unique_id() in lower-case hex, "" where there is none: the <uid> of upydev's file names."""
    try:
        from binascii import hexlify

        from machine import unique_id

        return hexlify(unique_id()).decode()
    except ImportError:
        return ""


def set_verify_callback(context, callback):
    """Have callback(DER, depth) called for each certificate of a peer's chain; False where the firmware cannot."""
    try:
        context.verify_callback = callback
        return True
    except AttributeError:
        return False


has_socket_callback = False  # what the last call of on_readable() has found out


def on_readable(sock, callback):
    """Where the port can, have callback(sock) called from the event poll hook while sock is readable."""
    global has_socket_callback
    try:
        sock.setsockopt(_SOL_SOCKET, _SOCKET_CALLBACK, callback)
        has_socket_callback = True
    except (OSError, TypeError):
        has_socket_callback = False


def no_delay(sock):
    """Have small frames leave at once. With Nagle's algorithm each of them would wait for the peer's delayed
    acknowledgement of the one before, which takes 40 ms."""
    try:
        sock.setsockopt(_IPPROTO_TCP, getattr(socket, "TCP_NODELAY", 1), 1)  # extmod/modlwip.c has a number of its own
    except OSError:
        pass


try:
    import lwip  # noqa: F401
    from wss.room import may_write
except ImportError:
    may_write = None  # elsewhere the socket itself says whether it can be written


def schedule(callback, arg=None):
    """micropython.schedule(), which returns False when the queue is full instead of raising."""
    try:
        _schedule(callback, arg)
        return True
    except RuntimeError:
        return False


TIMER_MS = const(20)  # the period of our timer

# The unused timer that was found. It is kept because it could not be found again: a timer that has been stopped still
# prints its last period (ports/esp32/machine_timer.c).
_timer = None


def timer(which=None):
    """A machine.Timer that nobody uses, or None when there is none.

    which: None finds one, False takes none, an id or a Timer takes that one. ESP32 up to 1.26 has only the hardware
    timers 0 to 3, and Timer(id) returns the object that exists (ports/esp32/machine_timer.c), so a timer in use is
    known by its period. Newer ESP32, RP2 and others have virtual timers with the id -1.
    """
    if which is False:
        return None
    try:
        from machine import Timer
    except ImportError:
        return None
    if which is not None:
        which = Timer(which) if isinstance(which, int) else which
        if not hasattr(which, "init"):
            raise ValueError("timer is a machine.Timer, its id, None or False")
        return which
    global _timer
    if not (_timer and is_ours(_timer)):
        _timer = None
        # Each virtual timer is a new object. ESP32 up to 1.24 looks at two bits of the id: there -1 is the timer 3.
        for i in (-1, 3, 2, 1, 0):
            try:
                t = Timer(i)
                if "period=0" in repr(t) or t is not Timer(i):
                    _timer = t
                    break
            except (ValueError, OSError):
                pass
    return _timer


def is_ours(timer):
    """False when timer shows that a program has set it since we did."""
    text = repr(timer)
    # RP2 prints microseconds (ports/rp2/machine_timer.c)
    return "period=%d)" % (TIMER_MS * (1000 if "tick_hz=1000000" in text else 1)) in text


# Whether bytecode without a jump is done before another thread runs (py/vm.c). Firmware says so from 1.27 on; before
# that RP2 alone had threads without a global lock.
has_gil = getattr(sys.implementation, "_thread", "unsafe" if sys.platform == "rp2" else "GIL") != "unsafe"

from wss.native import text_frames, unmask  # noqa: F401

unload("native")
