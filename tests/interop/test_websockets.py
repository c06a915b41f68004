"""The `websockets` package (sync client): the strictest of the WebSocket clients here."""

import os
import struct
import time
from contextlib import contextmanager

import pytest
from clients import PASSWORD
from peers import FILE_REQUEST, GET, PUT, Identity
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect


class Session:
    def __init__(self, ws):
        self.ws = ws

    def login(self, password=PASSWORD):
        assert self.ws.recv(60) == "Password: "
        self.ws.send(password + "\r")
        return self.ws.recv(60)

    def until(self, end: str) -> str:
        text = ""
        while not text.endswith(end):
            text += self.ws.recv(60)
        return text

    def command(self, line: str) -> str:
        self.ws.send(line + "\r")
        assert self.until("\r\n") == line + "\r\n"
        return self.until(">>> ").removesuffix(">>> ")

    def request(self, op, name: bytes, size=0):
        self.ws.send(FILE_REQUEST.pack(b"WA", op, 0, 0, size, len(name), name))
        assert self.ws.recv(60) == b"WB\0\0"


@contextmanager
def opened(desk, **options):
    with connect("wss://" + desk.target, ssl=desk.host.context(), open_timeout=60, close_timeout=5, **options) as ws:
        yield Session(ws)


@pytest.fixture
def session(desk):
    with opened(desk) as session:
        assert session.login() == "\r\nWebREPL connected\r\n>>> "
        yield session


def test_a_hundred_commands(session):
    for i in range(100):
        assert session.command(f"print({i} * 7)") == f"{i * 7}\r\n"


def test_put_and_get_a_megabyte(session, desk):
    content = os.urandom(1_000_000)
    session.request(PUT, b"ws.bin", len(content))
    for i in range(0, len(content), 8192):
        session.ws.send(content[i : i + 8192])
    assert session.ws.recv(30) == b"WB\0\0"
    assert (desk.directory / "ws.bin").read_bytes() == content
    session.request(GET, b"ws.bin")
    got = bytearray()
    while True:
        session.ws.send(b"\0")
        piece = session.ws.recv(60)
        assert struct.unpack("<H", piece[:2])[0] == len(piece) - 2
        if len(piece) == 2:
            break
        got += piece[2:]
    assert session.ws.recv(60) == b"WB\0\0"
    assert got == content


def test_a_fragmented_message_is_one(session):
    session.ws.send(["print(", "6 ", "* ", "7)", "\r"])
    assert session.until(">>> ") == "print(6 * 7)\r\n42\r\n>>> "


def test_bytes_that_are_not_utf8_come_in_binary_messages_and_the_connection_goes_on(session):
    session.ws.send("import sys; n = sys.stdout.buffer.write(bytes([65, 255, 66]))\r")
    assert session.until("\r\n").endswith("\r\n")
    assert [session.ws.recv(60) for _ in range(3)] == ["A", b"\xffB", ">>> "]
    assert session.command("print(chr(0xe9) + chr(0xd7ff))") == "é\ud7ff\r\n"
    session.ws.send("print(chr(0xd800))\r")
    session.until("\r\n")
    assert [session.ws.recv(60) for _ in range(3)] == [b"\xed\xa0\x80", "\r\n", ">>> "]


def test_raw_paste(session):
    """Its flow control begins with 0x80, as a strict client (Thonny, for one) gets it."""

    def take(n):
        got = b""
        while len(got) < n:
            message = session.ws.recv(60)
            got += message.encode() if isinstance(message, str) else message
        return got

    session.ws.send("\x01")
    session.until("exit\r\n>")
    session.ws.send("\x05A\x01")
    answer = take(5)
    assert answer in (b"R\x01\x80\x00\x01", b"R\x01\x80\x00")
    session.ws.send("print(6 * 7)\x04")
    got = b""
    while not got.endswith(b"\x04>"):
        got += take(1)
    assert got.lstrip(b"\x01") == b"\x0442\r\n\x04\x04>"
    session.ws.send("\x02")
    session.until(">>> ")


def test_keepalive_pings_are_answered_while_a_program_runs(desk):
    """With ping_timeout the client itself ends a connection whose pong does not come."""
    with opened(desk, ping_interval=0.2, ping_timeout=2.5) as session:
        session.login()
        session.command("import time")
        assert session.command("time.sleep(3); print('slept')") == "slept\r\n"
        assert 0 < session.ws.latency < 2.5


def test_close_handshake(desk):
    with opened(desk) as session:
        session.login()
        session.ws.close(1000, "done")
        assert session.ws.protocol.close_rcvd.code == 1000
        assert session.ws.protocol.close_rcvd_then_sent is False


def test_wrong_password_is_told_and_closed(desk):
    with opened(desk) as session:
        assert session.login("wrong") == "\r\nAccess denied\r\n"
        with pytest.raises(ConnectionClosed) as closed:
            session.ws.recv(5)
        assert closed.value.rcvd.code == 1008


def test_connect_again_and_again(desk):
    for _ in range(20):
        with opened(desk) as session:
            session.login()
            assert session.command("1+1") == "2\r\n"


def test_no_certificate_no_upgrade(desk):
    start = time.monotonic()
    with pytest.raises((OSError, EOFError, ConnectionClosed)):
        with connect("wss://" + desk.target, ssl=Identity(desk.host.ca).context(), open_timeout=60):
            pass
    assert time.monotonic() - start < 60
    with opened(desk) as session:
        assert session.login() == "\r\nWebREPL connected\r\n>>> "
