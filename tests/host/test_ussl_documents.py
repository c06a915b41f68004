"""The examples of WiPy's and 1.21's documents, and those that come with MicroPython, run.

Three things are changed in them: `import ssl` is `import ussl as ssl`, socket.IPPROTO_SEC, which only WiPy had, is
ssl.IPPROTO_SEC, and the host is here. (WiPy's document also calls the socket module where it means socket.socket.)
"""

import re
import socket
import ssl
import textwrap
import threading
import time

import pytest
from ports import free_port
from ussl_support import LIB, echo, server_context, tls_peer, upstream

pytest_plugins = "ussl_fixtures"

EXAMPLES = upstream("examples/network")


def test_wipy_without_certificates(mpy, tmp_path, pki):
    script = """
import socket
import ussl as ssl
s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, ssl.IPPROTO_SEC)
ss = ssl.wrap_socket(s)
ss.connect(socket.getaddrinfo('127.0.0.1', int(sys.argv[1]))[0][-1])

ss.write(b"hello")
print(ss.read(5))
"""
    with tls_peer(server_context(pki.server), echo) as peer:
        assert mpy.run(script, tmp_path, peer.port) == ["b'hello'"]


@pytest.mark.parametrize("certificate", ["server", "named", "stranger"])
def test_wipy_with_certificates(mpy, tmp_path, pki, certificate):
    # The document's own call names no host: the address is verified, so the certificate must have it.
    (tmp_path / "cert").mkdir()
    (tmp_path / "cert" / "ca.pem").write_bytes(pki.ca.cert_pem)
    script = """
flash(sys.argv[2])
import socket
import ussl as ssl
s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, ssl.IPPROTO_SEC)
ss = ssl.wrap_socket(s, cert_reqs=ssl.CERT_REQUIRED, ca_certs='/flash/cert/ca.pem')
try:
    ss.connect(socket.getaddrinfo('127.0.0.1', int(sys.argv[1]))[0][-1])
    ss.write(b"hello")
    print(ss.read(5))
except ssl.SSLError as e:
    print(e.args[1])
"""
    with tls_peer(server_context(getattr(pki, certificate)), echo) as peer:
        got = mpy.run(script, tmp_path, peer.port, tmp_path)
    want = {
        "server": "b'hello'",
        "named": "(CN) does not match with the expected CN (127.0.0.1: pass server_hostname)",
        "stranger": "The certificate is not correctly signed by the trusted CA",
    }
    assert len(got) == 1 and got[0].endswith(want[certificate])


def test_wipy_signature(mpy, tmp_path, pki):
    # ssl.wrap_socket(sock, keyfile=None, certfile=None, server_side=False, cert_reqs=CERT_NONE, ca_certs=None)
    script = """
port, key, cert, ca = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
for args in ((), (None, None, False, ssl.CERT_NONE, None), (key, cert, False, ssl.CERT_REQUIRED, ca)):
    ss = ssl.wrap_socket(socket.socket(), *args)
    ss.connect(addr(port))
    print(ss.write(b"hello"), ss.read(5))
    ss.close()
"""
    files = pki.client.key_pem_file, pki.client.cert_pem_file, pki.ca.cert_pem_file
    with tls_peer(server_context(pki.server), echo) as peer:
        assert mpy.run(script, tmp_path, peer.port, *files) == ["5 b'hello'"] * 3


def test_pycom_signature(mpy, tmp_path, pki):
    # ssl.wrap_socket(sock, [keyfile=None, certfile=None, server_side=False, cert_reqs=CERT_NONE, ssl_version=0,
    #                 ca_certs=None, server_hostname=None, saved_session=None, timeout=10sec])
    # ssl.save_session(ssl_sock)
    script = """
port, key, cert, ca = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
saved = None
for connected in (True, False, True):
    s = tcp(port) if connected else socket.socket()
    ss = ssl.wrap_socket(s, keyfile=key, certfile=cert, server_side=False, cert_reqs=ssl.CERT_REQUIRED, ssl_version=0,
        ca_certs=ca, server_hostname="board.example", saved_session=saved, timeout=10)
    if not connected:
        ss.connect(addr(port))
    saved = ssl.save_session(ss)
    print(ss.write(b"hello"), ss.read(5))
    ss.close()
"""
    files = pki.client.key_pem_file, pki.client.cert_pem_file, pki.ca.cert_pem_file
    with tls_peer(server_context(pki.server), echo) as peer:
        assert mpy.run(script, tmp_path, peer.port, *files) == ["5 b'hello'"] * 3


def test_ipproto_sec_in_socket(mpy, tmp_path, pki):
    # The firmware's socket is a C module, and no name can be added to it. A file that docs/ussl.md shows can.
    document = (LIB.parent / "docs" / "ussl.md").read_text()
    lines = re.search(r"((?: {4}.*\n)* {4}IPPROTO_SEC = .*\n)", document).group(1)
    (tmp_path / "socket.py").write_text(textwrap.dedent(lines))
    script = """
del sys.modules["socket"]                      # PRELUDE has imported it
sys.path.insert(0, sys.argv[2])
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SEC)
ss = ssl.wrap_socket(s)
ss.connect(socket.getaddrinfo('127.0.0.1', int(sys.argv[1]))[0][-1])
ss.write(b"hello")
print(ss.read(5))
"""
    with tls_peer(server_context(pki.server), echo) as peer:
        assert mpy.run(script, tmp_path, peer.port, tmp_path) == ["b'hello'"]


def test_1_21_signatures(mpy, tmp_path, pki):
    # ssl.wrap_socket(sock, server_side=False, keyfile=None, certfile=None, cert_reqs=CERT_NONE, cadata=None,
    #                 server_hostname=None, do_handshake=True)
    # SSLContext.wrap_socket(sock, *, server_side=False, do_handshake_on_connect=True, server_hostname=None)
    script = """
port, key, cert = int(sys.argv[1]), sys.argv[2], sys.argv[3]
with open(sys.argv[4], "rb") as f:
    cadata = f.read()
for args in ((), (False, None, None, ssl.CERT_NONE, None, None, True),
    (False, key, cert, ssl.CERT_REQUIRED, cadata, "board.example", True),
    (False, key, cert, ssl.CERT_REQUIRED, cadata, "board.example", False)):
    s = socket.socket()
    s.connect(addr(port))
    ss = ssl.wrap_socket(s, *args)
    print(ss.write(b"hello"), ss.read(5))
    ss.close()
ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
for mode in (ssl.CERT_NONE, ssl.CERT_OPTIONAL, ssl.CERT_REQUIRED):
    ctx.verify_mode = mode
    assert ctx.verify_mode == mode
ctx.load_verify_locations(cadata=cadata)
for now in (True, False):
    s = socket.socket()
    s.connect(addr(port))
    ss = ctx.wrap_socket(s, server_side=False, do_handshake_on_connect=now, server_hostname="board.example")
    print(ss.write(b"hello"), ss.read(5))
    ss.close()
"""
    files = pki.client.key_pem_file, pki.client.cert_pem_file, pki.ca.cert_der_file
    with tls_peer(server_context(pki.server), echo) as peer:
        assert mpy.run(script, tmp_path, peer.port, *files) == ["5 b'hello'"] * 6


def translated(name: str, port: int) -> str:
    text = (EXAMPLES / name).read_text()
    text = re.sub(r"^import ssl$", "import ussl as ssl", text, flags=re.M)
    text = re.sub(r"https://(micropython\.org|www\.google\.com)/", "https://127.0.0.1/", text)
    return re.sub(r"\b(443|8443)\b", str(port), text)


@pytest.mark.parametrize("name", ["https_client.py", "https_client_nonblocking.py"])
def test_upstream_client(mpy, tmp_path, pki, name):
    def talk(tls):
        request = b""
        while not request.endswith(b"\r\n\r\n"):
            request += tls.recv(1000)
        tls.sendall(b"HTTP/1.0 200 OK\r\n\r\nfrom here")

    context = server_context(pki.server)
    context.num_tickets = 0  # a ticket is readable, but nothing to read: the example's read() would then be None
    with tls_peer(context, talk) as peer:
        got = mpy.run(translated(name, peer.port), tmp_path)
    assert "from here" in "\n".join(got)


def test_upstream_server(mpy, tmp_path):
    port = free_port()
    script = mpy.start(translated("https_server.py", port), tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")  # its key has 512 bits, too few for TLS 1.3
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    lines = []
    reader = threading.Thread(target=lambda: [lines.append(line) for line in iter(script.line, "")], daemon=True)
    reader.start()
    try:
        for n in range(2):
            for _ in range(100):
                try:
                    s = socket.create_connection(("127.0.0.1", port), 10)
                    break
                except ConnectionRefusedError:
                    time.sleep(0.05)
            with context.wrap_socket(s) as tls:
                tls.sendall(b"GET / HTTP/1.0\r\n\r\n")
                answer = b""
                while piece := tls.recv(1000):
                    answer += piece
            assert answer.endswith(b"Hello #%d from MicroPython!\n" % n)
    finally:
        script.stop()
