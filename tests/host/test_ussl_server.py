"""ussl as a server for CPython's ssl: a listening socket that is wrapped, accepted ones that are, and who is let in."""

import socket
import ssl
import struct

import pytest
from ports import free_port
from ussl_support import client_context, connect

pytest_plugins = "ussl_fixtures"

# A server that listens the WiPy way. `key`, `cert` and `ca` are paths.
LISTEN = """
port = int(sys.argv[1])
key, cert, ca = sys.argv[2:5]
def listen(*args, **kwargs):
    s = ussl.wrap_socket(socket.socket(), *args, **kwargs)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(addr(port))
    s.listen(5)
    return s
def ready():
    print("listening")
    if hasattr(sys.stdout, "flush"):
        sys.stdout.flush()
def serve(s):
    try:
        c, a = s.accept()
        d = c.read(5)
        c.write(d)
        print("served", d)
        c.close()
    except OSError as e:
        print("SSLError" if isinstance(e, ussl.SSLError) else "OSError", e.errno)
"""


class Server:
    """A script that starts with LISTEN."""

    def __init__(self, mpy, cwd, leaf, ca, script):
        self.port = free_port()
        files = leaf.key_pem_file, leaf.cert_pem_file, ca.cert_pem_file
        self.script = mpy.start(LISTEN + script, cwd, self.port, *files)
        if self.script.line() != "listening":
            self.script.end(5)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.script.stop()


def talk(port, context, name="board.example", data=b"hello"):
    """What the server sends back, or the exception that it ends with."""
    try:
        with connect(port, context, name) as tls:
            tls.sendall(data)
            return tls.recv(100)
    except OSError as e:
        return e


@pytest.mark.parametrize("kind", ["ec", "rsa"])
@pytest.mark.parametrize("how", ["before bind", "before accept", "after accept", "context", "context, deferred"])
def test_serves(mpy, tmp_path, pkis, kind, how):
    pki = pkis[kind]
    script = """
how = %r
if how == "before bind":
    s = listen(key, cert, True)
else:
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(addr(port))
    s.listen(5)
    if how == "before accept":
        s = ussl.wrap_socket(s, True, key, cert)
    else:
        c = ussl.SSLContext(ussl.PROTOCOL_TLS_SERVER)
        c.load_cert_chain(cert, key)
        def wrap(conn):
            if how == "after accept":
                return ussl.wrap_socket(conn, server_side=True, keyfile=key, certfile=cert)
            return c.wrap_socket(conn, server_side=True, do_handshake_on_connect=how == "context")
        class Wrapping:
            def __init__(self, s):
                self.s = s
            def accept(self):
                conn, a = self.s.accept()
                return wrap(conn), a
            def close(self):
                self.s.close()
        s = Wrapping(s)
before = fds()
ready()
serve(s)
serve(s)
print(fds() - before)
s.close()
print(fds() - before)
"""
    with Server(mpy, tmp_path, pki.server, pki.ca, script % how) as server:
        for name in ("board.example", "127.0.0.1"):
            assert talk(server.port, client_context(pki.ca), name) == b"hello"
        assert server.script.end() == ["served b'hello'"] * 2 + ["0", "-1"]


@pytest.mark.parametrize("kind", ["ec", "rsa"])
def test_sends_the_chain(mpy, tmp_path, pkis, kind):
    # A client that knows the root only needs the intermediate certificate from the server.
    pki = pkis[kind]
    script = """
d = cert[:cert.rfind("/")] + "/"
for key in ("chained_key.pem", "chained_key.der", "chained_key_pkcs8"):
    s = listen(d + key, d + "chain.pem", True)
    ready()
    serve(s)
    s.close()
ready()
"""
    with Server(mpy, tmp_path, pki.server, pki.ca, script) as server:
        for _ in range(3):
            assert talk(server.port, client_context(pki.ca)) == b"hello"
            assert server.script.line() == "served b'hello'"
            assert server.script.line() == "listening"
        assert server.script.end() == []


# What comes of a client's certificate under each cert_reqs: (leaf, whether it is let in under NONE, OPTIONAL, REQUIRED)
CLIENTS = [
    ("client", True, True, True),
    (None, True, True, False),
    ("stranger", True, True, False),
    ("expired", True, True, False),
    ("selfsigned", True, True, False),
]


@pytest.mark.parametrize("kind", ["ec", "rsa"])
@pytest.mark.parametrize("mode", [0, 1, 2])
def test_who_is_let_in(mpy, tmp_path, pkis, kind, mode):
    # Only CERT_REQUIRED keeps anybody out, as 1.21 documents. One who is not let in costs nothing but the call.
    pki = pkis[kind]
    script = """
s = listen(key, cert, True, %d, ca)
before = fds()
ready()
for i in range(%d):
    serve(s)
print(fds() - before)
"""
    with Server(mpy, tmp_path, pki.server, pki.ca, script % (mode, len(CLIENTS))) as server:
        want = []
        for name, *let_in in CLIENTS:
            context = client_context(pki.ca, name and getattr(pki, name), ssl.TLSVersion.TLSv1_2)
            got = talk(server.port, context)
            if let_in[mode]:
                assert got == b"hello"
                want.append("served b'hello'")
            else:
                # told why, not just cut off (but where there is no certificate mbedTLS leaves that to the firmware)
                assert isinstance(got, ssl.SSLError) and (name is None or "alert" in str(got)), got
                want.append("SSLError -29824" if name is None else "SSLError -9984")
        assert server.script.end() == [*want, "0"]


def test_flash_cert(mpy, tmp_path, pki):
    # A server with nothing given has its key and certificate there, and with CERT_REQUIRED the CA of its clients.
    cert = tmp_path / "flash" / "cert"
    cert.mkdir(parents=True)
    (cert / "ca.pem").write_bytes(pki.ca.cert_pem)
    (cert / "cert.pem").write_bytes(pki.server.cert_pem)
    (cert / "private.key").write_bytes(pki.server.key_pem)
    script = """
flash("flash")
s = listen(server_side=True, cert_reqs=ussl.CERT_REQUIRED)
ready()
serve(s)
serve(s)
"""
    with Server(mpy, tmp_path, pki.server, pki.ca, script) as server:
        assert talk(server.port, client_context(pki.ca, pki.client)) == b"hello"
        assert isinstance(talk(server.port, client_context(pki.ca)), ssl.SSLError)
        assert server.script.end() == ["served b'hello'", "SSLError -29824"]


@pytest.mark.parametrize("how", ["nothing", "half a record", "reset", "http", "tls 1.1"])
def test_client_gives_up_in_the_handshake(mpy, tmp_path, pki, how):
    script = """
s = listen(key, cert, True)
before = fds()
ready()
serve(s)
serve(s)
print(fds() - before)
"""
    with Server(mpy, tmp_path, pki.server, pki.ca, script) as server:
        if how == "tls 1.1":
            assert isinstance(talk(server.port, client_context(pki.ca, maximum=ssl.TLSVersion.TLSv1_1)), ssl.SSLError)
        else:
            with socket.create_connection(("127.0.0.1", server.port)) as s:
                if how == "half a record":
                    s.sendall(b"\x16\x03\x01\x02\x00\x01\x00")
                elif how == "reset":
                    s.sendall(b"\x16\x03\x01\x02\x00\x01\x00")
                    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                elif how == "http":
                    s.sendall(b"GET / HTTP/1.0\r\n\r\n")
                    s.recv(100)
        assert talk(server.port, client_context(pki.ca)) == b"hello"
        got = server.script.end()
    want = {"nothing": "SSLError -29312", "half a record": "SSLError -29312", "reset": "OSError 104"}
    assert got[0] == want[how] if how in want else got[0].startswith("SSLError -"), got
    assert got[1:] == ["served b'hello'", "0"]


def test_accept_that_does_not_wait(mpy, tmp_path, pki):
    # A non-blocking listener: accept() leaves the handshake to the reads, and the silent client holds up nobody.
    script = """
import select
s = listen(key, cert, True)
s.setblocking(False)
p = select.poll()
p.register(s, select.POLLIN)
e = fails(s.accept)
ready()
print(e.errno == errno.EAGAIN)
conns = []
done = 0
while done < 1:
    for obj, event in p.poll(1000):
        if obj is s:
            c, a = s.accept()
            conns.append(c)
            p.register(c, select.POLLIN)
            print("accepted")
        else:
            d = obj.read(5)
            if d:
                print("read", d)
                obj.write(d)
                p.unregister(obj)
                done += 1
for c in conns:
    c.close()
"""
    with Server(mpy, tmp_path, pki.server, pki.ca, script) as server, socket.socket() as silent:
        silent.connect(("127.0.0.1", server.port))
        assert talk(server.port, client_context(pki.ca)) == b"hello"
        assert server.script.end() == ["True", "accepted", "accepted", "read b'hello'"]
