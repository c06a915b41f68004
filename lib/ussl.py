# ussl as WiPy and pycom had it and ssl as MicroPython 1.21 had it, over the TLS of today's firmware.
# In: sockets, keys and certificates.  Out: sockets that speak TLS.  Next: wss/pem.py takes PEM files apart.
#
# Bytes go SSLSocket -> the firmware's SSLSocket -> _Wire -> socket. _Wire is there because the firmware's handshake is
# one call that nothing else can end, because a socket's error (a timeout, too) is the end of the firmware's TLS, and
# because its close() forgets the socket after a handshake that failed.
import io
import select
from binascii import b2a_base64
from errno import EAGAIN, EBADF, EINPROGRESS, EINVAL, ENOTCONN, ETIMEDOUT
from time import ticks_add, ticks_diff, ticks_ms
from micropython import const

from wss.pem import der_blocks

try:
    import tls  # MicroPython 1.23 and later: the C module
    from tls import *  # noqa: F403  the PROTOCOL_ constants that this firmware has, MBEDTLS_VERSION
except ImportError:
    import ssl as tls
    from ssl import *  # noqa: F403

CERT_NONE = 0
CERT_OPTIONAL = 1
CERT_REQUIRED = 2
IPPROTO_SEC = 0  # the usual protocol of a stream socket: TLS begins in wrap_socket(), not in the socket
SSL_TIMEOUT = ETIMEDOUT  # pycom's name for the errno of a handshake that took longer than its timeout

_HANDSHAKE_MS = const(30000)  # where no timeout is known. An ESP32 takes one second, as a client
_MS_MAX = const(0x1FFFFFFF)  # six days: ticks_add() takes no more at 32 bits
_NAME_MAX = const(255)  # MBEDTLS_SSL_MAX_HOST_NAME_LEN
_VERIFY_FAILED = const(-0x2700)  # MBEDTLS_ERR_X509_CERT_VERIFY_FAILED
_DTLS = const(2)  # the bit that PROTOCOL_DTLS_CLIENT and _SERVER have in common

# py/stream.h
_POLL = const(3)
_CLOSE = const(4)
_RD = const(1)
_WR = const(4)
_HUP = const(16)
_NVAL = const(32)


class SSLError(OSError):
    """A TLS failure. errno is mbedTLS's number, negative (mbedtls/error.h); args[1] says it in words."""

    def __str__(self):
        # as the firmware's ValueError reads, which programs and MicroPython's own tests print
        args = self.args
        return "\n%s\n" % args[1] if args[:1] == (_VERIFY_FAILED,) else str(args)


def _error(e):
    # The exception to raise for one that the firmware's TLS raised (extmod/modtls_mbedtls.c)
    text = e.args[-1] if e.args else ""
    if isinstance(e, ValueError):
        # a line for each thing that is wrong with the certificate; other ValueErrors are about arguments
        return SSLError(_VERIFY_FAILED, text.strip()) if text[:1] == "\n" else e
    n = isinstance(e, OSError) and e.errno or 0
    if len(e.args) > 1 and n:
        return SSLError(n, text)
    if n >= 0:
        return e
    if n > -256:  # the socket's own error, which comes back from mbedTLS negative
        return OSError(-n)
    return SSLError(n, "mbedTLS error -0x%04X" % -n)


def _ms(seconds):
    # Seconds, more than 0, as ticks
    if seconds <= 0:
        raise ValueError("a timeout is more than 0 seconds")
    return int(min(seconds * 1000, _MS_MAX)) or 1


def _name(name):
    # The peer's name, for SNI and for verifying. The firmware takes a C string, which ends at a NUL: what the program
    # has not asked for would be verified.
    if not name:
        return None
    for c in name.encode() if isinstance(name, str) else name:
        if not 32 < c < 127 or len(name) > _NAME_MAX:
            raise ValueError("server_hostname: 255 visible ASCII characters at most")
    return name


class _No:
    # Stands where a TLS session is not yet, or a socket no longer.
    def __init__(self, code):
        self._code = code

    def __getattr__(self, name):
        raise OSError(self._code)


_IDLE = _No(ENOTCONN)
_CLOSED = _No(EBADF)


class _Stream(io.IOBase):
    # What C code asks of a stream besides data. self._on is what is polled: a socket, or the firmware's TLS over it.
    _poller = None

    def _ready(self, flags, ms=0):
        p = self._poller
        if p is None:
            p = self._poller = select.poll()
        p.register(self._on, flags)
        for found in p.ipoll(ms):
            return found[1]
        return 0

    def ioctl(self, request, arg):
        if request == _POLL:
            return _NVAL if self._on is None else self._ready(arg)
        if request == _CLOSE:
            self.close()
            return 0
        return -EINVAL


class _Wire(_Stream):
    # The socket as mbedTLS sees it. Nothing goes on here after self._end (ticks_ms; None: no end), however the peer
    # drips: neither the handshake nor, later, a call under a timeout. Most errors are returned, not raised: then
    # mbedTLS knows that the session is over.
    _timed = False  # the socket doesn't block, calls wait here

    def __init__(self, sock, end, wait):
        self._on = sock
        self._end = end
        self._wait = wait  # the socket may block, and no call may: each waits here until the socket is ready

    def _move(self, f, buf, flags):
        while True:
            left = 1 if self._end is None else ticks_diff(self._end, ticks_ms())
            if left <= 0:
                raise OSError(ETIMEDOUT)
            if self._wait and not self._ready(flags, left):
                continue
            r = f(buf)
            if r is not None or not self._timed:
                return r
            self._ready(flags, left)

    def _sip(self, buf):
        # The first byte waits as the socket was told to. The rest must not: readinto() would wait anew for each.
        n = self._on.readinto(buf, 1)
        if n and len(buf) > 1 and self._ready(_RD) & _RD:
            more = self._on.recv(min(len(buf) - 1, 1024))
            n += len(more)
            buf[1:n] = more
        return n

    def readinto(self, buf):
        try:
            return self._move(self._sip, buf, _RD)
        except OSError as e:
            return -abs(e.errno)

    def write(self, buf):
        try:
            return self._move(self._on.write, buf, _WR)
        except OSError as e:
            return -abs(e.errno)

    def _read(self, buf):
        return self._move(self._on.readinto, buf, _RD)

    def open(self, timed):
        # After the handshake. What a read raises goes through mbedTLS, which will ask for the same bytes again: so
        # sessions survive a timeout. Without one, reads go straight to the socket.
        self._end = None
        self._wait = False
        self._timed = timed
        self.readinto = self._read if timed else self._on.readinto

    def close(self):
        sock, self._on = self._on, None
        if sock is not None:
            sock.close()


def _nothing(buf):
    return None


def _end(buf):
    return 0


def _part(buf, n, start=0):
    # n bytes, or all for a negative n, as with the firmware's streams (py/stream.c)
    return memoryview(buf)[start : start + n if n >= 0 else None]


def _drop(sock):
    # Bytes left unread would make this a reset, and the alert that says why would never arrive.
    try:
        sock.setblocking(False)
        sock.read(2048)
    except OSError:
        pass
    sock.close()


def _host(addr):
    # The host in what connect() takes: (host, port), or on the unix port a packed sockaddr. None if there is none, and
    # then the firmware asks for server_hostname.
    if isinstance(addr, (tuple, list)):
        return addr[0]
    import socket

    try:
        addr = socket.sockaddr(addr)
        return socket.inet_ntop(addr[0], addr[1])
    except Exception:
        return None


class SSLSocket(_Stream):
    """A socket that speaks TLS; wrap_socket() makes them.

    Blocking, non-blocking and timeouts as a socket has them. A timeout bounds each call in total, connect() with its
    handshake too (accept() gives the handshake as much again). After one in a read the session goes on, only what that
    read had got is lost; after one in a write it is over. In non-blocking mode the stream methods (read, readinto,
    readline, write) return None where the socket methods (recv, send and their kin) raise OSError(EAGAIN), as the
    firmware's sockets do. Every TLS failure is an SSLError.
    """

    _io = _IDLE
    _ms = None  # timeout; None: left to the socket
    _nb = False
    _up = False  # the handshake is known to be over
    _peer = None
    _limit = 0  # ms that the handshake may take, if wrap_socket() was told

    def __init__(self, ctx, sock, server_side, do_handshake, server_hostname, more, wire):
        self._ctx = ctx
        self._sock = self._on = sock
        self._server = server_side
        self._now = do_handshake
        self._host = _name(server_hostname)
        self._more = more
        self._wire = wire  # True: to be made

    def _start(self, do_handshake, end, own):
        sock = self._sock
        if self._limit:
            limit = ticks_add(ticks_ms(), self._limit)
            if not self._ms or ticks_diff(limit, end) < 0:
                end = limit
        wire = self._wire and _Wire(sock, end, self._limit)
        self._mode = self._ctx.verify_mode
        try:
            self._io = self._ctx.wrap_socket(
                wire or sock,
                server_side=self._server,
                do_handshake_on_connect=do_handshake,
                server_hostname=self._host,
                **self._more,
            )
        except Exception as e:
            if own:
                self._on = None
                self._sock = self._io = _CLOSED
                _drop(sock)
            if self._host is None and isinstance(e, ValueError) and "server_hostname" in str(e):
                e = ValueError("%s (whom it is connected to, no socket tells: pass server_hostname)" % e)
            raise _error(e)
        self._wire = wire
        self._on = self._io
        self._poller = None
        self._up = do_handshake
        if wire:
            wire.open(self._ms is not None)

    def connect(self, addr):
        """Connect, and do the handshake. Without server_hostname, CERT_REQUIRED verifies the host in addr."""
        if self._server:
            raise ValueError("not with server_side=%s" % self._server)
        sock = self._sock
        if self._io is not _IDLE:
            return sock.connect(addr)
        given = self._host
        if given is None and self._ctx.verify_mode == CERT_REQUIRED:
            self._host = _name(_host(addr))
        end = ticks_add(ticks_ms(), self._ms or 0)
        later = None
        try:
            sock.connect(addr)
        except OSError as e:
            if not self._nb or e.errno != EINPROGRESS:
                raise
            later = e
        self._peer = addr
        if self._ms:
            sock.setblocking(False)
        else:
            end = ticks_add(ticks_ms(), _HANDSHAKE_MS)
        try:
            self._start(self._now and not self._nb, end, True)
        except SSLError as e:
            if given is None and "(CN)" in e.args[1]:
                e = SSLError(e.errno, "%s (%s: pass server_hostname)" % (e.args[1], self._host))
            raise e
        if later:
            raise later

    def accept(self):
        """(SSLSocket, address) of the next connection, after its handshake. One that fails is closed and raises."""
        if not self._server:
            raise ValueError("not with server_side=%s" % self._server)
        sock, addr = self._sock.accept()
        s = SSLSocket(self._ctx, sock, True, self._now, None, self._more, True)
        s._peer = addr
        s._limit = self._limit
        now = self._now and not self._nb
        if now:
            sock.setblocking(False)
        s._start(now, ticks_add(ticks_ms(), self._ms or _HANDSHAKE_MS), True)
        s.setblocking(not self._nb)
        return s, addr

    def setblocking(self, flag):
        self._sock.setblocking(flag)
        self._ms = None
        self._nb = not flag
        if self._io is not _IDLE and self._wire:
            self._wire.open(False)

    def settimeout(self, seconds):
        """None: block; 0: don't; else the seconds that a call may take in all."""
        if not seconds:
            return self.setblocking(seconds is None)
        self._nb = False
        self._sock.settimeout(seconds)
        if self._wire:
            self._ms = _ms(seconds)
            if self._io is not _IDLE:
                self._sock.setblocking(False)
                self._wire.open(True)

    def _do(self, f, arg):
        if self._ms:
            self._wire._end = ticks_add(ticks_ms(), self._ms)
        try:
            r = f(arg)
        except (OSError, ValueError) as e:
            raise OSError(EBADF) if self._on is None else _error(e)
        if r:
            self._up = True
        elif r is not None and arg and self._wire:
            # the end; asked once more, mbedTLS would wait for another record
            self._wire.readinto = _end
        return r

    def read(self, n=-1):
        """n bytes, fewer at the end of the stream; all up to there for -1."""
        return self._do(self._io.read, n)

    def readline(self, n=-1):
        return self._do(self._io.readline, n)

    def readinto(self, buf, n=None):
        """Fill buf, or its first n bytes; returns how many bytes came, fewer at the end of the stream."""
        return self._do(self._io.readinto, buf if n is None else _part(buf, n))

    def write(self, buf, *part):
        """write(buf), write(buf, n) or write(buf, offset, n). After None, repeat it with the same bytes."""
        if part:
            buf = _part(buf, part[-1], part[0] if len(part) > 1 else 0)
        return self._do(self._io.write, buf)

    def recv(self, n):
        """Up to n bytes, as soon as there are any; b"" at the end of the stream."""
        r = self._do(getattr(self._io, "recv", None) or self._recv, n)
        if r is None:
            raise OSError(EAGAIN)
        return r

    def _recv(self, n):
        # Up to 1.24 the firmware only has read(), which waits for all n. So wait for one byte, then have mbedTLS give
        # what it holds of the same record, by keeping the socket from it.
        session = self._io
        r = session.read(1)
        wire = self._wire
        if r and wire:
            readinto, wire.readinto = wire.readinto, _nothing
            try:
                r += session.read(n - 1) or b""
            except Exception:  # no memory for n - 1; what is read already must not be lost
                pass
            wire.readinto = readinto
        return r

    def recv_into(self, buf, n=0):
        r = self.recv(n or len(buf))
        memoryview(buf)[: len(r)] = r
        return len(r)

    def recvfrom(self, n):
        """(data, address): the peer's, None where it isn't known (the socket was connected before it was wrapped)."""
        return self.recv(n), self._peer

    def send(self, data):
        r = self._do(self._io.write, data)
        if r is None:
            raise OSError(EAGAIN)
        return r

    def sendall(self, data):
        if self.write(data) != len(data):
            raise OSError(EAGAIN)

    def sendto(self, data, *to):
        """send(data), if to is the peer: TLS reaches no one else."""
        if not to or to[-1] != self._peer:
            raise ValueError("use send()")
        return self.send(data)

    def makefile(self, mode="rwb", *buffering):
        """The socket itself, which reads and writes bytes as a file does."""
        if "b" not in mode:
            raise ValueError("makefile() gives bytes")
        return self

    def cipher(self):
        """(cipher suite, TLS version), None before the handshake."""
        # asked then, the firmware's own crashes (mbedtls_ssl_get_ciphersuite returns NULL)
        return self._io.cipher() if self._up else None

    def close(self):
        if self._on is None:
            return
        self._on = None
        self._up = False
        if self._io is _IDLE:
            self._sock.close()
        else:
            self._io.close()
            if self._wire:
                self._wire.close()
        self._sock = _CLOSED

    def __getattr__(self, name):
        # The firmware's TLS socket has getpeercert(); the socket has bind, listen, setsockopt, fileno, getpeername...
        # Nothing may pass by TLS: whatever some firmware calls recv-something or send-something stays out.
        if name == "getpeercert":
            get = getattr(self._io, name)
            # CERT_OPTIONAL lets any certificate pass, and the firmware doesn't tell which one was good
            return (lambda binary_form=False: None) if self._mode == CERT_OPTIONAL else get
        if name[:4] in "recv send read writ":
            raise AttributeError(name)
        return getattr(self._sock, name)

    def __repr__(self):
        return "<SSLSocket>"


def _is_key(der):
    # RFC 8017 A.1.2, RFC 5915 and RFC 5958 begin with a version, an INTEGER; a certificate with a SEQUENCE
    if not der:
        return False
    start = 2 + (der[1] & 127 if der[1:2] >= b"\x80" else 0)
    return der[start : start + 1] == b"\x02"


def _blocks(source):
    # The DER blocks of a file (a str) or of its content (bytes, or a str that is PEM)
    if isinstance(source, str):
        if "-----BEGIN " not in source:
            try:
                with open(source, "rb") as f:
                    return der_blocks(f.read(), source)
            except OSError as e:
                raise OSError(e.errno, "can't read " + source)
        source = source.encode()
    elif not isinstance(source, (bytes, bytearray, memoryview)):
        return [source]  # for the firmware to refuse
    source = bytes(source)
    return der_blocks(source, "PEM data") if b"-----BEGIN " in source else [source]


class SSLContext:
    """Settings for any number of connections. It has what the firmware's tls.SSLContext has, and takes files as well.

    protocol: PROTOCOL_TLS_CLIENT, PROTOCOL_TLS_SERVER, or PROTOCOL_DTLS_* where the firmware has them.
    verify_mode starts as CERT_NONE for both, as in 1.21.
    """

    def __init__(self, protocol):
        object.__setattr__(self, "_ctx", tls.SSLContext(protocol))
        object.__setattr__(self, "_dtls", protocol & _DTLS)
        self.verify_mode = CERT_NONE

    def __getattr__(self, name):
        return getattr(self._ctx, name)

    def __setattr__(self, name, value):
        if name == "check_hostname":
            # mbedTLS has no such switch: names are checked under CERT_REQUIRED, always
            if (not value) == (self.verify_mode == CERT_REQUIRED):
                raise ValueError("verify_mode decides that")
            return
        if name == "verify_mode" and value not in (CERT_NONE, CERT_OPTIONAL, CERT_REQUIRED):
            raise ValueError("not a CERT_ constant")
        setattr(self._ctx, name, value)
        # axTLS takes the setting and does nothing with it
        if getattr(self._ctx, name) != value:
            raise ValueError("not in this firmware: " + name)

    def get_ciphers(self):
        return self._ctx.get_ciphers()

    def set_ciphers(self, names):
        try:
            self._ctx.set_ciphers(names)
        except OSError as e:
            raise _error(e)

    def load_cert_chain(self, certfile, keyfile=None):
        """Our certificate, with its intermediates if any, and key. Each is a path or the content, PEM or DER. keyfile
        can be left out if certfile is a PEM with both, or the key is in /flash/cert/private.key. Raises ValueError,
        OSError for a file that can't be read."""
        certs = _blocks(certfile)
        keys = certs if keyfile is None else _blocks(keyfile)
        found = [k for k in keys if _is_key(k)]
        if not found and keyfile is None:
            found = _blocks(_default("private.key"))
            if not found[0]:
                raise ValueError("no private key: pass keyfile")
        key = (found or keys)[0]
        if len(certs) > 1:
            certs = [c for c in certs if not _is_key(c)]
        # 1.23 and 1.24 hand DER over with a byte too many, which mbedTLS minds in PKCS #8; some firmware can't read
        # PEM; and mbedtls_pk_parse_key() that has a PKCS #8 key refuses one, forgets its own and takes the next.
        pem = b"-----BEGIN PRIVATE KEY-----\n%s-----END PRIVATE KEY-----\n" % b2a_base64(key)
        for cert in certs:
            wrong = None
            for form in (pem, key, pem):
                try:
                    self._ctx.load_cert_chain(cert, form)
                    wrong = None
                    break
                except ValueError as e:
                    if not (wrong and "key" in e.args[0]):
                        wrong = e
            if wrong:
                raise wrong

    def load_verify_locations(self, cafile=None, cadata=None):
        """CA certificates to trust: a path or the content, PEM (any number) or DER. More calls add more."""
        if cafile is None and cadata is None:
            raise TypeError("no cafile or cadata")
        for source in (cafile, cadata):
            if source is not None:
                for der in _blocks(source):
                    self._ctx.load_verify_locations(der)

    def wrap_socket(
        self,
        sock,
        *,
        server_side=False,
        do_handshake_on_connect=True,
        server_hostname=None,
        client_id=None,
        timeout=None,
    ):
        """An SSLSocket over sock. timeout: seconds for the handshake; None: what settimeout() says, else 30.

        A connected socket starts now: ValueError where CERT_REQUIRED needs a server_hostname, SSLError when the
        handshake fails; sock then stays open and the caller's. One that isn't connected starts in connect(), a
        listening one in accept(). Any other stream that C code can use will do too.
        """
        if server_side and server_hostname:
            raise ValueError("server_hostname is for clients")
        more = {} if client_id is None else {"client_id": client_id}  # DTLS servers of 1.26 and later want it
        is_socket = not self._dtls and hasattr(sock, "recv")
        s = SSLSocket(self._ctx, sock, bool(server_side), do_handshake_on_connect, server_hostname, more, is_socket)
        if timeout is not None:
            if not (is_socket and do_handshake_on_connect):
                raise ValueError("no timeout without a handshake here: use settimeout()")
            s._limit = _ms(timeout)
        if is_socket:
            found = s._ready(_RD | _WR)
            if found & (_HUP | _RD) == _HUP or server_side and not found & _WR:
                s._poller = None
                return s
        s._start(do_handshake_on_connect, ticks_add(ticks_ms(), _HANDSHAKE_MS), False)
        return s


def save_session(ssl_sock):
    """pycom's: something to pass as saved_session. It saves nothing, because the firmware can't give out a session: the
    handshake is a whole one each time."""
    return ssl_sock.cipher()


def wrap_socket(sock, *args, **kwargs):
    """An SSLSocket over sock. Two orders of arguments are in use; the type of the second argument tells which is meant:

    wrap_socket(sock, keyfile, certfile, server_side, cert_reqs, ca_certs)   a path, bytes or None: WiPy
    wrap_socket(sock, server_side, keyfile, certfile, cert_reqs, cadata, server_hostname, do_handshake)   a bool: 1.21

    By name, all of them and key, cert go together. So do pycom's timeout (seconds for the handshake, 30 if left out),
    ssl_version, without effect as it was there (it is the highest that both sides have), and saved_session. Keys
    and certificates are paths or contents, PEM or DER. Raises ValueError or TypeError for arguments that can't be
    honoured, SSLError when the handshake fails.
    """
    return (_v1_21 if args and isinstance(args[0], (bool, int)) else _wipy)(sock, *args, **kwargs)


def _wipy(sock, keyfile=None, certfile=None, server_side=False, cert_reqs=CERT_NONE, ca_certs=None, **more):
    return _v1_21(sock, server_side, keyfile, certfile, cert_reqs, ca_certs=ca_certs, **more)


def _one(a, b):
    if a is not None and b is not None:
        raise TypeError("given twice")
    return b if a is None else a


def _default(name):
    # Where WiPy looks when nothing is given
    name = "/flash/cert/" + name
    try:
        open(name).close()
        return name
    except OSError:
        return None


def _v1_21(
    sock,
    server_side=False,
    keyfile=None,
    certfile=None,
    cert_reqs=CERT_NONE,
    cadata=None,
    server_hostname=None,
    do_handshake=True,
    *,
    key=None,
    cert=None,
    ca_certs=None,
    timeout=None,
    ssl_version=0,
    saved_session=None,
):
    ctx = SSLContext(tls.PROTOCOL_TLS_SERVER if server_side else tls.PROTOCOL_TLS_CLIENT)
    ctx.verify_mode = cert_reqs
    key = _one(keyfile, key)
    cert = _one(certfile, cert)
    cadata = _one(ca_certs, cadata)
    if cert is None and key is None:
        if server_side or cert_reqs == CERT_REQUIRED:
            cert = _default("cert.pem")
            key = _default("private.key")
            if not (cert and key):
                if server_side and do_handshake:
                    raise ValueError("a server needs certfile and keyfile")
                cert = key = None
    elif cert is None:
        cert = _default("cert.pem")
    if cert is not None or key is not None:
        ctx.load_cert_chain(cert, key)
    if cadata is None and cert_reqs != CERT_NONE:
        cadata = _default("ca.pem")
        if cadata is None and cert_reqs == CERT_REQUIRED:
            raise ValueError("CERT_REQUIRED needs ca_certs or cadata")
    if cadata is not None:
        ctx.load_verify_locations(cadata)
    return ctx.wrap_socket(
        sock,
        server_side=server_side,
        do_handshake_on_connect=do_handshake,
        server_hostname=server_hostname,
        timeout=timeout,
    )
