"""wssctl setup, enrol and remove, with real mpremote on a pseudo-terminal, against a factory-fresh board."""

import hashlib
import os
import pty
import re
import select
import shutil
import ssl
import subprocess
import time
from datetime import UTC, datetime

import pytest
import zygote
from board import Board
from peers import PROMPT, Ended, Identity, Peer
from ports import free_port
from targets import UID
from wssctl.boards import modules
from wssctl.boards.registry import Registry
from wssctl.cable import credentials, port, setup, startup
from wssctl.cable.port import Cable
from wssctl.errors import BoardError, ConnectionLost, Unreachable
from wssctl.keys import ca
from wssctl.keys.ca import Authority
from wssctl.keys.store import Store

PASSPHRASE, PASSWORD = "correct horse", "sesame 23"


class Desk:
    """A board on a pty, and a user with nothing but an empty folder."""

    def __init__(self, path, bits):
        self.path, self.bits = path, bits
        self.files, self.keys = path / "board", path / "keys"
        self.files.mkdir()
        self.port = free_port()
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("WSSCTL")} | {"USER": "ana"}
        self.env |= {"WSSCTL_KEYS": str(self.keys)}
        self.secrets = {"WSSCTL_PASSPHRASE": PASSPHRASE, "WSSCTL_PASSWORD": PASSWORD}
        self.board = None

    def start(self, **env):
        self.board = Board(self.files, self.bits, pty=True, env=env)
        return self.board

    def command(self, *words):
        words = [self.board.tty if w == "PORT" else w for w in words]
        if words[0] in ("setup", "enrol"):
            words += ["--wss-port", str(self.port), "--ip", "127.0.0.1", "--name", "room1"]
        return [*zygote.WSSCTL, *words]

    def run(self, *words, status=0, secrets=True, env=None):
        env = self.env | (self.secrets if secrets else {}) | (env or {})
        done = zygote.run(
            self.command(*words), env=env, capture_output=True, text=True, timeout=180, stdin=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    def peer(self, password=PASSWORD):
        host = next(self.keys.glob("HOST_cert@*.pem"))
        key = host.with_name(host.name.replace("cert", "key"))
        return Peer(("127.0.0.1", self.port), Identity(self.keys / "ROOT_CA_cert.pem", host, key, PASSPHRASE)).login(
            password
        )

    def listing(self):
        return {p.relative_to(self.files).as_posix(): p.read_bytes() for p in self.files.rglob("*") if p.is_file()}


@pytest.fixture
def desk(target, tmp_path):
    desk = Desk(tmp_path, target.bits)
    yield desk
    if desk.board:
        desk.board.close()


def answer(command, env, answers, timeout=180):
    """Runs a command on a terminal of its own, typing an answer at each question; (exit status, what was shown)."""
    pid, fd = pty.fork()
    if not pid:
        os.execvpe(command[0], command, env)
    seen, asked, deadline = b"", 0, time.monotonic() + timeout
    while time.monotonic() < deadline:
        if select.select([fd], [], [], 0.5)[0]:
            try:
                data = os.read(fd, 4096)
            except OSError:
                break
            if not data:
                break
            seen += data
            if seen.endswith(b": ") and asked < len(answers) and seen.count(b": ", seen.rfind(b"\n")) == 1:
                time.sleep(0.05)
                os.write(fd, answers[asked].encode() + b"\n")
                asked += 1
    _, status = os.waitpid(pid, 0)
    assert asked == len(answers), seen
    return os.waitstatus_to_exitcode(status), seen.decode()


def test_from_the_box_to_a_wss_prompt_with_two_answers(desk):
    long_ago = int(datetime(2000, 1, 1, tzinfo=UTC).timestamp() - time.time())
    desk.start(BOARD_CLOCK=str(long_ago))
    status, seen = answer(desk.command("setup", "PORT"), desk.env, [PASSPHRASE, PASSWORD])
    assert status == 0, seen
    assert re.findall(r"(\S+[^:\r\n]*): ?\r?$", seen, re.M)[:2] == [
        "Passphrase for your new keys",
        "Password for the board's REPL",
    ]
    assert PASSPHRASE not in seen and PASSWORD not in seen
    assert "Connected over wss" in seen and "it never leaves the board" in seen
    assert not (desk.keys / f"SSL_key{UID}.der").exists()
    peer = desk.peer()
    assert peer.command("print(6*7)") == b"42\r\n"
    year, month, day = peer.value("__import__('time').gmtime()[:3]")
    assert datetime(year, month, day, tzinfo=UTC).date() == datetime.now(UTC).date()
    peer.close()
    # the name is enough from now on
    assert "5\n" in desk.run("exec", "room1", "print(2+3)")
    assert "room1" in desk.run("boards")


def test_again_changes_nothing_and_remove_leaves_the_board_as_it_was(desk):
    (desk.files / "boot.py").write_bytes(b"import sys\nprint('mine', sys.version)  # \xc3\xa4")
    (desk.files / "webrepl_cfg.py").write_text("PASS = 'old'\n")
    before = desk.listing()
    desk.start()
    desk.run("setup", "PORT")
    once = desk.listing()
    assert once["boot.py"].startswith(b"# wssctl setup begin")
    assert once["boot.py"].endswith(b" takes this out again)\n" + before["boot.py"])
    assert "stay" in desk.run("setup", "PORT")
    assert desk.listing() == once
    desk.board.restart()
    desk.board.read_until(b"wss_repl: listening", 60)
    desk.peer().close()
    for words in (["remove", "PORT"], ["setup", "PORT"]):
        assert "right port? Nothing was changed" in desk.run(*words, "--uid", "aabbccddee01", status=1)
    assert desk.listing() == once
    desk.run("remove", "PORT")
    assert desk.listing() == before
    with pytest.raises(ConnectionRefusedError):
        desk.peer()


def test_again_without_options_keeps_the_address_and_the_port_and_a_remembered_password_is_the_new_one(desk):
    desk.start()
    desk.run("setup", "PORT")
    desk.run("boards", "remember", "room1")
    before = desk.listing(), Registry(Store(desk.keys)).load()["room1"]
    command = [*zygote.WSSCTL, "setup", desk.board.tty]
    env = desk.env | desk.secrets | {"WSSCTL_PASSWORD": "another 42"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=180, stdin=subprocess.DEVNULL)
    assert done.returncode == 0 and "as room1" in done.stderr and "Connected over wss" in done.stderr, done.stderr
    after = desk.listing(), Registry(Store(desk.keys)).load()["room1"]
    assert [n for n in after[0] if after[0][n] != before[0][n]] == ["webrepl_cfg.py"]
    assert after[1]._replace(last_seen="") == before[1]._replace(last_seen="")
    assert desk.run("exec", "room1", "print(6*7)", env={"WSSCTL_PASSWORD": ""}).strip() == "42"


@pytest.mark.parametrize(
    "lines",
    ["raise OSError('Wifi Internal State Error')\n", "import time\nwhile True:\n    time.sleep_ms(10)\n"],
    ids=["raise", "wait for ever"],
)
def test_the_server_starts_whatever_the_other_lines_of_boot_py_do(desk, lines):
    (desk.files / "boot.py").write_text(lines)
    desk.start()
    desk.run("setup", "PORT")
    desk.board.restart()
    desk.board.read_until(b"wss_repl: listening", 60)
    desk.peer().close()
    desk.run("remove", "PORT")
    assert desk.listing() == {"boot.py": lines.encode()}


# Imported by start(): the first two times it goes on for ever
_HALF = """\
PASS = %r
with open('/times', 'a') as f: f.write('x')
with open('/times') as f: n = len(f.read())
print('half way', n)
while n < 3: pass
"""


def test_a_ctrl_c_in_the_start_leaves_a_prompt_and_the_server(desk):
    (desk.files / "boot.py").write_text("print('mine')\n")
    desk.start()
    desk.run("setup", "PORT")
    (desk.files / "webrepl_cfg.py").write_text(_HALF % PASSWORD)
    desk.board.restart()
    for n in (b"1", b"2"):
        desk.board.read_until(b"half way " + n, 60)
        desk.board.write(b"\x03")
    said = desk.board.read_until(b">>> ", 60)
    assert b"half way 3" in said and b"wss_repl: listening" in said and b"KeyboardInterrupt" in said
    assert b"mine" not in said.replace(b"\r", b"").split(b"\n")
    desk.peer().close()


NETWORK = """
import os
STA_IF, AP_IF = 0, 1
name = 'mpy-esp32'
def said(*words):
 with open('said', 'a') as f: print(*words, file=f)
class WLAN:
 def __init__(self, i): pass
 def active(self, *on): return True
 def ifconfig(self): return ('127.0.0.1',)
 def connect(self, *a): said('connect as', name)
"""
HOSTNAME = "def hostname(*n):\n global name\n if n:\n  name = n[0]\n return name\n"
JOIN = "network.WLAN(network.STA_IF).connect('ssid', 'key')\n"


@pytest.mark.parametrize(
    ("module", "boot", "called"),
    [
        (NETWORK + HOSTNAME, "import network\n" + JOIN, "room1"),
        (NETWORK + HOSTNAME, "import network\nnetwork.hostname('mine')\n" + JOIN, "mine"),
        (NETWORK, "import network\n" + JOIN, "mpy-esp32"),  # MicroPython before 1.20
    ],
    ids=["ours", "the user's", "none"],
)
def test_the_board_has_its_name_before_it_joins_the_network(desk, module, boot, called):
    """As room1.local is found; with a network module that stands in for one."""
    (desk.files / "network.py").write_text(module)
    (desk.files / "boot.py").write_text(boot)
    desk.start()
    desk.run("setup", "PORT")
    (desk.files / "said").unlink()
    desk.board.restart()
    desk.board.read_until(b"wss_repl: listening", 60)
    desk.board.read_until(PROMPT, 60)
    assert (desk.files / "said").read_text() == f"connect as {called}\n"


def test_a_name_that_a_network_does_not_take_is_told(capsys):
    assert "hostname('room1')" in startup._hostname("room1.example.org") and not capsys.readouterr().err
    assert startup._hostname("r" * 33) == "" and "will not be found" in capsys.readouterr().err


def test_lines_of_ours_behind_those_of_the_user_move_to_the_front(desk):
    ours = "# wssctl setup begin\nraise ValueError\n# wssctl setup end (...)\n"
    (desk.files / "boot.py").write_text(f"x = 1\n{ours}y = x\n")
    desk.start()
    desk.run("setup", "PORT")
    boot = (desk.files / "boot.py").read_text()
    assert boot.startswith("# wssctl setup begin") and boot.endswith("again)\nx = 1\ny = x\n")
    assert "raise ValueError" not in boot
    desk.board.restart()
    desk.board.read_until(PROMPT, 60)
    desk.board.write(b"print(y, bool(wss_repl.status()['listening']))\r")
    desk.board.read_until(b"1 True", 60)


def test_what_a_board_claims_is_shown_and_signed_only_when_asked(desk):
    """A board with a certificate for another's address could pass as that one."""
    (desk.files / "network.py").write_text(
        "STA_IF, AP_IF = 0, 1\nclass WLAN:\n def __init__(self, i): self.i = i\n def active(self): return True\n"
        " def ifconfig(self): return ('10.9.9.9' if self.i else '\x1b[2J',)\n"
    )
    desk.start()
    said = desk.run("setup", "PORT")
    assert "also has 10.9.9.9; --all-addresses" in said and "\x1b" not in said and r"\x1b[2J, which is none" in said
    signed = lambda: ca.report((desk.keys / f"SSL_certificate{UID}.pem").read_bytes(), "device").names  # noqa: E731
    assert "127.0.0.1" in signed() and "10.9.9.9" not in signed()
    desk.run("setup", "PORT", "--all-addresses")
    assert "127.0.0.1" in signed() and "10.9.9.9" in signed()


def test_in_no_network_says_what_to_do(desk):
    desk.start()
    command = [*zygote.WSSCTL, "setup", desk.board.tty, "--wss-port", str(desk.port)]
    env = desk.env | desk.secrets
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=180, stdin=subprocess.DEVNULL)
    assert done.returncode == 3 and "in no network" in done.stderr and "--ip ADDRESS" in done.stderr


def test_remove_deletes_what_was_not_there_before_and_twice_is_fine(desk):
    desk.start()
    desk.run("setup", "PORT")
    desk.run("remove", "PORT")
    assert desk.listing() == {}
    assert "no block" in desk.run("remove", "PORT")


def test_the_bundle_is_installed_where_it_is_not_frozen_in(desk):
    (desk.files / "boot.py").write_text("import sys\nsys.path.remove('.frozen')\n")
    before = desk.listing()
    desk.start()
    assert "Installing wss_repl" in desk.run("setup", "PORT")
    assert modules_on(desk) == modules.compiled()
    desk.peer().close()
    assert "Installing" not in desk.run("setup", "PORT")
    (desk.files / "lib/wss/login.py").write_text("broken(")  # imported before the .mpy
    assert "Installing wss_repl" in desk.run("setup", "PORT")
    (desk.files / "lib/wss/login.mpy").write_bytes(b"broken")
    # what `wssctl update` left in front of it gives way
    (desk.files / "wss_a/wss").mkdir(parents=True)
    for name in ("wss_repl.py", "wss_update.mpy", "wss_state1", "wss_a/wss_repl.mpy", "wss_a/wss/port.mpy"):
        (desk.files / name).write_text("")
    assert "Installing wss_repl" in desk.run("setup", "PORT")
    assert modules_on(desk) == modules.compiled() and not list(desk.files.glob("wss_[arsu]*"))
    desk.peer().close()
    desk.run("remove", "PORT")
    assert desk.listing() == before


def modules_on(desk):
    lib = desk.files / "lib"
    return {p.relative_to(lib).as_posix(): p.read_bytes() for p in lib.rglob("*") if p.is_file()}


RELAY = "open('/ran', 'w').close()\nimport ws_client\n_default_url = 'wss://relay.example/relay'\ndef start(): pass\n"


@pytest.mark.parametrize("where", ["lib/wss_repl.py", "wss_repl.py", "lib/wss_repl.mpy", "wss_repl/__init__.py"])
def test_a_foreign_wss_repl_is_told_before_anything_is_changed(desk, where):
    path = desk.files / where
    path.parent.mkdir(exist_ok=True)
    path.write_text(RELAY)
    before = desk.listing()
    desk.start()
    name = "/wss_repl" if "init" in where else "/" + where
    for command in ("setup", "enrol"):
        said = desk.run(command, "PORT", status=1)
        assert f"On the board {name} is another program of that name" in said and "Nothing was changed" in said
        assert said.count("\n") == 1
    assert desk.listing() == before and not desk.keys.exists(), "and it has not run"
    path.unlink()
    shutil.rmtree(desk.files / "wss_repl", ignore_errors=True)
    desk.run("setup", "PORT")
    assert b"wss_repl.start(ssl=True" in desk.listing()["boot.py"]


def test_a_foreign_wss_repl_that_came_meanwhile_is_told_at_the_login(desk):
    (desk.files / "lib").mkdir()
    (desk.files / "boot.py").write_text(f"with open('/lib/wss_repl.py', 'w') as f: f.write({RELAY!r})\n")
    desk.start().read_until(b">>> ", 60)
    (desk.files / "lib/wss_repl.py").unlink()
    said = desk.run("setup", "PORT", status=1)
    assert "/lib/wss_repl.py is another program" in said and "then reset the board" in said
    # the others that look: a status says so and interrupts nothing, an update changes nothing
    said = desk.run("status", "room1")
    assert "lib/wss_repl.py is another program" in said
    assert re.search("^foreign wss_repl +/lib/wss_repl.py$", said, re.M)
    before = desk.listing()
    said = desk.run("update", "room1", "--force", "--overlay", status=1)
    assert "On the board /lib/wss_repl.py is another program" in said and said.count("\n") == 1
    assert {n: d for n, d in desk.listing().items() if "time" not in n} == {
        n: d for n, d in before.items() if "time" not in n
    }


def test_without_a_fitting_mpy_cross_sources_are_installed(desk, tmp_path):
    (desk.files / "boot.py").write_text("import sys\nsys.path.remove('.frozen')\n")
    before = desk.listing()
    desk.start()
    old = tmp_path / "mpy-cross"
    old.write_text("#!/bin/sh\nfor last; do :; done\nprintf 'M\\005' > \"${last%.py}.mpy\"\n")
    old.chmod(0o755)
    said = desk.run("setup", "PORT", env={"MPY_CROSS": str(old)})
    assert "NOTE: the modules go as sources (mpy-cross makes version 5 and the board reads 6)" in said
    assert modules_on(desk) == modules.sources()
    desk.peer().close()
    assert "NOTE: the modules go as sources (mpy-cross does not run" in desk.run(
        "setup", "PORT", env={"MPY_CROSS": "/no/such"}
    )
    assert "Installing wss_repl" in desk.run("setup", "PORT")  # with the one that fits
    assert modules_on(desk) == modules.compiled()
    desk.peer().close()
    desk.run("remove", "PORT")
    assert desk.listing() == before


def test_keys_made_here_when_asked_for(desk):
    desk.start()
    desk.run("setup", "PORT", "--host-made")
    assert (desk.keys / f"SSL_key{UID}.der").read_bytes() == (desk.files / f"SSL_key{UID}.der").read_bytes()
    desk.peer().close()
    old = desk.listing()
    desk.run("setup", "PORT", "--new-keys")  # on the board, now
    assert not (desk.keys / f"SSL_key{UID}.der").exists()
    assert old[f"SSL_key{UID}.der"] != (desk.files / f"SSL_key{UID}.der").read_bytes()
    desk.peer().close()


def test_enrol_makes_a_new_key_on_the_board(desk):
    desk.start()
    desk.run("setup", "PORT")
    old = desk.listing()
    desk.run("enrol", "PORT")
    new = desk.listing()
    assert {n for n in new if new[n] != old.get(n)} == {f"SSL_key{UID}.der", f"SSL_certificate{UID}.der"}
    desk.board.restart()
    desk.board.read_until(b"wss_repl: listening", 60)
    desk.peer().close()


def test_who_is_revoked_is_turned_away_by_a_board_that_is_set_up(desk):
    """trust-18: from its first day on, by each command that gives a board a certificate."""
    for words in (("ca", "init"), ("host", "init"), ("host", "init", "--user", "eve"), ("host", "revoke", "eve")):
        desk.run(*words)
    key, cert = Store(desk.keys).host_files(b"eve".hex())
    eve = Identity(desk.keys / "ROOT_CA_cert.pem", cert, key, PASSPHRASE)
    desk.start()
    desk.run("setup", "PORT")
    with pytest.raises((ssl.SSLError, Ended, ConnectionError), match="(?i)access.denied"):
        Peer(("127.0.0.1", desk.port), eve).login(PASSWORD)
    key.unlink()
    cert.unlink()
    desk.peer().close()
    list_ = desk.files / "wss_trust.txt"
    text = list_.read_text()
    assert text.startswith("revoked ") and "HOST eve" in text
    list_.unlink()
    desk.run("enrol", "PORT")
    assert list_.read_text() == text
    list_.write_text("revoked 12 # by somebody else\nend\n")
    request = desk.path / "request.pem"
    desk.run("keys", "csr", "PORT", "--out", str(request))
    desk.run("keys", "sign", str(request), "--ip", "127.0.0.1", "--name", "room1", "--force")
    desk.run("keys", "install", "PORT")
    assert "HOST eve" in list_.read_text() and "revoked 12 " in list_.read_text(), "merged, not replaced"


def test_enrol_on_a_board_without_the_bundle(desk):
    (desk.files / "boot.py").write_text("import sys\nsys.path.remove('.frozen')\n")
    desk.start()
    desk.run("ca", "init", secrets=True)
    desk.run("enrol", "PORT")
    assert (desk.files / f"SSL_key{UID}.der").stat().st_size == 121


# What goes wrong


def test_wrong_passphrase(desk):
    desk.start()
    desk.run("setup", "PORT")
    before = desk.listing()
    text = desk.run("setup", "PORT", "--new-keys", status=7, env={"WSSCTL_PASSPHRASE": "wrong wrong"})
    assert "Wrong passphrase" in text and desk.listing() == before


def test_a_short_passphrase_or_a_password_the_board_cannot_take(desk):
    desk.start()
    assert "too few" in desk.run("setup", "PORT", status=2, env={"WSSCTL_PASSPHRASE": "short"})
    assert "1 to 64 bytes" in desk.run("setup", "PORT", status=2, env={"WSSCTL_PASSWORD": "x" * 65})
    assert not desk.keys.exists() and desk.listing() == {}


@pytest.mark.parametrize(
    "words, says",
    [
        (["--name", "a room"], "not a host name"),
        (["--ip", "127.0.0.999"], "does not appear to be an IPv4"),
        (["--group", "a group"], "no name for a board"),
        (["--wss-port", "99999"], "1 to 65535"),
        (["--wss-port", "0"], "1 to 65535"),
        (["--timeout", "-1"], "more than 0"),
        (["--timeout", "nan"], "more than 0"),
        (["--name", "room2"], "already the name of board"),
    ],
)
def test_what_cannot_be_is_told_before_the_board_is_touched(desk, words, says):
    desk.start()
    desk.run("ca", "init")
    desk.run("boards", "add", "room2", "127.0.0.2", "--uid", "aabbccddee01")
    keys = sorted(desk.keys.iterdir())
    command = [*zygote.WSSCTL, "setup", desk.board.tty, *words]
    env = desk.env | desk.secrets
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=180, stdin=subprocess.DEVNULL)
    assert done.returncode == 2 and says in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
    assert desk.listing() == {} and sorted(desk.keys.iterdir()) == keys


def test_nobody_to_ask(desk):
    desk.start()
    assert "no terminal to ask on" in desk.run("setup", "PORT", status=2, secrets=False)
    assert not desk.keys.exists() and desk.listing() == {}


@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="root can write anywhere")
def test_a_folder_that_cannot_be_written(desk, tmp_path):
    desk.start()
    text = desk.run("setup", "PORT", status=7, env={"WSSCTL_KEYS": "/proc/wssctl"})
    assert "Cannot write" in text and desk.listing() == {}


def test_another_board_than_the_one_meant(desk):
    desk.start()
    assert f"This is board {UID}" in desk.run("setup", "PORT", "--uid", "aabbccddeeff", status=1)
    assert desk.listing() == {} and not desk.keys.exists()


def test_no_board_there(desk, tmp_path):
    desk.start()
    assert "Cannot open /dev/ttyNOT (it is not there)" in desk.run("setup", "/dev/ttyNOT", status=3)
    master, slave = pty.openpty()
    try:
        assert "does not answer as a MicroPython board" in desk.run("setup", os.ttyname(slave), status=3)
    finally:
        os.close(master)
        os.close(slave)
    assert not desk.keys.exists()


def test_a_port_that_is_not_ours_to_open(tmp_path, monkeypatch):
    (tmp_path / "tty").touch()
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may open anything
    with pytest.raises(Unreachable, match="dialout"):
        Cable(str(tmp_path / "tty"))


def test_a_network_only_when_asked_by_name(desk):
    desk.start()
    assert "is a network" in desk.run("setup", "socket://127.0.0.1:2323", status=2)


def test_a_board_of_another_root_ca_is_left_alone(desk, keys):
    shutil.copytree(keys.board, desk.files, dirs_exist_ok=True)
    before = desk.listing()
    desk.start()
    assert "--yes" in desk.run("setup", "PORT", status=2)
    assert desk.listing() == before
    (desk.files / "wss_trust.txt").write_text("pinned " + "12" * 32 + "\nend\n")  # whom that CA's owner pinned
    desk.run("setup", "PORT", "--yes")
    desk.peer().close()
    assert not (desk.files / "wss_trust.txt").exists()


def test_a_damaged_list_is_mended_and_what_can_be_read_of_it_stays(desk):
    desk.start()
    desk.run("setup", "PORT")
    list_ = desk.files / "wss_trust.txt"
    number = "ab" * 32
    for text in ("revoked %s # eve\n", "revoked %s\n\xff\xfe?\nend\n", "nonsense\nrevoked %s\nend\nx"):
        list_.write_bytes((text % number).encode("latin-1"))
        assert "1 entries could be read and stay" in desk.run("setup", "PORT")
        assert list_.read_text().startswith(f"revoked {number} #1") and list_.read_text().endswith("end\n")
        desk.peer().close()


def test_a_full_file_system(desk):
    """A littlefs of 24 KB in RAM: too small for the bundle, and then for its keys too."""
    ram = (
        "import os, vfs\n"
        "class Ram:\n"
        "    def __init__(self, n): self.data = bytearray(n * 512)\n"
        "    def readblocks(self, n, buf, off=0): buf[:] = self.data[n * 512 + off : n * 512 + off + len(buf)]\n"
        "    def writeblocks(self, n, buf, off=0): self.data[n * 512 + off : n * 512 + off + len(buf)] = buf\n"
        "    def ioctl(self, op, arg): return %d if op == 4 else 512 if op == 5 else 0\n"
        "ram = Ram(%d)\nvfs.VfsLfs2.mkfs(ram)\nvfs.umount('/')\nvfs.mount(ram, '/')\nos.chdir('/')\n"
    )
    for blocks, filler in ((16, 0), (64, 26000)):
        if desk.board:
            desk.board.close()
        boot = ram % (blocks, blocks) + f"with open('big', 'w') as f: f.write('x' * {filler})\n"
        (desk.files / "boot.py").write_text(boot)
        desk.start()
        text = desk.run("setup", "PORT", status=1)
        assert "bytes free" in text and "Nothing was changed" in text
        with Cable(desk.board.tty) as board:
            assert board.about()["files"] == ["big"]
            # and where the size was not known before
            with pytest.raises(BoardError, match="file system is full; .* Nothing was changed"):
                board.replace({"one": b"1" * 1000, "two": os.urandom(30_000)})
            assert board.about()["files"] == ["big"]


@pytest.mark.parametrize("after", range(0, 9, 2))
def test_power_lost_in_the_middle_leaves_a_board_that_works(desk, after):
    """New keys, and a loss of power after some of the file operations: the board serves with one pair or the other."""
    desk.start()
    desk.run("setup", "PORT")
    authority = Authority.load(
        (desk.keys / "ROOT_CA_cert.pem").read_bytes(), (desk.keys / "ROOT_CA_key.pem").read_bytes(), PASSPHRASE
    )
    made = authority.device(UID, names=["room1"], addresses=["127.0.0.1"])
    files = credentials.board_files(UID, made.cert_der, authority.cert_pem, made.key_der)
    steps = [("write", n) for n in files] + [("rename", n) for n in files] + [("end", "")]
    with Cable(desk.board.tty) as board:
        for what, name in steps[:after]:
            if what == "write":
                board.stage({name: files[name]})
            elif what == "rename":
                board.commit([name])
    desk.board.restart()
    desk.board.read_until(b"wss_repl: listening", 60)
    peer = desk.peer()
    shown = peer.tls.getpeercert(True)
    assert (shown == made.cert_der) == (after > 3)
    peer.close()
    desk.run("setup", "PORT")
    assert not [n for n in desk.listing() if n.endswith(".new")]
    desk.peer().close()


def test_power_lost_inside_a_rename_on_fat(desk):
    """FAT's rename removes the old file first: a loss of power then leaves the new one under its first name only."""
    desk.start()
    desk.run("setup", "PORT")
    for name in (f"SSL_key{UID}.der", f"SSL_certificate{UID}.der"):
        (desk.files / name).rename(desk.files / f"{name}.new")
    desk.board.restart()
    desk.board.read_until(b"wss_repl: listening", 60)
    desk.peer().close()
    assert not [n for n in desk.listing() if n.endswith(".new")]


def test_what_the_console_still_had_to_say_is_taken_for_no_answer(desk, monkeypatch):
    """After a session over the network its raw REPL is on the console as well, and may come when the port is open."""
    desk.start().read_until(b">>> ")
    left = b"\r\nraw REPL; CTRL-B to exit\r\n>R\x01\x80\x00\x01\x04left\r\n\x04\x04>"
    opened = port.do_connect

    def late(state, args):
        opened(state, args)
        write = state.transport.serial.write

        def after_it(data):
            if data == b"\r\x01":  # when mpremote has thrown away what there was
                os.write(desk.board._pty[0], left * 3)
            return write(data)

        state.transport.serial.write = after_it

    monkeypatch.setattr(port, "do_connect", late)
    with Cable(desk.board.tty) as board:
        assert board.exec("print('one')") == "one\n"
        board.replace({"a": b"x" * 5000})
    assert (desk.files / "a").read_bytes() == b"x" * 5000


def test_unplugged_in_the_middle(desk, monkeypatch):
    """The port goes away while files are sent."""
    monkeypatch.setattr(port, "_SILENT", 3)
    desk.start()
    with Cable(desk.board.tty) as board:
        board.transport.serial.timeout = 1

        def pull(name):
            desk.board.kill()

        with pytest.raises(ConnectionLost, match="is it plugged in"):
            board.replace({"a": b"x" * 5000}, pull)


def test_a_bundle_is_compared_by_one_command_and_sent_by_few(desk):
    """A board may need a second for a command, and its heap holds the source of one."""
    (desk.files / "boot.py").write_text("import sys\nsys.path.remove('.frozen')\n")
    desk.start().read_until(b">>> ", 60)
    with Cable(desk.board.tty) as board:
        about, commands = board.about(), []
        send = board.transport.exec_raw_no_follow
        board.transport.exec_raw_no_follow = lambda command: (commands.append(command), send(command))
        files, old = setup._missing_bundle(board, about)
        assert {f"lib/{n}": data for n, data in modules.compiled().items()} == files and not old
        assert len(commands) == 1
        setup._install(board, files, old, about)
        pieces = sum(-(-len(data) // port._CHUNK) for data in files.values())
        assert len(commands) < pieces + 8
        assert max(map(len, commands)) < 2048
        commands.clear()
        assert setup._missing_bundle(board, about) == ({}, []) and len(commands) == 1
    assert modules_on(desk) == modules.compiled()


def test_what_flash_does_not_hold_as_sent_is_told_and_nothing_is_changed(desk):
    desk.start()
    with Cable(desk.board.tty) as board:

        def wear(name):
            if name == "b":
                (desk.files / "a.new").write_bytes(b"two")

        with pytest.raises(BoardError, match="did not store a as sent.*worn.*Nothing was changed"):
            board.replace({"a": b"one", "b": b"", "c": os.urandom(3 * port._CHUNK)}, wear)
        assert desk.listing() == {}
        files = {"a": b"one", "b": b"", "c": os.urandom(3 * port._CHUNK), "d": os.urandom(port._CHUNK + 1)}
        board.replace(files)
        assert desk.listing() == files
        assert board.differing(files | {"a": b"two", "no": b""}) == ["a", "no"]


# A file system on which each rename of FILES, and each look into one, waits until the file go<n> is there.
GATED = """
import os, time, vfs
class Gated:
    n = 0
    def __init__(self, fs): self.fs = fs
    def __getattr__(self, name): return getattr(self.fs, name)
    def wait(self, name):
        if 'part' in name:
            self.n += 1
            while 'go%d' % self.n not in [e[0] for e in self.fs.ilistdir('/')]:
                time.sleep_ms(5)
    def rename(self, old, new):
        self.wait(new)
        self.fs.rename(old, new)
    def open(self, name, mode):
        if mode == 'rb' and '.new' not in name:
            self.wait(name)
        return self.fs.open(name, mode)
fs = vfs.VfsPosix(os.getenv('BOARD_DIR'))
vfs.umount('/')
vfs.mount(Gated(fs), '/')
os.chdir('/')
"""
FILES = {f"part{i}": b"new %d" % i for i in range(1, 5)}


def opened_by(desk, mark):
    """(what is told, a progress() that takes it): each `mark` in it lets the gated board go on to the next file."""
    (desk.files / "go1").touch()
    told = bytearray()

    def progress(data):
        told.extend(data)
        (desk.files / f"go{told.count(mark) + 1}").touch()

    return told, progress


def test_a_commit_tells_as_it_goes(desk):
    """On slow flash it takes longer than mpremote waits for a board that says nothing: here each file waits until the
    one before has been told of."""
    desk.start()
    told, progress = opened_by(desk, b".")
    with Cable(desk.board.tty) as board:
        board.exec(GATED)
        board.stage(FILES)
        board.commit(list(FILES), progress)
    assert told == b"...."
    left = {n: data for n, data in desk.listing().items() if not n.startswith("go")}
    assert left == FILES


def test_a_comparison_tells_as_it_goes(desk):
    desk.start()
    for name, data in FILES.items():
        (desk.files / name).write_bytes(data)
    told, progress = opened_by(desk, b"\n")
    with Cable(desk.board.tty) as board:
        board.exec(GATED)
        board.exec(port._DIGESTS % "\n".join(FILES), progress)
    assert told.split() == [hashlib.sha256(data).hexdigest().encode() for data in FILES.values()]


@pytest.fixture
def cut_off(desk, monkeypatch):
    """A board that has lost power when two of four files were renamed."""
    monkeypatch.setattr(port, "_SILENT", 3)
    desk.start()
    desk.run("setup", "PORT")
    for name in FILES:
        (desk.files / name).write_bytes(b"old")
    (desk.files / "go1").touch()
    (desk.files / "go2").touch()
    told = []

    def progress(dots):
        told.append(dots)
        if len(told) == 2:
            desk.board.kill()

    with pytest.raises(ConnectionLost), Cable(desk.board.tty) as board:
        board.exec(GATED)
        board.stage(FILES)
        board.transport.serial.timeout = 1
        board.commit(list(FILES), progress)
    assert [(desk.files / n).read_bytes() for n in FILES] == [b"new 1", b"new 2", b"old", b"old"]
    for name in ("go1", "go2"):
        (desk.files / name).unlink()
    desk.board.close()
    return desk


def finished(desk):
    there = desk.listing()
    return {n: there.get(n) for n in FILES} == FILES and not [n for n in there if "new" in n or n == "wss_setup.txt"]


def test_a_commit_that_was_cut_off_is_finished_by_the_board(cut_off):
    cut_off.start()
    cut_off.board.read_until(b"wss_repl: listening", 60)
    assert finished(cut_off)
    cut_off.peer().close()


def test_a_commit_that_was_cut_off_is_finished_by_the_next_setup(cut_off):
    (cut_off.files / "boot.py").write_text("")  # nobody to do it before, as on a board's first setup
    cut_off.start()
    assert "Finished what an earlier command was cut off in" in cut_off.run("setup", "PORT")
    assert finished(cut_off)
    assert "Finished" not in cut_off.run("setup", "PORT")
    cut_off.peer().close()
