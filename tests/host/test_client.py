"""The client and the command line against a server that speaks WebREPL over real TLS in this process.

It stands in for a board where a test needs one that misbehaves on cue: refuses, vanishes, shows the wrong certificate.
What real firmware does is tested on real firmware elsewhere.
"""

import contextlib
import hashlib
import io
import os
import pty
import select
import signal
import socket
import ssl
import struct
import subprocess
import termios
import threading
import time
import traceback
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import zygote
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import serve
from wssctl import cli
from wssctl.errors import (
    AccessDenied,
    BoardError,
    ConnectionLost,
    KeyFileError,
    LoginError,
    SessionInUse,
    TrustError,
    Unreachable,
    UsageError,
    WssctlError,
)
from wssctl.keys import ca
from wssctl.tools.transfer import pair
from wssctl.wire import files
from wssctl.wire.client import Client
from wssctl.wire.link import Credentials, Target, parse_target

SECRET, PASSWORD, UID = "correct horse", "pässword", "240ac4a1b2c3"
RAW_BANNER = b"raw REPL; CTRL-B to exit\r\n>"
BANNER = b"MicroPython test board\r\n>>> "
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
FAR_AHEAD = datetime.now(UTC) + timedelta(days=100)


class Board:
    """A WebREPL server: login, friendly and raw REPL (code runs in this Python), put, get and version."""

    def __init__(self, context=None, **behaviour):
        self.files = {}
        self.seen = []  # text frames after login
        self.behaviour = behaviour
        self.most_acks = 0
        self.handshakes = 0
        self.server = serve(
            self.session, "127.0.0.1", 0, ssl=context, max_size=None, compression=None, ping_interval=None
        )
        self.port = self.server.socket.getsockname()[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.server.shutdown()

    def session(self, ws):
        self.handshakes += 1
        self.ws, self.raw, self.line, self.namespace = ws, False, b"", {"board": self}
        self.buffer, self.raw_line = b"", b""
        with contextlib.suppress(ConnectionClosed):
            if self.behaviour.get("in_use") and ws.request.path != "/takeover":
                self.say(b"\r\nIn use by 10.0.0.1. To take over, connect to the path /takeover.\r\n")
                return
            if self.behaviour.get("mute"):
                ws.recv()
            self.say(b"Password: ")
            given = b""
            while not given.endswith(b"\r"):
                given += self.receive()
            if given != PASSWORD.encode() + b"\r":
                self.say(b"\r\nAccess denied\r\n")
                return
            self.say(b"\r\nWebREPL connected\r\n")
            self.say(b">>> ")
            while True:
                kind, data = self.next()
                if kind == "text":
                    self.seen.append(data)
                    self.buffer += data
                    while self.buffer:
                        self.key(self.take(1))
                else:
                    self.request(data)

    def say(self, data):
        self.ws.send(data, text=True)

    def next(self):
        """(kind, payload) of the next frame. Told apart by content: decoding refuses frames that cut characters."""
        data = self.ws.recv(decode=False)
        return ("binary" if data.startswith(b"WA") else "text"), data

    def receive(self):
        kind, data = self.next()
        assert kind == "text"
        return data

    def take(self, n):
        while len(self.buffer) < n:
            self.buffer += self.receive()
        data, self.buffer = self.buffer[:n], self.buffer[n:]
        return data

    # The REPL

    def key(self, c):
        if self.raw:
            return self.raw_key(c)
        if c == b"\x01":
            self.raw, self.raw_line = True, b""
            self.say(RAW_BANNER)
        elif c == b"\x02":
            self.say(BANNER)
        elif c == b"\x03":
            self.line = b""
            self.say(b"\r\n")
            self.say(b">>> ")
        elif c == b"\r":
            self.say(b"\r\n")
            out = io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.suppress(Exception):
                exec(compile(self.line.decode(), "repl", "single"), self.namespace)
            self.line = b""
            self.say(out.getvalue().replace("\n", "\r\n").encode())
            self.say(b">>> ")
        else:
            self.line += c
            self.say(c)

    def raw_key(self, c):
        if c == b"\x02":
            self.raw = False
            self.say(b"\r\n" + BANNER)
        elif c == b"\x05" and not self.raw_line:
            assert self.take(2) == b"A\x01"
            if self.behaviour.get("no_raw_paste"):
                return self.say(b"R\x00")
            self.say(b"R\x01" + struct.pack("<H", 128) + b"\x01")
            code, room = b"", 256
            while True:
                c = self.take(1)
                if c == b"\x04":
                    break
                code += c
                room -= 1
                assert room >= 0, "the client sent more than the window"
                if self.behaviour.get("abort_paste") and len(code) > 300:
                    self.say(b"\x04")
                    while self.take(1) != b"\x04":
                        pass
                    return self.say(b"\x04MemoryError: \r\n\x04>")
                if len(code) % 128 == 0:
                    room += 128
                    self.say(b"\x01")
            self.say(b"\x04")
            self.run(code)
        elif c == b"\x04":
            self.say(b"OK")
            self.run(self.raw_line)
            self.raw_line = b""
        elif c in b"\x01\x03":
            self.raw_line = b""
            if c == b"\x01":
                self.say(RAW_BANNER)
        else:
            self.raw_line += c

    def run(self, code):
        out, error = io.StringIO(), b""
        try:
            with contextlib.redirect_stdout(out):
                exec(compile(code, "<stdin>", "exec"), self.namespace)
        except Exception:
            error = traceback.format_exc().encode()
        text = out.getvalue().encode().replace(b"\n", b"\r\n")
        for i in range(0, len(text), 61):  # an odd size: characters of several bytes are cut
            self.send_fragment(text[i : i + 61])
        self.say(b"\x04" + error.replace(b"\n", b"\r\n"))
        self.say(b"\x04")
        self.say(b">")

    def send_fragment(self, data):
        """A text frame that may hold half a character, as a board sends it; the library would refuse to."""
        with self.ws.protocol_mutex:
            self.ws.protocol.send_text(data)
            self.ws.send_data()

    # Files

    def answer(self, code):
        self.ws.send(struct.pack("<2sH", b"WB", code))

    def request(self, head):
        signature, op, _, _, size, n, name = struct.unpack("<2sBBQLH64s", head)
        assert signature == b"WA"
        name = name[:n].decode()
        if op == 3:
            self.ws.send(bytes([1, 26, 1]))
        elif op == 1:
            if error := self.behaviour.get("put_error"):
                return self.answer(error)
            self.answer(0)
            data = b""
            while len(data) < size:
                data += self.ws.recv(decode=False)
                if len(data) >= self.behaviour.get("cut_put", size + 1):
                    self.ws.socket.shutdown(socket.SHUT_RDWR)
                    raise ConnectionClosed(None, None)
            self.files[name] = data
            self.answer(self.behaviour.get("put_end_error", 0))
        elif op == 2:
            if name not in self.files:
                return self.answer(2)
            self.answer(0)
            self.send_file(self.files[name])
            self.answer(0)

    def send_file(self, data):
        size, acks, at = self.behaviour.get("piece", 4090), 0, 0
        while True:
            while acks == 0 or self.behaviour.get("count_acks"):
                try:
                    frame = self.ws.recv(timeout=0.2 if acks else None)
                except TimeoutError:
                    break
                acks += len(frame)
                self.most_acks = max(self.most_acks, acks)
            acks -= 1
            if at >= self.behaviour.get("cut_get", len(data) + 1):
                self.ws.socket.shutdown(socket.SHUT_RDWR)
                raise ConnectionClosed(None, None)
            piece = data[at : at + size]
            at += len(piece)
            self.ws.send(struct.pack("<H", len(piece)) + piece)
            if not piece:
                # the acknowledgements that were ahead of the end
                ahead = self.behaviour.get("ahead", files._ACKS_AHEAD) - 1 - acks
                while ahead > 0:
                    ahead -= len(self.ws.recv())
                return


class Keys:
    """A folder with a CA, a HOST and device certificates good and bad."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.authority = ca.Authority.create("test ROOT CA", not_before=LONG_AGO, days=36500)
        self.other = ca.Authority.create("another ROOT CA")
        (folder / "ROOT_CA_cert.pem").write_bytes(self.authority.cert_pem)
        (folder / "OTHER_CA_cert.pem").write_bytes(self.other.cert_pem)
        self.add_host("good", self.authority)
        self.add_host("foreign", self.other)
        self.add_host("expired", self.authority, not_before=LONG_AGO, days=1)
        self.add_host("future", self.authority, not_before=FAR_AHEAD)
        self.add_device("good", self.authority)
        self.add_device("foreign", self.other)
        self.add_device("expired", self.authority, not_before=LONG_AGO, days=1)
        self.add_device("future", self.authority, not_before=FAR_AHEAD)
        self.add_device("elsewhere", self.authority, names=["elsewhere"], addresses=())
        # a host's certificate on a "board", a board's certificate as a host's
        for part in ("key", "cert"):
            host, device = folder / f"HOST_{part}@good.pem", folder / f"device_{part}_good.pem"
            (folder / f"HOST_{part}@device.pem").write_bytes(device.read_bytes())
            data = host.read_bytes()
            if part == "key":
                data = ca.load_key(data, SECRET, "key").private_bytes(
                    ca.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
                )
            (folder / f"device_{part}_host.pem").write_bytes(data)

    def add_host(self, name, authority, **validity):
        key, cert = authority.host(f"{name}@test", SECRET, **validity)
        (self.folder / f"HOST_key@{name}.pem").write_bytes(key)
        (self.folder / f"HOST_cert@{name}.pem").write_bytes(cert)

    def add_device(self, name, authority, names=("localhost",), addresses=("127.0.0.1",), **validity):
        made = authority.device(UID, names=names, addresses=addresses, **validity)
        key = serialization.load_der_private_key(made.key_der, None)
        pem = key.private_bytes(ca.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())
        (self.folder / f"device_key_{name}.pem").write_bytes(pem)
        (self.folder / f"device_cert_{name}.pem").write_bytes(made.cert_pem)

    def host(self, name="good", passphrase=SECRET):
        return Credentials(
            self.folder / "ROOT_CA_cert.pem",
            self.folder / f"HOST_cert@{name}.pem",
            self.folder / f"HOST_key@{name}.pem",
            passphrase,
        )

    def server_context(self, name="good", version=None, client_ca="ROOT_CA_cert.pem"):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / f"device_cert_{name}.pem", self.folder / f"device_key_{name}.pem")
        context.load_verify_locations(self.folder / client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
        if version:
            context.minimum_version = context.maximum_version = version
        return context


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return Keys(tmp_path_factory.mktemp("keys"))


BOTH_TLS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])


@pytest.fixture
def board(keys):
    with Board(keys.server_context()) as board:
        yield board


def connect(board, keys, *, host="127.0.0.1", who="good", password=PASSWORD, timeout=60.0, **options):
    return Client.connect(Target(True, host, board.port), keys.host(who), password, timeout=timeout, **options)


# Addresses


@pytest.mark.parametrize(
    "typed, url",
    [
        ("board", "wss://board:8833/"),
        ("board.local:9000", "wss://board.local:9000/"),
        ("wss://10.0.0.7", "wss://10.0.0.7:8833/"),
        ("ws://10.0.0.7", "ws://10.0.0.7:8266/"),
        ("wss://[fd00::7]:1/takeover", "wss://[fd00::7]:1/takeover"),
    ],
)
def test_addresses(typed, url):
    assert parse_target(typed).url == url
    assert parse_target(typed, takeover=True).path == "/takeover"


@pytest.mark.parametrize(
    "bad", ["", "http://board", "wss://", "board:port", "board:99999", "wss://me:secret@board", "a?b"]
)
def test_bad_addresses(bad):
    with pytest.raises(UsageError):
        parse_target(bad)


@pytest.mark.parametrize(
    "paths, jobs",
    [
        (["/lib/x.py"], [("/lib/x.py", "x.py")]),
        ([":lib/x.py"], [("lib/x.py", "x.py")]),
        ([":x.py", "-"], [("x.py", "-")]),
        ([":x.py", "."], [("x.py", "./x.py")]),
        (["/lib/x.py", "-"], [("/lib/x.py", "-")]),
        (["/lib/x.py", "here.py"], [("/lib/x.py", "here.py")]),
    ],
)
def test_names_of_a_get(paths, jobs):
    assert pair(paths) == jobs


# Connecting


@BOTH_TLS
def test_connects_and_says_how(keys, version):
    with Board(keys.server_context(version=version)) as board, connect(board, keys) as client:
        name, suite, bits = client.link.tls
        assert name == ("TLSv1.2" if version == ssl.TLSVersion.TLSv1_2 else "TLSv1.3")
        assert client.tls_line == f"{name} @ {suite} - {bits} bits Encryption"
        assert client.exec("print(6*7)").output == b"42\r\n"


def test_plain_ws_only_when_asked(keys):
    with Board() as board:
        with Client.connect(f"ws://127.0.0.1:{board.port}", None, PASSWORD) as client:
            assert client.link.tls is None and "no TLS" in client.tls_line
            assert client.exec("print(1)").output == b"1\r\n"
        with pytest.raises(TrustError, match="ws:// typed out"):
            connect(board, keys)


def test_a_server_that_speaks_no_tls(keys):
    with Stub(lambda s: s.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")) as stub:
        with pytest.raises(TrustError, match="does not speak TLS"):
            connect(stub, keys)


@BOTH_TLS
@pytest.mark.parametrize(
    "who, words",
    [
        ("foreign", "its CA is not the board's"),
        ("expired", "it has expired"),
        ("device", "not for hosts|cannot be verified"),
    ],
)
def test_a_board_that_refuses_our_certificate(keys, version, who, words):
    with Board(keys.server_context(version=version)) as board:
        with pytest.raises(TrustError, match=words):
            connect(board, keys, who=who)
        assert board.handshakes == 0


@BOTH_TLS
@pytest.mark.parametrize(
    "shown, words",
    [
        ("foreign", "did not sign"),
        ("expired", "has expired"),
        ("future", "not valid yet"),
        ("host", "not for devices"),
        ("elsewhere", "not for 127.0.0.1"),
    ],
)
def test_a_board_whose_certificate_we_refuse(keys, version, shown, words):
    with Board(keys.server_context(shown, version)) as board, pytest.raises(TrustError, match=words):
        connect(board, keys)
    assert board.handshakes == 0


def test_server_name_is_checked_in_place_of_the_address(keys):
    with Board(keys.server_context("elsewhere")) as board:
        with connect(board, keys, server_name="elsewhere.local") as client:
            assert client.version() == (1, 26, 1)
        with pytest.raises(TrustError, match="not for elsewhere2"):
            connect(board, keys, server_name="elsewhere2")
        # what upydev checks: the whole URI as a DNS name
        with connect(board, keys, server_name="wss://elsewhere.local:8833"):
            pass


def test_key_file_mistakes_are_told_before_anything_is_sent(board, keys, tmp_path):
    with pytest.raises(KeyFileError, match="Wrong passphrase"):
        Client.connect(Target(True, "127.0.0.1", board.port), keys.host(passphrase="wrong"), PASSWORD)
    with pytest.raises(KeyFileError, match="needs its passphrase"):
        Client.connect(Target(True, "127.0.0.1", board.port), keys.host(passphrase=None), PASSWORD)
    mixed = Credentials(keys.host().ca, keys.host().cert, keys.host("foreign").key, SECRET)
    with pytest.raises(KeyFileError, match="not the key of"):
        Client.connect(Target(True, "127.0.0.1", board.port), mixed, PASSWORD)
    broken = tmp_path / "broken.pem"
    broken.write_text("nothing")
    with pytest.raises(KeyFileError, match="ROOT CA"):
        Client.connect(Target(True, "127.0.0.1", 1), Credentials(broken, broken, broken), PASSWORD)
    with pytest.raises(KeyFileError, match="init"):
        Client.connect(Target(True, "127.0.0.1", 1), keys.host("nobody"), PASSWORD)
    assert board.handshakes == 0


def test_wrong_password(board, keys):
    with pytest.raises(AccessDenied, match="Wrong password"):
        connect(board, keys, password="wrong")
    with pytest.raises(LoginError, match="empty"):
        connect(board, keys, password="")
    with connect(board, keys):
        pass


def test_a_session_in_use_is_taken_over_only_when_asked(keys):
    with Board(keys.server_context(), in_use=True) as board:
        with pytest.raises(SessionInUse, match="In use by 10.0.0.1.*--takeover"):
            connect(board, keys)
        url = f"wss://127.0.0.1:{board.port}"
        with Client.connect(url, keys.host(), PASSWORD, takeover=True) as client:
            assert client.exec("print(1)").output == b"1\r\n"


def test_nobody_there(keys):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        free = s.getsockname()[1]
    with pytest.raises(Unreachable, match="wss_repl.start"):
        Client.connect(Target(True, "127.0.0.1", free), keys.host(), PASSWORD)
    with pytest.raises(Unreachable, match="no host named"):
        Client.connect("wss://no-such-board.invalid", keys.host(), PASSWORD)


class Stub:
    """A TCP server whose one connection is handled by `talk(socket)`."""

    def __init__(self, talk):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.talk = talk
        self.done = threading.Event()
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        with contextlib.suppress(OSError):
            connection, _ = self.listener.accept()
            with connection:
                self.talk(connection)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.done.set()
        self.listener.close()


def test_a_peer_that_is_silent_under_tcp(keys):
    with Stub(lambda s: stub.done.wait(60)) as stub, pytest.raises(Unreachable, match="does not start TLS"):
        connect(stub, keys, timeout=0.5)


def test_a_peer_that_is_silent_under_tls(keys):
    def talk(s):
        with keys.server_context().wrap_socket(s, server_side=True):
            stub.done.wait(60)

    with Stub(talk) as stub, pytest.raises(Unreachable, match="does not answer"):
        connect(stub, keys, timeout=3)


def test_a_peer_that_never_asks_for_the_password(keys):
    with Board(keys.server_context(), mute=True) as board, pytest.raises(LoginError, match="does not ask"):
        connect(board, keys, timeout=3)


def test_a_peer_that_hangs_up_in_the_handshake(keys):
    with Stub(lambda s: s.recv(10)) as stub, pytest.raises(TrustError, match="closed the connection during the TLS"):
        connect(stub, keys)


def test_an_http_server_that_knows_no_websocket(keys):
    def talk(s):
        with keys.server_context().wrap_socket(s, server_side=True) as tls:
            tls.recv(4096)
            tls.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\nnope\n")

    with Stub(talk) as stub, pytest.raises(ConnectionLost, match="404 Not Found: nope"):
        connect(stub, keys)


def test_the_board_vanishes(board, keys):
    with connect(board, keys) as client:
        with pytest.raises(ConnectionLost):
            client.exec("import socket; board.ws.socket.shutdown(socket.SHUT_RDWR)")
        with pytest.raises(ConnectionLost):
            client.exec("print(1)")


# Code


def test_exec_keeps_output_and_traceback_apart(board, keys):
    with connect(board, keys) as client:
        result = client.exec("print('before')\nraise ValueError('no')")
        assert result.output == b"before\r\n"
        assert result.error.startswith("Traceback") and "ValueError: no\n" in result.error
        assert client.exec("print('after')").error == ""


def test_exec_streams_and_keeps_characters_whole(board, keys):
    with connect(board, keys) as client:
        pieces = []
        result = client.exec("print('äöü€' * 5000)", output=pieces.append)
        assert b"".join(pieces).decode() == "äöü€" * 5000 + "\r\n"
        assert len(pieces) > 1 and result.output == b""


@pytest.mark.parametrize("behaviour", [{}, {"no_raw_paste": True}], ids=["raw paste", "plain raw"])
def test_exec_sends_a_long_program_whole(keys, behaviour):
    text = "".join(f"{i:07}ö" for i in range(12000))
    with Board(keys.server_context(), **behaviour) as board, connect(board, keys) as client:
        result = client.exec(f"import hashlib\nx = '{text}'\nprint(hashlib.sha256(x.encode()).hexdigest())")
        assert result.output.decode().strip() == hashlib.sha256(text.encode()).hexdigest()


def test_exec_when_the_board_runs_out_of_memory_for_the_code(keys):
    with Board(keys.server_context(), abort_paste=True) as board, connect(board, keys) as client:
        assert "MemoryError" in client.exec("#" * 1000).error
        assert client.exec("print(1)").output == b"1\r\n"


def test_exec_interrupts_what_runs_and_leaves_the_friendly_repl(board, keys):
    with connect(board, keys) as client:
        client.exec("pass")
    typed = b"".join(board.seen)
    assert typed.startswith(b"\x03\x03") and typed.endswith(b"\r\x02")


def test_the_terminal_is_bytes_in_and_bytes_out(board, keys):
    with connect(board, keys) as client:
        client.write("print('ä')\r".encode())
        said = b""
        while not said.endswith(b"\r\n>>> "):
            said += client.read(5)
        assert said == "print('ä')\r\nä\r\n>>> ".encode()
        assert client.read(0.05) == b""


# Files


@pytest.mark.parametrize("size", [0, 1, 4089, 4090, 4096, 1 << 20])
def test_put_and_get_bring_back_every_byte(board, keys, size):
    data = os.urandom(size)
    with connect(board, keys) as client:
        seen = []
        assert client.put(data, "datei-ä.bin", progress=seen.append) == size
        assert board.files["datei-ä.bin"] == data
        assert client.get("datei-ä.bin") == data
        assert client.exec("print(1)").output == b"1\r\n"
        assert seen[-1:] == ([size] if size else [])


def test_get_takes_the_largest_piece(keys):
    with Board(keys.server_context(), piece=65535) as board, connect(board, keys) as client:
        board.files["x"] = data = os.urandom(300000)
        assert client.get("x") == data


def test_get_asks_ahead(keys, monkeypatch):
    monkeypatch.setattr("wssctl.wire.files._ACKS_AHEAD", 8)
    with Board(keys.server_context(), count_acks=True) as board, connect(board, keys) as client:
        board.files["x"] = data = os.urandom(9000)
        assert client.get("x") == client.get("x") == data
        assert board.most_acks == 8


def test_get_does_not_ask_ahead_of_stock_webrepl():
    with Board(ahead=1, count_acks=True) as board:
        board.files["x"] = b"y" * 9000
        with Client.connect(f"ws://127.0.0.1:{board.port}", None, PASSWORD) as client:
            assert client.get("x") == client.get("x") == b"y" * 9000
        assert board.most_acks == 1


@pytest.mark.parametrize("behaviour, words", [({"put_error": 30}, "read-only"), ({"put_end_error": 28}, "full")])
def test_put_refused_by_the_board(keys, behaviour, words):
    with Board(keys.server_context(), **behaviour) as board, connect(board, keys) as client:
        with pytest.raises(BoardError, match=words):
            client.put(b"x" * 5000, "x")
        assert client.version() == (1, 26, 1)


def test_get_refused_by_the_board(board, keys):
    with connect(board, keys) as client:
        with pytest.raises(BoardError, match="no such file"):
            client.get("missing")
        assert client.version() == (1, 26, 1)


@pytest.mark.parametrize("name", ["", "x" * 65, "ä" * 33, "a\0b"])
def test_names_the_protocol_cannot_carry(board, keys, name):
    with connect(board, keys) as client:
        with pytest.raises(UsageError):
            client.put(b"x", name)
        client.put(b"x", "n" * 64)
    assert list(board.files) == ["n" * 64]


def test_a_local_file_that_shrinks_ends_the_session(board, keys):
    with connect(board, keys) as client:
        with pytest.raises(BoardError, match="shorter"):
            client.put(io.BytesIO(b"x" * 10), "x", size=5000)
    assert board.files == {}


# The command line


@pytest.fixture
def command(board, keys, tmp_path, monkeypatch, capsysbinary):
    monkeypatch.setenv("WSSCTL_KEYS", str(keys.folder))
    monkeypatch.setenv("WSSCTL_PASSPHRASE", SECRET)
    monkeypatch.setenv("WSSCTL_PASSWORD", PASSWORD)
    monkeypatch.chdir(tmp_path)

    def run(name, *args, to=board):
        code = cli.main([name, f"127.0.0.1:{to.port}", "--host-id", "good", "--timeout", "60", *args])
        said = capsysbinary.readouterr()
        return code, said.out, said.err.decode()

    return run


def test_exec_command(command, tmp_path):
    assert command("exec", "print('a\\nb')") == (0, b"a\nb\n", "")
    code, out, err = command("exec", "print(1); 1/0")
    assert (code, out) == (1, b"1\n") and "ZeroDivisionError" in err
    (tmp_path / "p.py").write_text("print('from a file')")
    assert command("exec", "--file", "p.py") == (0, b"from a file\n", "")
    assert command("exec")[0] == 2
    assert command("exec", "--file", "missing.py")[0] == 7


def test_put_and_get_commands(command, board, tmp_path):
    (tmp_path / "a.py").write_bytes(b"a" * 5000)
    (tmp_path / "b.py").write_bytes(b"b")
    assert command("put", "a.py", "b.py", "/lib")[0] == 0
    assert board.files == {"/lib/a.py": b"a" * 5000, "/lib/b.py": b"b"}
    (tmp_path / "back").mkdir()
    assert command("get", "/lib/a.py", "/lib/b.py", "back")[0] == 0
    assert (tmp_path / "back" / "a.py").read_bytes() == b"a" * 5000
    assert command("get", "/lib/b.py", "-")[1] == b"b"
    code, _, err = command("put", "missing.py", "x")
    assert code == 7 and "missing.py does not exist" in err
    code, _, err = command("get", "/nowhere", "x")
    assert code == 1 and "no such file" in err and not (tmp_path / "x").exists()
    assert sorted(os.listdir(tmp_path)) == ["a.py", "b.py", "back"]


def test_a_get_cut_off_leaves_the_old_file(command, keys, tmp_path):
    (tmp_path / "x").write_bytes(b"old")
    with Board(keys.server_context(), cut_get=50000) as board:
        board.files["x"] = os.urandom(100000)
        code, _, err = command("get", "x", to=board)
    assert code == 6 and err.count("\n") == 1
    assert os.listdir(tmp_path) == ["x"] and (tmp_path / "x").read_bytes() == b"old"


def test_a_put_cut_off_is_told(command, keys, tmp_path):
    (tmp_path / "x").write_bytes(os.urandom(1 << 20))
    with Board(keys.server_context(), cut_put=50000) as board:
        code, _, err = command("put", "x", to=board)
    assert code == 6 and err.count("\n") == 1


def test_every_failure_has_its_exit_code():
    codes = [WssctlError.exit_code] + [c.exit_code for c in WssctlError.__subclasses__() if "exit_code" in vars(c)]
    assert sorted(codes) == sorted(set(codes))


def wssctl(board, keys, *args, **options):
    """The command as a process of its own, with no terminal to ask on."""
    env = os.environ | {"WSSCTL_KEYS": str(keys.folder), "WSSCTL_PASSPHRASE": SECRET, "WSSCTL_PASSWORD": PASSWORD}
    env = {k: v for k, v in (env | options.pop("env", {})).items() if v is not None}
    argv = [*zygote.WSSCTL, args[0], f"127.0.0.1:{board.port}", "--host-id", "good", *args[1:]]
    argv = options.pop("before", []) + argv
    return zygote.run(argv, env=env, capture_output=True, timeout=180, start_new_session=True, **options)


def test_a_program_on_standard_input_is_run(board, keys):
    run = wssctl(board, keys, "repl", input=b"for i in range(3):\n    print(i)\n\nprint('end')\n")
    assert (run.returncode, run.stdout, run.stderr) == (0, b"0\n1\n2\nend\n", b"")
    run = wssctl(board, keys, "exec", "--file", "-", input=b"print('x')")
    assert (run.returncode, run.stdout) == (0, b"x\n")


def test_no_terminal_and_no_password_is_a_sentence(board, keys):
    run = wssctl(board, keys, "exec", "1", env={"WSSCTL_PASSWORD": None}, stdin=subprocess.DEVNULL)
    assert run.returncode == 2 and b"--password-file" in run.stderr and b"Traceback" not in run.stderr
    run = wssctl(board, keys, "exec", "1", env={"WSSCTL_PASSPHRASE": None}, stdin=subprocess.DEVNULL)
    assert run.returncode == 2 and b"--passphrase-file" in run.stderr and b"Traceback" not in run.stderr


def test_secrets_from_files(board, keys, tmp_path):
    (tmp_path / "word").write_text(PASSWORD + "\n")
    (tmp_path / "phrase").write_text(SECRET + "\r\nsecond line\n")
    run = wssctl(
        board,
        keys,
        "exec",
        "--password-file",
        str(tmp_path / "word"),
        "--passphrase-file",
        str(tmp_path / "phrase"),
        "print(1)",
        env={"WSSCTL_PASSWORD": None, "WSSCTL_PASSPHRASE": None},
    )
    assert (run.returncode, run.stdout) == (0, b"1\n")


@pytest.mark.parametrize(
    "words", [["exec", "--timeout", "-1", "1"], ["exec", "1", "--timeout", "1e30"], ["bridge", "--tcp", "99999"]]
)
def test_numbers_that_cannot_be(board, keys, words):
    run = wssctl(board, keys, *words)
    assert run.returncode == 2 and b"give " in run.stderr and b"Traceback" not in run.stderr


@pytest.mark.parametrize(
    "redirection, words, code",
    [
        (">/dev/full", ["exec", "print(1)"], 7),
        (">/dev/full", ["get", "/x", "-"], 7),
        (">&-", ["exec", "print(1)"], 0),
        ("<&-", ["exec", "print(1)"], 0),
        ("<&-", ["exec", "--file", "-"], 0),
        ("<&-", ["repl"], 0),
        ("<&- >&- 2>&-", ["exec", "print(1)"], 0),
    ],
)
def test_output_that_is_full_and_streams_that_are_closed(board, keys, redirection, words, code):
    board.files["/x"] = b"some text"
    shell = ["sh", "-c", f'exec "$@" {redirection}', "sh"]
    run = wssctl(board, keys, *words, before=shell)
    assert run.returncode == code and b"Traceback" not in run.stderr and b"Exception" not in run.stderr
    assert run.stderr.count(b"\n") == (code != 0) and (not code or b"No space left" in run.stderr)


class Terminal:
    """`wssctl repl` on a pseudo-terminal."""

    def __init__(self, board, keys, **env):
        self.master, self.slave = pty.openpty()
        self.before = termios.tcgetattr(self.slave)
        env = (
            os.environ
            | {"WSSCTL_KEYS": str(keys.folder), "WSSCTL_PASSPHRASE": SECRET, "WSSCTL_PASSWORD": PASSWORD}
            | env
        )
        argv = [*zygote.WSSCTL, "repl", f"127.0.0.1:{board.port}", "--host-id", "good"]
        self.process = subprocess.Popen(
            argv,
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            env=env,
            start_new_session=True,
            preexec_fn=lambda: __import__("fcntl").ioctl(0, termios.TIOCSCTTY, 0),
        )
        self.seen = b""

    def type(self, data):
        os.write(self.master, data)

    def expect(self, wanted, timeout=60):
        deadline = time.monotonic() + timeout
        while wanted not in self.seen:
            left = deadline - time.monotonic()
            assert left > 0, f"{wanted!r} not in {self.seen!r}"
            if select.select([self.master], [], [], left)[0]:
                self.seen += os.read(self.master, 4096)
        before, _, self.seen = self.seen.partition(wanted)
        return before

    def end(self):
        """(exit code, whether the terminal is as it was)."""
        code = self.process.wait(10)
        return code, termios.tcgetattr(self.slave) == self.before

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)
        os.close(self.slave)


def test_repl_on_a_terminal(board, keys):
    with Terminal(board, keys) as t:
        t.expect(b"WebSecREPL with TLSv1.3 connected\r\n")
        t.expect(b" bits Encryption\r\n")
        t.expect(b">>> ")
        t.type(b"print(6*7)\r")
        t.expect(b"print(6*7)\r\n42\r\n>>> ")
        t.type(b"\x03")
        t.expect(b"\r\n>>> ")
        t.type(b"\x1b[A\x1b[D\x04\t")
        t.expect(b"\x1b[A\x1b[D\x04\t")
        assert b"".join(board.seen).endswith(b"print(6*7)\r\x03\x1b[A\x1b[D\x04\t")
        t.type(b"\x1d")
        assert t.end() == (0, True)


def test_repl_shows_the_boards_last_words(board, keys):
    with Terminal(board, keys) as t:
        t.expect(b">>> ")
        t.type(b"board.say(b'last words\\r\\n'); board.ws.close(1001, 'going down')\r")
        t.expect(b"last words\r\n")
        t.expect(b"going down")
        assert t.end() == (6, True)


def test_repl_takes_a_paste(board, keys):
    with Terminal(board, keys) as t:
        t.expect(b">>> ")
        program = b"x = '" + b"0123456789" * 2000 + b"'"
        for i in range(0, len(program), 1000):
            t.type(program[i : i + 1000])
            t.expect(program[i : i + 1000][-1:])
        t.type(b"\rprint(len(x))\r")
        t.expect(b"\r\n20000\r\n>>> ", 20)
        t.type(b"\x1d")
        assert t.end() == (0, True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_repl_puts_the_terminal_back_when_it_is_ended(board, keys, number):
    with Terminal(board, keys) as t:
        t.expect(b">>> ")
        t.process.send_signal(number)
        assert t.end() == (128 + number, True)


def test_repl_asks_without_echo(board, keys):
    with Terminal(board, keys, WSSCTL_PASSWORD="", WSSCTL_PASSPHRASE="") as t:
        t.expect(b"Password of 127.0.0.1: ")
        time.sleep(0.1)  # getpass flushes what was typed before it turned the echo off
        t.type(PASSWORD.encode() + b"\n")
        t.expect(b"Passphrase for key 'HOST_key@good.pem': ")
        time.sleep(0.1)
        t.type(SECRET.encode() + b"\n")
        before = t.expect(b">>> ")
        assert SECRET.encode() not in before and PASSWORD.encode() not in before
        t.type(b"\x1d")
        assert t.end() == (0, True)


def test_the_host_certificates_purpose_is_what_the_board_sees(keys):
    """The leaf that Credentials sends carries clientAuth and nothing else."""
    cert = x509.load_pem_x509_certificate(keys.host().cert.read_bytes())
    usage = cert.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ca.EKU.CLIENT_AUTH]
