"""`wssctl boards find`: by the certificate that a server shows for a ClientHello."""

import contextlib
import shutil
import socket
import ssl
import threading

import pytest
from cryptography.hazmat.primitives import serialization
from desk import WSSCTL, Desk
from targets import UID, Unix
from wssctl.boards.find import whose
from wssctl.boards.registry import Board
from wssctl.keys import ca
from wssctl.wire import glance


@pytest.fixture(params=[ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def server(request, keys, tmp_path):
    """A TLS server that wants a client certificate, behind a wire that keeps what a client sends: (port, sent, der)."""
    made = keys.ca.device(UID, names=["room1"])
    (tmp_path / "cert.pem").write_bytes(made.cert_pem)
    key = serialization.load_der_private_key(made.key_der, None)
    text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "key.pem").write_bytes(text)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    context.minimum_version = context.maximum_version = request.param
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(keys.directory / "ROOT_CA_cert.pem")
    sent, ended = [], threading.Semaphore(0)

    def serve(listener):
        with contextlib.suppress(OSError):
            while True:
                sock, _ = listener.accept()
                with sock:
                    coming, going, data = ssl.MemoryBIO(), ssl.MemoryBIO(), b""
                    tls = context.wrap_bio(coming, going, server_side=True)
                    while chunk := sock.recv(4096):
                        data += chunk
                        coming.write(chunk)
                        with contextlib.suppress(ssl.SSLError):
                            tls.do_handshake()
                        sock.sendall(going.read())
                    sent.append(data)
                ended.release()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        yield listener.getsockname()[1], sent, made.cert_der, ended
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(60)


def test_no_more_than_a_client_hello_is_sent(server):
    port, sent, der, ended = server
    assert glance.certificate("127.0.0.1", port, 10) == der
    assert ended.acquire(timeout=10)
    while ended.acquire(blocking=False):
        pass
    for data in sent:
        length = int.from_bytes(data[3:5], "big")
        assert data[0] == 22 and data[5] == 1 and len(data) == 5 + length, "one record, a ClientHello"


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x16\x03\x03\xff\xff" + bytes(99),  # a record longer than any
        b"\x16\x03\x03\x00\x04\x0b\xff\xff\xff" * 9,  # a message that never ends
        b"\x16\x03\x03\x00\x0a\x0b\x00\x00\x06\x00\x00\x03\x00\xff\xff",  # a certificate longer than its message
    ],
)
def test_a_stranger_may_say_anything(said):
    def serve(listener):
        with contextlib.suppress(OSError):
            while True:
                sock, _ = listener.accept()
                with sock, contextlib.suppress(OSError):
                    sock.recv(4096)
                    sock.sendall(said)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        assert glance.certificate("127.0.0.1", listener.getsockname()[1], 5) is None
        listener.shutdown(socket.SHUT_RDWR)


def test_whose_it_is(keys):
    boards = [Board("room1", uid=UID), Board("room2")]
    authority = ca.load_cert(keys.ca.cert_pem, "CA")
    der = keys.ca.device(UID, names=["another"]).cert_der
    assert whose(der, [authority], boards).name == "room1"
    assert whose(keys.ca.device("00" * 6, names=["room2"]).cert_der, [authority], boards).name == "room2"
    assert whose(keys.ca.device("00" * 6, names=["room3"]).cert_der, [authority], boards) is None
    foreign = ca.Authority.create("another CA").device(UID, names=["room1"]).cert_der
    assert whose(foreign, [authority], boards) is None and whose(b"no certificate", [authority], boards) is None


def test_a_board_with_a_new_address_is_found(keys, tmp_path):
    shutil.copytree(keys.board, tmp_path / "board")
    with Desk(keys, Unix("unix"), tmp_path / "board", options=", host='127.0.0.1'") as desk:
        shutil.copytree(keys.directory, tmp_path / "keys")
        env = desk.env | {"WSSCTL_KEYS": str(tmp_path / "keys")}
        desk.run(*WSSCTL, "boards", "add", "room9", f"127.0.0.9:{desk.port}", "--uid", UID, env=env)
        done = desk.run(*WSSCTL, "boards", "find", "127.0.0.0/29", env=env)
        assert done.returncode == 0 and "room9: 127.0.0.1, was 127.0.0.9" in done.stdout, done
        assert desk.run(*WSSCTL, "status", "room9", env=env).returncode == 0
        desk.run(*WSSCTL, "boards", "add", "gone", "127.0.0.12", "--uid", "aabbccddeeff", env=env)
        done = desk.run(*WSSCTL, "boards", "find", "127.0.0.0/29", env=env)
        assert done.returncode == 3 and "gone: not found" in done.stdout
        assert "room9: 127.0.0.1, as before" in done.stdout
        assert "too many" in desk.run(*WSSCTL, "boards", "find", "10.0.0.0/8", env=env).stderr
        assert "such as 192.168" in desk.run(*WSSCTL, "boards", "find", "kitchen", env=env).stderr
