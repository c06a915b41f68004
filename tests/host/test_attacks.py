"""Attacks on what stands beside the handshake: pages of other origins, guessers, lengths that overflow, old suites."""

import contextlib
import socket
import ssl
import struct
import threading

import pytest
from peers import BINARY, CLOSE, FILE_REQUEST, PUT, REQUEST, TEXT, Ended, Peer, encode

pytestmark = pytest.mark.needs("quick")

HOST = b"room1.local:8833"


def request(origin: bytes | None, host: bytes | None = HOST) -> bytes:
    lines = REQUEST % b"/"
    lines = lines.replace(b"Host: board\r\n", b"Host: %s\r\n" % host if host is not None else b"")
    return lines[:-2] + (b"" if origin is None else b"Origin: %s\r\n" % origin) + b"\r\n"


@pytest.mark.parametrize(
    ("origin", "host", "status"),
    [
        (None, HOST, 101),  # no browser
        (b"https://room1.local:8833", HOST, 101),
        (b"HTTPS://Room1.LOCAL:8833", HOST, 101),
        (b"https://[fd00::7]:8833", b"[FD00::7]:8833", 101),
        (b"https://room1.local", b"room1.local", 101),  # port 443, left out in both
        (b"http://room1.local:8833", HOST, 101),  # upydev
        (b"http://room1.local:8833\r\nUser-Agent: Mozilla/5.0", HOST, 403),  # a page that came without TLS
        (b"https://room1.local:8834", HOST, 403),
        (b"https://evil.example", HOST, 403),
        (b"https://room1.local:8833.evil.example", HOST, 403),
        (b"https://room1.local:8833@evil.example", HOST, 403),
        (b"null", HOST, 403),
        (b"", HOST, 403),
        (b"https://", b"", 403),
        (b"https://room1.local:8833", None, 403),
        (b"https://room1.local:8833\r\nOrigin: https://evil.example", HOST, 400),
        (b"https://evil.example\r\nHost: evil.example", HOST, 400),
    ],
)
def test_a_page_of_another_origin_is_not_asked_for_a_password(connect, board, origin, host, status):
    peer = connect()
    head = peer.upgrade(request=request(origin, host))
    assert head.startswith(b"HTTP/1.1 %d " % status), head
    if status == 101:
        assert peer.frame() == (TEXT, b"Password: ")
    else:
        assert b"Password" not in peer._buffer
        with pytest.raises(Ended):
            while True:
                peer.recv()


def guess(address, identity, source, over):
    """Wrong passwords from one address, as fast as the board lets it."""
    while not over.is_set():
        with contextlib.suppress(OSError, Ended, AssertionError):
            peer = Peer(address, identity, source=source)
            try:
                peer.login("not this one", prompt=b"")
                while peer.frame()[0] != CLOSE:
                    pass
            finally:
                peer.close()


@pytest.mark.parametrize("guessers", [2, 3])
def test_who_guesses_from_one_address_keeps_nobody_else_out(board, keys, guessers):
    """trust-17: with a stolen certificate, and no password, from one address; 10 of 10 logins from another."""
    over = threading.Event()
    words = (board.address, keys.host, "127.0.0.2", over)
    threads = [threading.Thread(target=guess, args=words) for _ in range(guessers)]
    for thread in threads:
        thread.start()
    try:
        while "wrong password" not in board.run("print(wss_repl.status()['refused'])"):
            pass
        for _ in range(10):
            with Peer(board.address, keys.host) as peer:
                assert peer.login().command("1+1") == b"2\r\n"
    finally:
        over.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("length", [0x7FFFFFFF, 0x7FFFFFFF - 2000, 0x40000000, 0x3FFFFFFF])
@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x80000000, 0x40000000])
def test_lengths_overflow_nothing(connect, board, length, size):
    """trust-20: a put of 4 GB, in a frame of 2 GB."""
    peer = connect().login()
    peer.send(encode(BINARY, FILE_REQUEST.pack(b"WA", PUT, 0, 0, size, 3, b"big")))
    assert peer.frame() == (BINARY, b"WB\0\0")
    peer.send(bytes([0x80 | BINARY, 0xFF]) + struct.pack(">Q", length) + b"\x01\x02\x03\x04" + bytes(5000))
    peer.close()
    second = connect().login(path=b"/takeover")
    assert second.command("1+1") == b"2\r\n"
    assert "big" not in board.run("import os; print(os.listdir())")
    assert b"Traceback" not in board.console.log and "internal" not in str(board.run("print(wss_repl.status())"))


@pytest.mark.parametrize("where", ["wss.receiver.Receiver.receive", "wss.sender.Sender.flush", "wss.files.Files.feed"])
def test_an_error_that_nobody_thought_of_ends_that_session_by_name(connect, board, where):
    """Put into a stage here. It ends the session, tells its name in status(), and is printed by nobody."""
    module, kind, name = where.rsplit(".", 2)
    with contextlib.suppress(Ended, OSError), connect().login() as before:  # all of it is loaded
        before.send(encode(BINARY, FILE_REQUEST.pack(b"WA", PUT, 0, 0, 3, 3, b"abc")))
        before.frame()
    log = len(board.console.log)
    board.run(f"import {module} as m; C = m.{kind}; old = C.{name}; C.{name} = lambda *a: {{}}['nobody thought of it']")
    peer = connect()
    with contextlib.suppress(Ended, OSError, ssl.SSLError, AssertionError):
        peer.login()
        peer.send(encode(BINARY, FILE_REQUEST.pack(b"WA", PUT, 0, 0, 3, 3, b"abc")))
        while True:
            peer.frame()
    board.run(f"C.{name} = old")
    assert "KeyError" in board.run("print(wss_repl.status()['last_refusal'])")
    assert b"Traceback" not in board.console.log[log:]
    assert connect().login(path=b"/takeover").command("1+1") == b"2\r\n"


@pytest.mark.parametrize(
    ("suite", "served"),
    [
        ("ECDHE-ECDSA-AES128-GCM-SHA256", True),
        ("ECDHE-ECDSA-AES128-CCM8", True),
        ("ECDHE-ECDSA-AES128-SHA256", False),
        ("ECDHE-ECDSA-AES256-SHA384", False),
        ("ECDHE-ECDSA-AES128-SHA", False),
    ],
)
def test_suites_without_authenticated_encryption_are_refused(board, keys, suite, served):
    context = keys.host.context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(suite + ":@SECLEVEL=0")
    with socket.create_connection(board.address, 20) as sock:
        if served:
            with context.wrap_socket(sock, server_hostname="localhost") as tls:
                assert tls.cipher()[0] == suite
        else:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                context.wrap_socket(sock, server_hostname="localhost")
