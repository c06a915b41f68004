"""Who must not get in, each by trying it: nothing of a prompt is seen, and the next client is served in a second."""

import socket
import ssl
import threading
import time

import firmware
import pytest
from control import Control
from fair import Stopwatch
from peers import CLOSE, REQUEST, TEXT, Ended, Peer, encode
from port_target import is_port

pytestmark = pytest.mark.needs("quick")


@pytest.fixture
def nobody_got_in(board, connect):
    """After the attempt: the board has no session, a legitimate client gets its prompt within a second, and why it
    refused is in status()."""
    yield
    watch = Stopwatch(board)
    peer = connect().login()
    assert watch.seconds() < 1
    assert peer.command("1+1") == b"2\r\n"


def refused_in_tls(peer: Peer):
    with pytest.raises((ssl.SSLError, Ended, ConnectionError)):
        peer.upgrade()
        peer.recv()
    assert b"Password" not in peer._buffer and b"101" not in peer._buffer


def last_refusal(board) -> str:
    return board.run("print(wss_repl.status()['last_refusal'])")


@pytest.mark.parametrize(
    ("who", "why"),
    [
        ("nobody", "certificate"),
        ("foreign", "not correctly signed"),
        ("expired", "expired"),
        ("early", "future"),
        ("device_as_host", "BAD_certificate"),
    ],
)
def test_certificate(nobody_got_in, connect, board, keys, who, why):
    refused_in_tls(connect(getattr(keys, who)))
    assert why in last_refusal(board).replace("CERTIFICATE", "certificate")


def test_who_hangs_up_hides_nobody_that_was_refused(nobody_got_in, connect, board, keys):
    """Port scanners, and wssctl where it looks for boards, close the connection before TLS is done."""
    refused_in_tls(connect(keys.foreign))
    for sent in (b"", b"\x16\x03\x01\x02\x00\x01"):  # nothing, and the beginning of a ClientHello
        for _ in range(2):
            with socket.create_connection(board.address) as sock:
                sock.sendall(sent)
                sock.shutdown(socket.SHUT_WR)
                assert sock.recv(100) == b""  # the board has closed it, too
    refused = board.run("print(wss_repl.status()['refused'])")
    assert "'hung up during TLS': 4" in refused, refused
    assert "29312" not in refused and "CONN_EOF" not in refused
    assert "not correctly signed" in last_refusal(board)


def test_garbage_then_a_handshake_without_certificate(nobody_got_in, connect, keys):
    """What opens upydev's module: it wraps the same socket again, without cert_reqs."""
    peer = connect(keys.nobody)
    peer.sock.sendall(b"junk!")
    time.sleep(0.2)
    refused_in_tls(peer)


@pytest.mark.parametrize("gap", [0, 0.3])
def test_empty_certificate_message_then_a_new_client_hello(nobody_got_in, connect, keys, gap):
    peer = connect(keys.nobody)
    with pytest.raises((ssl.SSLError, Ended, ConnectionError)):
        peer.handshake()
        peer.recv()
    time.sleep(gap)
    again = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = keys.nobody.context().wrap_bio(*again, server_hostname="127.0.0.1")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    try:
        peer.sock.sendall(again[1].read())
        answer = peer.sock.recv(65536)
    except ConnectionError:
        answer = b""
    assert b"\x16\x03\x03" not in answer[:3], "a ServerHello"


def test_tls_1_1(nobody_got_in, connect, keys):
    context = keys.host.context(ssl.TLSVersion.TLSv1_1)
    peer = connect(context=context)
    with pytest.raises((ssl.SSLError, Ended, ConnectionError)):
        peer.handshake()


@pytest.mark.parametrize(
    "data", [REQUEST % b"/", b"GET / HTTP/1.0\r\n\r\n", b"\0" * 100, b"\x16\x03\x01\xff\xff" + b"x" * 70000]
)
def test_not_tls(nobody_got_in, board, data):
    with socket.create_connection(board.address, 5) as s:
        received = b""
        try:
            s.sendall(data)
            while got := s.recv(1000):
                received += got
        except (ConnectionError, BrokenPipeError):
            pass
    assert b"HTTP" not in received and b"Password" not in received


def judged(board) -> int:
    return int(board.run("print(wss_repl.status()['refused'].get('wrong password', 0))"))


def test_ten_wrong_passwords_with_growing_delay(target, provisioned, keys, tmp_path):
    """Half a minute of the board's own time, nine tenths of which are jumped over."""
    control = Control(tmp_path / "control")
    with target.board(provisioned, env=control.env()) as board:
        for i, delay in enumerate([0.125, 0.25, 0.5, 1, 2] + [4] * 5):
            with Peer(board.address, keys.host) as peer:
                start = time.monotonic()
                peer.login("wrong %s" % delay, prompt=None)
                while judged(board) == i:
                    pass
                jump = int(900 * delay)
                control["ticks_ms"] += jump
                assert peer.frame() == (TEXT, b"\r\nAccess denied\r\n")
                assert time.monotonic() - start + jump / 1000 > delay - 0.01
                assert peer.frame() == (CLOSE, b"\x03\xf0")
                with pytest.raises(Ended):
                    peer.frame()
        watch = Stopwatch(board)
        with Peer(board.address, keys.host) as peer:
            assert peer.login().command("1+1") == b"2\r\n"
        assert watch.seconds() < 1


def test_hanging_up_does_not_save_the_delay(connect, board):
    """A guesser that does not wait for the denial is judged no more often than one that does."""
    start = time.monotonic()
    for i in range(20):
        peer = connect(timeout=15)
        peer.login("wrong%d" % i, prompt=None)
        peer.close()
    count = judged(board)
    delays = [0.125, 0.25, 0.5, 1, 2] + [4] * 20
    assert count >= 1 and sum(delays[: count - 1]) <= time.monotonic() - start


@pytest.mark.needs("loopback")
def test_other_addresses_do_not_wait(connect, board):
    for i in range(6):
        peer = connect(timeout=15, source="127.0.0.2")
        peer.login("wrong%d" % i, prompt=None)
        peer.close()
    watch = Stopwatch(board)
    connect().login()
    assert watch.seconds() < 1


@pytest.mark.parametrize("password", ["", "secre", "secret1", "SECRET", "x" * 5000, " secret"])
def test_wrong_password(nobody_got_in, connect, password):
    peer = connect()
    peer.login(password, prompt=None)
    assert peer.frame() == (TEXT, b"\r\nAccess denied\r\n")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"POST / HTTP/1.1\r\n\r\n", b"405"),
        (b"GET /other HTTP/1.1\r\nHost: x\r\n\r\n", b"426"),
        (REQUEST % b"/" + b"", None),
        ((REQUEST % b"/").replace(b"dGhlIHNhbXBsZSBub25jZQ==", b""), b"400"),
        ((REQUEST % b"/").replace(b"dGhlIHNhbXBsZSBub25jZQ==", b"k" * 65), b"400"),
        ((REQUEST % b"/").replace(b"Version: 13", b"Version: 8"), b"426"),
        ((REQUEST % b"/").replace(b"Upgrade: websocket", b"Upgrade: h2c"), b"426"),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", b"400"),
        (b"GET /\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nX: " + b"y" * 3000 + b"\r\n\r\n", b"431"),
        (b"\0\1\2\3\4\5\6\7", b"400"),
    ],
)
def test_request(nobody_got_in, connect, request_, status):
    head = connect().upgrade(request=request_)
    assert head.split(b" ")[1] == (status or b"101")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\xc1\x80\0\0\0\0", 1002),  # reserved bit
        (b"\x83\x80\0\0\0\0", 1002),  # unknown opcode
        (b"\x89\xfe\x01\x00" + b"\0" * 260, 1002),  # PING over 125 bytes
        (b"\x09\x80\0\0\0\0", 1002),  # fragmented PING
        (b"\x80\x80\0\0\0\0", 1002),  # continuation of nothing
        (b"\x81\xff" + b"\xff" * 8 + b"\0\0\0\0", 1009),  # 2^64 - 1 bytes
        (b"\x01\x81\0\0\0\0x\x81\x81\0\0\0\0y", 1002),  # a new message inside a fragmented one
    ],
)
@pytest.mark.parametrize("when", ["login", "open"])
def test_frames_that_break_the_protocol(nobody_got_in, connect, when, data, code):
    peer = connect()
    if when == "open":
        peer.login()
    else:
        peer.upgrade()
        peer.frame()
    peer.send(data)
    while True:
        op, payload = peer.frame()
        if op == CLOSE:
            break
    assert int.from_bytes(payload[:2], "big") == code
    with pytest.raises(Ended):
        peer.frame()


def test_nothing_of_the_repl_before_login(connect, board):
    """Text, file requests and output before the password reach nothing and show nothing."""
    peer = connect()
    peer.upgrade()
    assert peer.frame() == (TEXT, b"Password: ")
    peer.request(2, b"boot.py")
    board.run("print('x' * 100)")
    peer.text("import os\r")
    got = b""
    try:
        while True:
            op, payload = peer.frame()
            got += payload
            if op == CLOSE:
                break
    except Ended:
        pass
    assert b"xxx" not in got and b"WB" not in got
    assert got.startswith(b"\r\nAccess denied\r\n")


CREDENTIALS = {
    "missing key": lambda d: next(d.glob("SSL_key*")).unlink(),
    "missing certificate": lambda d: next(d.glob("SSL_cert*")).unlink(),
    "missing CA": lambda d: (d / "ROOT_CA_cert.pem").unlink(),
    "truncated key": lambda d: cut(next(d.glob("SSL_key*"))),
    "truncated certificate": lambda d: cut(next(d.glob("SSL_cert*"))),
    "truncated CA": lambda d: cut(d / "ROOT_CA_cert.pem"),
    "empty key": lambda d: next(d.glob("SSL_key*")).write_bytes(b""),
    "empty CA": lambda d: (d / "ROOT_CA_cert.pem").write_bytes(b""),
    "nonsense key": lambda d: next(d.glob("SSL_key*")).write_bytes(b"nonsense" * 20),
    "nonsense in the key's DER": lambda d: flip(next(d.glob("SSL_key*"))),
    "key is a directory": lambda d: (k := next(d.glob("SSL_key*"))) and (k.unlink() or k.mkdir()),
    "huge CA": lambda d: (d / "ROOT_CA_cert.pem").write_bytes(b"-----BEGIN " * 10000),
}


def cut(path):
    path.write_bytes(path.read_bytes()[:-40])


def flip(path):
    data = path.read_bytes()
    path.write_bytes(data[:5] + b"\xff" * 20 + data[25:])


@pytest.mark.needs("directory")
@pytest.mark.parametrize("what", CREDENTIALS)
def test_credentials_that_cannot_be_used(target, provisioned, what):
    CREDENTIALS[what](provisioned)
    with target.board(provisioned, ready="ValueError: ") as board:
        log = board.console.log.decode()
        sentence = log.split("ValueError: ")[1].split("\r\n")[0]
        assert sentence.count("\n") == 0 and len(sentence) > 20
        assert "copy it again" in sentence or "put " in sentence or "over" in sentence, sentence
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(board.address, 1)
        assert board.run("print(wss_repl.status()['listening'])") == "[]"


@pytest.mark.parametrize("password", ["''", "b''", "'x' * 65", "'two\\nlines'"])
def test_start_refuses_a_password(target, provisioned, password):
    call = "wss_repl.start(password=%s)" % password
    with target.board(provisioned, ready="ValueError: the password must have", call=call):
        pass


@pytest.mark.parametrize("port", [-1, 65536, 99999])
def test_start_refuses_a_port(target, provisioned, port):
    """99999 would listen on 34463: the firmware takes the lowest 16 bits."""
    call = "wss_repl.start(%d, 'secret')" % port
    with target.board(provisioned, ready="ValueError: a port is 1 to 65535", call=call):
        pass


def test_start_without_any_password(target, provisioned):
    with target.board(provisioned, ready="ValueError: no password", call="wss_repl.start()"):
        pass


def test_nothing_listens_when_the_timer_is_none_of_the_boards(target, provisioned):
    if not is_port(target.name) and firmware.version(firmware.source().path) < (1, 25):
        pytest.skip("up to 1.24 an ESP32 looks at two bits of a timer's id: 99 is its timer 3")
    with target.board(provisioned, options=", timer=99", ready="ValueError: ") as board:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(board.address, 1)
        assert board.run("print(wss_repl.status()['listening'])") == "[]"


def test_status_has_the_same_keys_when_nothing_listens(board):
    keys = "print(sorted(wss_repl.status()))"
    assert board.run(keys) == board.run("wss_repl.stop(); " + keys)
    show = "s = wss_repl.status(); print(s['listening'], s['client'], s['pending'], s['refused'])"
    assert board.run(show) == "[] None 0 {}"


def test_password_from_webrepl_cfg(target, provisioned, keys):
    (provisioned / "webrepl_cfg.py").write_text("PASS = 'from the file'\n")
    from ports import free_port

    port = free_port()
    with target.board(provisioned, port=port, call="wss_repl.start(port=%d)" % port) as board:
        with Peer(board.address, keys.host) as peer:
            assert peer.login("from the file").command("1+1") == b"2\r\n"


def test_plain_ws_only_when_asked_for_by_name(target, provisioned):
    for file in provisioned.iterdir():
        file.unlink()
    with target.board(provisioned, options=", ssl=False", ready="listening on ws://") as board:
        with Peer(board.address, None) as peer:
            assert peer.login().command("1+1") == b"2\r\n"


def test_many_at_once_and_the_server_is_still_there(nobody_got_in, board, keys):
    """50 connections at a time that say nothing, garbage, or half a ClientHello."""
    hello = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        keys.nobody.context().wrap_bio(*hello, server_hostname="127.0.0.1").do_handshake()
    client_hello = hello[1].read()

    def bother(i):
        for data in (b"", b"\x80" * 30, client_hello[:50], client_hello, encode(TEXT, b"x")):
            try:
                with socket.create_connection(board.address, 5) as s:
                    s.sendall(data)
                    time.sleep(0.02)
            except OSError:
                pass

    threads = [threading.Thread(target=bother, args=(i,)) for i in range(50)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    time.sleep(0.3)
