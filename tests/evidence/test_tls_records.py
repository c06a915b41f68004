"""TLS below the level of a library: records that are cut, too long or in the wrong place, and what must not be resumed
or begun again. After each, the next client is served."""

import contextlib
import socket
import ssl
import struct

import pytest
from fair import Stopwatch
from peers import REQUEST, TEXT, Ended, Peer, encode


def record(kind: int, body: bytes, version=0x0303) -> bytes:
    return struct.pack(">BHH", kind, version, len(body)) + body


@pytest.fixture
def hello(keys) -> bytes:
    into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        keys.host.context().wrap_bio(into, out, server_hostname="127.0.0.1").do_handshake()
    return out.read()


@pytest.fixture
def served(kept, keys):
    """Afterwards a client gets its prompt within two seconds."""
    yield
    watch = Stopwatch(kept)
    with Peer(kept.address, keys.host) as peer:
        assert peer.login(path=b"/takeover").command("1+1") == b"2\r\n"
    assert watch.seconds() < 2


@pytest.fixture
def tls(row, target):
    return lambda case, result="refused, and the next client is served": row(
        "TLS", f"{case}, {target.bits} bits", result
    )


def said(address, data: bytes, wait=0.25) -> bytes:
    """What the board answers to raw bytes until it hangs up or says nothing for a while."""
    got = b""
    with socket.create_connection(address, 5) as s:
        s.settimeout(wait)
        with contextlib.suppress(OSError):
            s.sendall(data)
            while more := s.recv(65536):
                got += more
    return got


def split(hello: bytes, size: int) -> bytes:
    body = hello[5:]
    return b"".join(record(22, body[i : i + size], 0x0301) for i in range(0, len(body), size))


BEFORE = {
    "application data before a handshake": lambda h: record(23, REQUEST % b"/"),
    "heartbeat before a handshake": lambda h: record(24, b"\x01\x40\x00" + b"x" * 20),
    "heartbeat inside a handshake": lambda h: h + record(24, b"\x01\x40\x00" + b"x" * 20),
    "ChangeCipherSpec first": lambda h: record(20, b"\x01") + h,
    "ChangeCipherSpec behind the ClientHello": lambda h: h + record(20, b"\x01") + record(22, b"x" * 40),
    "Finished instead of a certificate": lambda h: h + record(22, b"\x14\0\0\x0c" + b"\0" * 12),
    "ClientKeyExchange instead of a certificate": lambda h: h + record(22, b"\x10\0\0\x42\x41\x04" + b"\1" * 64),
    "two ClientHellos": lambda h: h + h,
    "an alert, fatal": lambda h: record(21, b"\x02\x28") + h,
    "alerts, warnings, a hundred": lambda h: record(21, b"\x01\x5a") * 100 + h,
    "an alert of one byte": lambda h: record(21, b"\x02") + h,
    "an unknown type of record": lambda h: record(99, b"x" * 10) + h,
    "a record of no bytes": lambda h: record(22, b"") + h,
    "a record of 16,385 bytes and more": lambda h: record(22, b"\x01" + b"\0" * 20000),
    "a record of 65,535 bytes": lambda h: record(22, b"\x01" * 65535),
    "a handshake message of 16 MB": lambda h: record(22, b"\x01\xff\xff\xff" + b"x" * 1000),
    "a ClientHello whose inner lengths lie": lambda h: h[:43] + b"\xff" + h[44:],
    "SSL 2.0": lambda h: b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10" + b"x" * 40,
    "SSL 3.0": lambda h: record(22, b"\x01" + h[6:9] + b"\x03\x00" + h[11:], 0x0300),
    "half a ClientHello, then the end": lambda h: h[: len(h) // 2],
    "half a record header, then the end": lambda h: h[:3],
}


@pytest.mark.parametrize("case", BEFORE)
def test_in_the_wrong_place(kept, hello, served, tls, case):
    got = said(kept.address, BEFORE[case](hello))
    assert b"HTTP" not in got and b"Password" not in got
    # Application data from the board would mean that a handshake was complete
    assert 23 not in kinds(got)
    tls(case)


def kinds(data: bytes) -> list[int]:
    found = []
    while len(data) >= 5:
        found.append(data[0])
        data = data[5 + int.from_bytes(data[3:5], "big") :]
    return found


@pytest.mark.parametrize("size", [1, 50])
def test_a_client_hello_in_many_records(kept, hello, served, tls, size):
    got = kinds(said(kept.address, split(hello, size), wait=1))
    assert 23 not in got
    told = "answered as a whole one" if 22 in got else "refused by this mbedTLS, which takes no ClientHello in parts"
    tls(f"a ClientHello in records of {size}", told)


def test_one_byte_in_a_record(kept, keys, served, tls):
    with Peer(kept.address, keys.host, timeout=20) as peer:
        peer.login(path=b"/takeover")
        data = encode(TEXT, b"print(%d)\r" % 10**300)
        for byte in data:
            peer.send(bytes([byte]))
        assert peer.until(b"\r\n>>> ").count(b"%d" % 10**300) >= 1
    tls("a session in records of one byte", "read as one")


@pytest.fixture
def inside(kept, keys):
    """A session, to break at TLS's level."""
    with Peer(kept.address, keys.host) as peer:
        peer.login(path=b"/takeover")
        yield peer


def refused(peer):
    """No more of the REPL's output comes: what is typed behind the fault is not run."""
    got = b""
    with contextlib.suppress(OSError, Ended, ssl.SSLError):
        peer.sock.settimeout(1)
        while True:
            got += peer.recv()
    assert b"4711" not in got


@pytest.mark.parametrize(
    ("case", "broken"),
    [
        ("a plain record inside a session", lambda r: record(23, encode(TEXT, b"print(4710+1)\r"))),
        ("a record with a bit turned", lambda r: r[:-1] + bytes([r[-1] ^ 1])),
        ("a record sent twice", lambda r: r + r),
        ("a record shorter than its tag", lambda r: record(23, b"x" * 4)),
        ("a record of 16,700 bytes that does not verify", lambda r: record(23, b"x" * 16700)),
        ("a plain alert inside a session", lambda r: record(21, b"\x01\x00")),
        ("a plain ClientHello inside a session", lambda r: record(22, b"\x01\0\0\x04xxxx")),
        ("a record with half of its bytes, then the end", lambda r: r[: len(r) // 2]),
    ],
)
def test_inside_a_session(inside, served, tls, case, broken):
    inside.tls.write(encode(TEXT, b"x = 1\r"))
    good = inside._out.read()
    with contextlib.suppress(OSError):
        inside.sock.sendall(broken(good))
        inside.tls.write(encode(TEXT, b"print(4710+1)\r"))
        inside.sock.sendall(inside._out.read())
        if "then the end" in case:
            inside.sock.shutdown(socket.SHUT_WR)
    refused(inside)
    tls(case, "the session ends, nothing behind it is run")


def test_no_resumption(kept, keys, served, tls):
    """A ticket or session id would pass by the list of revoked hosts."""
    context = keys.host.context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with Peer(kept.address, keys.host, context=context) as first:
        first.login(path=b"/takeover")
        session = first.tls.session
    with Peer(kept.address, keys.host, context=context) as peer:
        peer.tls = context.wrap_bio(peer._in, peer._out, server_hostname="127.0.0.1", session=session)
        peer.login(path=b"/takeover")
        assert not peer.tls.session_reused
        ticket = peer.tls.session.has_ticket
    tls("a session resumed", f"a full handshake instead; tickets given: {'yes' if ticket else 'none'}")


def tlslite(kept, keys):
    from cryptography.hazmat.primitives import serialization
    from tlslite.api import HandshakeSettings, TLSConnection, X509CertChain, parsePEMKey

    key = serialization.load_pem_private_key(keys.host.key.read_bytes(), keys.host.passphrase.encode())
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    chain = X509CertChain()
    chain.parsePemList(keys.host.cert.read_text())
    settings = HandshakeSettings()
    settings.maxVersion = (3, 3)
    sock = socket.create_connection(kept.address, 10)
    connection = TLSConnection(sock)
    connection.closeSocket = True
    connection.handshakeClientCert(chain, parsePEMKey(pem, private=True), settings=settings, serverName="localhost")
    return connection


def test_renegotiation(kept, keys, served, tls):
    """A ClientHello under the session's own keys: no second handshake begins."""
    from tlslite.messages import ClientHello

    connection = tlslite(kept, keys)
    again = ClientHello().create((3, 3), bytearray(32), bytearray(0), [0xC02B])
    for _ in connection._sendMsg(again):
        pass
    connection.sock.settimeout(2)
    got = []
    with contextlib.suppress(Exception):
        for _ in range(3):
            for result in connection._recordLayer.recvRecord():
                if result not in (0, 1):
                    got.append(result[0].type)
                    break
    connection.sock.close()
    assert 22 not in got, "a ServerHello"
    tls("renegotiation", "no answer but " + ("an alert" if 21 in got else "the end of the connection"))


def test_empty_records(kept, keys, served, tls):
    """Application data of no bytes, encrypted well: a thousand cost nothing but their time."""
    from tlslite.messages import ApplicationData

    connection = tlslite(kept, keys)
    connection.sock.settimeout(5)
    told = "the session goes on"
    try:
        for _ in range(1000):
            for _ in connection._sendMsg(ApplicationData().create(bytearray()), randomizeFirstBlock=False):
                pass
        connection.send(REQUEST % b"/takeover")
        answer = b""
        while b"Password: " not in answer:
            data = connection.recv(4096)
            assert data, answer
            answer += bytes(data)
    except (OSError, AssertionError) as e:
        told = f"mbedTLS ends the connection ({type(e).__name__}); the next client is served"
    connection.sock.close()
    tls("a thousand empty records", told)
