"""Ctrl-C while a program prints, sleeps, computes, catches what it can: the program stops, and the session stays."""

import os
import random
import re

import pytest
from peers import BINARY, CLOSE, FILE_REQUEST, GET, PING, PONG, PROMPT, PUT, TEXT, Peer, encode

pytestmark = [pytest.mark.needs("heap", "quick"), pytest.mark.targets("unix", "unix32", "pull", "slow")]

# Each counts its lines from 1. What a program prints comes whole, in order, and once, whatever interrupts it.
PROGRAMS = {
    "prints": "while True:\n n += 1\n print(n, 60 * 'x', n)\n",
    "sleeps 500 us": "import time\nwhile True:\n n += 1\n print(n, 'x', n)\n time.sleep_us(500)\n",
    "catches everything": "while True:\n try:\n  n += 1\n  print(n, 'x', n)\n except:\n  pass\n",
    "holds the CPU": "print(1, 'x', 1)\nwhile True: pass\n",
    "prints little by little": "import sys\nw = sys.stdout.write\n"
    "while True:\n n += 1\n for c in '%d x %d\\n' % (n, n): _ = w(c)\n",
}  # fmt: skip


def run(peer: Peer, program: str) -> bytes:
    """Start it, and read on until it has printed; returns that."""
    peer.seen = b""  # or each frame would cost a copy of all before it
    peer.text("\x05")
    peer.until(b"=== ")
    peer.text("n = 0\n" + program + "\x04")
    got = peer.until(b"\r\n1 ")
    return got[got.index(b"\r\n1 ") + 2 :]


def stop(peer: Peer) -> bytes:
    """What comes until a prompt that answers. More Ctrl-C are sent until then."""
    got = b""
    while True:
        at = len(peer.seen)
        peer.text("\rprint('a' + 'bc')\r")
        try:
            got += peer.until(b"abc\r\n" + PROMPT, 2)
            return got
        except TimeoutError:
            got += peer.seen[at:]
            peer.text("\x03")  # a program that catches everything may have caught the others


def in_order(output: bytes, whole: bool):
    """Lines `n ... n` from 1 on, each whole and once, before the traceback."""
    lines = output.split(b"Traceback")[0].split(b"\r\n")
    if not whole:  # it was interrupted within a line
        lines = lines[:-1]
    numbers = []
    for line in lines:
        if found := re.fullmatch(rb"(\d+) x+ (\d+)", line):
            assert found[1] == found[2], line
            numbers.append(int(found[1]))
        else:
            assert line == b"" or b"\x03" not in line and not line[:1].isdigit(), line
    assert numbers == list(range(1, len(numbers) + 1)), numbers[:20]


@pytest.mark.parametrize("program", PROGRAMS)
def test_ctrl_c(connect, program):
    peer = connect(timeout=20).login()
    random.seed(program)
    for keys in (b"\x03", b"\x03\x03", b"\r\x03\x03", b"\x03" * 10, b"typed\x03", b"\x03|\x03|\x03\x03"):
        output = run(peer, PROGRAMS[program])
        at = len(peer.seen)
        for part in keys.split(b"|"):
            peer.text(part)
        if program == "catches everything":
            output += stop(peer)
        else:
            output += peer.until(b"KeyboardInterrupt")
            output += peer.until(PROMPT)
            peer.text("\rprint('a' + 'bc')\r")
            peer.until(b"abc\r\n" + PROMPT)
        assert b"KeyboardInterrupt" in peer.seen[at:]
        in_order(output, program != "prints little by little")


@pytest.mark.parametrize("program", ["prints", "holds the CPU"])
def test_ctrl_c_anywhere_in_a_frame(connect, program):
    """Behind more than the firmware's ring holds, of which a program that does not read takes nothing; text follows."""
    peer = connect(timeout=20).login()
    for ahead, behind in ((5, 0), (400, 0), (500, 400), (950, 0)):
        run(peer, PROGRAMS[program])
        peer.text(b"#" * ahead + b"\x03" + b"\r" * (not behind) + b"#" * behind + b"\rprint('be' + 'hind')\r")
        peer.until(b"KeyboardInterrupt")
        peer.until(b"behind\r\n" + PROMPT)


READS_SLOWLY = """
import sys, time, micropython
def read(n):
 got = b''
 micropython.kbd_intr(-1)
 print('re' + 'ads')
 while len(got) < n:
  got += sys.stdin.buffer.read(min(50, n - len(got)))
  time.sleep_ms(80)
 micropython.kbd_intr(3)
 return got
"""


def test_ctrl_c_is_data_where_a_program_says_so(connect):
    """micropython.kbd_intr(-1), as mpremote mount and editors have it: a reader that is slow loses nothing."""
    peer = connect(timeout=30).login()
    peer.text("\x05")
    peer.until(b"=== ")
    peer.text(READS_SLOWLY + "\x04")
    peer.until(PROMPT)
    data = bytes(random.Random(3).choices(b"\x00\x03\n\r\xff", k=900))
    peer.text("got = read(900)\r")
    peer.until(b"reads\r\n")
    for at in range(0, 900, 100):  # each beginning as keys come, alone
        peer.text(data[at : at + 1])
        peer.text(data[at + 1 : at + 99])
        peer.text(b"\x03")
    peer.until(PROMPT)
    wanted = b"".join(data[at : at + 99] + b"\x03" for at in range(0, 900, 100))
    assert peer.value("got") == wanted
    run(peer, PROGRAMS["holds the CPU"])
    peer.text("\x03")
    peer.until(b"KeyboardInterrupt")


def storm(peer: Peer, rounds: int, seed=5):
    """One to four Ctrl-C in a frame, one to three times, into a program that prints without a pause (field-15)."""
    random.seed(seed)
    for _ in range(rounds):
        output = run(peer, PROGRAMS["prints"])
        for _ in range(random.randint(1, 3)):
            peer.text(b"\x03" * random.randint(1, 4))
        output += peer.until(b"KeyboardInterrupt", 60)
        peer.text("print(12*12)\r")
        peer.until(b"144\r\n", 60)
        peer.until(PROMPT)
        in_order(output, True)


def test_a_storm_of_ctrl_c(connect, board):
    storm(connect(timeout=30).login(), 40)
    assert b"deactivating" not in board.console.log


# A tuple of exceptions behind `except` is made when one is matched, which takes memory (py/compile.c).
WITHOUT_MEMORY = """
import micropython, wss_repl
from wss.terminal import Terminal
class Full:
 _server = wss_repl._server
 _sender = True
 def _store_part(self): pass
 def _give_up(self, data, kept): return "given up"
full = Full()
kept = [0, 0]
def fails(on): raise MemoryError
def step(): full._server.run(fails, None)
def write(): return Terminal._store(full, b"x", kept)
def without_memory(work):
 micropython.heap_lock()
 try: return work()
 finally: micropython.heap_unlock()
"""


@pytest.mark.needs("names")
def test_without_memory_no_ctrl_c_comes_that_nobody_pressed(connect):
    peer = connect().login()
    peer.text("\x05")
    peer.until(b"=== ")
    peer.text(WITHOUT_MEMORY + "\x04")
    peer.until(PROMPT)
    assert peer.command("without_memory(step)") == b""
    assert peer.command("without_memory(write)") == b"'given up'\r\n"


# A thread's number is a long int on the stand-in of 32 bits, which takes memory; on ESP32 and RP2 it is short.
STEPS_WITHOUT_MEMORY = """
import micropython, sys, time, wss_repl, wss.guard
wss.guard._ident = lambda: 1
t = wss_repl._server.session.terminal.typed
def steps(n):
 micropython.heap_lock()
 try:
  for i in range(n): wss_repl.poll()
 finally: micropython.heap_unlock()
 return n
def read():
 micropython.kbd_intr(-1)
 print('re' + 'ads')
 while not t.waits(): time.sleep_ms(1)
 asked = t._at
 micropython.heap_lock()
 while t._at == asked:
  wss_repl.poll()
  time.sleep_ms(1)
 micropython.heap_unlock()
 got = sys.stdin.buffer.read(300)
 micropython.kbd_intr(3)
 return got
"""


@pytest.fixture
def steps(connect) -> Peer:
    peer = connect(timeout=30).login()
    peer.text("\x05")
    peer.until(b"=== ")
    peer.text(STEPS_WITHOUT_MEMORY + "\x04")
    peer.until(PROMPT)
    return peer


@pytest.mark.needs("names")
def test_a_session_outlives_steps_without_memory(steps):
    """What is typed and printed meanwhile comes when there is memory again."""
    for n in range(20):
        steps.text("print('be' + 'fore'); steps(50); print('be' + 'hind', %d)\r" % n)
        steps.until(b"before\r\n")
        steps.text("x = %d\r" % n)
        steps.until(b"behind %d\r\n" % n)
        steps.until(PROMPT)
        steps.until(PROMPT)
        assert steps.value("x") == n
    assert steps.value("wss_repl.status()['refused']") == {}


@pytest.mark.needs("names")
def test_without_memory_a_ctrl_c_is_asked_for_and_nothing_is_lost(steps):
    data = bytes(random.Random(4).choices(b"\x00\x03\n\r\xff", k=299)) + b"\x03"
    steps.text("got = read()\r")
    steps.until(b"reads\r\n")
    steps.text(data)
    steps.until(PROMPT)
    assert steps.value("got") == data


# A Ctrl-C of the console is not held back while a step is under way. This one rises at the next jump after a function.
INJECT = """
from wss.guard import interrupt

def after(owner, name, when):
    real = getattr(owner, name)

    def function(*args):
        result = real(*args)
        if when(result, *args):
            setattr(owner, name, real)
            return interrupt(result)
        return result

    setattr(owner, name, function)

class File:
    # each second read is interrupted, and what it has read is read again
    turn = 0

    def __init__(self, *args):
        self.file = open(*args)
        self.seek, self.close = self.file.seek, self.file.close

    def readinto(self, buf):
        n = self.file.readinto(buf)
        self.turn += 1
        if self.turn % 2:
            return interrupt(n)
        return n
"""


@pytest.fixture
def injected(target, provisioned, keys):
    """A board that can be interrupted within our steps, and its client."""
    (provisioned / "inject.py").write_text(INJECT)
    with target.board(provisioned, options=", log=1024") as board:
        board.run("import inject, time, wss.terminal, wss.utf8, wss.log, wss.files")
        with Peer(board.address, keys.host, timeout=30) as peer:
            yield board, peer.login()


def interrupted(board, peer: Peer, where: str, data: bytes) -> bytes:
    """What comes of one write() of data, when a KeyboardInterrupt comes at that place: Peer sees that text is UTF-8."""
    board.run(f"inject.after({where})")
    peer.seen = b""
    peer.text("\x05")
    peer.until(b"=== ")
    peer.text(f"import sys\n_ = sys.stdout.buffer.write({data!r})\nwhile True: pass\n\x04")
    peer.until(b"KeyboardInterrupt: \r\n" + PROMPT, 30)
    return peer.seen.split(b"True: pass\n\r\n", 1)[1].split(b"Traceback")[0]


@pytest.mark.parametrize(
    "where",
    ["wss.terminal.Terminal, 'take', lambda r, _: r and max(bytes(r)) > 0xC2", "wss.utf8, 'split', lambda *_: True"],
    ids=["taken", "cut"],
)
def test_an_interrupt_of_a_step_keeps_each_byte(injected, where):
    board, peer = injected
    for data in (b"<\xff>", b"<a\xc3", b"<\xc3\xa9>"):
        assert interrupted(board, peer, where, data) == data


@pytest.mark.needs("names")
def test_an_interrupt_of_a_step_keeps_each_line_of_the_log(injected):
    board, peer = injected
    lines = b"".join(b"<%d>\r\n" % n for n in range(9))
    assert interrupted(board, peer, "wss.log.Log, '_add', lambda n, log, data: data == b'<3>'", lines) == lines
    log = board.run("print(wss.log.document().read())")
    assert re.findall(r"<\d>", log.rsplit("True: pass", 1)[1].split("Traceback")[0]) == [f"<{n}>" for n in range(9)]


def test_an_interrupt_of_a_step_keeps_each_piece_of_a_file(injected):
    board, peer = injected
    content = os.urandom(20000)
    assert peer.put(b"file", content) == 0
    board.run("wss.files.open = inject.File")
    peer.text("while True:\rtry: print('runs'); time.sleep(1)\rexcept KeyboardInterrupt: pass\r\r\r\r")
    peer.until(b"\r\nruns\r\n", 30)
    assert peer.get(b"file") == content


# A session's stream. From the n-th read on that brings something, jumps are counted up to the next read: that is where
# what was read is decoded, typed, and written to files. The Ctrl-C comes with one of them.
EACH_JUMP = """
import sys, wss_repl
from _board import interrupt_in

n = left = 0
counts = False
got = ""

class Counted:
    def __init__(self, stream):
        self.stream = stream
        self.write = stream.write
        self.close = stream.close

    def readinto(self, buf):
        global left, counts
        left = (left, interrupt_in(0))[counts]
        counts = False
        count = self.stream.readinto(buf)
        if count:
            counts = True
            interrupt_in(left)
        return count

def put_down(c):
    global got
    got += c

def begin(c):
    global n, left, got
    n += step
    got = ""
    left = n
    print("<+%d>" % n)

def tell(c):
    global asked
    asked = True

DO = {"+": begin, "=": tell}

def run(every):
    global asked, step
    asked = False
    step = every
    s = wss_repl.client_swr.session
    s.stream = Counted(s.stream)
    print("runs")
    while True:
        try:
            while True:
                if asked:
                    print("<%d %d %s %s>" % (n, left, got, open("new", "rb").read()))
                    asked = False
                c = sys.stdin.read(1)
                DO.get(c, put_down)(c)  # no jump since it was read
        except KeyboardInterrupt:  # one at a time: none comes behind this
            pass
"""


def test_an_interrupt_at_each_jump_of_decoding_loses_nothing(target, provisioned, keys):
    """Requests, pieces of files, typed text and a ping, whole and in parts, sent once for each jump."""
    (provisioned / "each_jump.py").write_text(EACH_JUMP)
    (provisioned / "old").write_bytes(b"something")
    content = bytes(range(250, 256)) + os.urandom(150)

    def request(op, name, size=0):
        return FILE_REQUEST.pack(b"WA", op, 0, 0, size, len(name), name)

    # Each is read at a time, and what is answered: the board queues four answers
    header = encode(BINARY, content[5:])
    parts = [
        encode(BINARY, request(PUT, b"empty"))
        + encode(TEXT, b"ab")
        + encode(BINARY, request(PUT, b"new", len(content))[:40], fin=False)
        + encode(0, request(PUT, b"new", len(content))[40:] + content[:5])
        + encode(PING, b"there?")
        + header[:3],
        header[3:] + encode(TEXT, b"c") + encode(BINARY, b"no request") + encode(BINARY, request(PUT, b"", 1)),
        encode(BINARY, request(GET, b"old"), mask=None) + encode(BINARY, b"\0") + encode(BINARY, b"\0"),
        encode(TEXT, b"d="),
    ]
    ok = b"WB\0\0"
    answers = [[ok] * 3, [ok, b"WB\x16\0", b"WB\x02\0"], [ok, b"\x09\0something", b"\0\0", ok], []]
    with target.board(provisioned) as board, Peer(board.address, keys.host, timeout=30) as peer:
        peer.login()
        step = 1 if target.name in ("unix", "unix32") else 9  # the others decode with the same code, and wait more
        peer.text(f"import each_jump; each_jump.run({step})\r")
        peer.until(b"\r\nruns\r\n")
        n = left = 0
        while not left:
            n += step
            peer.text("+")
            peer.until(b"<+%d>" % n)  # or what follows may be decoded before
            pongs, text = 0, b""
            for part, wanted in zip(parts, answers, strict=True):
                peer.send(part)
                binary = []
                while len(binary) < len(wanted) or not wanted and not re.search(rb"<%d .*>\r\n" % n, text):
                    op, payload = peer.frame()
                    assert op != CLOSE, (n, payload)
                    binary += [payload] if op == BINARY else []
                    pongs += op == PONG
                    text += payload if op == TEXT else b""
                assert binary == wanted, n
            found = re.search(rb"<%d (\d+) (\w*) (.*)>\r\n" % n, text)
            assert found[2] == b"abcd", n
            assert found[3] == repr(content).encode(), n
            assert pongs, n
            assert (provisioned / "new").read_bytes() == content and (provisioned / "empty").read_bytes() == b""
            left = int(found[1])
        assert n > 200
