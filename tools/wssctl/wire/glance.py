"""The certificate that a server shows, for no more than a ClientHello: to find one's boards among strangers."""

import contextlib
import socket
import ssl
import time
from collections.abc import Iterator

_RECORD_MAX = 5 + 16384 + 256  # RFC 5246 6.2.3
_READ_MAX = 65536  # of a stranger
_HANDSHAKE, _CERTIFICATE = 22, 11


def certificate(host: str, port: int, timeout: float) -> bytes | None:
    """The server's certificate (DER), or None where there is none to see within `timeout` seconds.

    With TLS 1.2 it comes readable, right after the ServerHello (RFC 5246 7.3). With TLS 1.3 it comes encrypted, but
    before anything of ours (RFC 8446 2): OpenSSL then finishes its side of the handshake, and what it would answer is
    not sent. Nothing is proved by what is seen here, since anybody can show a copy of a certificate.
    """
    deadline = time.monotonic() + timeout
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        with contextlib.suppress(OSError, ValueError, UnicodeError):
            if der := _shown(host, port, version, deadline):
                return der
    return None


def _shown(host: str, port: int, version: ssl.TLSVersion, deadline: float) -> bytes | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # it is looked at, not trusted
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    context.set_ciphers("ALL:@SECLEVEL=0")
    coming, going = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(coming, going)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    with socket.create_connection((host, port), max(0.1, deadline - time.monotonic())) as sock:
        sock.sendall(going.read())  # the ClientHello, and nothing after it
        seen = bytearray()
        while len(seen) < _READ_MAX:
            sock.settimeout(max(0.001, deadline - time.monotonic()))
            data = sock.recv(4096)
            if not data:
                return None
            seen += data
            if version is ssl.TLSVersion.TLSv1_3:
                coming.write(data)
                with contextlib.suppress(ssl.SSLWantReadError):
                    tls.do_handshake()
                    return tls.getpeercert(True)
            else:
                for kind, body in _messages(bytes(seen)):
                    if kind == _CERTIFICATE:
                        length = int.from_bytes(body[3:6], "big")
                        return body[6 : 6 + length] if len(body) >= 6 + length else None
    return None


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The handshake messages (type, body) that are whole in a stream of records, RFC 5246 6.2.1 and 7.4. Raises
    ValueError for what is no handshake."""
    stream, at = b"", 0
    while at + 5 <= len(data):
        length = int.from_bytes(data[at + 3 : at + 5], "big")
        if data[at] != _HANDSHAKE or 5 + length > _RECORD_MAX:
            raise ValueError("not a handshake")
        if at + 5 + length > len(data):
            break
        stream += data[at + 5 : at + 5 + length]
        at += 5 + length
    while len(stream) >= 4 and len(stream) >= 4 + (length := int.from_bytes(stream[1:4], "big")):
        yield stream[0], stream[4 : 4 + length]
        stream = stream[4 + length :]
