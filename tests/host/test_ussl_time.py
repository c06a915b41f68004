"""ussl against peers that are silent, drip or do not read: every call that has a timeout ends by it, in total."""

import contextlib
import socket
import ssl
import threading
import time

import pytest
from ports import free_port
from ussl_support import Peer, by_hand, client_context, connect, echo, server_context, tls_peer

pytest_plugins = "ussl_fixtures"

TIMED = """
import time
def timed(f, *args):
    start = time.ticks_ms()
    try:
        r = f(*args)
        print("no exception, but", r, end=" ")
    except OSError as e:
        print("timeout" if e.errno == errno.ETIMEDOUT else repr(e), end=" ")
    print(time.ticks_diff(time.ticks_ms(), start))
"""


def ended(line: str, at_least: float, at_most: float):
    """The line is what TIMED prints when the time ran out after so many seconds."""
    word, _, ms = line.rpartition(" ")
    assert word == "timeout" and at_least * 1000 - 20 <= int(ms) <= at_most * 1000, line


def _hello(connection):
    data = connection.recv(65536)
    assert data[:1] == b"\x16"
    return data


def silent(connection):
    _hello(connection)
    with contextlib.suppress(OSError):
        connection.recv(1)


def drip(data: bytes):
    """A handler that sends data a byte at a time, twenty a second."""

    def handle(connection):
        _hello(connection)
        with contextlib.suppress(OSError):
            for i in range(len(data)):
                connection.sendall(data[i : i + 1])
                time.sleep(0.05)

    return handle


# A record header that promises 16 KB of handshake, and records that hold a warning each: both could go on for ever.
ENDLESS = {
    "silent": silent,
    "drips a record": drip(b"\x16\x03\x03\x40\x00" + b"\x02\x00\x3f\xfc" + b"\x00" * 200),
    "drips warnings": drip(b"\x15\x03\x03\x00\x02\x01\x5a" * 40),
}


@pytest.mark.parametrize("peer", ENDLESS)
def test_connect(mpy, tmp_path, peer):
    script = """
before = fds()
s = ussl.wrap_socket(socket.socket())
s.settimeout(0.4)
timed(s.connect, addr(int(sys.argv[1])))
print(fds() - before)
s.close()
s = ussl.wrap_socket(tcp(int(sys.argv[1])), do_handshake=False)
s.settimeout(0.4)
timed(s.read, 1)
timed(s.write, b"x")
s.close()
print(fds() - before)
"""
    with Peer(ENDLESS[peer]) as p:
        got = mpy.run(TIMED + script, tmp_path, p.port)
    ended(got[0], 0.4, 1.1)
    ended(got[2], 0.4, 1.1)
    ended(got[3], 0.4, 1.1)
    assert got[1] == got[4] == "0"


@pytest.mark.parametrize("peer", ENDLESS)
def test_pycom_timeout(mpy, tmp_path, peer):
    # It is the handshake's own: over a blocking socket, connected or not, with settimeout() the earlier of the two, and
    # what follows the handshake blocks as the socket did.
    script = """
before = fds()
s = tcp(int(sys.argv[1]))
timed(lambda: ussl.wrap_socket(s, timeout=1))
s.close()
s = ussl.wrap_socket(socket.socket(), timeout=1)
timed(s.connect, addr(int(sys.argv[1])))
s.close()
for own, other in ((0.5, 60), (60, 0.5)):
    s = ussl.wrap_socket(socket.socket(), timeout=own)
    s.settimeout(other)
    timed(s.connect, addr(int(sys.argv[1])))
    s.close()
print(fds() - before)
"""
    with Peer(ENDLESS[peer]) as p:
        got = mpy.run(TIMED + script, tmp_path, p.port)
    ended(got[0], 1, 1.8)
    ended(got[1], 1, 1.8)
    ended(got[2], 0.5, 1.3)
    ended(got[3], 0.5, 1.3)
    assert got[4] == "0"


def test_pycom_timeout_ends_with_the_handshake(mpy, tmp_path, pki):
    def talk(tls):
        tls.recv(1)
        time.sleep(1.2)  # longer than the timeout
        tls.sendall(b"late")

    script = """
for connected in (True, False):
    s = ussl.wrap_socket(tcp(int(sys.argv[1])) if connected else socket.socket(), timeout=1)
    if not connected:
        s.connect(addr(int(sys.argv[1])))
    s.write(b"?")
    print(s.read(4))
    s.close()
"""
    with tls_peer(server_context(pki.server), talk) as peer:
        assert mpy.run(script, tmp_path, peer.port) == ["b'late'"] * 2


def test_connect_to_nobody(mpy, tmp_path):
    # a backlog that is full: nothing answers, as behind a firewall
    with socket.socket() as full, contextlib.ExitStack() as stack:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):
            s = stack.enter_context(socket.socket())
            s.setblocking(False)
            s.connect_ex(full.getsockname())
        time.sleep(0.1)
        script = """
s = ussl.wrap_socket(socket.socket())
s.settimeout(0.5)
timed(s.connect, addr(int(sys.argv[1])))
s.close()
"""
        got = mpy.run(TIMED + script, tmp_path, full.getsockname()[1])
    ended(got[0], 0.5, 1.2)


def test_timeout_of_the_socket_itself(mpy, tmp_path):
    # Set before wrapping, it is not known to ussl, but it still ends the wait for a peer that is silent.
    script = """
s = tcp(int(sys.argv[1]))
s.settimeout(0.5)
timed(ussl.wrap_socket, s)
s.close()
s = socket.socket()
s.settimeout(0.5)
s = ussl.wrap_socket(s)
timed(s.connect, addr(int(sys.argv[1])))
s.close()
"""
    with Peer(silent) as peer:
        got = mpy.run(TIMED + script, tmp_path, peer.port)
    ended(got[0], 0.5, 1.2)
    ended(got[1], 0.5, 1.2)


def test_no_timeout_at_all(mpy, tmp_path):
    # 30 seconds is what a dripping peer gets then. One firmware is enough: the code is the same on all.
    if mpy.name not in ("unix32", "given"):
        pytest.skip("it takes 30 seconds, so it runs on the 32-bit firmware only")

    def handle(connection):
        _hello(connection)
        with contextlib.suppress(OSError):
            connection.sendall(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc")
            while True:
                connection.sendall(b"\x00")
                time.sleep(0.5)

    with Peer(handle) as peer:
        got = mpy.run(TIMED + "timed(ussl.wrap_socket, tcp(int(sys.argv[1])))", tmp_path, peer.port, timeout=180)
    ended(got[0], 30, 32)


@pytest.mark.parametrize("client", ["silent", "drips"])
def test_accept(mpy, tmp_path, pki, client):
    script = """
before = fds()
s = ussl.wrap_socket(socket.socket(), True, sys.argv[2], sys.argv[3])
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(addr(int(sys.argv[1])))
s.listen(2)
s.settimeout(0.4)
print("listening")
timed(s.accept)
print(fds() - before)
s.settimeout(10)
c, _ = s.accept()
print(c.read(5))
c.settimeout(0.3)
timed(c.read, 1)
c.settimeout(None)
print(c.read(5))
"""
    port = free_port()
    running = mpy.start(TIMED + script, tmp_path, port, pki.server.key_pem_file, pki.server.cert_pem_file)
    assert running.line() == "listening"
    with socket.create_connection(("127.0.0.1", port)) as s:
        if client == "drips":
            with contextlib.suppress(OSError):
                for byte in b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 10:
                    s.sendall(bytes([byte]))
                    time.sleep(0.1)
        ended(running.line(), 0.4, 1.1)
        assert running.line() == "1"
    with connect(port, client_context(pki.ca)) as tls:
        tls.sendall(b"hello")
        assert running.line() == "b'hello'"
        ended(running.line(), 0.3, 1)
        tls.sendall(b"again")
        assert running.end() == ["b'again'"]


def test_read_ends_and_the_session_goes_on(mpy, tmp_path, pki):
    def talk(tls):
        while command := tls.recv(1):
            if command == b"d":  # drip
                for _ in range(12):
                    tls.sendall(b"x")
                    time.sleep(0.1)
            else:
                tls.sendall(b"line\nmore")

    script = """
s = ussl.wrap_socket(tcp(int(sys.argv[1])))
s.settimeout(0.2)
b = bytearray(9)
for f, arg in ((s.read, 1), (s.recv, 1), (s.readline, -1), (s.readinto, b), (s.recv_into, b), (s.read, -1)):
    timed(f, arg)
s.settimeout(0.4)
s.write(b"d")
timed(s.read, 12)
s.settimeout(5)
n = 0
while n < 6:                     # the drops that came too late for that read, some of which it took
    n += len(s.recv(100))
s.settimeout(0.5)
try:
    while True:
        s.recv(100)
except OSError as e:
    print(e.errno == errno.ETIMEDOUT)
s.write(b".")
print(s.readline(), s.read(4))
s.write(b".")
print(s.recv(100), s.cipher() is not None)
s.settimeout(0)
print(s.read(1), fails(s.recv, 1).errno == errno.EAGAIN)
s.settimeout(None)
s.write(b".")
print(s.read(9))
s.close()
"""
    with tls_peer(server_context(pki.server), talk) as peer:
        got = mpy.run(TIMED + script, tmp_path, peer.port)
    for line in got[:6]:
        ended(line, 0.2, 1)
    ended(got[6], 0.4, 1)  # though a byte came every tenth of a second
    assert got[7:] == [
        "True",
        r"b'line\n' b'more'",
        r"b'line\nmore' True",
        "None True",
        r"b'line\nmore'",
    ]


@pytest.mark.parametrize("cut", [1, 3, 5, 6, 100])
def test_timeout_within_a_record(mpy, tmp_path, pki, cut):
    # What has come of a record stays with mbedTLS: the rest completes it.
    context = server_context(pki.server, maximum=ssl.TLSVersion.TLSv1_2)

    def handle(connection):
        tls, out = by_hand(context, connection)
        tls.write(b"x" * 1000)
        record = out.read()
        connection.sendall(record[:cut])
        connection.recv(65536)
        connection.sendall(record[cut:])
        connection.recv(65536)

    script = """
s = ussl.wrap_socket(tcp(int(sys.argv[1])))
s.settimeout(0.2)
timed(s.read, 1000)
s.write(b"now")
print(s.read(1000) == b"x" * 1000)
"""
    with Peer(handle) as peer:
        got = mpy.run(TIMED + script, tmp_path, peer.port)
    ended(got[0], 0.2, 1)
    assert got[1] == "True"


def test_write_to_a_peer_that_does_not_read(mpy, tmp_path, pki):
    over = threading.Event()

    def talk(tls):
        over.wait(15)

    script = """
s = ussl.wrap_socket(tcp(int(sys.argv[1])))
s.settimeout(0.4)
def fill():
    while True:
        s.write(b"x" * 16384)
timed(fill)
e = fails(s.write, b"more")       # half a record is out: nothing may follow it
print(isinstance(e, OSError))
s.close()
"""
    with tls_peer(server_context(pki.server), talk) as peer:
        got = mpy.run(TIMED + script, tmp_path, peer.port)
        over.set()
    ended(got[0], 0.4, 4)
    assert got[1] == "True"


def test_a_timeout_costs_no_speed_that_matters(mpy, tmp_path, pki):
    # It waits for the socket, not for the next tick: a thousand round trips at a tick each would take a second or more.
    script = """
s = ussl.wrap_socket(tcp(int(sys.argv[1])))
s.settimeout(5)
start = time.ticks_ms()
for _ in range(300):
    s.write(b"hello")
    s.read(5)
print(time.ticks_diff(time.ticks_ms(), start))
"""
    with tls_peer(server_context(pki.server), echo) as peer:
        got = mpy.run(TIMED + script, tmp_path, peer.port)
    assert int(got[0]) < 3000
