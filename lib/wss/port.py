# What the firmware can do is found out here, by trying it, and nowhere else.
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

VERSION = "0.1.0"  # of the whole bundle. Everything else that names it reads it here.
update_note = ""  # what became of an update that was taken back, in a sentence, for status() and the client that comes
update_keys = None  # whose signature an update needs: what wss/signed.py makes of start(update_key=...)

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
        import esp32

        for part in esp32.idf_heap_info(esp32.HEAP_DATA):
            if part[2] > 200000:
                return True
        return False
    except (ImportError, AttributeError):
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


def missing():
    """One sentence naming what this firmware lacks for a secure REPL, or None."""
    what = None
    if not hasattr(os, "dupterm"):
        what = "os.dupterm"
    # axTLS (ESP8266) has no CERT_REQUIRED: it cannot ask a client for a certificate.
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


def resolve(host, number):
    """What getaddrinfo() knows of an address of this board. Raises ValueError."""
    try:
        if host not in ("0.0.0.0", "::"):  # found out now, while a server at the same port still runs
            found = socket.getaddrinfo(host, 0)[0]
            sock = socket.socket(found[0])
            try:
                sock.bind(found[-1])
            finally:
                sock.close()
            known = addresses("::")  # lwIP binds to any address
            if known != ["::"] and host[:4] != "127." and host not in known and found[-1][0] not in known:
                raise OSError
        return socket.getaddrinfo(host, number)[0]
    except (OSError, IndexError, TypeError):
        raise ValueError("host is an address of this board, and the firmware knows none like %s" % (host,))


def addresses(host):
    """The addresses at which a server listens that listens at host; for messages only."""
    if host not in ("0.0.0.0", "::"):
        return [host]
    # Other interfaces than these are found by what boot.py calls them: to ask for one that there is, in other ports
    # than ESP32's, begins it anew.
    import __main__

    nics = list(__main__.__dict__.values())
    try:
        import network

        nics += [network.WLAN(network.STA_IF), network.WLAN(network.AP_IF)]
        if sys.platform == "esp32":
            nics.append(network.LAN())  # raises without one
    except Exception:  # of many kinds: no Wi-Fi, no Ethernet, no such module
        pass
    found = []
    for nic in nics:
        try:
            address = nic.ifconfig()[0]
            if nic.active() and address != "0.0.0.0" and address not in found:
                found.append(address)
                if host == "::":
                    found += [a[0] for a in nic.ipconfig("addr6")]
        except Exception:  # anything that is no network interface, or has no IPv6
            pass
    return found or [host]


def set_verify_callback(context, callback):
    """Have callback(DER, depth) called for each certificate of a peer's chain; False where the firmware cannot."""
    try:
        context.verify_callback = callback
        return True
    except AttributeError:
        return False


def aead_only(context):
    """Have a TLS context take suites with authenticated encryption alone, not CBC (RFC 7457 section 2.4)."""
    try:
        context.set_ciphers([c for c in context.get_ciphers() if "GCM" in c or "CCM" in c or "CHACHA" in c])
    except AttributeError:
        pass  # before 1.23: what mbedTLS prefers is chosen, which is one of these where the client has one


def set_clock(date):
    """Set the clock to (year, month, day, hour, minute, second) in UTC; False where there is none to set."""
    try:
        from machine import RTC

        y, month, d, h, m, s = date
        RTC().datetime((y, month, d, 0, h, m, s, 0))
        return True
    except (ImportError, OSError, ValueError):
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
    may_write = None  # whether a socket can be written, it says itself


def schedule(callback, arg=None):
    """micropython.schedule(), which returns False when the queue is full instead of raising."""
    try:
        _schedule(callback, arg)
        return True
    except RuntimeError:
        return False


# Two loops over every byte that comes in or goes out. Where the firmware can compile them to machine code, 1 KB takes 1
# to 2 us instead of 60 to 300. It is done on the board: a .mpy file with machine code in it fits only one processor.

# unmask(data, key, n): the masking of RFC 6455 section 5.3. XOR n bytes of data (a writable memoryview) with key (4).
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
except (SyntaxError, MemoryError):  # the firmware has no such emitter, or no memory from which code can run

    def unmask(data, key, n):
        for i in range(n):
            data[i] ^= key[i & 3]


# cut(b, i, n): make TEXT frames of up to 125 bytes, at the beginning of b, from the text at b[i:n]. As many as have
# room for their headers before i. A line's end is a frame of its own, and so is a prompt (">>> ", "... ", "=== ",
# shared/runtime/pyexec.c) at a line's beginning or at the end of the text. Of a character in UTF-8 all bytes come into
# the same frame. Returns what was found << 24 | where the text goes on << 12 | where the frames end. Found is 1: a byte
# that is not ASCII, 2: what may be the REPL's announcement of raw or paste mode (modes.py), 4: a prompt at the end, and
# always 8.
_CUT = """
def cut(b:ptr8,i:int,n:int)->int:
 j=0
 f=8
 while i<n and j+2<=i:
  e=i+125
  if e>n:
   e=n
  k=i
  while k<e and (b[k]!=13 or k+1>=n or b[k+1]!=10):
   k+=1
  if k==i:
   k+=2
  elif k==e and k<n:
   while k>e-3 and b[k]&192==128:
    k-=1
  p=i
  while p+4<=k:
   c=int(b[p])
   if b[p+3]==32 and c==b[p+1] and c==b[p+2] and (c==62 or c==46 or c==61):
    k=p
    if p==i:
     k+=4
     if k==n:
      f|=4
    break
   if k<n or p==k-4:
    break
   p=k-4
  if k-i==24 and b[i]==114 or k-i==46 and b[i]==112:
   f|=2
  b[j]=129
  b[j+1]=k-i
  j+=2
  while i<k:
   if b[i]>127:
    f|=1
   b[j]=b[i]
   i+=1
   j+=1
 return f<<24|i<<12|j
"""
try:
    exec("@micropython.viper" + _CUT)
except (SyntaxError, MemoryError):
    exec(_CUT)


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
