"""ussl against openssl's and gnutls's command line tools, as client and as server.

They are independent of CPython's ssl, which the tests in tests/host use, and of mbedTLS.
"""

import contextlib
import os
import subprocess
import time
from pathlib import Path

import pytest
from ports import free_port
from ussl_support import Leaf, Pki, tool

pytest_plugins = "ussl_fixtures"

VERIFY_FAILED = "SSLError -9984"


def listening(port: int) -> bool:
    for name in ("tcp", "tcp6"):
        path = Path("/proc/net", name)
        if path.exists() and any(
            line.split()[3] == "0A" and line.split()[1].endswith(f":{port:04X}")
            for line in path.read_text().splitlines()[1:]
        ):
            return True
    return False


@contextlib.contextmanager
def running(command: list, port: int):
    """A server program, from when it listens."""
    log = subprocess.DEVNULL
    process = subprocess.Popen([str(c) for c in command], stdin=subprocess.PIPE, stdout=log, stderr=log)
    try:
        for _ in range(500):
            if listening(port):
                break
            assert process.poll() is None, f"{command[0]} ended with exit code {process.returncode}"
            time.sleep(0.02)
        yield
    finally:
        process.kill()
        process.wait()
        process.stdin.close()


def openssl_server(port: int, leaf: Leaf, client_ca: Leaf | None, *more) -> list:
    """Sends every line back, reversed."""
    command = [tool("openssl", "openssl"), "s_server", "-accept", port, "-rev"]
    command += ["-cert", leaf.cert_pem_file, "-key", leaf.key_pem_file]
    if client_ca:
        command += ["-CAfile", client_ca.cert_pem_file, "-Verify", "1", "-verify_return_error"]
    return [*command, *more]


def gnutls_server(port: int, leaf: Leaf, client_ca: Leaf | None, *more) -> list:
    """Sends everything back."""
    command = [tool("gnutls-serv", "gnutls-bin"), "--port", port, "--echo"]
    command += ["--x509certfile", leaf.cert_pem_file, "--x509keyfile", leaf.key_pem_file]
    if client_ca:
        command += ["--x509cafile", client_ca.cert_pem_file, "--require-client-cert", "--verify-client-cert"]
    else:
        command += ["--disable-client-cert"]
    return [*command, *more]


SERVERS = {"openssl": (openssl_server, "olleh"), "gnutls": (gnutls_server, "hello")}

CLIENT = """
port, ca, name = int(sys.argv[1]), sys.argv[2], sys.argv[3]
own = {"keyfile": sys.argv[4], "certfile": sys.argv[5]} if len(sys.argv) > 4 else {}
before = fds()
s = socket.socket()
try:
    s = ussl.wrap_socket(s, cert_reqs=ussl.CERT_REQUIRED, ca_certs=ca, server_hostname=name, **own)
    s.connect(addr(port))
    s.write(b"hello\\n")
    print(s.readline().strip().decode(), s.cipher()[1])
except OSError as e:
    print("SSLError" if isinstance(e, ussl.SSLError) else "OSError", e.errno)
s.close()
print(fds() - before)
"""


def client(mpy, cwd, port, pki: Pki, name="board.example", own: Leaf | None = None) -> str:
    """What a ussl client says of the server."""
    files = (own.key_pem_file, own.cert_pem_file) if own else ()
    got = mpy.run(CLIENT, cwd, port, pki.ca.cert_pem_file, name, *files)
    assert got[1] == "0", got
    return got[0]


@pytest.mark.parametrize("kind", ["ec", "rsa"])
@pytest.mark.parametrize("peer", SERVERS)
def test_client(mpy, tmp_path, pkis, kind, peer):
    pki = pkis[kind]
    serve, answer = SERVERS[peer]
    port = free_port()
    with running(serve(port, pki.server, None), port):
        for name in ("board.example", "127.0.0.1"):
            assert client(mpy, tmp_path, port, pki, name) in (f"{answer} TLSv1.2", f"{answer} TLSv1.3")
        assert client(mpy, tmp_path, port, pki, "other.example") == VERIFY_FAILED
    for leaf in (pki.stranger, pki.expired, pki.early, pki.selfsigned):
        port = free_port()
        with running(serve(port, leaf, None), port):
            assert client(mpy, tmp_path, port, pki) == VERIFY_FAILED


@pytest.mark.parametrize("kind", ["ec", "rsa"])
@pytest.mark.parametrize("peer", SERVERS)
def test_client_with_certificate(mpy, tmp_path, pkis, kind, peer):
    pki = pkis[kind]
    serve, answer = SERVERS[peer]
    port = free_port()
    with running(serve(port, pki.server, pki.ca), port):
        assert client(mpy, tmp_path, port, pki, own=pki.client).split()[0] == answer
        for own in (None, pki.stranger, pki.expired, pki.selfsigned):
            # an alert; or EPIPE and ECONNRESET, when the server hangs up while we still write; or (gnutls under TLS
            # 1.3) just an end: no answer in any case
            got = client(mpy, tmp_path, port, pki, own=own)
            assert got.split()[0] != answer and got.split()[-1] in ("-30592", "32", "104", "TLSv1.3"), (own, got)
        assert client(mpy, tmp_path, port, pki, own=pki.client).split()[0] == answer


@pytest.mark.parametrize("peer", SERVERS)
def test_client_refuses_tls_1_1(mpy, tmp_path, pki, peer):
    port = free_port()
    if peer == "openssl":
        command = openssl_server(port, pki.server, None, "-tls1_1", "-cipher", "ALL:@SECLEVEL=0")
    else:
        command = gnutls_server(port, pki.server, None, "--priority", "NORMAL:-VERS-ALL:+VERS-TLS1.1")
    with running(command, port):
        got = client(mpy, tmp_path, port, pki)
    # our refusal of what the server chose, or the server's of what we offer
    assert got in ("SSLError -28288", "SSLError -30592", "OSError 104"), got


SERVER = """
port = int(sys.argv[1])
key, cert, ca = sys.argv[2:5]
s = ussl.wrap_socket(socket.socket(), key, cert, True, *([ussl.CERT_REQUIRED, ca] if ca else []))
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(addr(port))
s.listen(5)
before = fds()
print("listening")
while True:
    try:
        c, a = s.accept()
        line = c.readline()
        c.write(b"got " + line)
        print(line.strip().decode() or "nothing", c.cipher()[1], fds() - before)
        c.close()
    except OSError as e:
        print("SSLError" if isinstance(e, ussl.SSLError) else "OSError", e.errno, fds() - before)
"""


def _openssl_client(port, ca, leaf, *more) -> list:
    command = [tool("openssl", "openssl"), "s_client", "-connect", f"127.0.0.1:{port}", "-quiet", "-no_ign_eof"]
    command += ["-CAfile", ca.cert_pem_file, "-verify_return_error", "-verify_hostname", "board.example"]
    return command + (["-cert", leaf.cert_pem_file, "-key", leaf.key_pem_file] if leaf else []) + list(more)


def _gnutls_client(port, ca, leaf, *more) -> list:
    command = [tool("gnutls-cli", "gnutls-bin"), "--port", port, "127.0.0.1", "--verify-hostname", "board.example"]
    command += ["--x509cafile", ca.cert_pem_file]
    files = ["--x509certfile", leaf.cert_pem_file, "--x509keyfile", leaf.key_pem_file] if leaf else []
    return command + files + list(more)


CLIENTS = {"openssl": _openssl_client, "gnutls": _gnutls_client}


def visit(command: list) -> bool:
    """Run a client program that says hello; tells whether the server answered."""
    process = subprocess.Popen(
        [str(c) for c in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0
    )
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(b"hello\n")
    out = b""
    deadline = time.monotonic() + 60
    os.set_blocking(process.stdout.fileno(), False)
    while b"got hello\n" not in out and time.monotonic() < deadline:
        piece = process.stdout.read()
        if piece:
            out += piece
        elif process.poll() is not None:
            break
        else:
            time.sleep(0.01)
    process.kill()
    process.communicate()
    return b"got hello\n" in out


@contextlib.contextmanager
def server(mpy, cwd, leaf: Leaf, ca: Leaf | None):
    port = free_port()
    script = mpy.start(SERVER, cwd, port, leaf.key_pem_file, leaf.cert_pem_file, ca.cert_pem_file if ca else "")
    try:
        assert script.line() == "listening"
        yield port, script
    finally:
        script.stop()


@pytest.mark.parametrize("kind", ["ec", "rsa"])
@pytest.mark.parametrize("peer", CLIENTS)
def test_server(mpy, tmp_path, pkis, kind, peer):
    pki = pkis[kind]
    ask = CLIENTS[peer]
    with server(mpy, tmp_path, pki.server, None) as (port, script):
        assert visit(ask(port, pki.ca, None))
        assert script.line() in ("hello TLSv1.2 1", "hello TLSv1.3 1")
        assert not visit(ask(port, pki.other_ca, None))
        # It knows our certificate to be a stranger's and says so; with TLS 1.3 that comes as we read.
        assert script.line().split()[0] in ("SSLError", "OSError", "nothing")
        assert visit(ask(port, pki.ca, None))


@pytest.mark.parametrize("kind", ["ec", "rsa"])
@pytest.mark.parametrize("peer", CLIENTS)
def test_server_wants_certificate(mpy, tmp_path, pkis, kind, peer):
    pki = pkis[kind]
    ask = CLIENTS[peer]
    with server(mpy, tmp_path, pki.server, pki.ca) as (port, script):
        assert visit(ask(port, pki.ca, pki.client))
        assert script.line().startswith("hello TLSv1.")
        for leaf, why in (
            (None, "SSLError -29824 0"),  # MBEDTLS_ERR_SSL_NO_CLIENT_CERTIFICATE
            (pki.stranger, "SSLError -9984 0"),
            (pki.expired, "SSLError -9984 0"),
            (pki.selfsigned, "SSLError -9984 0"),
        ):
            assert not visit(ask(port, pki.ca, leaf))
            assert script.line() == why
        assert visit(ask(port, pki.ca, pki.client))


@pytest.mark.parametrize("peer", CLIENTS)
def test_server_refuses_tls_1_1(mpy, tmp_path, pki, peer):
    more = {
        "openssl": ["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"],
        "gnutls": ["--priority", "NORMAL:-VERS-ALL:+VERS-TLS1.1"],
    }[peer]
    with server(mpy, tmp_path, pki.server, None) as (port, script):
        assert not visit(CLIENTS[peer](port, pki.ca, None, *more))
        assert script.line().startswith("SSLError -")
        assert visit(CLIENTS[peer](port, pki.ca, None))
