"""The stand-in for a board: does it behave as an ESP32 does, and does its runner?"""

import fcntl
import hashlib
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tools/dev"))

import firmware  # noqa: E402
from board import Board, BoardError  # noqa: E402
from ports import free_port, free_ports  # noqa: E402

PROMPT = b">>> "


@pytest.fixture(params=[64, 32], ids=["64", "32"])
def desk(request, tmp_path):
    """Starts boards; all are ended after the test."""
    boards = []

    def start(bits=request.param, **options):
        board = Board(tmp_path, bits, **options)
        boards.append(board)
        if not options.get("pty"):
            board.read_until(PROMPT)
        return board

    start.path = tmp_path
    yield start
    for board in boards:
        board.close()


def since(minor):
    """Whether the firmware here is MicroPython 1.minor or later: the stand-in follows what ESP32 changed."""
    return firmware.version(firmware.source().path) >= (1, minor)


def run(board, source, timeout=60):
    """Run source in the board's raw REPL; returns what it printed."""
    board.write(b"\r\x03\x01")
    board.read_until(b"raw REPL; CTRL-B to exit\r\n>")
    board.write(source.encode() + b"\x04")
    board.read_until(b"OK")
    out = board.read_until(b"\x04", timeout)[:-1].decode()
    error = board.read_until(b"\x04>", timeout)[:-2].decode()
    assert error == "", error
    board.write(b"\x02")
    board.read_until(PROMPT)
    return out.replace("\r\n", "\n")


# A socket with a callback that never reads, so it stays readable; `n[0]` counts calls.
SOCKET = """
import socket, time, select, asyncio
listener = socket.socket()
listener.bind(socket.getaddrinfo("127.0.0.1", PORT)[0][-1])
listener.listen(1)
n = [0]
def called(s):
    assert s is listener
    n[0] += 1
def since():
    count = n[0]
    n[0] = 0
    return count > 0
listener.setsockopt(socket.SOL_SOCKET, 20, called)
async def wait():
    await asyncio.sleep_ms(50)
"""

# A dupterm stream that gives `data` byte by byte and swallows what is printed.
STREAM = """
import io, os, sys, select, time, micropython
class Stream(io.IOBase):
    def __init__(self, data):
        self.data = data
        self.at = 0
        self.out = []
    def readinto(self, buf):
        if self.at == len(self.data):
            return None
        buf[0] = self.data[self.at]
        self.at += 1
        return 1
    def write(self, buf):
        self.out.append(bytes(buf))
        return len(buf)
    def ioctl(self, request, arg):
        return 0
def stdin_ready():
    return bool(poll.poll(0))
poll = select.poll()
poll.register(sys.stdin, select.POLLIN)
"""


# The event model


def test_socket_callback_runs_wherever_the_board_waits_but_not_in_a_busy_loop(desk):
    port = free_port()
    source = (
        SOCKET.replace("PORT", str(port))
        + f"""
c = socket.socket()
c.connect(socket.getaddrinfo("127.0.0.1", {port})[0][-1])
start = time.ticks_ms()
while time.ticks_diff(time.ticks_ms(), start) < 100:
    pass
print("busy", since())
time.sleep_ms(50)
print("sleep_ms", since())
time.sleep(0.05)
print("sleep", since())
p = select.poll()
p.register(c, select.POLLIN)
p.poll(50)
print("poll", since())
select.select([c], [], [], 0.05)
print("select", since())
asyncio.run(wait())
print("asyncio", since())
listener.setsockopt(socket.SOL_SOCKET, 20, None)
time.sleep_ms(50)
print("removed", since())
listener.setsockopt(socket.SOL_SOCKET, 20, called)
listener.close()
time.sleep_ms(50)
print("closed", since())
"""
    )
    assert run(desk(), source).split("\n")[:-1] == [
        "busy False",
        "sleep_ms True",
        "sleep True",
        "poll True",
        "select True",
        "asyncio True",
        "removed False",
        "closed False",
    ]


def test_socket_callback_runs_while_the_repl_waits(desk):
    board, port = desk(), free_port()
    run(board, SOCKET.replace("PORT", str(port)))
    run(board, "def called(s):\n a = s.accept()[0]\n a.write(b'hello')\n a.close()")
    run(board, "listener.setsockopt(socket.SOL_SOCKET, 20, called)")
    for _ in range(2):  # a listening socket's callback stays
        with socket.create_connection(("127.0.0.1", port), 5) as s:
            assert s.makefile("rb").read() == b"hello"


def test_no_more_socket_callbacks_than_an_esp32_has_sockets(desk):
    source = """
import socket
sockets = [socket.socket() for _ in range(11)]
try:
    for i, s in enumerate(sockets):
        s.setsockopt(socket.SOL_SOCKET, 20, print)
except OSError as e:
    print(i, e.errno)
sockets[3].setsockopt(socket.SOL_SOCKET, 20, None)
sockets[10].setsockopt(socket.SOL_SOCKET, 20, print)
for s in sockets:
    s.close()
"""
    assert run(desk(), source) == "10 23\n"


def test_a_timer_runs_in_a_busy_loop_and_is_like_an_esp32s(desk):
    source = """
from machine import Timer
import time
t = Timer(1)
print(t, Timer(1) is t, Timer(0) is t)
n = [0]
def tick(timer):
    assert timer is t
    n[0] += 1
def busy(ms):
    n[0] = 0
    start = time.ticks_ms()
    while time.ticks_diff(time.ticks_ms(), start) < ms:
        pass
    return n[0]
t.init(period=10, callback=tick)
print(t, 5 <= busy(300) <= 31)
t.deinit()
busy(50)  # what was scheduled before still runs
t.init(mode=Timer.ONE_SHOT, period=10, callback=tick)
print(t, busy(300))
t.init(freq=100, callback=tick)
t.deinit()
print(busy(100))
"""
    assert run(desk(), source).split("\n")[:-1] == [
        "Timer(1, mode=ONE_SHOT, period=0) True False",
        "Timer(1, mode=PERIODIC, period=10) True",
        "Timer(1, mode=ONE_SHOT, period=10) 1",
        "0",
    ]


def test_timer_ids_are_those_of_the_versions_esp32(desk):
    """Up to 1.24 two bits of an id count, from 1.25 on others are refused, from 1.29 on negative ones are virtual."""
    source = """
from machine import Timer
import gc, time
def made(*id):
    try:
        return Timer(*id)
    except (ValueError, TypeError) as e:
        return type(e).__name__
def busy(ms):
    start = time.ticks_ms()
    while time.ticks_diff(time.ticks_ms(), start) < ms:
        pass
print(made(-1), made(4), made() == 'TypeError')
def virtual():
    print([repr(made(-1))[:8], repr(made())[:8]], made(-1) is made(-1))
    # Used, it is kept without a name; stopped or never used, it makes room for others.
    n = [0]
    def tick(timer):
        n[0] += 1
        if n[0] == 3:
            timer.deinit()
            n.append(repr(timer)[-9:])
    Timer(-1).init(period=10, callback=tick)
    for _ in range(100):
        made(-1)
        gc.collect()
    busy(300)
    print(n)
    try:
        Timer(-1).init(period=0)
    except ValueError:
        print('too short')
if made(-1) != 'ValueError' and made(-1) is not made(-1):
    virtual()
"""
    third = "Timer(3, mode=ONE_SHOT, period=0)"
    if since(29):
        first = ["Timer(-1, mode=ONE_SHOT, period=0) ValueError False"]
        first += ["['Timer(-1', 'Timer(-1'] False", "[3, 'period=0)']", "too short"]
    elif since(25):
        first = ["ValueError ValueError True"]
    else:
        first = [f"{third} Timer(0, mode=ONE_SHOT, period=0) True"]
    assert run(desk(), source).split("\n")[:-1] == first


def test_a_blocking_socket_call_lets_timers_run_and_ctrl_c_through(desk):
    board = desk()
    run(board, SOCKET.replace("PORT", "0"))
    run(board, "from machine import Timer; Timer(0).init(period=20, callback=lambda t: print('tick'))")
    board.write(b"listener.accept()\r")
    board.read_until(b"accept()\r\n")
    board.read_until(b"tick\r\ntick\r\n")
    board.write(b"\x03")
    board.read_until(b"KeyboardInterrupt")
    board.read_until(PROMPT)


def test_dupterm_has_slot_0_only(desk):
    assert run(desk(), "import os\ntry:\n os.dupterm(None, 1)\nexcept ValueError as e:\n print(e)") == (
        "invalid dupterm index\n"
    )


@pytest.mark.parametrize("mode", ["ring", "pull"])
def test_dupterm_notify_fills_a_ring_of_260_and_drops_the_rest(desk, mode):
    source = (
        STREAM
        + """
s = Stream(bytes(65 + i % 26 for i in range(1000)))
os.dupterm(s)
os.dupterm_notify(None)
got = b""
while stdin_ready():
    got += sys.stdin.buffer.read(1)
os.dupterm(None)
print(s.at, len(got), got == s.data[:len(got)])
"""
    )
    assert run(desk(env={"BOARD_STDIN": mode}), source) == "1000 259 True\n"


def test_stdin_reads_dupterm_itself_from_1_28_on_only(desk):
    source = STREAM + (
        "s = Stream(b'xy')\nos.dupterm(s)\nfrom machine import Timer\n"
        "Timer(0).init(mode=0, period=300, callback=os.dupterm_notify)\nstart = time.ticks_ms()\n"
        "got = sys.stdin.buffer.read(2)\nos.dupterm(None)\n"
        "print(got, time.ticks_diff(time.ticks_ms(), start) >= 290)"
    )
    assert run(desk(), source) == f"b'xy' {not since(28)}\n"
    assert run(desk(env={"BOARD_STDIN": "ring"}), source) == "b'xy' True\n"
    assert run(desk(env={"BOARD_STDIN": "pull"}), source) == "b'xy' False\n"


def test_poll_runs_what_is_pending_first_from_1_28_on(desk):
    """A callback that makes the object ready is seen by the same look. No jump does it here."""
    source = """
import io, select, micropython
class Stream(io.IOBase):
    ready = 0
    def ioctl(self, request, arg):
        return self.ready
s = Stream()
poll = select.poll()
poll.register(s, select.POLLIN)
@micropython.native
def look():
    micropython.schedule(lambda _: setattr(s, 'ready', 1), None)
    return len(poll.poll(0))
print(look())
"""
    assert run(desk(), source) == f"{int(since(28))}\n"


def test_polling_stdin_asks_the_ring_and_then_dupterm(desk):
    source = STREAM + (
        "s = Stream(b'x')\nos.dupterm(s)\nprint(stdin_ready())\nos.dupterm_notify(None)\nprint(stdin_ready())\n"
        "sys.stdin.buffer.read(1)\nprint(stdin_ready())\n"
        "Stream.ioctl = lambda self, request, arg: arg if request == 3 else 0\nprint(stdin_ready())\n"
        "os.dupterm(None)\nprint(stdin_ready())"
    )
    assert run(desk(), source).split() == ["False", "True", "False", "True", "False"]


def test_output_goes_to_the_uart_and_in_the_boards_pieces_to_dupterm(desk):
    source = STREAM + "s = Stream(b'')\nos.dupterm(s)\nprint('one\\ntwo')\nos.dupterm(None)\nprint(s.out)"
    assert run(desk(), source) == "one\ntwo\n[b'one', b'\\r\\n', b'two', b'\\r\\n']\n"


def test_ctrl_c_through_dupterm_notify_interrupts_a_busy_loop(desk):
    source = (
        STREAM
        + """
s = Stream(b'ab\\x03cd')
os.dupterm(s)
from machine import Timer
Timer(0).init(mode=Timer.ONE_SHOT, period=50, callback=lambda t: os.dupterm_notify(None))
try:
    while True:
        pass
except KeyboardInterrupt:
    print("interrupted", s.at)
os.dupterm(None)
"""
    )
    assert run(desk(), source).startswith("interrupted 3\n")


def test_ctrl_c_on_the_uart_interrupts_a_busy_loop_behind_typed_ahead_input(desk):
    board = desk()
    board.write(b"exec(\"print('go' + 'es')\\nwhile True: pass\")\r")
    board.read_until(b"goes\r\n")
    board.write(b"print('typed ahead')\r" * 40 + b"\x03")
    board.read_until(b"KeyboardInterrupt")
    for _ in range(40):
        board.read_until(b"\ntyped ahead\r\n")


def test_a_program_can_have_byte_3_as_data(desk):
    board = desk()
    board.write(b"import micropython, sys; micropython.kbd_intr(-1); print(sys.stdin.buffer.read(3)); 'end'\r")
    board.read_until(b"'end'\r\n")
    time.sleep(0.2)
    board.write(b"a\x03b")
    board.read_until(b"b'a\\x03b'")


def test_threads_share_a_lock_as_on_esp32(desk):
    source = (
        "import _thread, time\nout = []\ndef work(n):\n for i in range(200):\n  out.append(n)\n  time.sleep_ms(0)\n"
        "for n in range(3): _thread.start_new_thread(work, (n,))\n"
        "while len(out) < 600: time.sleep_ms(10)\nprint(len(out), sorted(set(out)))"
    )
    assert run(desk(), source) == "600 [0, 1, 2]\n"


# What is in it


def test_has_what_an_esp32_build_has(desk):
    source = """
import asyncio, binascii, deflate, hashlib, os, random, select, tls, vfs, websocket, _webrepl, _thread, machine, gc, sys
print(machine.unique_id(), hashlib.sha256(b"").digest()[:2], len(os.urandom(4)), len(os.statvfs("/")))
class Disk:
    def __init__(self): self.data = bytearray(512 * 100)
    def readblocks(self, n, buf, off=0): buf[:] = self.data[n * 512 + off:n * 512 + off + len(buf)]
    def writeblocks(self, n, buf, off=0): self.data[n * 512 + off:n * 512 + off + len(buf)] = buf
    def ioctl(self, op, arg):
        if op == 4: return 100
        if op == 5: return 512
        if op == 6: return 0
for kind in (vfs.VfsFat, vfs.VfsLfs2):
    disk = Disk()
    kind.mkfs(disk)
    vfs.mount(kind(disk), "/disk")
    with open("/disk/a", "w") as f: f.write(kind.__name__)
    print(open("/disk/a").read())
    vfs.umount("/disk")
    del disk
    gc.collect()
print(sys.path, os.getcwd())
"""
    board = desk(env={"BOARD_UID": "0102030405ff"})
    assert run(board, source).split("\n")[:-1] == [
        "b'\\x01\\x02\\x03\\x04\\x05\\xff' b'\\xe3\\xb0' 4 10",
        "VfsFat",
        "VfsLfs2",
        "['', '.frozen', '/lib'] /",
    ]


def test_32_bits_has_a_boards_heap(tmp_path):
    with Board(tmp_path, 32) as board:
        board.read_until(PROMPT)
        out = run(board, "import gc; gc.collect(); print(gc.mem_alloc() + gc.mem_free(), gc.mem_free())")
    total, free = map(int, out.split())
    assert 155_000 < total < 165_000 and free > 150_000


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    path = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
         "-subj", "/CN=localhost", "-keyout", path / "key.pem", "-out", path / "cert.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    der = ["openssl", "x509", "-in", path / "cert.pem", "-outform", "DER", "-out", path / "cert.der"]
    subprocess.run(der, check=True)
    return path


TLS_SERVER = """
import socket, tls
c = tls.SSLContext(tls.PROTOCOL_TLS_SERVER)
c.load_cert_chain(open("cert.pem", "rb").read(), open("key.pem", "rb").read())
l = socket.socket()
l.bind(socket.getaddrinfo("127.0.0.1", PORT)[0][-1])
l.listen(1)
def serve():
    s = l.accept()[0]
    try:
        t = c.wrap_socket(s, server_side=True)
        print(t.cipher()[0])
        t.write(b"hello")
        t.close()
    except OSError as e:
        print("refused", e)
    s.close()
print("listening")
"""


def test_tls_is_esp_idfs(desk, certificate):
    for name in ("cert.pem", "key.pem"):
        (desk.path / name).write_bytes((certificate / name).read_bytes())
    board, port = desk(), free_port()
    run(board, TLS_SERVER.replace("PORT", str(port)))

    def client(*options):
        board.write(b"serve()\r")
        board.read_until(b"serve()\r\n")
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", *options]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=180)
        return done.stdout, board.read_until(PROMPT).decode()

    out, seen = client("-cipher", "ECDHE-ECDSA-AES128-CCM8:@SECLEVEL=0")
    assert "ECDHE-ECDSA-AES128-CCM8" in out and "CCM-8" in seen
    out, seen = client()
    assert "TLSv1.2" in out and "GCM" in seen
    out, seen = client("-tls1_3")
    assert "refused" in seen
    out, seen = client("-tls1_1", "-cipher", "ALL:@SECLEVEL=0")
    assert "refused" in seen


def test_tls_checks_dates_against_the_boards_clock(desk, certificate):
    port = free_port()
    files = ["-cert", certificate / "cert.pem", "-key", certificate / "key.pem"]
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen(["openssl", "s_server", "-quiet", "-accept", str(port), *files], **quiet)
    (desk.path / "cert.der").write_bytes((certificate / "cert.der").read_bytes())
    source = f"""
import socket, tls
c = tls.SSLContext(tls.PROTOCOL_TLS_CLIENT)
c.verify_mode = tls.CERT_REQUIRED
c.load_verify_locations(open("cert.der", "rb").read())
s = socket.socket()
s.connect(socket.getaddrinfo("127.0.0.1", {port})[0][-1])
try:
    c.wrap_socket(s, server_hostname="localhost")
    print("accepted")
except ValueError as e:
    print(e)
s.close()
"""
    try:
        wait_for_port(port)
        assert run(desk(), source) == "accepted\n"
        assert "validity starts in the future" in run(desk(env={"BOARD_CLOCK": "-100000000"}), source)
        assert "validity has expired" in run(desk(env={"BOARD_CLOCK": "100000000"}), source)
    finally:
        server.kill()
        server.wait()


def wait_for_port(port):
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise AssertionError(f"nothing listens on {port}")


# Start, reset, end


def test_boot_and_main_run_and_an_exception_leads_to_the_repl(desk):
    (desk.path / "boot.py").write_text("print('boot', __name__)\n")
    (desk.path / "main.py").write_text("print('main')\nx = 5\n1/0\n")
    board = desk()
    assert b"boot __main__\r\nmain\r\nTraceback" in board.log
    assert re.search(rb"main.py.*line 3.*\r\nZeroDivisionError", board.log)
    assert run(board, "print(x)") == "5\n"
    (desk.path / "boot.py").write_text("print('boot')\nraise ValueError('no')\n")
    board.restart()
    out = board.read_until(PROMPT)
    assert b"ValueError: no" in out and b"main" not in out  # as on ESP32: no main.py after that


def test_ctrl_c_interrupts_a_boot_py_that_never_ends(desk):
    (desk.path / "boot.py").write_text("print('busy')\nwhile True: pass\n")
    with Board(desk.path) as board:
        board.read_until(b"busy")
        board.write(b"\x03")
        board.read_until(b"KeyboardInterrupt")
        board.read_until(PROMPT)


RESETS = {
    "ctrl-d": b"\x04",
    "raw": b"\x01\x04",
    "soft_reset": b"import machine; machine.soft_reset()\r",
    "reset": b"import machine; machine.reset()\r",
}


@pytest.mark.parametrize("how", RESETS.values(), ids=RESETS)
def test_reset_starts_anew_in_the_same_process_and_closes_sockets(desk, how):
    port = free_port()
    (desk.path / "boot.py").write_text("print('booted', 'old' in globals())\n")
    board = desk()
    pid = board.pid
    run(board, "old = 1\n" + SOCKET.replace("PORT", str(port)))
    with socket.create_connection(("127.0.0.1", port), 5) as s:
        run(board, "peer = listener.accept()[0]")
        board.write(how)
        out = board.read_until(b"booted False")
        assert (b"MPY: soft reboot\r\n" in out) == (b"machine.reset()" not in how)
        s.settimeout(60)
        assert s.recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 5)
    if how == b"\x01\x04":
        board.read_until(b"raw REPL; CTRL-B to exit\r\n>")  # the kind of REPL survives
        board.write(b"\x02")
    board.read_until(PROMPT)
    assert board.pid == pid and board.proc.poll() is None
    assert run(board, "print(6 * 7)") == "42\n"


def test_what_was_typed_ahead_survives_a_soft_reset(desk):
    board = desk()
    board.write(b"import time; time.sleep(0.3)\r\x04" + b"".join(b"print('line %d')\r" % i for i in range(300)))
    board.read_until(b"soft reboot")
    for i in range(300):
        board.read_until(b"\nline %d\r\n" % i)


def test_power_cut(desk):
    board = desk()
    board.write(b"f = open('half', 'w'); f.write('x'); old = 1; print('do' + 'ne')\r")
    board.read_until(b"done")
    pid = board.pid
    board.kill()
    assert board.proc.returncode == -signal.SIGKILL
    board.restart()
    board.read_until(PROMPT)
    assert board.pid != pid
    assert run(board, "print('old' in globals())") == "False\n"


def test_read_until_says_what_the_board_printed_instead(desk):
    board = desk()
    board.write(b"print('something else')\r")
    with pytest.raises(BoardError, match="something else"):
        board.read_until(b"never", timeout=0.5)


def test_rename_by_absolute_names_replaces(desk):
    names = [("/a", "/b"), ("a", "/b"), ("/a", "b"), ("a", "b")]
    for old, new in names:
        code = "import os\nfor n in 'ab':\n with open(n, 'w') as f: f.write(n)\n"
        assert run(desk(), f"{code}os.rename({old!r}, {new!r})\nprint(open('b').read())") == "a\n"
        assert not (desk.path / "a").exists() and (desk.path / "b").read_text() == "a"


def test_modules_from_a_directory_come_before_frozen_ones(desk, tmp_path_factory):
    lib = tmp_path_factory.mktemp("lib")
    (lib / "wss_helper.py").write_text("here = 'directory'\n")
    assert run(desk(lib=lib), "import wss_helper; print(wss_helper.here)") == "directory\n"
    assert run(desk(), "import wss_helper; print(hasattr(wss_helper, 'here'))") == "False\n"


def test_100_kb_in_raw_paste_mode_arrive_whole(desk):
    board = desk()
    data = os.urandom(50_000).hex()
    source = f"import hashlib, binascii\nd = hashlib.sha256()\nd.update(b'{data[:1000]}')\n".encode()
    source += b"".join(b"d.update(b'%s')\n" % data[i : i + 1000].encode() for i in range(1000, len(data), 1000))
    source += b"print(binascii.hexlify(d.digest()))\n"
    if board.command[2] == "heapsize=160k":
        source = source[:20_000].rpartition(b"\n")[0] + b"\nprint('compiled')\n"  # the parse tree of more does not fit
    board.write(b"\x01")
    board.read_until(b"exit\r\n>")
    board.write(b"\x05A\x01")
    board.read_until(b"R\x01")
    window = struct.unpack("<H", board.read(2))[0]
    assert window == 128
    room, sent = 0, 0
    while sent < len(source):
        if room == 0:
            assert board.read(1) == b"\x01"
            room = window
        piece = source[sent : sent + room]
        board.write(piece)
        sent += len(piece)
        room -= len(piece)
    board.write(b"\x04")
    board.read_until(b"\x04")
    out = board.read_until(b"\x04")
    if b"compiled" not in source:
        assert hashlib.sha256(data.encode()).hexdigest().encode() in out
    else:
        assert out == b"compiled\r\n\x04"


# The command


def command(path, *options, **kwargs):
    return subprocess.Popen([sys.executable, ROOT / "tools/dev/board.py", path, *options], **kwargs)


def gone(pid):
    """Whether a process has ended, and is no zombie either."""
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists():
            return True
        time.sleep(0.05)
    return False


def child_of(pid):
    for _ in range(200):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if children:
            return int(children[0])
        time.sleep(0.05)
    raise AssertionError("it started nothing")


def test_piped_input_is_run_and_then_it_ends(tmp_path):
    firmware.firmware(64)
    runner = command(tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    out, _ = runner.communicate(b"import time; time.sleep(0.5)\rprint(6 * 7)\r", timeout=120)
    assert b"\r\n42\r\n" in out and runner.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_ends_with_its_board_on_a_signal(tmp_path, number):
    (tmp_path / "main.py").write_text("print('started')\nwhile True: pass\n")
    runner = command(tmp_path, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert runner.stdout.readline() == b"started\r\n"  # /dev/null on stdin is no reason to end
    child = child_of(runner.pid)
    runner.send_signal(number)
    assert runner.wait(60) == (-signal.SIGKILL if number == signal.SIGKILL else 0)
    assert gone(child)
    runner.stdout.close()


def test_make_board_ends_on_sigterm(tmp_path):
    (tmp_path / "boot.py").write_text("print('started')\n")
    firmware.firmware(32)
    runner = subprocess.Popen(
        ["make", "-s", "-C", ROOT, "board", f"DIR={tmp_path}", "BITS=32"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    assert runner.stdout.readline() == b"started\r\n"
    boards = [child_of(child_of(runner.pid))]
    runner.terminate()
    runner.wait(60)
    assert all(gone(pid) for pid in boards)
    runner.stdout.close()


def test_a_terminal_is_raw_meanwhile_and_restored_when_ctrl_bracket_leaves(tmp_path):
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)

    def own_terminal():
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    runner = command(tmp_path, stdin=slave, stdout=slave, stderr=slave, preexec_fn=own_terminal)
    try:
        _expect(master, PROMPT)
        os.write(master, b"exec(\"print('go' + 'es')\\nwhile True: pass\")\r")
        _expect(master, b"goes\r\n")
        os.write(master, b"\x03")  # for the board, not for the runner
        _expect(master, b"KeyboardInterrupt")
        assert termios.tcgetattr(slave) != before
        child = child_of(runner.pid)
        os.write(master, b"\x1d")
        assert runner.wait(60) == 0
        assert gone(child)
        assert termios.tcgetattr(slave) == before
    finally:
        runner.kill()
        os.close(master)
        os.close(slave)


def _expect(fd, wanted, timeout=60):
    seen = b""
    deadline = time.monotonic() + timeout
    while wanted not in seen:
        assert select.select([fd], [], [], max(0, deadline - time.monotonic()))[0], seen
        seen += os.read(fd, 4096)
    return seen


def test_wrong_arguments_are_one_sentence(tmp_path):
    runner = command(tmp_path / "missing", stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    out, err = runner.communicate(timeout=120)
    assert runner.returncode == 1 and err.count(b"\n") == 1 and b"no such directory" in err


# mpremote, on a pseudo-terminal


@pytest.fixture
def mpremote(desk):
    board = desk(pty=True)

    def run_it(*arguments):
        done = subprocess.run(
            [sys.executable, "-m", "mpremote", "connect", board.tty, *map(str, arguments)],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=180,
        )  # fmt: skip
        assert done.returncode == 0, (done.stdout, done.stderr, board.log[-2000:])
        return done.stdout

    run_it.desk, run_it.board = desk, board
    return run_it


def test_mpremote_exec_and_soft_reset(mpremote):
    (mpremote.desk.path / "boot.py").write_text("open('boots', 'a').write('x')\n")
    assert mpremote("exec", "print(6 * 7); x = 1") == "42\n"
    assert mpremote("resume", "exec", "print('x' in globals())") == "True\n"
    boots = (mpremote.desk.path / "boots").read_text()
    assert mpremote("exec", "print('x' in globals())") == "False\n"  # without resume it resets first
    assert (mpremote.desk.path / "boots").read_text() == boots + "x"
    mpremote("resume", "exec", "x = 1")
    mpremote("soft-reset")
    assert mpremote("resume", "exec", "print('x' in globals())") == "False\n"


def test_mpremote_copies_files_both_ways(mpremote, tmp_path_factory):
    here = tmp_path_factory.mktemp("files")
    (here / "data").write_bytes(os.urandom(30_000))
    mpremote("fs", "cp", here / "data", ":data")
    assert (mpremote.desk.path / "data").read_bytes() == (here / "data").read_bytes()
    mpremote("resume", "fs", "cp", ":data", here / "back")
    assert (here / "back").read_bytes() == (here / "data").read_bytes()


def test_mpremote_mounts_a_directory(mpremote, tmp_path_factory):
    here = tmp_path_factory.mktemp("mounted")
    (here / "there.py").write_text("print('from the host')\n")
    assert "from the host\n" in mpremote("mount", here, "exec", "import there")
    listing = mpremote("resume", "mount", here, "exec", "import os; print(os.getcwd(), os.listdir())")
    assert listing.endswith("/remote ['there.py']\n")


def test_mpremote_mip_installs(mpremote, tmp_path_factory):
    here = tmp_path_factory.mktemp("package")
    (here / "thing.py").write_text("print('installed')\n")
    (here / "package.json").write_text('{"urls": [["thing.py", "thing.py"]], "version": "1"}')
    mpremote("mip", "install", here / "package.json")
    assert mpremote("exec", "import thing") == "installed\n"
    assert (mpremote.desk.path / "lib" / "thing.py").exists()


def test_a_pty_that_nobody_reads_does_not_stop_the_board(desk):
    (desk.path / "main.py").write_text("for i in range(20000): print('x' * 40)\nopen('through', 'w').close()\n")
    desk(pty=True)
    for _ in range(1200):
        if (desk.path / "through").exists():
            return
        time.sleep(0.1)
    raise AssertionError("the board waits for a reader")


def test_soft_resets_with_timers_running(desk):
    """A callback is due in each of them; in one of 300 that once took the process away."""
    timers = "import machine\nfor i in (0, 1):\n    machine.Timer(i).init(period=1, callback=lambda _: None)\n"
    (desk.path / "boot.py").write_text(timers)
    board = desk()
    for _ in range(1000):
        board.write(b"\x04")
        board.read_until(b"soft reboot")
        board.read_until(PROMPT)


def test_resets_with_a_watchdog_a_thread_and_timers_running(desk):
    """The hardware thread once poked a main thread that was about to start anew as fast as it could. That never got
    there, and the signals filled the queue that all processes of a user share: other boards hung as well."""
    (desk.path / "boot.py").write_text(
        "import machine, time, _thread\n"
        "machine.WDT(timeout=600000)\n"
        "for i in (0, 1):\n    machine.Timer(i).init(period=1, callback=lambda _: None)\n"
        "def wait():\n    while True:\n        time.sleep_ms(3)\n"
        "_thread.start_new_thread(wait, ())\n"
        "print('booted')\n"
    )
    board = desk()
    for _ in range(100):
        board.write(b"import machine; machine.reset()\r")
        board.read_until(b"booted", 60)
        board.read_until(PROMPT)


def test_a_port_is_given_once():
    """Who was given one may not listen on it yet when the next one asks."""
    given = [port for n in (1, 3, 1, 2) * 100 for port in free_ports(n)]
    assert len(set(given)) == len(given)
