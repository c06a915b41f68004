"""What the tests of ussl share: MicroPython to run scripts on, certificates of every kind, and peers to talk to."""

import contextlib
import datetime
import ipaddress
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import firmware
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIB = Path(__file__).resolve().parent.parent / "lib"
FILES = ("ussl.py", "wss/pem.py")  # all that ussl consists of

# What every script starts with. `flash` makes a directory the board's /flash, as it is on WiPy and pycom.
PRELUDE = """
import sys
import os
import socket
import errno
import ussl
import ussl as ssl

def addr(port, host="127.0.0.1"):
    return socket.getaddrinfo(host, port)[0][-1]

def flash(path):
    os.mount(os.VfsPosix(path), "/flash")

def tcp(port):
    s = socket.socket()
    s.connect(addr(port))
    return s

def fails(f, *args, **kwargs):
    try:
        r = f(*args, **kwargs)
    except Exception as e:
        return e
    print("no exception, but", r)
    raise SystemExit(1)

def fds():
    return len(list(os.ilistdir("/proc/self/fd")))
"""


class MicroPython:
    """One of the binaries, with a directory that its scripts run in."""

    def __init__(self, name: str, command: list[str], lib: Path):
        self.name, self.command, self.lib = name, command, lib

    def start(self, script: str, cwd: Path, *args) -> "Script":
        """Run a script in the background. It reads its arguments from sys.argv."""
        path = cwd / f"script{time.monotonic_ns()}.py"
        path.write_text(PRELUDE + script)
        env = {"PATH": os.environ["PATH"], "MICROPYPATH": f"{self.lib}:.frozen"}
        command = [*self.command, str(path), *map(str, args)]
        pipe = subprocess.PIPE
        return Script(subprocess.Popen(command, bufsize=0, cwd=cwd, env=env, stdout=pipe, stderr=subprocess.STDOUT))

    def run(self, script: str, cwd: Path, *args, timeout=180.0) -> list[str]:
        """Run a script; the lines that it printed. An uncaught exception or a crash fails the test."""
        return self.start(script, cwd, *args).end(timeout)


class Script:
    def __init__(self, process: subprocess.Popen):
        self.process = process

    def line(self) -> str:
        return self.process.stdout.readline().decode().rstrip("\n")

    def end(self, timeout=180.0) -> list[str]:
        try:
            out = self.process.communicate(timeout=timeout)[0].decode()
        except subprocess.TimeoutExpired:
            self.process.kill()
            out = self.process.communicate()[0].decode()
            pytest.fail(f"the script did not end in {timeout} s; it printed:\n{out}", pytrace=False)
        code = self.process.returncode
        if code:
            why = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            pytest.fail(f"the script ended with {why}:\n{out}", pytrace=False)
        return out.splitlines()

    def output(self, timeout=180.0) -> list[str]:
        """What it printed, however it ended."""
        return self.process.communicate(timeout=timeout)[0].decode().splitlines()

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


# Certificates


@dataclass
class Leaf:
    """A key with its certificate, and the files that they are in."""

    key: object
    cert: x509.Certificate
    directory: Path
    name: str

    def __post_init__(self):
        pem, der = serialization.Encoding.PEM, serialization.Encoding.DER
        none = serialization.NoEncryption()
        pkcs8, old = serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL
        self.cert_pem, self.cert_der = self.cert.public_bytes(pem), self.cert.public_bytes(der)
        self.key_pem = self.key.private_bytes(pem, pkcs8, none)
        self.key_der = self.key.private_bytes(der, old, none)
        self.key_pkcs8 = self.key.private_bytes(der, pkcs8, none)
        for kind in ("cert_pem", "cert_der", "key_pem", "key_der", "key_pkcs8"):
            path = self.directory / f"{self.name}_{kind.replace('_pem', '.pem').replace('_der', '.der')}"
            path.write_bytes(getattr(self, kind))
            setattr(self, kind + "_file", path)
        self.both_file = self.directory / f"{self.name}_both.pem"
        self.both_file.write_bytes(self.cert_pem + self.key_pem)


class Pki:
    """A CA with certificates of every kind, made once a run. kind is "ec" or "rsa"."""

    def __init__(self, directory: Path, kind: str):
        self.directory, self.kind = directory, kind
        day = datetime.timedelta(days=1)
        self.ca = self._issue("ca", None, ca=True)
        self.other_ca = self._issue("other_ca", None, ca=True)
        self.server = self._issue("server", self.ca, names=["board.example"], addresses=["127.0.0.1"])
        self.named = self._issue("named", self.ca, names=["board.example"])  # has no IP address
        self.client = self._issue("client", self.ca)
        self.stranger = self._issue("stranger", self.other_ca, names=["board.example"], addresses=["127.0.0.1"])
        self.expired = self._issue("expired", self.ca, names=["board.example"], start=-20 * day, end=-10 * day)
        self.early = self._issue("early", self.ca, names=["board.example"], start=10 * day, end=20 * day)
        self.selfsigned = self._issue("selfsigned", None, names=["board.example"])
        self.middle = self._issue("middle", self.ca, ca=True)
        self.chained = self._issue("chained", self.middle, names=["board.example"], addresses=["127.0.0.1"])
        self.chain_file = directory / "chain.pem"
        self.chain_file.write_bytes(self.chained.cert_pem + self.middle.cert_pem)
        self.bundle_file = directory / "bundle.pem"
        self.bundle_file.write_bytes(self.other_ca.cert_pem + b"\nthe one that counts:\n" + self.ca.cert_pem)

    def _issue(self, name, issuer, *, names=(), addresses=(), ca=False, start=None, end=None) -> Leaf:
        day = datetime.timedelta(days=1)
        now = datetime.datetime.now(datetime.UTC)
        key = ec.generate_private_key(ec.SECP256R1()) if self.kind == "ec" else rsa.generate_private_key(65537, 2048)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} {self.kind}")])
        signer = issuer.key if issuer else key
        builder = (
            x509.CertificateBuilder(issuer.cert.subject if issuer else subject, subject, key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + (start or -2 * day))
            .not_valid_after(now + (end or 300 * day))
            .add_extension(x509.BasicConstraints(ca, None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
            .add_extension(
                x509.KeyUsage(not ca, False, not ca, False, False, ca, ca, False, False),
                critical=True,
            )
        )
        if not ca:
            both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            builder = builder.add_extension(x509.ExtendedKeyUsage(both), critical=False)
        sans = [x509.DNSName(n) for n in names] + [x509.IPAddress(ipaddress.ip_address(a)) for a in addresses]
        if sans:
            builder = builder.add_extension(x509.SubjectAlternativeName(sans), critical=False)
        return Leaf(key, builder.sign(signer, hashes.SHA256()), self.directory, name)


# Peers


def server_context(leaf: Leaf, ca: Leaf | None = None, maximum=None, chain: Path | None = None) -> ssl.SSLContext:
    """For a server that shows `leaf` (with the certificates in `chain`) and wants one signed by `ca`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain or leaf.cert_pem_file, leaf.key_pem_file)
    if ca:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(ca.cert_pem_file)
    if maximum:
        _allow(context, maximum)
    return context


def client_context(ca: Leaf, leaf: Leaf | None = None, maximum=None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca.cert_pem_file)
    if leaf:
        context.load_cert_chain(leaf.both_file)
    if maximum:
        _allow(context, maximum)
    return context


def _allow(context: ssl.SSLContext, maximum):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the old versions are what we want
        context.maximum_version = maximum
        if maximum < ssl.TLSVersion.TLSv1_2:
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.set_ciphers("ALL:@SECLEVEL=0")


class Peer:
    """A TCP server in threads; handle(connection) is called for each connection. What it raises is in `errors`."""

    def __init__(self, handle):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.errors: list[Exception] = []
        self._open: list[socket.socket] = []
        self._handle = handle
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.settimeout(60)
            self._open.append(connection)
            self._threads.append(threading.Thread(target=self._serve, args=[connection], daemon=True))
            self._threads[-1].start()

    def _serve(self, connection):
        try:
            self._handle(connection)
        except Exception as e:  # a test asks for those that matter to it
            self.errors.append(e)
        finally:
            connection.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(15)


def tls_peer(context: ssl.SSLContext, talk) -> Peer:
    """A Peer that does the handshake, then talk(tls socket), then an orderly end."""

    def handle(connection):
        with context.wrap_socket(connection, server_side=True) as tls:
            talk(tls)
            tls.setblocking(False)  # say so, without waiting for an answer
            with contextlib.suppress(OSError):
                tls.unwrap()

    return Peer(handle)


def by_hand(context: ssl.SSLContext, connection: socket.socket) -> tuple[ssl.SSLObject, ssl.MemoryBIO]:
    """Do the handshake, and leave it to the caller what of the output (the MemoryBIO) is sent afterwards."""
    into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(into, out, server_side=True)
    while True:
        try:
            tls.do_handshake()
            connection.sendall(out.read())
            return tls, out
        except ssl.SSLWantReadError:
            connection.sendall(out.read())
            into.write(connection.recv(65536))


def echo(tls: ssl.SSLSocket):
    """Send everything back until the peer ends."""
    while data := tls.recv(65536):
        tls.sendall(data)


def connect(port: int, context: ssl.SSLContext, name="board.example") -> ssl.SSLSocket:
    """A TLS connection from here to a script's server."""
    return context.wrap_socket(socket.create_connection(("127.0.0.1", port), 15), server_hostname=name)


def upstream(folder: str) -> Path:
    """A folder of MicroPython's source; the module that asks for it is skipped where it cannot be had."""
    try:
        return firmware.source().path / folder
    except firmware.FirmwareError as e:
        pytest.skip(f"no source of MicroPython: {e}", allow_module_level=True)


def tool(name: str, package: str) -> str:
    """The path of a program; the test is skipped where it is missing."""
    path = shutil.which(name)
    if not path:
        pytest.skip(f"{name} is not installed: apt-get install {package}")
    return path
