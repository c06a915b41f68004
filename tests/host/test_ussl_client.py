"""ussl as a client of CPython's ssl: both ways to wrap, every method, who is trusted, and how a connection can end."""

import socket
import ssl
import struct

import pytest
from ussl_support import Peer, by_hand, client_context, connect, echo, server_context, tls_peer

pytest_plugins = "ussl_fixtures"

VERIFY_FAILED = -0x2700


@pytest.mark.parametrize("kind", ["ec", "rsa"])
@pytest.mark.parametrize("how", ["wipy", "1.21", "context"])
def test_talks(mpy, tmp_path, pkis, kind, how):
    pki = pkis[kind]
    script = """
port, ca = int(sys.argv[1]), sys.argv[2]
s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, ussl.IPPROTO_SEC)
if %r == "wipy":
    s = ssl.wrap_socket(s, cert_reqs=ssl.CERT_REQUIRED, ca_certs=ca)
    s.connect(addr(port))
else:
    s.connect(addr(port))
    if %r == "1.21":
        with open(ca, "rb") as f:
            ca = f.read()
        s = ssl.wrap_socket(s, cert_reqs=ssl.CERT_REQUIRED, cadata=ca, server_hostname="board.example")
    else:
        c = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        c.verify_mode = ssl.CERT_REQUIRED
        c.load_verify_locations(ca)
        s = c.wrap_socket(s, server_hostname="board.example")
print(s.write(b"hello"), s.read(5))
suite, version = s.cipher()
print(suite[:4], version)
s.close()
"""
    with tls_peer(server_context(pki.server), echo) as peer:
        got = mpy.run(script % (how, how), tmp_path, peer.port, pki.ca.cert_pem_file)
    assert got[0] == "5 b'hello'"
    assert got[1] in ("TLS- TLSv1.2", "TLS1 TLSv1.3")


def test_methods(mpy, tmp_path, pki):
    def talk(tls):
        tls.sendall(b"one\ntwo\nthree")
        tls.recv(1)  # the client has read that
        for size in (100, 100, 100, 100, 100, 20000):
            tls.sendall(b"x" * size)
            assert tls.recv(1) == b"+"
        data = b""
        while len(data) < 7 + 7 + 6 + 5 + 4 + 3 + 2 + 9 + 40000:
            data += tls.recv(65536)
        tls.sendall(b"equal" if data == b"sendallsend()!write(text(b,nbo,ntowholepart" + b"s" * 40000 else data[:60])

    script = """
s = ussl.wrap_socket(socket.socket())
a = addr(int(sys.argv[1]))
s.connect(a)
f = s.makefile("rwb", 0)
print(f.readline(), s.readline(2), f.readline(), f.read(5))
s.write(b"+")
print(len(s.recv(1000)))                # what there is, not all it could be
s.send(b"+")
b = bytearray(b"." * 200)
print(s.recv_into(b), s.write("+"), b.count(b"x"))
print(s.recv_into(memoryview(b)[150:], 30), s.readinto(b, 70), s.write(b"+"))
d, who = s.recvfrom(1000)
print(len(d), who == a, s.write(b"+"))
n = s.readinto(memoryview(b)[:60], -1), len(s.read(40))
print(n, s.write(b"+"))
print(len(s.read(20000)), s.write(b"+"))
print(s.sendall(b"sendall"), s.send(b"send()!"))
print(s.write(b"write("), s.write("text("), s.write(b"b,nb..", 4), s.write(b"..o,n.", 2, 3), s.sendto(b"to", a))
print(s.write(b"whole", -1), s.write(b"..part", 2, -1))       # as with the firmware's streams (py/stream.c)
print(s.send(b"s" * 20000) + s.write(b"s" * 20000))
print(s.read())
print(s.read(), s.read(1), s.recv(1), s.readline(), s.readinto(b), s.recv_into(b))
s.close()
"""
    with tls_peer(server_context(pki.server), talk) as peer:
        got = mpy.run(script, tmp_path, peer.port)
        assert not peer.errors
    assert got == [
        r"b'one\n' b'tw' b'o\n' b'three'",
        "100",
        "100 1 100",
        "30 70 1",
        "100 True 1",
        "(60, 40) 1",
        "20000 1",
        "None 7",
        "6 5 4 3 2",
        "5 4",
        "40000",
        "b'equal'",
        "b'' b'' b'' b'' 0 0",
    ]


# Whom a client with CERT_REQUIRED trusts: the server's certificate, server_hostname (None: the address it connects to),
# and what is wrong with it in the words of mbedTLS.
WHO = {
    "right name": ("server", "board.example", None),
    "right address": ("server", None, None),
    "address by name": ("server", "127.0.0.1", None),
    "other name": ("server", "other.example", "does not match"),
    "other address": ("server", "127.0.0.2", "does not match"),
    "address not in it": ("named", None, "does not match"),
    "other CA": ("stranger", "board.example", "not correctly signed"),
    "expired": ("expired", "board.example", "expired"),
    "not yet valid": ("early", "board.example", "future"),
    "self-signed": ("selfsigned", "board.example", "not correctly signed"),
    "chain": ("chained", "board.example", None),
}


@pytest.mark.parametrize("kind", ["ec", "rsa"])
@pytest.mark.parametrize("who", WHO)
def test_trust(mpy, tmp_path, pkis, kind, who):
    pki = pkis[kind]
    name, hostname, wrong = WHO[who]
    context = server_context(getattr(pki, name), chain=pki.chain_file if name == "chained" else None)
    script = """
port, ca, hostname = int(sys.argv[1]), sys.argv[2], None if sys.argv[3] == "None" else sys.argv[3]
def attempt(how):
    s = socket.socket()
    try:
        if how == "wipy":
            s = ussl.wrap_socket(s, cert_reqs=ussl.CERT_REQUIRED, ca_certs=ca, server_hostname=hostname)
            s.connect(addr(port))
        else:
            s.connect(addr(port))
            s = ussl.wrap_socket(s, cert_reqs=2, cadata=ca, server_hostname=hostname or "127.0.0.1",
                do_handshake=how == "1.21")
            if how == "later":
                print(s.cipher())
        s.write(b"hello")
        print(s.read(5))
    except ussl.SSLError as e:
        print(e.errno, e.args[1].replace("\\n", "|"), isinstance(e, OSError))
    s.close()
for how in ("wipy", "1.21", "later"):
    before = fds()
    attempt(how)
    print(fds() - before)
"""
    with tls_peer(context, echo) as peer:
        got = mpy.run(script, tmp_path, peer.port, pki.ca.cert_pem_file, hostname)
    assert got.pop(4) == "None"
    assert got[1::2] == ["0"] * 3
    for line in got[::2]:
        if not wrong:
            assert line == "b'hello'"
            continue
        code, text = line.split(" ", 1)
        assert int(code) == VERIFY_FAILED and wrong in text and text.endswith(" True")
    if wrong and not hostname:
        assert "127.0.0.1: pass server_hostname" in got[0]


def test_name_that_cannot_be_known(mpy, tmp_path, pki):
    # The socket is connected: to whom, the firmware does not say. It stays the caller's.
    script = """
s = tcp(int(sys.argv[1]))
before = fds()
for do_handshake in (True, False):
    e = fails(ussl.wrap_socket, s, cert_reqs=ussl.CERT_REQUIRED, ca_certs=sys.argv[2], do_handshake=do_handshake)
    print(type(e).__name__, e)
c = ussl.SSLContext(ussl.PROTOCOL_TLS_CLIENT)
c.verify_mode = ussl.CERT_REQUIRED
c.load_verify_locations(sys.argv[2])
for name in (None, ""):
    e = fails(c.wrap_socket, s, server_hostname=name)
    print(type(e).__name__, e)
print(fds() - before)
ussl.wrap_socket(s, cert_reqs=ussl.CERT_REQUIRED, ca_certs=sys.argv[2], server_hostname="board.example").close()
"""
    with tls_peer(server_context(pki.server), echo) as peer:
        got = mpy.run(script, tmp_path, peer.port, pki.ca.cert_pem_file)
    why = "CERT_REQUIRED requires server_hostname (whom it is connected to, no socket tells: pass server_hostname)"
    assert got == [f"ValueError {why}"] * 4 + ["0"]


def test_cert_none_and_optional_verify_nothing(mpy, tmp_path, pki):
    # As 1.21 documents it. Nothing but CERT_REQUIRED may stand for safety; the callback sees the certificate even so.
    script = """
port, ca = int(sys.argv[1]), sys.argv[2]
for reqs in (ussl.CERT_NONE, ussl.CERT_OPTIONAL):
    s = ussl.wrap_socket(socket.socket(), cert_reqs=reqs, ca_certs=ca)
    s.connect(addr(port))
    print(s.write(b"hello"), s.read(5))
    s.close()
s = ussl.wrap_socket(socket.socket())
s.connect(addr(port))
print(s.write(b"hello"), s.read(5))
s.close()
c = ussl.SSLContext(ussl.PROTOCOL_TLS_CLIENT)
c.verify_mode = ussl.CERT_OPTIONAL
c.verify_callback = lambda cert, depth: print(len(cert), depth) or 1
e = fails(c.wrap_socket, tcp(port))
print(isinstance(e, ussl.SSLError))
"""
    with tls_peer(server_context(pki.stranger), echo) as peer:
        got = mpy.run(script, tmp_path, peer.port, pki.ca.cert_pem_file)
    assert got == ["5 b'hello'"] * 3 + [f"{len(pki.stranger.cert_der)} 0", "True"]


def test_getpeercert(mpy, tmp_path, pki):
    script = """
s = ussl.wrap_socket(tcp(int(sys.argv[1])))
if not hasattr(s, "getpeercert"):
    print("none in this firmware")
else:
    print(s.getpeercert(True).hex())
    print(isinstance(fails(s.getpeercert, False), NotImplementedError))
"""
    with tls_peer(server_context(pki.server), echo) as peer:
        got = mpy.run(script, tmp_path, peer.port)
    assert got in ([pki.server.cert_der.hex(), "True"], ["none in this firmware"])


def test_getpeercert_after_cert_optional(mpy, tmp_path, pki):
    # A certificate that anybody can make must not look like one that was verified, as it does under CERT_REQUIRED.
    script = """
port, ca = int(sys.argv[1]), sys.argv[2]
for reqs in (ussl.CERT_OPTIONAL, ussl.CERT_REQUIRED):
    c = ussl.SSLContext(ussl.PROTOCOL_TLS_CLIENT)
    c.verify_mode = reqs
    c.load_verify_locations(ca)
    s = c.wrap_socket(tcp(port), server_hostname="board.example")
    c.verify_mode = ussl.CERT_REQUIRED         # too late for this one
    if not hasattr(s, "getpeercert"):
        print("none in this firmware")
    else:
        print(s.getpeercert(True) and s.getpeercert(True).hex())
    s.close()
"""
    with tls_peer(server_context(pki.server), echo) as peer:
        got = mpy.run(script, tmp_path, peer.port, pki.ca.cert_pem_file)
    assert got in (["None", pki.server.cert_der.hex()], ["none in this firmware"] * 2)


@pytest.mark.parametrize("kind", ["ec", "rsa"])
def test_own_certificate(mpy, tmp_path, pkis, kind):
    # A server that wants a certificate of its CA. Under TLS 1.3 a client learns what becomes of its own at the first
    # read; under 1.2 the server may be gone while the client still writes.
    pki = pkis[kind]
    script = """
port, ca, d = int(sys.argv[1]), sys.argv[2], sys.argv[3] + "/"
def attempt(**kwargs):
    s = socket.socket()
    try:
        s = ussl.wrap_socket(s, cert_reqs=ussl.CERT_REQUIRED, ca_certs=ca, **kwargs)
        s.connect(addr(port))
        s.write(b"hello")
        print(s.read(5))
    except OSError as e:
        print("refused" if isinstance(e, ussl.SSLError) else e.errno)
    s.close()
before = fds()
attempt(keyfile=d + "client_key.pem", certfile=d + "client_cert.pem")
with open(d + "client_key.der", "rb") as key:
    with open(d + "client_cert.der", "rb") as cert:
        attempt(key=key.read(), cert=cert.read())
attempt(certfile=d + "client_both.pem")
attempt()
attempt(keyfile=d + "stranger_key.pem", certfile=d + "stranger_cert.pem")
print(fds() - before)
"""
    with tls_peer(server_context(pki.server, pki.ca), echo) as peer:
        got = mpy.run(script, tmp_path, peer.port, pki.ca.cert_pem_file, pki.directory)
    assert got[:3] == ["b'hello'"] * 3
    assert all(line in ("refused", "32", "104") for line in got[3:5])  # EPIPE, ECONNRESET
    assert got[5:] == ["0"]


def test_flash_cert(mpy, tmp_path, pki):
    # With nothing given, what is in /flash/cert counts: the CA, and for a server that is verified our own certificate.
    cert = tmp_path / "flash" / "cert"
    cert.mkdir(parents=True)
    (cert / "ca.pem").write_bytes(pki.ca.cert_pem)
    (cert / "cert.pem").write_bytes(pki.client.cert_pem)
    (cert / "private.key").write_bytes(pki.client.key_pem)
    script = """
port = int(sys.argv[1])
flash("flash")
def attempt(*args, **kwargs):
    try:
        s = ussl.wrap_socket(socket.socket(), *args, **kwargs)
        s.connect(addr(port))
        s.write(b"hello")
        print(s.read(5))
        s.close()
    except OSError as e:
        print("refused")
attempt(cert_reqs=ussl.CERT_REQUIRED)
attempt("/flash/cert/private.key", "/flash/cert/cert.pem", False, ussl.CERT_REQUIRED, "/flash/cert/ca.pem")
attempt(certfile="/flash/cert/cert.pem")
attempt(keyfile="/flash/cert/private.key")
attempt()                                        # CERT_NONE: a stranger is not told who we are
os.remove("/flash/cert/private.key")
attempt(cert_reqs=ussl.CERT_REQUIRED)
"""
    with tls_peer(server_context(pki.server, pki.ca), echo) as peer:
        got = mpy.run(script, tmp_path, peer.port)
    assert got == ["b'hello'"] * 4 + ["refused"] * 2


def test_tls_1_1_is_refused(mpy, tmp_path, pki):
    script = """
before = fds()
for do_handshake in (True, False):
    s = tcp(int(sys.argv[1]))
    e = fails(lambda: ussl.wrap_socket(s, do_handshake=do_handshake).read(1))
    print(type(e).__name__, e.errno)
    s.close()
print(fds() - before)
"""
    context = server_context(pki.server, maximum=ssl.TLSVersion.TLSv1_1)
    with tls_peer(context, echo) as peer:
        # to be sure that the server does speak it
        connect(peer.port, client_context(pki.ca, maximum=ssl.TLSVersion.TLSv1_1)).close()
        got = mpy.run(script, tmp_path, peer.port)
    # MBEDTLS_ERR_SSL_BAD_PROTOCOL_VERSION, or the server's alert where TLS 1.3 is offered
    assert got in (["SSLError -28288"] * 2 + ["0"], ["SSLError -30592"] * 2 + ["0"])


def _first_flight(context, hello: bytes) -> bytes:
    """What a server with this context answers to a ClientHello."""
    into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(into, out, server_side=True)
    into.write(hello)
    with pytest.raises(ssl.SSLWantReadError):
        server.do_handshake()
    return out.read()


@pytest.mark.parametrize("how", ["nothing", "reset", "half a record", "garbage", "http"])
def test_server_gives_up_in_the_handshake(mpy, tmp_path, pki, how):
    context = server_context(pki.server)

    def handle(connection):
        hello = connection.recv(65536)
        if how == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif how == "half a record":
            connection.sendall(_first_flight(context, hello)[:200])
        elif how == "garbage":
            connection.sendall(b"\x00" * 5 + b"\xff" * 100)
        elif how == "http":
            connection.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")

    script = """
before = fds()
for way in range(3):
    s = socket.socket()
    try:
        if way == 0:
            s = ussl.wrap_socket(s)
            s.connect(addr(int(sys.argv[1])))
        else:
            s.connect(addr(int(sys.argv[1])))
            s = ussl.wrap_socket(s, do_handshake=way == 1)
            s.read(1)
        print("no exception")
    except OSError as e:
        print(type(e).__name__, e.errno)
    s.close()
    if fds() != before:
        print("leak")
"""
    with Peer(handle) as peer:
        got = mpy.run(script, tmp_path, peer.port)
    want = {"nothing": "SSLError -29312", "half a record": "SSLError -29312", "reset": "OSError 104"}
    # mbedTLS words garbage differently with TLS 1.3 (stock) and without
    assert got == [want[how]] * 3 if how in want else all(line.startswith("SSLError -") for line in got), got


@pytest.mark.parametrize("how", ["close_notify", "no close_notify", "half a record", "reset", "damaged record"])
def test_how_a_connection_ends(mpy, tmp_path, pki, how):
    context = server_context(pki.server, maximum=ssl.TLSVersion.TLSv1_2)

    def handle(connection):
        tls, out = by_hand(context, connection)
        tls.write(b"hello")
        connection.sendall(out.read())
        connection.recv(65536)  # the client has read it
        if how == "close_notify":
            with pytest.raises(ssl.SSLWantReadError):
                tls.unwrap()
            connection.sendall(out.read())
        elif how == "half a record":
            tls.write(b"x" * 1000)
            connection.sendall(out.read()[:500])
        elif how == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif how == "damaged record":
            tls.write(b"x" * 1000)
            record = bytearray(out.read())
            record[500] ^= 1
            connection.sendall(record)
            connection.recv(65536)
            connection.recv(65536)

    script = """
before = fds()
for f in ("read", "recv", "readline", "readinto"):
    s = ussl.wrap_socket(tcp(int(sys.argv[1])))
    print(s.read(5), end=" ")
    s.write(b"+")
    try:
        print(getattr(s, f)(bytearray(10) if f == "readinto" else 10))
    except OSError as e:
        print(type(e).__name__, e.errno, len(e.args))
    s.close()
print(fds() - before)
"""
    with Peer(handle) as peer:
        got = mpy.run(script, tmp_path, peer.port)
    # Like the firmware (and CPython, unless told otherwise), ussl takes the end of the TCP connection for the end of
    # the stream: MicroPython itself never sends a close_notify. Of a record cut short nothing is delivered.
    if how == "reset":
        assert got == ["b'hello' OSError 104 1"] * 4 + ["0"]
    elif how == "damaged record":
        assert got == ["b'hello' SSLError -29056 2"] * 4 + ["0"]  # MBEDTLS_ERR_SSL_INVALID_MAC
    else:
        assert got == ["b'hello' b''"] * 3 + ["b'hello' 0", "0"]


def test_end_stays_the_end(mpy, tmp_path, pki):
    # The peer has ended the session but keeps the connection, and waits for us to say so too.
    def talk(tls):
        tls.sendall(b"hello")
        tls.unwrap()

    script = """
import time
for f in (lambda s: s.recv(9), lambda s: s.read(9), lambda s: s.readline(), lambda s: s.readinto(bytearray(9))):
    s = ussl.wrap_socket(tcp(int(sys.argv[1])))
    start = time.ticks_ms()
    print(s.read(5), s.read(0), f(s), f(s), f(s), time.ticks_diff(time.ticks_ms(), start) < 3000)
    s.close()
"""
    with tls_peer(server_context(pki.server), talk) as peer:
        got = mpy.run(script, tmp_path, peer.port)
    assert got == ["b'hello' b'' b'' b'' b'' True"] * 3 + ["b'hello' b'' 0 0 0 True"]


def test_requests_style(mpy, tmp_path, pki):
    # urequests of 1.12 to 1.21, line by line where it touches the socket
    def talk(tls):
        request = b""
        while not request.endswith(b"\r\n\r\n"):
            request += tls.recv(1)
        assert request.startswith(b"GET /x HTTP/1.0\r\nHost: ")
        tls.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nbody\nof it")

    script = """
import usocket
ai = usocket.getaddrinfo("127.0.0.1", int(sys.argv[1]), 0, usocket.SOCK_STREAM)[0]
s = usocket.socket(ai[0], ai[1], ai[2])
s.connect(ai[-1])
s = ussl.wrap_socket(s, server_hostname="board.example")
s.write(b"%s /%s HTTP/1.0\\r\\n" % ("GET", "x"))
s.write(b"Host: %s\\r\\n" % "board.example")
s.write(b"\\r\\n")
l = s.readline()
l = l.split(None, 2)
status = int(l[1])
while True:
    l = s.readline()
    if not l or l == b"\\r\\n":
        break
print(status, s.read())
s.close()
"""
    with tls_peer(server_context(pki.server), talk) as peer:
        assert mpy.run(script, tmp_path, peer.port) == [r"200 b'body\nof it'"]
        assert not peer.errors


def test_sni(mpy, tmp_path, pki):
    seen = []
    context = server_context(pki.server)
    context.sni_callback = lambda tls, name, _: seen.append(name)
    script = """
s = ussl.wrap_socket(tcp(int(sys.argv[1])), server_hostname="board.example")
s.close()
s = ussl.wrap_socket(socket.socket(), server_hostname="other.example")
s.connect(addr(int(sys.argv[1])))
s.close()
s = ussl.wrap_socket(socket.socket())
s.connect(addr(int(sys.argv[1])))
s.close()
"""
    with tls_peer(context, echo) as peer:
        mpy.run(script, tmp_path, peer.port)
    assert seen == ["board.example", "other.example", None]


def test_connect_that_fails_can_be_tried_again(mpy, tmp_path, pki):
    with socket.create_server(("127.0.0.1", 0)) as s:
        closed = s.getsockname()[1]
    script = """
s = ussl.wrap_socket(socket.socket())
before = fds()
e = fails(s.connect, addr(int(sys.argv[2])))
print(type(e).__name__, e.errno == errno.ECONNREFUSED, fds() - before)
s.connect(addr(int(sys.argv[1])))
print(s.write(b"hello"), s.read(5))
e = fails(s.connect, addr(int(sys.argv[1])))      # it is connected
print(type(e).__name__)
"""
    with tls_peer(server_context(pki.server), echo) as peer:
        got = mpy.run(script, tmp_path, peer.port, closed)
    assert got == ["OSError True 0", "5 b'hello'", "OSError"]
