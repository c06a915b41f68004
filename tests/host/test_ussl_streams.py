"""ussl's sockets as streams: for select.poll, asyncio, native websocket and other C code; and without blocking."""

import asyncio
import json
import threading

import pytest
from ports import free_port
from ussl_support import Peer, by_hand, client_context, connect, echo, server_context, tls_peer

pytest_plugins = "ussl_fixtures"


@pytest.mark.parametrize("how", ["wipy", "1.21"])
def test_non_blocking_handshake(mpy, tmp_path, pki, how):
    script = """
import select
port, ca = int(sys.argv[1]), sys.argv[2]
def wrap(s, **kwargs):
    return ussl.wrap_socket(s, cert_reqs=ussl.CERT_REQUIRED, cadata=ca, server_hostname="board.example", **kwargs)
s = socket.socket()
if %r == "wipy":
    s = wrap(s)
    s.setblocking(False)
    e = fails(s.connect, addr(port))
else:
    s.setblocking(False)
    e = fails(s.connect, addr(port))
    s = wrap(s, do_handshake=False)
print(e.errno == errno.EINPROGRESS)
print(s.read(1), s.cipher())
p = select.poll()
p.register(s, select.POLLOUT)
while True:
    n = s.write(b"hello")
    if n is not None:
        break
    if not p.poll(2000):
        print("poll says nothing")
print(n)
p.modify(s, select.POLLIN)
while True:
    d = s.read(5)
    if d is not None:
        break
    p.poll(2000)
print(d, s.read(1), s.readline(), s.readinto(bytearray(1)), s.cipher() is not None)
for f, arg in ((s.recv, 1), (s.recv_into, bytearray(1)), (s.recvfrom, 1)):
    print(fails(f, arg).errno == errno.EAGAIN, end=" ")
print()
while s.write(b"x" * 16384):
    pass
print(fails(s.send, b"x" * 16384).errno == errno.EAGAIN, fails(s.sendall, b"x" * 16384).errno == errno.EAGAIN)
s.close()
"""

    over = threading.Event()

    def talk(tls):
        tls.sendall(tls.recv(5))
        over.wait(15)

    with tls_peer(server_context(pki.server), talk) as peer:
        got = mpy.run(script % how, tmp_path, peer.port, pki.ca.cert_pem_file)
        over.set()
    assert got == ["True", "None None", "5", "b'hello' None None None True", "True True True ", "True True"]


def test_recv_of_more_than_there_is_memory_for(mpy, tmp_path, pki):
    # Firmware up to 1.24 has no recv() of its own; ussl's reads a byte and then what else there is.
    script = """
class Older:
    def __init__(self, io):
        self._io = io
    def __getattr__(self, name):
        if name == "recv":
            raise AttributeError(name)
        return getattr(self._io, name)
s = ussl.wrap_socket(tcp(int(sys.argv[1])))
s._io = Older(s._io)
got = s.recv(1 << 30)
for n in (5, 10):
    while len(got) < n:
        got += s.recv(100)
    s.write(b"+")
print(got)
"""

    def talk(tls):
        tls.sendall(b"hello")
        tls.recv(1)
        tls.sendall(b"again")
        tls.recv(1)

    with tls_peer(server_context(pki.server), talk) as peer:
        got = mpy.run(script, tmp_path, peer.port)
    assert got == ["b'helloagain'"]


def test_poll_sees_what_tls_has(mpy, tmp_path, pki):
    # A record of 100 bytes of which 1 was read: the socket is empty, but there is something to read.
    def handle(connection):
        tls, out = by_hand(server_context(pki.server), connection)
        tls.write(b"x" * 100)
        connection.sendall(out.read())
        connection.recv(65536)

    script = """
import select
raw = tcp(int(sys.argv[1]))
s = ussl.wrap_socket(raw)
p = select.poll()
p.register(s, select.POLLIN)
print([e for _, e in p.poll(2000)] == [select.POLLIN])
print(s.read(1), [e for _, e in p.poll(0)] == [select.POLLIN])
q = select.poll()
q.register(raw, select.POLLIN)
print(q.poll(0))
print(len(s.read(99)), p.poll(50))
r, w, x = select.select([s], [s], [], 1) if hasattr(select, "select") else ([], [s], [])
print(r == [], w == [s])
s.close()
p = select.poll()
p.register(s, select.POLLIN)
print([e for _, e in p.poll(0)])
"""
    with Peer(handle) as peer:
        got = mpy.run(script, tmp_path, peer.port)
    assert got == ["True", "b'x' True", "[]", "99 []", "True True", "[32]"]


@pytest.mark.parametrize("certificate", ["server", "stranger"])
def test_asyncio_client(mpy, tmp_path, pki, certificate):
    script = """
import asyncio
async def main():
    c = ussl.SSLContext(ussl.PROTOCOL_TLS_CLIENT)
    c.verify_mode = ussl.CERT_REQUIRED
    c.load_verify_locations(sys.argv[2])
    r, w = await asyncio.open_connection("127.0.0.1", int(sys.argv[1]), ssl=c)      # the address is what is verified
    w.write(b"line\\n" + b"x" * 20000)
    await w.drain()
    print(await r.readline(), len(await r.readexactly(20000)))
    try:
        await asyncio.wait_for(r.read(1), 0.2)
    except asyncio.TimeoutError:
        print("timeout")
    w.close()
    await w.wait_closed()
before = fds()
try:
    asyncio.run(main())
except ussl.SSLError as e:
    print("SSLError", e.errno)
    asyncio.new_event_loop()
"""
    with tls_peer(server_context(getattr(pki, certificate)), echo) as peer:
        got = mpy.run(script, tmp_path, peer.port, pki.ca.cert_pem_file)
    assert got == ([r"b'line\n' 20000", "timeout"] if certificate == "server" else ["SSLError -9984"])


def test_asyncio_server(mpy, tmp_path, pki):
    script = """
import asyncio
async def serve(r, w):
    try:
        w.write(await r.readline())
        await w.drain()
        print("served")
    except ussl.SSLError as e:
        print("SSLError", e.errno)
    w.close()
    await w.wait_closed()
    global left
    left -= 1
async def main():
    global left
    left = 3
    c = ussl.SSLContext(ussl.PROTOCOL_TLS_SERVER)
    c.load_cert_chain(sys.argv[3], sys.argv[2])
    c.verify_mode = ussl.CERT_REQUIRED
    c.load_verify_locations(cafile=sys.argv[4])
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]), ssl=c)
    before = fds()
    print("listening")
    while left:
        await asyncio.sleep_ms(10)
    print(fds() - before)
asyncio.run(main())
"""
    port = free_port()
    files = pki.server.key_pem_file, pki.server.cert_pem_file, pki.ca.cert_pem_file
    running = mpy.start(script, tmp_path, port, *files)
    assert running.line() == "listening"
    for leaf in (pki.client, None, pki.client):
        try:
            with connect(port, client_context(pki.ca, leaf)) as tls:
                tls.sendall(b"hello\n")
                assert tls.recv(10) == b"hello\n"
            assert leaf
        except OSError:
            assert not leaf
    assert running.end() == ["served", "SSLError -29824", "served", "0"]


def test_native_websocket(mpy, tmp_path, pki):
    # MicroPython's websocket is C code that reads and writes the stream itself.
    def talk(tls):
        request = b""
        while not request.endswith(b"\r\n\r\n"):
            request += tls.recv(1)
        tls.sendall(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
        frame = b""
        while len(frame) < 7:
            frame += tls.recv(100)
        assert frame == b"\x81\x05hello"
        # masked, as a client's are: it is made for servers
        tls.sendall(b"\x81\x85\0\0\0\0" + frame[2:] + b"\x82\xfe\x03\xe8\0\0\0\0" + b"x" * 1000)
        tls.recv(100)

    script = """
try:
    import websocket
except ImportError:
    print("none")
    raise SystemExit
s = ussl.wrap_socket(socket.socket())
s.connect(addr(int(sys.argv[1])))
s.write(b"GET / HTTP/1.1\\r\\n\\r\\n")
while s.readline() != b"\\r\\n":
    pass
import select
p = select.poll()
p.register(s, select.POLLIN)
ws = websocket.websocket(s, True)       # it leaves the socket non-blocking after each write
print(ws.write("hello"))
got = b""
while len(got) < 1005:
    if not p.poll(2000):
        print("poll says nothing")
    got += ws.read(1000) or b""
print(got[:5], got[5:] == b"x" * 1000)
ws.close()
"""
    with tls_peer(server_context(pki.server), talk) as peer:
        got = mpy.run(script, tmp_path, peer.port)
        assert not peer.errors
    if got == ["none"]:
        pytest.skip("this firmware has no websocket module")
    assert got == ["5", "b'hello' True"]


def test_other_c_code(mpy, tmp_path, pki):
    # json.load() reads the stream by itself (to its end), print() and json.dump() write it.
    def talk(tls):
        if tls.recv(1) == b"r":
            tls.sendall(json.dumps({"a": [1, 2, 3]}).encode())
        else:
            data = b""
            while len(data) < 13:
                data += tls.recv(100)
            tls.sendall(data)

    script = """
import json
s = ussl.wrap_socket(tcp(int(sys.argv[1])))
s.write(b"r")
print(json.load(s))
s.close()
s = ussl.wrap_socket(tcp(int(sys.argv[1])))
s.write(b"w")
print("hi", file=s)
json.dump({"b": 4.5}, s)
print(s.read())
s.close()
"""
    with tls_peer(server_context(pki.server), talk) as peer:
        got = mpy.run(script, tmp_path, peer.port)
    assert got == ["{'a': [1, 2, 3]}", "b'hi\\n{\"b\": 4.5}'"]


def test_tls_in_tls(mpy, tmp_path, pki):
    # Through a proxy that speaks TLS: the outer session is the socket of the inner one.
    context = server_context(pki.server)

    async def main():
        async def inner(reader, writer):
            writer.write(await reader.readline())
            await writer.drain()

        server = await asyncio.start_server(inner, "127.0.0.1", 0, ssl=context)
        inner_port = server.sockets[0].getsockname()[1]

        async def copy(reader, writer):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()

        async def outer(reader, writer):
            r, w = await asyncio.open_connection("127.0.0.1", inner_port)
            tasks = [asyncio.create_task(copy(reader, w)), asyncio.create_task(copy(r, writer))]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()

        proxy = await asyncio.start_server(outer, "127.0.0.1", 0, ssl=context)
        script = """
s = ussl.wrap_socket(tcp(int(sys.argv[1])))
t = ussl.wrap_socket(s, cert_reqs=ussl.CERT_REQUIRED, ca_certs=sys.argv[2], server_hostname="board.example")
t.write(b"hello\\n")
print(t.readline())
t.close()
"""
        port = proxy.sockets[0].getsockname()[1]
        got = await asyncio.to_thread(mpy.run, script, tmp_path, port, pki.ca.cert_pem_file)
        proxy.close()
        server.close()
        return got

    assert asyncio.run(main()) == [r"b'hello\n'"]


def test_dtls(mpy, tmp_path, pki):
    # Two ends on the board, as no one here speaks DTLS from Python. The timeout is the socket's own.
    script = """
if not hasattr(ussl, "PROTOCOL_DTLS_CLIENT"):
    print("none")
    raise SystemExit
key, cert, ca = sys.argv[1:]
import io
class Pipe(io.IOBase):
    def __init__(self):
        self.got = []
        self.other = None
    def readinto(self, buf):
        if not self.got:
            return None
        d = self.got.pop(0)
        buf[: len(d)] = d
        return len(d)
    def write(self, buf):
        self.other.got.append(bytes(buf))
        return len(buf)
    def ioctl(self, request, arg):
        return 0
a, b = Pipe(), Pipe()
a.other, b.other = b, a
c = ussl.SSLContext(ussl.PROTOCOL_DTLS_CLIENT)
c.verify_mode = ussl.CERT_REQUIRED
c.load_verify_locations(ca)
d = ussl.SSLContext(ussl.PROTOCOL_DTLS_SERVER)
d.load_cert_chain(cert, key)
def listen():
    try:
        return d.wrap_socket(b, server_side=True, do_handshake_on_connect=False)
    except ussl.SSLError:        # 1.26 and later: a server must know who its client is
        return d.wrap_socket(b, server_side=True, do_handshake_on_connect=False, client_id=b"1")
server = listen()
client = c.wrap_socket(a, server_hostname="board.example", do_handshake_on_connect=False)
got = None
for i in range(50):
    if client.write(b"hello"):
        break
    try:
        got = server.read(5)
    except ussl.SSLError as e:
        # MBEDTLS_ERR_SSL_FEATURE_UNAVAILABLE: 1.25 can't give mbedTLS the cookies that Debian's wants of a server
        if e.errno == -28800:
            print("none")
            raise SystemExit
        if e.errno != -27264:    # MBEDTLS_ERR_SSL_HELLO_VERIFY_REQUIRED: the cookie is on its way, begin again
            raise
        server = listen()
print(got or server.read(5), server.write(b"again"), client.recv(100))
"""
    files = pki.server.key_pem_file, pki.server.cert_pem_file, pki.ca.cert_pem_file
    got = mpy.run(script, tmp_path, *files)
    if got == ["none"]:
        pytest.skip("this firmware has no DTLS, or none that works in a server")
    assert got == ["b'hello' 5 b'again'"]
