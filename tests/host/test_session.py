"""The spine: from a TCP connection to an authenticated prompt, files, and back."""

import hashlib
import os
import re
import time

import pytest
from peers import CLOSE, PROMPT, PUT, REQUEST, TEXT, VERSION, Ended, Peer, encode
from targets import ROOT


def test_login_and_command(connect):
    peer = connect().login()
    assert peer.tls.version() == "TLSv1.2"
    assert peer.command("print(6 * 7)") == b"42\r\n"


def test_lines_and_prompts_have_frames_of_their_own(connect):
    peer = connect().login()
    peer.text("for i in range(3): print('a', i)\r\r")
    frames = []
    while frames[-1:] != [PROMPT]:
        frames.append(peer.frame()[1])
    output = frames[-7:]
    assert output == [b"a 0", b"\r\n", b"a 1", b"\r\n", b"a 2", b"\r\n", PROMPT]
    assert all(b"\r\n" not in f or f == b"\r\n" for f in frames)


def test_a_board_tells_its_bundles_version_before_and_after_login(board, connect):
    """And, in both places, what became of an update that was taken back."""
    peer = connect()
    head = peer.upgrade().decode().split("\r\n")
    version = re.search(r'VERSION = "(.+?)"', (ROOT / "lib/wss/port.py").read_text())[1]
    assert f"Server: wss_repl/{version}" in head
    peer = connect().login()
    said = peer.command("import wss_repl; s = wss_repl.status(); s['version'], s['update'], wss_repl.VERSION")
    assert said == f"('{version}', '', '{version}')\r\n".encode()
    peer.command("import wss.port; wss.port.update_note = '9.9.9 was taken back: no login'")
    assert peer.command("wss_repl.status()['update']") == b"'9.9.9 was taken back: no login'\r\n"
    head = connect().upgrade().decode().split("\r\n")
    assert f"Server: wss_repl/{version} (9.9.9 was taken back: no login)" in head


def test_text_behind_a_line_end_goes_into_the_next_frame(connect):
    peer = connect().login()
    peer.text("import sys; _ = sys.stdout.buffer.write(b'one\\r\\ntwo\\r\\nthree')\r")
    peer.until(b")\r\n")
    assert [peer.frame()[1] for _ in range(6)] == [b"one", b"\r\n", b"two", b"\r\n", b"three", PROMPT]


def test_a_keystroke_is_echoed_in_one_record_and_one_write_and_waits_for_no_timer(target, provisioned, keys):
    """The stock chain looks every 50 ms. Here the socket calls back: with no timer at all, each comes."""
    with (
        target.board(provisioned, options=", timer=False") as board,
        Peer(board.address, keys.host) as peer,
    ):
        peer.login()
        for _ in range(200):
            records, reads = peer.records, peer.reads
            peer.text("x")
            assert peer.frame() == (TEXT, b"x")
            assert (peer.records - records, peer.reads - reads) == (1, 1)


def test_the_last_line_of_a_soft_reset_said_by_a_program_arrives(connect):
    """The firmware's own comes when there is no heap left to send it with."""
    peer = connect().login()
    line = "import sys; _ = sys.stdout.buffer.write(b'MPY: soft ' + b'reboot\\r\\n')"
    assert peer.command(line) == b"MPY: soft reboot\r\n"


def test_a_pasted_kilobyte_is_not_a_thousand_records(connect, target):
    peer = connect().login()
    records = peer.records
    peer.text("#" * 1000 + "\r")
    peer.until(PROMPT)
    # Without a GIL what was echoed goes out with the next byte, eight times a tick of our timer.
    assert peer.records - records < (250 if "lwip" in target.capabilities else 30)


def test_any_output_keeps_its_bytes_its_line_ends_and_its_characters(connect):
    """Writes of every length, cut anywhere, line ends inside and in two halves: each frame is valid UTF-8, a line's end
    is a frame of its own, and nothing is lost when it comes faster than it is sent."""
    peer = connect().login()
    peer.text("\x05")
    peer.until(b"=== ")
    peer.text(
        "import sys\n"
        "w = sys.stdout.buffer.write\n"
        "for n in range(1, 300, 7): _ = w(('%d:' % n + 'x' * n + '\\r\\n').encode())\n"
        "for n in range(1, 1200, 111): _ = w(('é' * n + '\\r\\n' + '€' * n).encode())\n"
        "for c in b'one\\r\\ntwo\\r\\n\\r\\n': _ = w(bytes([c]))\n"
        "for i in range(2000): print(i)\n"
        "_ = w(b'en' + b'd!')\n\x04"
    )
    want = "".join(f"{n}:{'x' * n}\r\n" for n in range(1, 300, 7))
    want += "".join("é" * n + "\r\n" + "€" * n for n in range(1, 1200, 111))
    want += "one\r\ntwo\r\n\r\n" + "".join(f"{i}\r\n" for i in range(2000)) + "end!"
    frames = []
    while b"end!" not in frames:
        frames.append(peer.frame()[1])
    text = b"".join(frames).decode()
    assert text[text.index("1:x") :] == want
    for f in frames:
        f.decode()
        assert b"\r\n" not in f or f == b"\r\n"
        assert len(f) <= 1020


def test_an_answer_to_what_is_typed_is_no_rush(target, provisioned, keys):
    """In a rush, output waits for the next tick of our timer, which does not come here. A raw paste answers each of
    its windows; it took eight of them between two ticks."""
    boot = "from wss import port\nport.TIMER_MS = 3600000\nport.is_ours = lambda timer: True\n"
    with target.board(provisioned, boot=boot) as board:
        with Peer(board.address, keys.host, timeout=60) as peer:
            peer.login()
            for key in b"0123456789" * 3:
                peer.text(bytes([key]))
                peer.until(bytes([key]))


@pytest.mark.parametrize("gil", [True, False])
def test_a_rush_keeps_its_order_with_a_callback_that_prints(target, provisioned, keys, gil):
    """Most of a rush takes short ways past the rest (without a GIL it does not). A timer's callback prints in between:
    that may be anywhere, but is whole and in order, and so is what the program prints."""
    boot = f"from wss import port\nport.has_gil = {gil}\n"
    with target.board(provisioned, boot=boot) as board, Peer(board.address, keys.host, timeout=20) as peer:
        peer.login()
        peer.text("\x05")
        peer.until(b"=== ")
        peer.text(
            "import sys\n"
            "from machine import Timer\n"
            "w = sys.stdout.write\n"
            "n = 0\n"
            "def f(t):\n"
            " global n\n"
            " n += 1\n"
            " w('<%d>' % n)\n"
            "def g():\n"
            " for i in range(3000):\n"
            "  print(i, 'x' * (i % 140))\n"
            "  if i % 7 == 0: w('tail')\n"
            "  if i % 11 == 0: w('1234'); w('')\n"
            "  if i % 13 == 0: w('\\n')\n"
            "  if i % 17 == 0: w('a\\nb')\n"
            "try:\n"
            " t = Timer(0)\n"
            "except ValueError:\n"
            " t = Timer(-1)\n"
            "t.init(period=3, callback=f)\n"
            "g()\n"
            "while n < 4: pass\n"
            "t.deinit()\n"
            "print('en' + 'd', n)\n\x04"
        )
        out = peer.until(b"end ", 60) + peer.until(PROMPT)
    want = "".join(
        f"{i} {'x' * (i % 140)}\r\n"
        + "tail" * (i % 7 == 0)
        + "1234" * (i % 11 == 0)
        + "\r\n" * (i % 13 == 0)
        + "a\r\nb" * (i % 17 == 0)
        for i in range(3000)
    )
    ticks = [int(t) for t in re.findall(r"<(\d+)>", out.decode())]
    text = re.sub(r"<\d+>", "", out.decode())  # first, or one within the first line hides where that is
    assert text[text.index("0 \r\n") :].startswith(want + "end ")
    assert len(ticks) > 3 and ticks == list(range(ticks[0], ticks[0] + len(ticks))) and ticks[0] < 20


def test_printing_takes_no_heap(connect, target):
    """An allocation a write would cost more than the write, once the heap is full of what nobody uses any more."""
    if target.bits == 32:
        pytest.skip("a thread's identity is an address beyond 1 GB here: a long integer, which a board's is not")
    peer = connect().login()
    peer.text("\x05")
    peer.until(b"=== ")
    peer.text(
        "import gc\ndef f(n):\n for _ in range(n): print('some text')\n\n"
        "def g():\n gc.collect()\n gc.disable()\n a = gc.mem_alloc()\n f(2000)\n b = gc.mem_alloc()\n gc.enable()\n"
        " print('took', b - a, '!')\n\ng()\n\x04"
    )
    took = peer.until(b" !\r\n").rsplit(b"took ", 1)[1].split()[0]
    assert int(took) < 2000 * 16  # a slice is 16 bytes; what the timer's ticks take is in there, too


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n"])
def test_password_line_ends(connect, end):
    peer = connect()
    peer.upgrade()
    peer.frame()
    peer.text("secret" + end + "print(1)\r")
    assert peer.frame()[1] == b"\r\nWebREPL connected\r\n>>> "
    assert b"1\r\n" in peer.until(b"\r\n" + PROMPT)


@pytest.mark.needs("directory")
def test_webrepl_cli_bytes(connect, board):
    """Unmasked frames, password in a binary frame with the first request behind it, a request split in two."""
    peer = connect()
    request = (
        b"GET / HTTP/1.1\r\nHost: echo.websocket.org\r\nConnection: Upgrade\r\n"
        b"Upgrade: websocket\r\nSec-WebSocket-Key: foo\r\n\r\n"
    )
    assert peer.upgrade(request=request).startswith(b"HTTP/1.1 101 ")
    assert peer.frame() == (TEXT, b"Password: ")
    from peers import FILE_REQUEST, PUT

    peer.send(encode(2, b"secret\r", mask=None))
    peer.send(encode(2, FILE_REQUEST.pack(b"WA", VERSION, 0, 0, 0, 0, b""), mask=None))
    assert len(peer.data(3)) == 3
    content = os.urandom(5000)
    record = FILE_REQUEST.pack(b"WA", PUT, 0, 0, len(content), 5, b"x.bin")
    peer.send(encode(2, record[:10], mask=None))
    peer.send(encode(2, record[10:], mask=None))
    assert peer.reply() == 0
    for i in range(0, len(content), 1024):
        peer.send(encode(2, content[i : i + 1024], mask=None))
    assert peer.reply() == 0
    assert (board.directory / "x.bin").read_bytes() == content


def test_a_frame_byte_by_byte_and_a_request_line_by_line(connect):
    peer = connect()
    peer.handshake()
    lines = b"GET / HTTP/1.1|Upgrade: websocket|Connection: Upgrade|Sec-WebSocket-Key: b'5Fm9KfmLS0P45=='|"
    for line in lines.split(b"|"):
        peer.send(line + b"\r\n")
    while b"Password: " not in peer._buffer:
        peer._buffer += peer.recv()
    peer._buffer = b""
    for byte in encode(TEXT, b"secret\r\n"):
        peer.send(bytes([byte]))
    assert peer.frame()[1] == b"\r\nWebREPL connected\r\n>>> "
    peer.text("")
    assert peer.command("1+1") == b"2\r\n"


@pytest.mark.needs("directory")
def test_files_both_ways(connect, board):
    peer = connect().login()
    content = os.urandom(1_000_000)
    assert peer.put(b"big.bin", content) == 0
    assert peer.value("__import__('os').stat('big.bin')[6]") == len(content)
    got = peer.get(b"big.bin")
    assert hashlib.sha256(got).digest() == hashlib.sha256(content).digest()
    assert peer.put(b"empty", b"") == 0 and peer.get(b"empty") == b""
    assert not [p.name for p in board.directory.iterdir() if p.name.endswith((".part", ".old"))]


@pytest.mark.needs("directory")
@pytest.mark.parametrize(
    ("name", "length", "code"),
    [(b"n" * 64, 65, 36), (b"", 0, 2), (b"a\0b", 3, 22), (b"no/such/dir", 11, 2), (b"\xff\xfe", 2, 22)],
)
def test_bad_names_are_refused_with_a_code_and_the_session_goes_on(connect, board, name, length, code):
    peer = connect().login()
    before = sorted(p.name for p in board.directory.iterdir())
    for op in (1, 2):
        peer.request(op, name, 10, length)
        assert peer.reply() == code
    assert peer.command("1+1") == b"2\r\n"
    assert sorted(p.name for p in board.directory.iterdir()) == before


@pytest.mark.needs("directory")
def test_a_name_of_64_bytes_is_taken_whole(connect, board):
    peer = connect().login()
    assert peer.put(b"n" * 64, b"x") == 0
    assert (board.directory / ("n" * 64)).read_bytes() == b"x"


@pytest.mark.needs("directory")
def test_get_of_what_is_not_there_or_a_directory(connect, board):
    peer = connect().login()
    (board.directory / "folder").mkdir()
    assert peer.get(b"nothing") == 2
    assert peer.get(b"folder") != 0
    peer.request(9, b"x")
    assert peer.reply() == 22
    peer.binary(b"XX" + b"\0" * 500)
    assert peer.reply() == 22
    assert peer.command("1+1") == b"2\r\n"


@pytest.mark.needs("directory")
def test_a_put_cut_off_leaves_the_old_file_and_no_other(connect, board):
    (board.directory / "config.py").write_text("old")
    peer = connect().login()
    before = sorted(p.name for p in board.directory.iterdir())
    peer.request(1, b"config.py", 100_000)
    assert peer.reply() == 0
    peer.binary(b"n" * 1024)
    time.sleep(0.3)
    peer.close()
    connect().login(path=b"/takeover")
    assert (board.directory / "config.py").read_text() == "old"
    assert sorted(p.name for p in board.directory.iterdir()) == before


def test_a_program_that_prints_does_not_disturb_a_transfer(connect, board):
    peer = connect().login()
    content = os.urandom(50_000)
    peer.text("import time\r")
    peer.until(PROMPT)
    peer.text("for i in range(200): print('noise', i); time.sleep_ms(2)\r\r")
    assert peer.put(b"n.bin", content) == 0
    assert peer.get(b"n.bin") == content


@pytest.mark.needs("directory", "stand-in")
def test_what_is_printed_during_a_get_is_not_held_back_by_acknowledgements_sent_ahead(connect, board):
    """With an ESP32's small send buffer wssctl's eight pieces ahead keep a get busy from its first byte to its last: a
    program that prints must not wait for that, or write_timeout ends the session of one that reads all the time."""
    content = os.urandom(400_000)
    (board.directory / "big.bin").write_bytes(content)
    board.run("wss_repl.listen_s.setsockopt(1, 7, 4096)")  # SO_SNDBUF, which connections inherit
    peer = connect(rcvbuf=4096).login()
    peer.command("import time")
    peer.request(2, b"big.bin")
    assert peer.reply() == 0
    for _ in range(8):
        peer.binary(b"\0")
    peer.text("for i in range(300): print('noise', i); time.sleep_ms(5)\r\r")
    got, text, late = b"", b"", 0.0
    before = time.monotonic()
    while len(got) < len(content) or not text.endswith(b"noise 299\r\n" + PROMPT):
        op, payload = peer.frame()
        assert op != CLOSE
        if op == TEXT:
            text += payload
            late, before = max(late, time.monotonic() - before), time.monotonic()
        else:
            n = int.from_bytes(payload[:2], "little")
            got += payload[2:]
            if n:
                peer.binary(b"\0")
                time.sleep(0.03)
    assert got == content
    assert text.split(b"\r\n")[-301:-1] == [b"noise %d" % i for i in range(300)]
    assert late < 1.5 and peer.command("1+1") == b"2\r\n"


def test_close_is_answered_and_the_next_one_gets_in(connect):
    peer = connect().login()
    peer.send(bytes.fromhex("8882") + b"\1\2\3\4" + bytes([3 ^ 1, 0xE8 ^ 2]))  # upydevice's close, 1000
    assert peer.frame() == (CLOSE, b"\x03\xe8")
    with pytest.raises(Ended):
        peer.frame()
    assert connect().login().command("1+1") == b"2\r\n"


def test_ping_gets_its_pong(connect):
    peer = connect().login()
    peer.send(encode(9, b"payload"))
    assert peer.frame() == (10, b"payload")


def test_ctrl_c_stops_a_busy_loop_and_ctrl_d_restarts(connect, board):
    peer = connect().login()
    peer.text("exec(\"print('go' + 'es')\\nwhile True: pass\")\r")
    peer.until(b"goes\r\n")
    peer.text("\x03")
    assert b"KeyboardInterrupt" in peer.until(b"KeyboardInterrupt")
    peer.until(PROMPT)
    peer.text("\x04")
    with pytest.raises(Ended):
        peer.until(b"never")
    board.wait()
    assert connect().login().command("1+1") == b"2\r\n"


@pytest.mark.parametrize("where", ["session", "console"])
def test_ctrl_c_stops_a_program_that_prints(connect, board, where):
    """The KeyboardInterrupt rises in the terminal's write(), again and again, and has to reach the program."""
    peer = connect().login()
    for _ in range(10):
        peer.text("exec('n = 0\\nwhile True:\\n n += 1\\n print(n, 60 * chr(120), n)')\r")
        peer.until(b"\r\n20 ")
        if where == "session":
            peer.text("\x03")
        else:
            board.console.write(b"\x03")
        output = peer.until(b"KeyboardInterrupt", 60)
        peer.until(PROMPT)
        if where == "session":  # nothing is lost or comes twice; the console's Ctrl-C may cut what is being written
            _, *lines, _ = output[: output.index(b"Traceback")].split(b"\r\n")
            assert lines == [b"%d %s %d" % (n, 60 * b"x", n) for n in range(21, 21 + len(lines))]
    assert peer.command("1+1") == b"2\r\n"


def test_ctrl_c_overtakes_what_was_typed_ahead(connect):
    peer = connect().login()
    peer.text("exec(\"print('go' + 'es')\\nwhile True: pass\")\r")
    peer.until(b"goes\r\n")
    for _ in range(9):
        peer.text("y" * 100)
    peer.text("\x03")
    peer.until(b"KeyboardInterrupt", 60)


@pytest.mark.needs("quick")
def test_200_rounds_leave_the_heap_where_it_was(connect, board):
    def alloc():
        return int(board.run("import gc; _ = gc.collect(); print(gc.mem_alloc())"))

    def round_trip():
        with connect() as peer:
            peer.login()
            assert peer.command("1+1") == b"2\r\n"
            peer.send(encode(CLOSE, b"\x03\xe8"))
            assert peer.frame()[0] == CLOSE

    round_trip()
    for _ in range(9):  # the console's own history of 8 lines is in that heap
        first = alloc()
    fds = len(os.listdir("/proc/%d/fd" % board.console.pid))
    for _ in range(200):
        round_trip()
    # One object left behind a round would be 3,200 bytes at least. A collector that scans the stack keeps a stray one,
    # perhaps a whole session: the least of some counts, then
    assert min(alloc() for _ in range(9)) - first < 1600
    assert len(os.listdir("/proc/%d/fd" % board.console.pid)) == fds


def test_two_kilobytes_behind_the_password_in_one_record(connect):
    peer = connect()
    peer.upgrade()
    peer.frame()
    lines = b"".join(b"x%d = %d\r" % (i, i) for i in range(200))
    peer.send(encode(TEXT, b"secret\r") + encode(TEXT, lines) + encode(TEXT, b"print(x199)\r"))
    assert peer.frame()[1] == b"\r\nWebREPL connected\r\n>>> "
    peer.until(b"\r\n199\r\n")


def test_the_request_and_the_login_in_one_record(connect):
    peer = connect()
    peer.handshake()
    peer.send(REQUEST % b"/" + encode(TEXT, b"secret\r") + encode(TEXT, b"y" * 1500 + b" = 1\r" + b"print(6 * 7)\r"))
    while b"WebREPL connected" not in peer._buffer:
        peer._buffer += peer.recv()
    peer._buffer = peer._buffer.partition(b"\r\n\r\n")[2]
    peer.until(b"\r\n42\r\n")


@pytest.mark.needs("directory")
def test_what_was_typed_before_the_close_reaches_the_repl(connect, board):
    """A client that leaves the raw REPL and closes at once must not leave it to the next one."""
    peer = connect().login()
    peer.text("\x01")
    peer.until(b"raw REPL; CTRL-B to exit\r\n>")
    peer.send(encode(TEXT, b"\x02") + encode(TEXT, b"open('typed', 'w').close()\r") + encode(CLOSE, b"\x03\xe8"))
    with pytest.raises(Ended):
        peer.until(b"never")
    assert connect().login().command("1+1") == b"2\r\n"
    assert (board.directory / "typed").exists()


def test_a_second_start_refuses_and_serves_as_the_first(connect, board):
    """Stages that were loaded for the first and forgotten must not come back as two copies of one."""
    assert connect().login().command("1+1") == b"2\r\n"
    board.run("wss_repl.stop(); wss_repl.start(port=%d, password='secret')" % board.port)
    peer = connect()
    peer.handshake()
    peer.send(b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
    while b"\r\n\r\n" not in peer._buffer:
        peer._buffer += peer.recv()
    assert peer._buffer.startswith(b"HTTP/1.1 400 ")
    peer = connect().login()
    peer.send(b"\x83\x80abcd")  # an opcode that there is not
    with pytest.raises(Ended):
        peer.until(b"never")
    assert connect().login().command("1+1") == b"2\r\n"
    assert "bad opcode" in board.run("print(wss_repl.status()['refused'])")


ESP32_WITHOUT_PSRAM = """
import sys
class esp32:
    HEAP_DATA = 4
    def idf_heap_info(_): return [(100000, 60000, 50000, 40000)]
sys.modules["esp32"] = esp32
"""


@pytest.mark.parametrize(
    ("boot", "threshold"),
    [("", -1), (ESP32_WITHOUT_PSRAM, 4096), (ESP32_WITHOUT_PSRAM + "import gc\ngc.threshold(1024)\n", 1024)],
    ids=["memory to spare", "none", "the program's own"],
)
def test_where_the_heap_would_grow_it_is_collected_before_it_is_full(target, provisioned, boot, threshold):
    with target.board(provisioned, boot=boot) as board:
        assert board.run("import gc; print(gc.threshold())") == str(threshold)


@pytest.mark.needs("names")
def test_where_the_heap_would_grow_the_memory_of_one_more_tls_connection_is_held(target, provisioned, keys, board):
    """Else a program that needs more heap than is free takes it (py/gc.c), and each login fails in its handshake."""
    held = "print(bool(wss_repl._server._held))"
    again = "exec('while not wss_repl._server._held: time.sleep_ms(5)')"
    assert board.run(held) == "False"  # memory to spare
    with target.board(provisioned, boot=ESP32_WITHOUT_PSRAM) as small:
        small.run("import time")
        assert small.run(held) == "True"
        with Peer(small.address, keys.host) as first:
            first.login()
            small.run(again)
            with Peer(small.address, keys.host) as newcomer:
                newcomer.upgrade()  # its handshake is over: it has the memory
                assert small.run(held) == "False"
            small.run(again)
        assert small.run("s = wss_repl._server; wss_repl.stop(); print(s._held)") == "None"


def test_who_still_sends_for_a_session_that_has_ended_finds_nothing_to_do(board, connect):
    """On an emulated ESP32 status() told of an internal error, because a terminal was looked for that was gone."""
    connect().login()
    assert board.run("s = __import__('wss_repl').client_swr; s.session.release(); print(s.flush())") == "True"


def test_no_large_buffers_where_the_heap_would_grow_into_tls_memory(target, provisioned, keys):
    content = bytes(range(256)) * 80
    with target.board(provisioned, boot=ESP32_WITHOUT_PSRAM) as board, Peer(board.address, keys.host) as peer:
        peer.login()
        peer.request(PUT, b"big.bin", len(content))
        assert peer.reply() == 0
        peer.binary(content[:4096])
        assert board.run("import wss_repl; print(wss_repl.client_swr.session.receiver.files.room(1))") == "None"
        peer.binary(content[4096:])
        assert peer.reply() == 0
        pieces = []
        data = peer.data
        peer.data = lambda n: pieces.append(data(n)) or pieces[-1]
        assert peer.get(b"big.bin") == content
        assert max(map(len, pieces)) <= 1024


FULL = """
import wss.terminal as t
def full(*_):
    raise RuntimeError('schedule queue full')
was, t.schedule = t.schedule, full
guard = wss_repl.client_swr.session.server.guard
with guard:
    print('from inside')
t.schedule = was
"""


def test_a_print_inside_of_our_step_while_the_queue_of_callbacks_is_full(connect):
    """Each attempt to send it later was the next one's reason, until there was no stack, and so no terminal."""
    peer = connect().login()
    peer.text(f"exec({FULL!r})\r")
    peer.until(b")\r\n")
    assert peer.until(PROMPT) == b"from inside\r\n" + PROMPT
    assert peer.command("1+1") == b"2\r\n"


RING = """
import select, wss_repl
from wss import typed
class Ring:
    POLLIN = select.POLLIN
    depth = most = 0
    def poll(self):
        self.ring = select.poll()
        self.register = self.ring.register
        return self
    def ipoll(self, ms):
        self.depth += 1
        self.most = max(self.most, self.depth)
        if self.depth < 4:
            wss_repl.poll()
        self.depth -= 1
        return self.ring.ipoll(ms)
typed.select = ring = Ring()
"""


def test_a_socket_callback_inside_a_look_at_the_ring_does_not_look_again(board, connect):
    """ESP32 calls back for readable sockets while it polls, so our step runs in there. Six deep its stack is full, and
    that exception takes the terminal away."""
    board.run(f"exec({RING!r})")
    peer = connect().login()
    assert peer.command("print(len('%s'))" % ("y" * 900)) == b"900\r\n"
    assert peer.value("ring.most") == 1


_LOST_HOST = """
import os
asked = []
class Host:
    def mount(self, readonly, mkfs): pass
    def umount(self): pass
    def chdir(self, path): pass
    def getcwd(self): return '/'
    def stat(self, path): asked.append(path); raise OSError(2)
    def open(self, path, mode): asked.append(path); raise OSError(2)
    def statvfs(self, path): asked.append(path); raise OSError(2)
os.mount(Host(), '/remote')
os.chdir('/remote')
"""


def test_a_login_asks_nothing_of_a_mounted_folder(target, provisioned, keys):
    """mpremote's asks its host for each name, and waits for ever when that one is lost."""
    with target.board(provisioned) as board:
        board.run(f"exec({_LOST_HOST!r})")
        with Peer(board.address, keys.host) as first:
            first.login()
            with Peer(board.address, keys.host) as peer:
                peer.login(path=b"/takeover")
                assert peer.command("1+1") == b"2\r\n"
                assert peer.put(b"/put", b"x") == 0 and peer.get(b"/put") == b"x"
                peer.text("while True: pass\r\r")
                peer.until(b"... ")
                peer.text("\x03")
                peer.until(PROMPT)
                peer.request(4, b"about")  # what wss.about says
                assert peer.reply() == 0
        assert board.run("asked") == "[]"
