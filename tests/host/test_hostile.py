"""What a board may say to wssctl: a board that was stolen and reflashed, and a server on another machine that has a
board's key. Its words are data: of the terminal, of this file system, of time and of memory."""

import base64
import contextlib
import hashlib
import os
import resource
import select
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives import serialization
from desk import PASSWORD, WSSCTL, Desk
from peers import Identity
from targets import UID, Unix
from wssctl.errors import BoardError, KeyFileError, WssctlError
from wssctl.keys import ca
from wssctl.text import brief, shown
from wssctl.wire.client import Client
from wssctl.wire.link import Credentials, parse_target
from wssctl.wire.remote import component
from wssctl.wire.tls import _why_out_of_date
from wssctl.wire.websocket import WebSocketLink

_MEMORY = 200 << 20  # bytes
ESC = "\x1b]0;owned\x07\x1b[2J"


def test_what_is_shown_does_nothing():
    assert shown(f"{ESC}\u202eevil\x9b1m\u2028\u200b\udc80\r\n\tü€😀") == (
        r"\x1b]0;owned\x07\x1b[2J\u202eevil\x9b1m\u2028\u200b\udc80\r\n\tü€😀"
    )
    assert shown("two\nlines\t\x1b", "\n\t") == "two\nlines\t\\x1b"
    assert str(WssctlError(f"one\n{ESC}")) == r"one\n\x1b]0;owned\x07\x1b[2J", "whoever shows an error"
    assert len(brief(b"\x1b" * 10_000)) < 2000


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc/passwd", "../x", "a\0"])
def test_a_name_that_leads_elsewhere(name):
    with pytest.raises(BoardError, match="which is no name here"):
        component(name, windows=False)


@pytest.mark.parametrize("name", ["..\\x", "C:x", "a\\b", "con", "NUL.txt", "lpt1", "a.", "a ", "x:stream", "a\x1fb"])
def test_a_name_that_leads_elsewhere_on_windows(name):
    assert component(name, windows=False) == name
    with pytest.raises(BoardError, match="which is no name here"):
        component(name, windows=True)


# A board whose os module lies

LIE = """\
import sys, os as real, builtins
class Lie:
    def __getattr__(self, n):
        return getattr(real, n)
    def ilistdir(self, p='.'):
        MODE
    def stat(self, p):
        return (0x8000,0,0,0,0,0,5,0,0,0) if 'evil' in p else real.stat(p)
sys.modules['os'] = Lie()
_open = builtins.open  # the firmware's own, whatever has been put in its place
builtins.open = lambda n, *a: _open('/payload', *a) if 'evil' in n else _open(n, *a)
"""


@pytest.fixture(scope="module")
def desk(keys, tmp_path_factory):
    folder = tmp_path_factory.mktemp("desk")
    shutil.copytree(keys.board, folder / "board")
    (folder / "board" / "payload").write_text("owned")
    (folder / "board" / "dir").mkdir()
    with Desk(keys, Unix("unix32"), folder / "board") as running:
        yield running


@pytest.fixture
def lie(desk, tmp_path):
    """lie(code) makes it the body of the board's os.ilistdir(); lie.run(words) runs wssctl in a folder of its own."""
    here = tmp_path / "here" / "sub"
    here.mkdir(parents=True)

    def on_board(code):
        host = desk.keys.host
        with Client.connect(desk.url, Credentials(host.ca, host.cert, host.key, host.passphrase), PASSWORD) as board:
            assert not board.exec(code).error

    def make(mode):
        on_board(LIE.replace("MODE", mode))

    make.here = here
    make.run = lambda *words, **more: desk.wssctl(*words, cwd=here, **more)
    yield make
    on_board("import sys, builtins\nsys.modules.pop('os',None)\nbuiltins.open = builtins.open")


@pytest.mark.parametrize(
    "words", [("ls",), ("ls", "-l"), ("tree",), ("du", "*"), ("sha256sum", "*"), ("get", "*"), ("ls", "*"), ("mv", "*")]
)
def test_escape_sequences_in_a_name(lie, words):
    lie(rf"return iter([('{ESC}evil\u202e', 0x8000, 0, 3)])".replace("\x1b", r"\x1b").replace("\x07", r"\x07"))
    done = lie.run("shell", *words)
    assert "\x1b" not in done.stdout + done.stderr and "\u202e" not in done.stdout + done.stderr, done
    assert words == ("mv", "*") or r"\x1b]0;owned\x07\x1b[2Jevil\u202e" in done.stdout, done


@pytest.mark.parametrize("words", [("ls",), ("tree",), ("get", "*"), ("rm", "*")])
def test_escape_sequences_in_an_error(lie, words):
    lie(r"raise Exception('\x1b]0;owned\x07\x1b[2J\nwssctl: the disk is fine')")
    done = lie.run("shell", *words)
    assert done.returncode == 1 and "\x1b" not in done.stderr and done.stderr.count("\n") == 1, done


@pytest.mark.parametrize(
    "mode",
    [
        r"print('('*3000); return iter([])",
        r"sys.stdout.write('\xff\xfe\n'); return iter([])",
        r"print('<'+':'*100+'>'); return iter([('a', 0x8000, 0, 3)])",
        r"print(repr(('fake', False, 1, 0))); return iter([('a', 0x8000, 0, 3)])",
    ],
)
def test_what_is_no_answer_is_not_taken_for_one(lie, mode):
    lie(mode)
    done = lie.run("shell", "ls")
    assert (done.returncode, done.stderr) == (0, "") and done.stdout in ("", "a\n"), done


@pytest.mark.parametrize(
    "row", ["('a', 'x', 0, 3)", "('a', 0x8000, 0, 'x y')", "('a', 0x8000, 0, -1)", "()", "None", "5"]
)
def test_what_is_no_list_is_a_sentence(lie, row):
    lie(f"return iter([{row}])")
    done = lie.run("shell", "ls")
    assert done.returncode == 1 and done.stderr.startswith("wssctl: ") and done.stderr.count("\n") == 1, done


def test_a_star_names_no_hidden_file(lie, desk):
    (lie.here / ".bashrc").write_text("mine")
    lie("return iter([('.bashrc', 0x8000, 0, 5), ('plain', 0x8000, 0, 5)])")
    (desk.directory / "plain").write_text("plain")
    (desk.directory / ".bashrc").write_text("the board's")
    assert lie.run("shell", "get *").stdout == "plain -> plain\n"
    assert (lie.here / ".bashrc").read_text() == "mine"
    assert lie.run("shell", "get .b*").returncode == 0, "who names it gets it"
    assert (lie.here / ".bashrc").read_text() == "the board's"


@pytest.mark.parametrize("leads", ["%s/evil", "../evil", "../../evil", "dir/../../evil", "..", "evil\\0x"])
@pytest.mark.parametrize("tool", ["shell", "mpremote"])
def test_a_name_leads_out_of_the_folder(lie, tool, leads):
    name = leads.replace("%s", str(lie.here.parent))
    lie(f"return iter([('{name}', 0x8000, 0, 5)])")
    words = ["get *"] if tool == "shell" else ["resume", "fs", "cp", "-r", ":dir", "."]
    done = lie.run(tool, *words)
    assert done.returncode == 1 and "which is no name here" in done.stderr + done.stdout, done
    assert "Traceback" not in done.stderr and (done.stdout + done.stderr).count("which is no name") == 1, done
    assert not [p for p in lie.here.parent.rglob("*") if p.is_file()]


@pytest.mark.parametrize("words", [("cp", "-r", ":", "."), ("cp", "-r", ":dir", ".")])
def test_a_copy_of_a_folder_hits_no_hidden_file(lie, words):
    (lie.here / ".bashrc").write_text("mine")
    lie("return iter([('.bashrc', 0x8000, 0, 5), ('.evilrc', 0x8000, 0, 5), ('fine-evil', 0x8000, 0, 5)])")
    done = lie.run("mpremote", "resume", "fs", *words)
    assert done.returncode == 0 and "hidden files are left out" in done.stderr, done
    assert (lie.here / ".bashrc").read_text() == "mine"
    assert sorted(p.name for p in lie.here.rglob("*") if p.is_file() and p.name != ".bashrc") == ["fine-evil"]


def test_a_mount_shows_no_hidden_file(lie):
    (lie.here / ".env").write_text("secret")
    (lie.here / ".git").mkdir()
    (lie.here / ".git" / "config").write_text("secret")
    (lie.here / "data").write_text("shown")
    for code in (
        "open('/remote/.env').read()", "open('/remote/.env', 'w')", "open('/remote/.git/config')", "os.remove('.env')",
        "os.rename('.env', 'x')", "os.rename('data', '.git/hook')", "os.mkdir('.new')", "open('data/../.env')",
        "os.rmdir('.git')", "open('/remote/.new', 'w')",
    ):  # fmt: skip
        done = lie.run("mpremote", "resume", "mount", ".", "exec", f"import os\nprint({code})")
        assert done.returncode == 1 and "secret" not in done.stdout, (code, done)
    assert lie.run("mpremote", "resume", "mount", ".", "exec", "print(open('data').read())").stdout.endswith("shown\n")
    assert {p.name for p in lie.here.iterdir()} == {".env", ".git", "data"}
    assert (lie.here / ".env").read_text() == (lie.here / ".git" / "config").read_text() == "secret"


def test_a_name_that_is_a_link_out_of_the_folder_here(lie, desk):
    outside = lie.here.parent / "outside"
    outside.write_text("mine")
    (lie.here / "evil").symlink_to(outside)
    lie("return iter([('evil', 0x8000, 0, 5)])")
    done = lie.run("shell", "get *")
    assert done.returncode == 7 and "is a link out of" in done.stderr, done
    (lie.here / "dir").mkdir()
    (lie.here / "dir" / "evil").symlink_to(outside)
    done = lie.run("mpremote", "resume", "fs", "cp", "-r", ":dir", ".")
    assert done.returncode == 1 and "link" in done.stderr + done.stdout, done
    assert outside.read_text() == "mine"


@pytest.mark.parametrize("name", ["/remote/../../secret", "../../secret", "/remote/link", "%s/secret", "folder/secret"])
def test_a_mount_shows_its_folder_alone(lie, name):
    (lie.here.parent / "secret").write_text("top secret")
    (lie.here.parent.parent / "secret").write_text("top secret")
    (lie.here / "link").symlink_to(lie.here.parent / "secret")
    (lie.here / "folder").symlink_to(lie.here.parent)
    path = name.replace("%s", str(lie.here.parent))
    for code in (f"print(open('{path}').read())", f"open('{path}', 'w').write('x')", f"import os; os.remove('{path}')"):
        done = lie.run("mpremote", "resume", "mount", ".", "exec", code)
        assert done.returncode == 1 and "secret\n" not in done.stdout, done
    assert (lie.here.parent / "secret").read_text() == "top secret"


def test_what_mpremote_says_of_a_board(lie):
    lie(r"return iter([('\x1b]0;owned\x07evil', 0x8000, 0, 5)])")
    for words in (("ls",), ("tree",), ("cp", "-r", ":dir", "."), ("rm", "-r", ":dir")):
        done = lie.run("mpremote", "resume", "fs", *words)
        assert "\x1b" not in done.stdout + done.stderr, (words, done)
    lie(r"raise Exception('\x1b]0;owned\x07')")
    done = lie.run("mpremote", "resume", "fs", "ls")
    assert "\x1b" not in done.stdout + done.stderr and r"\x1b]0;owned\x07" in done.stdout + done.stderr, done
    done = lie.run("mpremote", "resume", "exec", r"print('\x1b[1mbold')")
    assert done.stdout == "\x1b[1mbold\n", "the output of one's own code is one's own"


@pytest.mark.parametrize("kind", ["CERTIFICATE", "X509 CERTIFICATE", "TRUSTED CERTIFICATE"])
def test_a_revocation_list_brings_no_root_ca(keys, tmp_path, kind):
    """It is handed on from host to host, and OpenSSL trusts in whatever certificate is in such a file."""
    other = ca.Authority.create("ROOT CA")
    made = other.device(UID, names=["board"], addresses=["127.0.0.1"])
    key = serialization.load_der_private_key(made.key_der, None)
    none = serialization.NoEncryption()
    (tmp_path / "key").write_bytes(key.private_bytes(ca.PEM, serialization.PrivateFormat.PKCS8, none))
    (tmp_path / "cert").write_bytes(made.cert_pem)
    shutil.copy(keys.ca_file, tmp_path / "ROOT_CA_cert.pem")
    theirs = other.crl([]) + other.cert_pem.replace(b"CERTIFICATE", kind.encode())
    (tmp_path / "ROOT_CA_crl.pem").write_bytes(keys.ca.crl([]) + theirs)
    credentials = Credentials(tmp_path / "ROOT_CA_cert.pem", keys.host.cert, keys.host.key, keys.host.passphrase)
    asked = []
    with Server(keys, login, Identity(keys.ca_file, tmp_path / "cert", tmp_path / "key")) as server:
        with pytest.raises(KeyFileError, match="has a certificate in it"):
            Client.connect(server.url, credentials, lambda: asked.append(1) or PASSWORD, timeout=30)
    assert not asked


def test_histories_are_private_whatever_the_umask(desk, tmp_path):
    from desk import Terminal

    keys = tmp_path / "keys"
    shutil.copytree(desk.keys.directory, keys, ignore=shutil.ignore_patterns("board"))
    (keys / "shell_history").write_text("+old\n")
    (keys / "shell_history").chmod(0o644)
    for _ in range(2):
        env = desk.env | {"WSSCTL_KEYS": str(keys), "PROMPT_TOOLKIT_NO_CPR": "1"}
        with Terminal("sh", "-c", f"umask 0; exec {' '.join(WSSCTL)} shell {desk.url}", env=env) as t:
            t.until(r"127.0.0.1:/\$")
            t.type("exit\r")
            assert t.wait() == 0
        assert (keys / "shell_history").stat().st_mode & 0o777 == 0o600
        (keys / "shell_history").unlink()


# A server with a board's key


def frame(opcode: int, data: bytes) -> bytes:
    if len(data) < 126:
        return bytes([0x80 | opcode, len(data)]) + data
    if len(data) < 65536:
        return bytes([0x80 | opcode, 126]) + struct.pack(">H", len(data)) + data
    return bytes([0x80 | opcode, 127]) + struct.pack(">Q", len(data)) + data


def text(data: bytes) -> bytes:
    return frame(1, data)


class Server:
    """Speaks TLS with a board's own key and certificate, then does what `behave(stream, upgrade)` does."""

    def __init__(self, keys, behave, identity=None):
        identity = identity or keys.device_as_host
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(identity.cert, identity.key)
        self.behave = behave
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = "wss://127.0.0.1:%d" % self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self.serve, args=(self.listener.accept()[0],), daemon=True).start()

    def serve(self, sock):
        with contextlib.suppress(OSError, ValueError, IndexError), sock:
            stream = self.context.wrap_socket(sock, server_side=True)
            request = b""
            while b"\r\n\r\n" not in request:
                request += stream.recv(4096)
            key = request.lower().partition(b"sec-websocket-key: ")[2].partition(b"\r\n")[0]
            key = request[request.lower().index(key) :][: len(key)]
            accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
            lines = [b"HTTP/1.1 101 x", b"Upgrade: websocket", b"Connection: Upgrade"]
            self.behave(stream, b"\r\n".join([*lines, b"Sec-WebSocket-Accept: " + accept, b"", b""]))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()


def login(stream, upgrade, prompt=b">>> "):
    stream.sendall(upgrade + text(b"Password: "))
    stream.recv(4096)
    stream.sendall(text(b"\r\nWebREPL connected\r\n" + prompt))


def raw(stream, upgrade):
    """Until the client has sent its code, whatever that is."""
    login(stream, upgrade)
    heard(stream, b"\x01")
    stream.sendall(text(b"raw REPL; CTRL-B to exit\r\n>"))
    heard(stream, b"\x05A\x01")
    stream.sendall(text(b"R\x01\xff\x7f\x01"))
    heard(stream, b"\x04")
    stream.sendall(text(b"\x04"))


def heard(stream, wanted):
    """Frames of the client, unmasked, until `wanted` is in them."""
    seen, said = b"", bytearray()
    while wanted not in said:
        data = stream.recv(65536)
        if not data:
            raise ConnectionError  # or this thread would turn for as long as the tests run
        seen += data
        while len(seen) > 6 and len(seen) >= (size := 6 + {126: 2, 127: 8}.get(seen[1] & 127, 0)):
            length = seen[1] & 127
            if length > 125:
                length = int.from_bytes(seen[2 : size - 4], "big")
            if len(seen) < size + length:
                break
            mask, data = seen[size - 4 : size], seen[size : size + length]
            said += bytes(b ^ mask[i % 4] for i, b in enumerate(data))
            seen = seen[size + length :]


def for_ever(stream, data, pause=0.0):
    while True:
        stream.sendall(data)
        time.sleep(pause)


def close_reason(s, up):
    login(s, up)
    s.sendall(frame(8, struct.pack(">H", 1008) + ESC.encode() + b"all fine"))


def http_status(s, up):
    s.sendall(b"HTTP/1.1 503 Busy\r\nContent-Length: 30\r\n\r\n" + (ESC.encode() + b"all fine").ljust(30))


def refusal(s, up):
    s.sendall(up + text(ESC.encode() + b"hidden"))
    s.close()


def access(s, up):
    s.sendall(up + text(b"Password: "))
    s.recv(4096)
    s.sendall(text(ESC.encode() + b"In use by /takeover") + frame(8, b""))


def drip_upgrade(s, up):
    s.sendall(up[:20])
    for_ever(s, b"X-A: b\r\n", 0.1)


def flood_upgrade(s, up):
    s.sendall(up[:16])
    for_ever(s, b"X-A: " + b"b" * 60_000)


def drip_login(s, up):
    s.sendall(up)
    for_ever(s, text(b"."), 0.1)


def flood_login(s, up):
    s.sendall(up)
    for_ever(s, text(b"A" * 65_000))


def drip_prompt(s, up):
    login(s, up, b"")
    for_ever(s, text(b"tick\r\n"), 0.1)


def flood_prompt(s, up):
    login(s, up, b"")
    for_ever(s, text(b"A" * 65_000))


def pings(s, up):
    login(s, up, b"")
    for_ever(s, frame(9, b"x"), 0.01)


def pings_unread(s, up):
    login(s, up, b"")
    for _ in range(120):
        s.sendall(frame(9, b"x" * 125) * 1000)
    s.sendall(text(b"end"))
    for_ever(s, b"", 1)


def files_unasked(s, up):
    login(s, up)
    for_ever(s, frame(2, b"A" * 65_000))


def drip_raw(s, up):
    login(s, up)
    for_ever(s, text(b">>> tick\r\n"), 0.1)


def window_of_none(s, up):
    login(s, up)
    heard(s, b"\x01")
    s.sendall(text(b"raw REPL; CTRL-B to exit\r\n>"))
    heard(s, b"\x05A\x01")
    s.sendall(text(b"R\x01\0\0\x01"))
    for_ever(s, text(b"\x01"), 0.1)


def no_end(s, up):
    raw(s, up)
    for_ever(s, text(b"tick\r\n"), 0.1)


def long_list(s, up):
    raw(s, up)
    for_ever(s, text(b"<:0 1 - 61:>" * 4000))


def traceback(s, up):
    raw(s, up)
    s.sendall(text(b"\x04Traceback (most recent call last):\r\n" + ESC.encode() + b"\r\n"))
    s.sendall(text(b"OSError: " + b"9" * 5000 + b"\r\n"))
    s.sendall(text(b"\x04>\r\n>>> "))
    for_ever(s, text(b">>> "), 0.1)


def deaf(s, up):
    """Takes nothing any more, and says that it lives."""
    login(s, up)
    s.recv(2000)
    s.sendall(frame(2, b"WB\0\0"))
    for_ever(s, text(b"."), 0.1)


def get_drip(s, up):
    login(s, up)
    heard(s, b"WA\x02")
    s.sendall(frame(2, b"WB\0\0"))
    for_ever(s, frame(2, b"\x01\0x"), 0.1)


def get_flood(s, up):
    login(s, up)
    heard(s, b"WA\x02")
    s.sendall(frame(2, b"WB\0\0"))
    for_ever(s, frame(2, struct.pack("<H", 60_000) + b"A" * 60_000))


CODE, LS, GET = ("exec", "print(1)"), ("shell", "ls"), ("get", "evil", "-")


CASES = [
    (close_reason, CODE, 6, r"closed the connection: \x1b]0;owned\x07\x1b[2Jall fine"),
    (http_status, CODE, 5, r"\x1b]0;owned\x07\x1b[2Jall fine"),
    (refusal, CODE, 5, r"refuses the login: \x1b]0;owned\x07\x1b[2Jhidden"),
    (access, CODE, 5, r"\x1b]0;owned\x07"),
    (traceback, CODE, 1, r"\x1b]0;owned\x07"),
    (traceback, LS, 1, "cannot list"),
    (drip_upgrade, CODE, 3, "does not answer"),
    (flood_upgrade, CODE, 6, "does not answer as a WebSocket"),
    (drip_login, CODE, 5, "refuses the login"),
    (flood_login, CODE, 5, "refuses the login"),
    (drip_prompt, CODE, 6, "prints meanwhile (tick)"),
    (flood_prompt, CODE, 6, "prints meanwhile (AAA"),
    (pings, CODE, 6, "is silent"),
    (files_unasked, CODE, 6, "files that nobody asked for"),
    (files_unasked, LS, 6, "files that nobody asked for"),
    (drip_raw, CODE, 6, "does not enter the raw REPL in time and prints meanwhile (>>> tick)"),
    (window_of_none, CODE, 6, "has a window of 0 bytes"),
    (no_end, LS, 6, "prints meanwhile (tick)"),
    (long_list, LS, 6, "does not end the code"),
    (deaf, ("put", "large"), 6, "does not take what is sent"),
    (get_drip, GET, 6, "does not go on with 'evil'"),
    (get_flood, GET, 1, "more than 268435456 bytes"),
    (get_flood, ("shell", "cat evil"), 1, "more than"),
]


@pytest.fixture(scope="module")
def results(keys, tmp_path_factory):
    """What wssctl says of each, (exit code, output). They mostly wait, so all wait at once."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "large").write_bytes(bytes(30_000_000))
    env = os.environ | {
        "WSSCTL_KEYS": str(keys.directory), "WSSCTL_PASSPHRASE": keys.passphrase, "WSSCTL_PASSWORD": PASSWORD,
    }  # fmt: skip

    def run(case):
        behave, words, _, _ = case
        with Server(keys, behave) as server:
            return subprocess.run(
                [*WSSCTL, words[0], "--timeout", "1.5", server.url, *words[1:]],
                env=env, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=180,
                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY)),
            )  # fmt: skip

    with ThreadPoolExecutor(6) as pool:
        return dict(zip(range(len(CASES)), pool.map(run, CASES), strict=True))


@pytest.mark.parametrize("number", range(len(CASES)), ids=[f"{c[0].__name__}-{c[1][0]}" for c in CASES])
def test_every_wait_ends_and_memory_is_bounded(results, number):
    """--timeout is a total, whatever comes; the words are shown as text; memory has a limit (RLIMIT_DATA) under which
    a flood cannot be kept."""
    behave, words, code, says = CASES[number]
    done = results[number]
    seen = (done.stdout + done.stderr).decode()
    assert done.returncode == code and says in seen, seen[-3000:]
    assert "\x1b" not in seen and "\x07" not in seen and "Python" not in seen
    assert (words == CODE and behave is traceback) or done.stderr.count(b"\n") == 1


# Another board where one is expected, and clocks


@pytest.mark.parametrize("names", [["garden"], ["127-0-0-1"]])
def test_a_board_known_by_name_is_checked_by_it_on_a_host_without_its_certificate(keys, desk, tmp_path, names):
    """Another board of the same CA came to have the address, with a certificate for it."""
    folder = tmp_path / "keys"
    folder.mkdir()
    for name in ("ROOT_CA_cert.pem", "HOST_cert@726f6f74.pem", "HOST_key@726f6f74.pem"):
        shutil.copy(keys.directory / name, folder)
    other = keys.ca.device("240ac4ffffff", names=names, addresses=["127.0.0.1"])
    key = serialization.load_der_private_key(other.key_der, None)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "key.pem").write_bytes(pem)
    (tmp_path / "cert.pem").write_bytes(other.cert_pem)
    asked = []

    def behave(stream, upgrade):
        asked.append(upgrade)
        login(stream, upgrade)

    impostor = Identity(keys.ca_file, tmp_path / "cert.pem", tmp_path / "key.pem")
    env = {"WSSCTL_KEYS": str(folder)}
    with Server(keys, behave, impostor) as server:
        address = server.url.removeprefix("wss://")
        assert desk.run(*WSSCTL, "boards", "add", "kitchen", address, env=env).returncode == 0
        done = desk.run(*WSSCTL, "exec", "kitchen", "print(1)", env=env)
        assert done.returncode == 4 and "not for kitchen: it may be another board" in done.stderr, done
        assert not asked, "it was told the password"
    assert desk.run(*WSSCTL, "boards", "add", "kitchen", f"127.0.0.1:{desk.port}", env=env).returncode == 0
    assert desk.run(*WSSCTL, "exec", "kitchen", "print(6*7)", env=env).stdout == "42\n"


def test_a_board_whose_clock_is_ahead_is_told_as_that(keys, tmp_path):
    shutil.copytree(keys.board, tmp_path / "board")
    with Desk(keys, Unix("unix"), tmp_path / "board", env={"BOARD_CLOCK": str(6 * 365 * 86400)}) as desk:
        done = desk.wssctl("exec", "print(1)")
        assert done.returncode == 4 and "the board's clock is ahead" in done.stderr, done
        assert "wssctl setup PORT" in done.stderr and "host init" not in done.stderr
        assert f"{datetime.now(UTC):%Y-%m-%d}" in done.stderr


def test_dates_are_compared_on_both_sides(keys):
    """What a board's alert says of our certificate, beside its dates and this computer's clock."""

    def why(alert, host):
        return _why_out_of_date(alert, Credentials(host.ca, host.cert, host.key)) or ""

    assert "the board's clock is behind" in why("CERTIFICATE_UNKNOWN", keys.host)
    assert "the board's clock is ahead" in why("CERTIFICATE_EXPIRED", keys.host)
    assert why("CERTIFICATE_EXPIRED", keys.expired) == "", "that it has expired is true"
    assert "check that" in why("CERTIFICATE_UNKNOWN", keys.early), "it is this computer's clock"
    assert why("UNKNOWN_CA", keys.host) == ""


def test_a_board_with_too_little_heap_for_a_mount_is_told_before_anything_is_sent(keys, tmp_path):
    shutil.copytree(keys.board, tmp_path / "board")
    fill = "import gc\nballast = []\nwhile gc.mem_free() > 36000:\n ballast.append(bytearray(500))\n"
    (tmp_path / "board" / "main.py").write_text(fill)
    with Desk(keys, Unix("unix32"), tmp_path / "board") as desk:
        done = desk.wssctl("mpremote", "resume", "mount", ".", "exec", "print(1)")
        assert done.returncode == 1 and "too little memory to mount a folder" in done.stderr, done
        assert done.stderr.count("\n") == 1
        done = desk.wssctl("exec", "print('RemoteFS' in globals())")
        assert done.stdout == "False\n", "and it is still there"


def test_pongs_for_who_does_not_read_do_not_pile_up(keys):
    host = keys.host
    with Server(keys, pings_unread) as server:
        credentials = Credentials(host.ca, host.cert, host.key, host.passphrase)
        link = WebSocketLink.open(parse_target(server.url), credentials, timeout=60)
        link.send_text(b"secret\r")
        while not link.text.endswith(b"end"):
            assert link.wait(60)
        assert link.backlog < 4 << 20
        link._sock.close()


def test_once_more_from_another_port_without_a_server_hello(keys, tmp_path, desk):
    """A board whose TCP stack still knows the last connection from this port takes the new one and never answers."""
    ports = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def forward():
            first, (_, port) = listener.accept()  # which is never read
            second, (_, other) = listener.accept()
            ports.extend([port, other])
            with first, second, socket.create_connection(("127.0.0.1", desk.port)) as board:
                ends = {second: board, board: second}
                while ends:
                    for end in select.select(list(ends), [], [])[0]:
                        with contextlib.suppress(OSError):
                            if data := end.recv(65536):
                                ends[end].sendall(data)
                                continue
                        return

        threading.Thread(target=forward, daemon=True).start()
        done = desk.run(*WSSCTL, "exec", "wss://127.0.0.1:%d" % listener.getsockname()[1], "print(6*7)")
    assert (done.returncode, done.stdout) == (0, "42\n"), done
    assert len(set(ports)) == 2
