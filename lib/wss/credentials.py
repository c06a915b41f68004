# Finds and reads key, certificate and CA, and makes the TLS context from them.
# In: file names or bytes, PEM or DER.  Out: a tls.SSLContext that requires a certificate.  Next: server.py.
import os
import time
from micropython import const

from wss import port, probe, trust
from wss.files import replace
from wss.pem import der_blocks

_FILE_MAX = const(8192)  # bytes; a P-256 certificate has 600, a PEM of ten CAs 8,000

_SERVER_AUTH = b"\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x01"  # OID 1.3.6.1.5.5.7.3.1 in DER (RFC 5280 section 4.2.1.12)


def places(uid):
    """Where (key, certificate, CA) are looked for, in order: upydev's names in the root, then WiPy's."""
    cert = "/flash/cert/"
    return (
        ("SSL_key%s.der" % uid, "SSL_key%s.pem" % uid, cert + "private.key"),
        ("SSL_certificate%s.der" % uid, "SSL_certificate%s.pem" % uid, cert + "cert.pem"),
        ("ROOT_CA_cert.pem", "ROOT_CA_cert.der", cert + "ca.pem"),
    )


def read(source, names, what):
    """(DER blocks, name) of source, or of the first of names that exists when source is None. Raises ValueError."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return der_blocks(bytes(source), what), what
    for name in (source,) if source else names:
        try:
            size = os.stat(name)[6]
            if size > _FILE_MAX:
                raise ValueError("%s is over %d bytes" % (name, _FILE_MAX))
            with open(name, "rb") as f:
                data = f.read(size)  # read(_FILE_MAX) would allocate 8 KB in one piece
        except OSError as e:
            if e.errno == 2:
                continue
            raise ValueError("%s can't be read (%s): copy it again" % (name, e))
        return der_blocks(data, name), name
    raise ValueError("no %s: put %s on the board (wssctl keys init makes it)" % (what, source or names[0]))


def finish_replacement(names):
    """Finish a replacement of key, certificate and CA that lost power between its renames.

    All three are first written as NAME.new, the key first, and then renamed, the key first. So when other files wait
    and the key does not, the key has been renamed, and they have to follow. The same holds when there is no key under
    its own name, because FAT's rename removes the old file first.
    """
    waiting = [n[0] for n in names if _exists(n[0] + ".new")]
    key = names[0][0]
    if key not in waiting or not _exists(key):
        for name in waiting:
            replace(name + ".new", name)


def _exists(name):
    try:
        os.stat(name)
        return True
    except OSError:
        return False


def context(key=None, cert=None, ca=None):
    """(server-side tls.SSLContext with CERT_REQUIRED, list of what the certificate lacks).

    key, cert, ca: file name or bytes, PEM or DER; None looks in places(). Raises ValueError: which one, and what to do.
    """
    tls = port.tls
    names = places(port.uid())
    try:
        finish_replacement(names)
    except OSError:
        pass  # the files that are there are used
    key, key_name = read(key, names[0], "private key")
    cert, name = read(cert, names[1], "certificate")
    ca, ca_name = read(ca, names[2], "CA certificate")
    ctx = tls.SSLContext(tls.PROTOCOL_TLS_SERVER)
    ctx.verify_mode = tls.CERT_REQUIRED
    probe.aead_only(ctx)
    name += " with " + key_name
    point = key[0][-65:]  # most keys end with their public point (RFC 5915); mbedTLS would not compare the two
    if key[0][-68:-65] == b"\x03\x42\x00" and point not in cert[0]:
        raise ValueError("%s are no pair: copy both again" % name)
    try:
        ctx.load_cert_chain(cert[0], key[0])
        name = ca_name
        for der in ca:
            ctx.load_verify_locations(der)
    except (ValueError, OSError) as e:
        raise ValueError("%s can't be used (%s): copy it again" % (name, e.args[-1] if e.args else e))
    lacks = _check_trust(ctx, cert[0])
    if _SERVER_AUTH not in cert[0]:
        lacks.append("extended key usage: the board's key would open other boards as a host")
    return ctx, lacks


def _check_trust(context, cert):
    # Whether context can call trust.verify(), or need not; and the clock. Returns warnings. cert: the board's own, DER.
    port.home = os.getcwd().rstrip("/") + "/"
    try:
        trust.listed()
    except (ValueError, OSError) as e:
        raise ValueError("%s: send it again, or remove it" % e)
    if not port.set_verify_callback(context, None):  # session.py sets verify() for each connection
        try:
            open(trust.place()).close()
        except OSError:
            return _clock(cert)
        raise ValueError(
            "this firmware can't look at certificates, so %s can't be honoured: use 1.23 or later" % trust.FILE
        )
    return _clock(cert)


def _clock(cert):
    # A board without a clock of its own boots in the year 2000, when no certificate was valid. In fact it is not before
    # the first day of its own certificate, and not before the latest login.
    try:
        _, first, last = trust.fields(cert)
    except ValueError:
        return ["the dates of the board's certificate can't be read"]
    now = time.gmtime()[:6]
    if now < first:  # a clock within the certificate's dates may be right, and is left alone
        floor = trust.stored()
        if not first <= floor <= last:
            floor = first
        if not probe.set_clock(floor):
            return ["the clock shows %s, it is %s or later, and it can't be set" % (trust.show(now), trust.show(floor))]
        now = time.gmtime()[:6]
    if now > last:
        return ["the board's certificate expired on %s, and here it is %s" % (trust.show(last), trust.show(now))]
    return []
