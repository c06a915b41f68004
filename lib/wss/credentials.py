# Key, certificate and CA: found, read, and given to a TLS context.
# In: file names or bytes, PEM or DER.  Out: a tls.SSLContext that lets nobody in without a certificate.  Next: session.py.
from binascii import a2b_base64

from wss import port

FILE_MAX = 8192  # bytes; a P-256 certificate has 600, a bundle of ten CAs 8,000

_SERVER_AUTH = b"\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x01"  # OID 1.3.6.1.5.5.7.3.1 in DER (RFC 5280 section 4.2.1.12)


class CredentialsError(ValueError):
    """A key, certificate or CA is missing or unusable; the message says which and what to do."""


def places(uid):
    """Where (key, certificate, CA) are looked for, in order: upydev's names in the root, then WiPy's."""
    cert = "/flash/cert/"
    return (
        ("SSL_key%s.der" % uid, "SSL_key%s.pem" % uid, cert + "private.key"),
        ("SSL_certificate%s.der" % uid, "SSL_certificate%s.pem" % uid, cert + "cert.pem"),
        ("ROOT_CA_cert.pem", "ROOT_CA_cert.der", cert + "ca.pem"),
    )


def read(source, names, what):
    """(bytes, name) of source, or of the first of names that exists when source is None. Raises CredentialsError."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source), what
    for name in (source,) if source else names:
        try:
            with open(name, "rb") as f:
                data = f.read(FILE_MAX + 1)
        except OSError as e:
            if e.errno == 2:
                continue
            raise CredentialsError("%s can't be read (%s)" % (name, e))
        if not 0 < len(data) <= FILE_MAX:
            raise CredentialsError("%s is empty or over %d bytes" % (name, FILE_MAX))
        return data, name
    raise CredentialsError("no %s: put %s on the board (wssctl device init makes it)" % (what, source or names[0]))


def ders(data, name):
    """The DER blocks in data: itself, or each block of a PEM (RFC 7468), parameters left out. Raises CredentialsError.

    Done here, because firmware without MBEDTLS_PEM_PARSE_C takes DER only, and none takes a PEM of several CAs.
    """
    if data[:1] == b"\x30":
        # mbedTLS would ignore what a cut-off download lacks only at the end of a list of certificates; the length says it
        n = data[1]
        if n & 128:
            k = n & 127
            n = k + int.from_bytes(data[2 : 2 + k], "big")
        if len(data) != n + 2:
            raise CredentialsError("%s is cut off or has something behind its end: copy it again" % name)
        return [data]
    found = []
    parts = data.split(b"-----BEGIN ")
    for part in parts[1:]:
        label, dashes, body = part.partition(b"-----")
        body, end, _ = body.partition(b"-----END " + label + b"-----")
        if not end:
            raise CredentialsError("%s is cut off: copy it again" % name)
        if label.startswith(b"ENCRYPTED") or b"ENCRYPTED" in body:
            raise CredentialsError("%s has a passphrase: a board needs it without (openssl pkey -in OLD -out NEW)" % name)
        if not label.endswith(b"PARAMETERS"):
            try:
                found.append(a2b_base64(body))
            except ValueError:
                raise CredentialsError("%s is not readable PEM: copy it again" % name)
    if not found:
        raise CredentialsError("%s is neither PEM nor DER: copy it again" % name)
    return found


def context(key=None, cert=None, ca=None):
    """(server-side tls.SSLContext with CERT_REQUIRED, list of what the certificate lacks).

    key, cert, ca: file name or bytes, PEM or DER; None looks in places(). Raises CredentialsError, and nothing listens.
    """
    tls = port.tls
    names = places(port.uid())
    key, key_name = read(key, names[0], "private key")
    cert, cert_name = read(cert, names[1], "certificate")
    ca, ca_name = read(ca, names[2], "CA certificate")
    ctx = tls.SSLContext(tls.PROTOCOL_TLS_SERVER)
    ctx.verify_mode = tls.CERT_REQUIRED
    key = ders(key, key_name)[0]
    cert = ders(cert, cert_name)[0]
    name = "%s and %s" % (cert_name, key_name)
    try:
        ctx.load_cert_chain(cert, key)
        name = ca_name
        for der in ders(ca, ca_name):
            ctx.load_verify_locations(der)
    except CredentialsError:
        raise
    except (ValueError, OSError) as e:
        raise CredentialsError("%s can't be used (%s): copy a new one" % (name, e.args[-1] if e.args else e))
    return ctx, [] if _SERVER_AUTH in cert else ["certificate without extended key usage: its key opens other boards as a host"]
