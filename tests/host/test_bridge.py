"""A board behind `wssctl bridge`: what mpremote, Thonny's back end and a person with a terminal do to a serial port."""

import contextlib
import hashlib
import os
import re
import select
import signal
import socket
import stat
import subprocess
import sys
import time

import pytest
import serial
from desk import WSSCTL, Desk, far


@pytest.fixture(scope="module")
def desk(keys, tmp_path_factory):
    with Desk.new(keys, tmp_path_factory.mktemp("desk"), "unix32") as running:
        yield running


class Bridge:
    def __init__(self, desk, *options):
        self.process = subprocess.Popen(
            [*WSSCTL, "bridge", desk.url, *options],
            env=desk.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        line = self.process.stdout.readline()
        found = re.search(r" is at (/dev/\S+)(?: and (socket://127.0.0.1:(\d+)))?$", line)
        assert found, (line, self.process.stderr.read() if not line else "")
        self.tty, self.tcp, self.port = found[1], found[2], int(found[3] or 0)

    def end(self, number=signal.SIGINT):
        self.process.send_signal(number)
        return self.process.wait(60)


@pytest.fixture
def bridge(desk):
    _rest.clear()
    running = Bridge(desk, "--tcp")
    yield running
    if running.process.poll() is None:
        running.end()


_rest = {}  # what came behind what a test waited for, by port


def until(port, wanted, timeout=60):
    port.timeout = 0.1
    got, deadline = _rest.pop(id(port), b""), time.monotonic() + timeout
    while wanted not in got:
        assert time.monotonic() < deadline, got
        got += port.read(4096)
    head, _, _rest[id(port)] = got.partition(wanted)
    return head + wanted


def answers(port):
    """Until the board does, through a bridge that has to notice first that whoever had the board is gone."""
    for i in range(60):
        port.write(b"\rprint('an' + 'swer%d')\r" % i)
        with contextlib.suppress(AssertionError):
            return until(port, b"answer%d\r\n>>> " % i, 1)
    raise AssertionError("the board does not answer")


@pytest.mark.parametrize("way", ["tty", "tcp"])
def test_mpremote(desk, bridge, way, tmp_path):
    port = getattr(bridge, way)
    data = os.urandom(50_000)
    (tmp_path / "data").write_bytes(data)
    mpremote = [sys.executable, "-m", "mpremote", "connect", port]
    assert desk.run(*mpremote, "exec", "print(6*7)").stdout.strip() == "42"
    assert desk.run(*mpremote, "fs", "cp", "data", ":data", cwd=tmp_path).returncode == 0
    assert desk.run(*mpremote, "fs", "cp", ":data", "again", cwd=tmp_path).returncode == 0
    assert (tmp_path / "again").read_bytes() == data == (desk.directory / "data").read_bytes()
    assert hashlib.sha256(data).hexdigest() in desk.run(*mpremote, "fs", "sha256sum", "data").stdout
    (tmp_path / "mod.py").write_text("print('mounted')\n")
    assert "mounted" in desk.run(*mpremote, "mount", tmp_path, "exec", "import mod").stdout
    assert desk.run(*mpremote, "soft-reset").returncode == 0
    assert desk.run(*mpremote, "eval", "1+1").stdout.strip() == "2"
    assert bridge.end() == 0


def test_a_person_with_a_terminal(bridge):
    with serial.Serial(bridge.tty, 115200) as port:
        port.write(b"\r")
        until(port, b">>> ")
        port.write(b"kept = 6*7; kept\r")
        until(port, b"42\r\n>>> ")
        port.write(b"\x04")
        until(port, b"soft reboot")
        until(port, b">>> ")
        port.write(b"kept\r")
        until(port, b"NameError")
        port.write(b"exec(\"print('go' + 'es')\\nwhile True: pass\")\r")
        until(port, b"goes\r\n")
        port.write(b"\x03")
        until(port, b"KeyboardInterrupt")
    with serial.Serial(bridge.tty, 115200) as port:  # and again
        port.write(b"\r1+1\r")
        until(port, b"2\r\n>>> ")


def test_what_thonny_sends(bridge):
    """Thonny's serial back end (thonny/plugins/micropython/bare_metal_backend.py): interrupts, raw REPL, code in the
    plain raw mode and in raw paste, a soft reboot from the raw REPL and back to the friendly one."""
    with serial.Serial(bridge.tty, 115200) as port:
        for byte in (b"\r\x02", b"\x03", b"\x03"):
            port.write(byte)
            time.sleep(0.05)
        until(port, b">>> ")
        port.write(b"\x01")
        until(port, b"raw REPL; CTRL-B to exit\r\n>")
        port.write(b"print('raw')\x04")
        until(port, b"OKraw\r\n\x04\x04>")
        port.write(b"\x05A\x01")
        until(port, b"R\x01")
        code = b"print('paste' * 2)\n" + b"# " + b"x" * 1000
        while code:
            port.write(code[:32])
            code = code[32:]
            time.sleep(0.002)
        port.write(b"\x04")
        until(port, b"pastepaste\r\n\x04\x04>")
        port.write(b"\x04")
        until(port, b"soft reboot\r\n")
        until(port, b"raw REPL; CTRL-B to exit\r\n>")
        port.write(b"\x02")
        until(port, b">>> ")


def test_a_second_program_is_told(bridge):
    assert stat.S_IMODE(os.stat(bridge.tty).st_mode) == 0o600
    with socket.create_connection(("127.0.0.1", bridge.port)) as first:
        time.sleep(0.3)
        with socket.create_connection(("127.0.0.1", bridge.port)) as second:
            second.settimeout(30)
            said = b""
            with contextlib.suppress(ConnectionError):
                while piece := second.recv(4096):
                    said += piece
            assert b"another program has the board" in said
        with serial.Serial(bridge.tty, 115200) as third:
            until(third, b"another program has the board")
            third.write(b"print('smuggled')\r")
        first.settimeout(30)
        first.sendall(b"\rprint('mine')\r")
        got = b""
        while b"mine\r\n>>> " not in got:
            got += first.recv(4096)
        assert b"smuggled" not in got
    with serial.Serial(bridge.tty, 115200) as free:
        answers(free)
    if hasattr(os, "geteuid") and not os.geteuid():
        # another user of the machine: the pseudo-terminal does not open, the port says no
        code = (
            f"import socket, os\ns = socket.create_connection(('127.0.0.1', {bridge.port})); s.settimeout(60)\n"
            f"print(s.recv(999))\ntry:\n open({bridge.tty!r}, 'rb')\nexcept PermissionError:\n print('closed')"
        )
        done = subprocess.run(
            ["/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable, "-c", code],
            user=65534,
            capture_output=True,
            text=True,
        )
        if "Permission" not in done.stderr:
            assert "another user" in done.stdout and "closed" in done.stdout, done


def test_taken_over_and_back(desk, bridge):
    """Somebody else takes the board for a while; the bridge has it again afterwards."""
    assert desk.wssctl("exec", "print(1)", "--takeover").returncode == 0
    with serial.Serial(bridge.tty, 115200) as port:
        answers(port)


def test_unplugged_and_back(keys, tmp_path):
    with far(keys, tmp_path) as desk:
        running = Bridge(desk)
        try:
            with serial.Serial(running.tty, 115200) as port:
                port.write(b"x = 5\r")
                until(port, b">>> ")
                desk.cable.unplug()
                start, said = time.monotonic(), ""
                while "Connecting again" not in said:
                    ready, _, _ = select.select([running.process.stderr], [], [], 1)
                    said += running.process.stderr.readline() if ready else ""
                    assert time.monotonic() - start < 60, said
                desk.cable.replug()
                time.sleep(1)
                port.write(b"x\r")
                until(port, b"5\r\n>>> ", 60)
        finally:
            running.end()


def test_tcp_only_when_asked_for(desk):
    """A pseudo-terminal alone: nothing of the bridge listens."""
    running = Bridge(desk)
    try:
        assert running.tcp is None
        listening = [
            line.split()
            for table in ("/proc/net/tcp", "/proc/net/tcp6")
            for line in open(table).readlines()[1:]  # noqa: SIM115
        ]
        inodes = {f"socket:[{columns[9]}]" for columns in listening if columns[3] == "0A"}
        own = f"/proc/{running.process.pid}/fd"
        assert not inodes & {os.readlink(f"{own}/{fd}") for fd in os.listdir(own) if os.path.lexists(f"{own}/{fd}")}
    finally:
        running.end()


WRITES = b"\x03\r\rf=open('owned','w');f.write('x');f.close()\r\r"


def works(bridge, data, family=socket.AF_INET):
    """What comes back to somebody who types `data`, up to the end of the connection or an answer of the REPL, once the
    bridge has noticed that whoever had the board is gone."""
    for _ in range(300):
        said = typed(bridge, data, family)
        if b"another program has the board" not in said:
            break
        time.sleep(0.1)
    return said


def typed(bridge, data, family):
    with socket.socket(family) as s:
        if family == socket.AF_INET6:
            s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        s.connect(("::ffff:127.0.0.1" if family == socket.AF_INET6 else "127.0.0.1", bridge.port))
        s.settimeout(20)
        for piece in data:
            s.sendall(piece)
        said = b""
        with contextlib.suppress(ConnectionError):
            while b"42\r\n" not in said and (more := s.recv(4096)):
                said += more
    return said


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "PUT", "HEAD", "PRI"])
@pytest.mark.parametrize("pieces", [1, 0], ids=["whole", "byte by byte"])
def test_a_browser_is_cut_off(desk, bridge, method, pieces):
    request = f"{method} / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(WRITES)}\r\n\r\n".encode() + WRITES
    said = works(bridge, [request] if pieces else [bytes([b]) for b in request[:8]] + [request[8:]])
    assert b">>>" not in said
    assert b"42\r\n" in works(bridge, [b"\r6*7\r"]), "and the next program is served"
    assert not (desk.directory / "owned").exists()


@pytest.mark.parametrize("first", [b"\x16\x03\x01\x02\0", b"\0\x03\0\x20\x21\x12\xa4\x42"], ids=["TLS", "STUN"])
def test_what_else_a_browser_sends_is_cut_off(desk, bridge, first):
    assert b">>>" not in works(bridge, [first + WRITES])
    assert b"42\r\n" in works(bridge, [b"\r6*7\r"])
    assert not (desk.directory / "owned").exists()


def test_what_only_begins_like_a_browser_goes_on(bridge):
    assert b"42\r\n" in works(bridge, [b"G", b"E", b"=6;GE*7\r"])
    assert b"42\r\n" in works(bridge, [b"\r6*7\r"], socket.AF_INET6), "Java's, .NET's and Go's sockets"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs a second user")
def test_another_user_who_hangs_up_is_nobody(desk, bridge):
    """After close() the table shows root and no inode, which is the user that the bridge belongs to here."""
    for _ in range(5):
        code = f"import socket\ns = socket.create_connection(('127.0.0.1', {bridge.port}))\ns.sendall({WRITES!r})\n"
        subprocess.run(["/usr/bin/env", "python3", "-c", code], user=65534, check=True)
        assert b"42\r\n" in works(bridge, [b"\r6*7\r"])
    assert not (desk.directory / "owned").exists()
