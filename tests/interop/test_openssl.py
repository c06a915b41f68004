"""`openssl s_client`, and tlslite-ng, which is neither OpenSSL nor mbedTLS: who gets past the handshake."""

import contextlib
import shutil
import socket
import subprocess

import pytest
from clients import PASSPHRASE, PASSWORD
from console import Console
from peers import REQUEST, TEXT, encode

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="the openssl command is not installed")

UPYDEV_SUITE = "ECDHE-ECDSA-AES128-CCM8"


def s_client(desk, *options, certificate=True) -> list:
    host = desk.host
    own = ["-cert", host.cert, "-key", host.key, "-pass", f"pass:{PASSPHRASE}"] if certificate else []
    verify = ["-CAfile", host.ca, "-verify_return_error", "-verify_ip", "127.0.0.1"]
    return ["openssl", "s_client", "-connect", desk.target, *verify, *own, *options]


def login(client: Console):
    """From an open connection to a prompt and back, by hand."""
    client.send(REQUEST % b"/")
    client.until(b"HTTP/1.1 101 ")
    client.until(b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n\x81\x0aPassword: ")
    client.send(encode(TEXT, PASSWORD.encode() + b"\r"))
    client.until(b"\x81\x19\r\nWebREPL connected\r\n>>> ")
    client.send(encode(TEXT, b"print(6*7)\r"))
    client.until(b"42")
    client.until(b"\r\n\x81\x04>>> ")


def refused(desk, *options, certificate=True) -> str:
    """What the client said; it must have failed, and never have seen an answer."""
    done = subprocess.run(
        [str(a) for a in s_client(desk, *options, "-quiet", certificate=certificate)],
        input=(REQUEST % b"/").decode(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode != 0, done.stdout
    assert "HTTP/1.1" not in done.stdout and "Password" not in done.stdout
    return done.stdout


@pytest.mark.parametrize(
    ("options", "suite"),
    [
        ([], "ECDHE-ECDSA-AES"),
        (["-tls1_2"], "ECDHE-ECDSA-AES"),
        (["-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"], "ECDHE-ECDSA-AES128-GCM-SHA256"),
        (["-cipher", f"{UPYDEV_SUITE}:@SECLEVEL=0"], UPYDEV_SUITE),
    ],
    ids=["default", "tls12", "gcm", "ccm8"],
)
def test_with_a_certificate_to_the_prompt(desk, options, suite):
    with Console(s_client(desk, "-brief", "-ign_eof", *options), terminal=False) as client:
        client.until(b"Protocol version: TLSv1.2\n")
        assert suite in client.until(b"\n").decode()  # Ciphersuite: ...
        client.until(b"Verification: OK\n")
        login(client)


def test_its_request_for_a_certificate_names_the_ca(desk):
    with Console(s_client(desk), terminal=False) as client:
        client.until(b"Acceptable client certificate CA names\n")
        assert b"ROOT CA" in client.until(b"\n")
        client.until(b"Verify return code: 0 (ok)")


def test_no_certificate_is_refused(desk):
    assert "alert" in refused(desk, certificate=False)
    assert "TLS" in desk.status("last_refusal")


def test_no_certificate_is_refused_in_every_suite_offered(desk):
    for suite in ("ALL:@SECLEVEL=0", UPYDEV_SUITE + ":@SECLEVEL=0", "ECDHE-ECDSA-AES128-GCM-SHA256"):
        assert "alert" in refused(desk, "-tls1_2", "-cipher", suite, certificate=False)


@pytest.mark.parametrize("version", ["-tls1", "-tls1_1"])
def test_older_tls_is_refused(desk, version):
    told = refused(desk, version, "-cipher", "ALL:@SECLEVEL=0")
    if "no protocols available" in told or "nknown option" in told:
        pytest.skip(f"this OpenSSL was built without {version[1:]}")
    assert "alert protocol version" in told, told


@pytest.mark.parametrize("suite", ["AES128-SHA", "NULL:eNULL:aNULL", "ECDHE-RSA-AES128-SHA"])
def test_suites_without_ecdsa_or_forward_secrecy_are_refused(desk, suite):
    assert "alert handshake failure" in refused(desk, "-tls1_2", "-cipher", suite + ":@SECLEVEL=0")


def test_plain_text_is_refused(desk):
    answer = b""
    with socket.create_connection(desk.board.address, 5) as sock:
        sock.sendall(REQUEST % b"/")
        with contextlib.suppress(ConnectionResetError):
            while data := sock.recv(4096):
                answer += data
    assert b"HTTP" not in answer and b"Password" not in answer


@pytest.mark.parametrize("name", ["wss://127.0.0.1:8833", "board.local", "not-the-boards-name"])
def test_a_server_name_is_no_reason_to_refuse(desk, name):
    """upydev sends its whole URI as the SNI. Whether the certificate fits is for the client to say."""
    with Console(s_client(desk, "-servername", name, "-brief", "-ign_eof"), terminal=False) as client:
        client.until(b"Verification: OK\n")
        login(client)


def test_tlslite_gets_in(desk):
    from cryptography.hazmat.primitives import serialization
    from tlslite.api import HandshakeSettings, TLSConnection, X509CertChain, parsePEMKey

    host = desk.host
    key = serialization.load_pem_private_key(host.key.read_bytes(), PASSPHRASE.encode())
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    chain = X509CertChain()
    chain.parsePemList(host.cert.read_text())
    settings = HandshakeSettings()
    settings.maxVersion = (3, 3)
    with socket.create_connection(desk.board.address, 10) as sock:
        tls = TLSConnection(sock)
        tls.handshakeClientCert(chain, parsePEMKey(pem, private=True), settings=settings, serverName="localhost")
        tls.send(REQUEST % b"/")
        answer = b""
        while b"Password: " not in answer:
            data = tls.recv(4096)
            assert data, answer
            answer += data
        assert answer.startswith(b"HTTP/1.1 101 ")
        tls.close()
