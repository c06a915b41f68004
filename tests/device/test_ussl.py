"""ussl on the board alone: what it is called with, and what it answers without a peer."""

import pytest

pytest_plugins = "ussl_fixtures"


def test_import_has_no_side_effects(mpy, tmp_path):
    # ussl itself, its package and what it imports from the firmware; nothing is opened, nothing is made
    script = """
del sys.modules["ussl"]
before = fds()
import ussl
print(fds() - before, ussl.CERT_NONE)
"""
    assert mpy.run(script, tmp_path) == ["0 0"]


def test_constants(mpy, tmp_path):
    script = """
print(ussl.CERT_NONE, ussl.CERT_OPTIONAL, ussl.CERT_REQUIRED)
import tls
print(ussl.CERT_REQUIRED == tls.CERT_REQUIRED, ussl.CERT_OPTIONAL == tls.CERT_OPTIONAL, ussl.CERT_NONE == tls.CERT_NONE)
for name in dir(tls):
    if name.startswith("PROTOCOL_") or name == "MBEDTLS_VERSION":
        if getattr(ussl, name) != getattr(tls, name):
            print(name)
print(hasattr(ussl, "PROTOCOL_DTLS_CLIENT") == hasattr(tls, "PROTOCOL_DTLS_CLIENT"), hasattr(ussl, "PROTOCOL_SSLv3"))
s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, ussl.IPPROTO_SEC)
s.close()
print(issubclass(ussl.SSLError, OSError), ussl.SSL_TIMEOUT == errno.ETIMEDOUT)
"""
    assert mpy.run(script, tmp_path) == ["0 1 2", "True True True", "True False", "True True"]


def test_order_of_arguments(mpy, tmp_path, pki):
    # The side tells which order was understood: only a client can connect(), only a server accept().
    script = """
cert, key, ca = sys.argv[1:]
def side(*args, **kwargs):
    s = ussl.wrap_socket(socket.socket(), *args, **kwargs)
    e = fails(s.accept)
    s.close()
    return "client" if isinstance(e, ValueError) else "server"
print(side())
print(side(key, cert), side(None, None), side(key, cert, True), side(key, cert, True, ussl.CERT_REQUIRED, ca))
print(side(open(key, "rb").read(), open(cert, "rb").read(), True))
print(side(False), side(True, key, cert), side(1, key, cert), side(0, None, None, 2, ca, "board.example", True))
print(side(True, key, cert, ussl.CERT_NONE, None, None, False))
print(side(server_side=True, keyfile=key, certfile=cert), side(server_side=True, key=key, cert=cert))
print(side(False, cert_reqs=ussl.CERT_REQUIRED, ca_certs=ca), side(None, None, cert_reqs=2, cadata=ca))
"""
    got = mpy.run(script, tmp_path, pki.server.cert_pem_file, pki.server.key_pem_file, pki.ca.cert_pem_file)
    assert got == [
        "client",
        "client client server server",
        "server",
        "client server server client",
        "server",
        "server server",
        "client client",
    ]


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("wrap(None, None, False, 0, None, None)", "TypeError"),  # WiPy has five after the socket
        ("wrap(False, None, None, 0, None, None, True, 1)", "TypeError"),  # and 1.21 seven
        ("wrap(None, None, keyfile=None)", "TypeError"),
        ("wrap(False, server_side=True)", "TypeError"),
        ("wrap(keyfile=key, key=key, cert=cert)", "TypeError: given twice"),
        ("wrap(certfile=cert, cert=cert, key=key)", "TypeError: given twice"),
        ("wrap(ca_certs=ca, cadata=ca)", "TypeError: given twice"),
        ("ussl.save_session(socket.socket())", "AttributeError: 'socket' object has no attribute 'cipher'"),
        ("wrap(timeout=0)", "ValueError: a timeout is more than 0 seconds"),
        ("wrap(timeout=-1.5)", "ValueError: a timeout is more than 0 seconds"),
        ("wrap(timeout='1')", "TypeError"),
        ("wrap(do_handshake=False, timeout=1)", "ValueError: no timeout without a handshake here"),
        ("wrap().settimeout(-1)", "ValueError: a timeout is more than 0 seconds"),
        ("wrap(server_hostname='board.example\\0.evil.example')", "ValueError: server_hostname: "),
        ("context(0).wrap_socket(socket.socket(), server_hostname=b'board\\0')", "ValueError: server_hostname: "),
        ("wrap(server_hostname='board.example\\r\\nHost: evil')", "ValueError: server_hostname: "),
        ("wrap(server_hostname='board example')", "ValueError: server_hostname: "),
        ("wrap(server_hostname='b\\x7fard')", "ValueError: server_hostname: "),
        ("wrap(server_hostname='bö.example')", "ValueError: server_hostname: "),
        ("wrap(server_hostname='a' * 256)", "ValueError: server_hostname: "),
        ("wrap(server_hostname=7)", "TypeError"),
        ("wrap(keyfile=True, certfile=cert)", "TypeError"),
        ("wrap(keyfile=key, certfile=7)", "TypeError"),
        ("wrap(cert_reqs=3)", "ValueError: not a CERT_ constant"),
        ("wrap(cert_reqs='yes')", "ValueError: not a CERT_ constant"),
        ("wrap(cert_reqs=2)", "ValueError: CERT_REQUIRED needs ca_certs or cadata"),
        ("wrap(server_side=True)", "ValueError: a server needs certfile and keyfile"),
        ("wrap(certfile=cert)", "ValueError: no private key: pass keyfile"),
        ("wrap(keyfile=key)", "TypeError"),
        ("wrap(keyfile=cert, certfile=cert)", "ValueError: invalid key"),
        ("wrap(keyfile=key, certfile=key)", "ValueError: invalid cert"),
        ("wrap(keyfile='no-such', certfile=cert)", "OSError: [Errno 2] ENOENT: can't read no-such"),
        ("wrap(ca_certs='no-such')", "OSError: [Errno 2] ENOENT: can't read no-such"),
        ("wrap(ca_certs=b'no-such')", "ValueError: invalid cert"),
        ("wrap(ca_certs='page.html')", "ValueError: page.html is neither PEM nor DER: copy it again"),
        ("wrap(ca_certs=open(ca, 'rb').read()[:-30])", "ValueError: PEM data is cut off"),
        ("wrap(ca_certs=ca_cut)", "ValueError: " + "ca_cut.pem is cut off"),
        ("wrap(keyfile=locked, certfile=cert)", "ValueError: locked.pem has a passphrase"),
        (
            "wrap(server_side=True, keyfile=key, certfile=cert, server_hostname='a')",
            "ValueError: server_hostname is for",
        ),
        ("context()", "TypeError"),
        ("setattr(context(0), 'verify_mode', 3)", "ValueError: not a CERT_ constant"),
        ("setattr(context(0), 'check_hostname', True)", "ValueError: verify_mode decides that"),
        ("setattr(context(0), 'minimum_version', 3)", "AttributeError"),
        ("context(0).load_verify_locations()", "TypeError"),
        ("context(0).load_verify_locations(capath=ca)", "TypeError"),
        ("context(0).set_ciphers(['TLS-NONE'])", "SSLError: (-24192, "),
        ("context(0).wrap_socket(socket.socket(), True)", "TypeError"),  # by name only, as the document has it
        ("context(0).wrap_socket(socket.socket(), session=None)", "TypeError"),
        ("wrap().makefile('r')", "ValueError: makefile() gives bytes"),
        ("wrap().makefile('w', 0)", "ValueError: makefile() gives bytes"),
        ("wrap().sendto(b'x', addr(1))", "ValueError: use send()"),
        ("wrap().recv(1, 2)", "TypeError"),
        ("wrap(True, key, cert).connect(addr(1))", "ValueError: not with server_side=True"),
        ("wrap().accept()", "ValueError: not with server_side=False"),
    ],
)
def test_refused(mpy, tmp_path, pki, call, error):
    from cryptography.hazmat.primitives import serialization

    (tmp_path / "ca_cut.pem").write_bytes(pki.ca.cert_pem[:-30])
    (tmp_path / "page.html").write_text("404 Not Found")
    locked = serialization.BestAvailableEncryption(b"secret")
    form = serialization.PrivateFormat.PKCS8
    (tmp_path / "locked.pem").write_bytes(pki.server.key.private_bytes(serialization.Encoding.PEM, form, locked))
    script = """
cert, key, ca = sys.argv[1:]
locked = "locked.pem"
ca_cut = "ca_cut.pem"
def wrap(*args, **kwargs):
    return ussl.wrap_socket(socket.socket(), *args, **kwargs)
context = ussl.SSLContext
try:
    print("taken:", eval(%r))
except Exception as e:
    print(type(e).__name__ + ": " + str(e))
"""
    got = mpy.run(script % call, tmp_path, pki.server.cert_pem_file, pki.server.key_pem_file, pki.ca.cert_pem_file)
    assert len(got) == 1
    assert got[0].startswith(error), got


@pytest.mark.parametrize("kind", ["ec", "rsa"])
def test_key_and_certificate_formats(mpy, tmp_path, pkis, kind):
    # Every form of the same three: the firmware takes DER, and PEM in some builds only. A line for each: an RSA key
    # takes an ESP32 seconds, and a board that says nothing for long is taken for one that hangs.
    pki = pkis[kind]
    script = """
d = sys.argv[1] + "/"
def data(name):
    with open(d + name, "rb") as f:
        return f.read()
for key in ("server_key.pem", "server_key.der", "server_key_pkcs8"):
    for cert in ("server_cert.pem", "server_cert.der"):
        for form in (lambda x: d + x, data, lambda x: bytearray(data(x)), lambda x: memoryview(data(x))):
            ussl.SSLContext(ussl.PROTOCOL_TLS_SERVER).load_cert_chain(form(cert), form(key))
            print("key")
def pem(name):
    return data(name).decode()
c = ussl.SSLContext(ussl.PROTOCOL_TLS_SERVER)
c.load_cert_chain(pem("server_cert.pem"), pem("server_key.pem"))
print("key")
ussl.SSLContext(ussl.PROTOCOL_TLS_SERVER).load_cert_chain(d + "server_both.pem")
print("key")
ussl.SSLContext(ussl.PROTOCOL_TLS_SERVER).load_cert_chain(d + "server_both.pem", d + "server_both.pem")
print("key")
for ca in (d + "ca_cert.pem", d + "ca_cert.der", d + "bundle.pem"):
    c.load_verify_locations(ca)
    c.load_verify_locations(cafile=ca)
    print("ca")
for ca in ("ca_cert.pem", "ca_cert.der", "bundle.pem"):
    c.load_verify_locations(data(ca))
    c.load_verify_locations(cadata=data(ca))
    print("ca")
c.load_verify_locations(cafile=d + "ca_cert.pem", cadata=data("other_ca_cert.der"))
c.load_verify_locations(cadata=pem("ca_cert.pem"))
print("ok")
"""
    forms = ["key"] * (3 * 2 * 4 + 3) + ["ca"] * 6
    assert mpy.run(script, tmp_path, pki.directory) == [*forms, "ok"]


def test_context(mpy, tmp_path):
    script = """
for p in (ussl.PROTOCOL_TLS_CLIENT, ussl.PROTOCOL_TLS_SERVER):
    c = ussl.SSLContext(p)
    print(c.verify_mode == ussl.CERT_NONE)
    for mode in (ussl.CERT_OPTIONAL, ussl.CERT_REQUIRED, ussl.CERT_NONE):
        c.verify_mode = mode
        print(c.verify_mode == mode)
names = c.get_ciphers()
print(isinstance(names, list) and "ECDHE" in " ".join(names))
c.set_ciphers(names[:2])
c.set_ciphers(tuple(names))
print(c.verify_callback)
def callback(cert, depth):
    return 0
c.verify_callback = callback
print(c.verify_callback is callback)
c.verify_callback = None
print("SSLContext" in str(c))
c.check_hostname = False                # as CPython needs it before CERT_NONE
c.verify_mode = ussl.CERT_NONE
c.verify_mode = ussl.CERT_REQUIRED
c.check_hostname = True
print(isinstance(fails(setattr, c, "check_hostname", False), ValueError))
"""
    assert mpy.run(script, tmp_path) == ["True"] * 9 + ["None", "True", "True", "True"]


def test_before_connect_and_after_close(mpy, tmp_path):
    # Nothing goes out in the clear, nothing crashes, and a descriptor is closed once
    script = """
import select
start = fds()
s = ussl.wrap_socket(socket.socket())
print(s.cipher())
for f in (lambda: s.read(1), lambda: s.recv(1), lambda: s.readline(), lambda: s.write(b"x"), lambda: s.send(b"x"),
    lambda: s.sendall(b"x"), lambda: s.readinto(bytearray(1)), lambda: s.recv_into(bytearray(1)),
    lambda: s.recvfrom(1), lambda: s.getpeercert(True)):
    e = fails(f)
    print(e.errno == errno.ENOTCONN, end=" ")
print()
p = select.poll()
p.register(s)
print([e for _, e in p.poll(0)] != [])
s.settimeout(1)
s.settimeout(1000000)                   # in ms more than ticks_add() takes at 32 bits
s.settimeout(None)
s.setblocking(False)
s.setblocking(True)
print(s, s.fileno() > 0, fds() - start)
other = socket.socket()
s.close()
s.close()
other.fileno()
print(fds() - start, s.cipher())
for f in (lambda: s.connect(addr(1)), lambda: s.fileno(), lambda: s.setblocking(True), lambda: s.settimeout(1),
    lambda: s.bind(addr(0))):
    e = fails(f)
    print(e.errno == errno.EBADF, end=" ")
print()
print(s.ioctl(3, 1))
"""
    assert mpy.run(script, tmp_path) == [
        "None",
        "True " * 10,
        "True",
        "<SSLSocket> True 1",
        "1 None",
        "True " * 5,
        "32",
    ]


def test_socket_methods_reach_the_socket(mpy, tmp_path, pki):
    script = """
s = ussl.wrap_socket(socket.socket(), True, sys.argv[1], sys.argv[2])
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(addr(0))
s.listen(1)
print(s.fileno() > 0)
print(hasattr(s, "getpeername") == hasattr(socket.socket, "getpeername"))
print([name for name in dir(socket.socket) if not name.startswith("_") and not hasattr(s, name)])
print(hasattr(s, "recvmsg"), hasattr(s, "sendmsg"), hasattr(s, "no_such_thing"))
"""
    got = mpy.run(script, tmp_path, pki.server.key_pem_file, pki.server.cert_pem_file)
    assert got == ["True", "True", "[]", "False False False"]
