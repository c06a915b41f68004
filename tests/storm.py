"""Ctrl-C at random moments into programs of all kinds, while the client types and transfers (tests/host, evidence).

What a program prints is made of pieces that are numbered from 1: <M1:xxx> its own, <H1> those of a thread, <T1> those
of a timer. Each piece is one write. So one that is lost, doubled, torn or out of order is seen, and at the end the
program's own counters tell how many there were.
"""

import contextlib
import os
import random
import re
import struct
import time

from peers import BINARY, CLOSE, PUT, TEXT, Ended, Peer

START = "n = h = k = 0\nimport sys, time, _thread\nfrom machine import Timer\n"
PIECE = "print('<M%d:%s>' % (n, 'x' * (n % 40)))\n"
EACH = "for n in range(1, 1000000):\n "
TIMER = """def tick(_):
 global k
 k += 1
 print('<T%d>' % k)

t = Timer(-1 if sys.platform == 'rp2' else 1)
t.init(period=3, mode=Timer.PERIODIC, callback=tick)
"""
THREAD = """alive = True
done = False
def th():
 global h, done
 while alive:
  h += 1
  print('<H%d>' % h)
  time.sleep_ms(2)
 done = True

_ = _thread.start_new_thread(th, ())
"""
RECURSION = """def end(): end()
def deep(d):
 if d: return deep(d - 1)
 print('<M%d:>' % n)

"""
# name: (before the loop, in the loop, what is to be typed when it has been stopped)
PROGRAMS = {
    "prints": ("", PIECE, ""),
    "prints long lines": ("", "print('<M%d:%s>' % (n, 'x' * 700))\n", ""),
    "prints little by little": ("w = sys.stdout.write\n", "for c in '<M%d:xxxx>' % n: _ = w(c)\n", ""),
    "allocates": ("", "b = [bytearray(200) for _ in range(60)]; " + PIECE, ""),
    "recurses": (RECURSION, "deep(n % 9)\n", ""),
    "runs out of stack": (RECURSION, PIECE + " try: end()\n except RuntimeError: pass\n", ""),
    "imports": ("", "import stormy; del sys.modules['stormy']; " + PIECE, ""),
    "sleeps": ("", PIECE + " time.sleep_us(500)\n", ""),
    "holds the CPU": ("", PIECE + " for _ in range(9999): pass\n", ""),
    "has a timer": (TIMER, PIECE, "t.deinit()"),
    "has a timer and sleeps": (TIMER, PIECE + " time.sleep_ms(1)\n", "t.deinit()"),
    "has a thread": (THREAD, PIECE, "alive = False"),
    "has both": (TIMER + THREAD, PIECE + " time.sleep_us(200)\n", "t.deinit(); alive = False"),
}
MODULE = b"class A:\n def f(self): return [1, 2, 3]\n" + b"x = 'a text of some length'\n" * 20


class Client(Peer):
    """Keeps all that is printed, whatever it waits for."""

    getting = False  # a file: then any binary frame is a piece of it

    def login(self, *args, **options):
        self.output = bytearray()
        self.early = []  # answers of the file protocol that came while nobody waited for them
        return super().login(*args, **options)

    def frame(self):
        op, payload = super().frame()
        if op == TEXT or op == BINARY and payload[:1] >= b"\x80" and not self.getting:
            self.output += payload
        return op, payload

    def wait_for(self, pattern: bytes, timeout: float) -> "re.Match[bytes]":
        """Read until it is in the output, which has at most 100 bytes of it at the end of a frame. Raises TimeoutError,
        Ended."""
        # A client that looks through all of it after each frame is one that stopped reading, for a board that prints.
        wanted, at = re.compile(pattern), 0
        end = time.monotonic() + 10 * timeout  # a timer that nobody has stopped goes on printing for ever
        while not (found := wanted.search(self.output, at)):
            at = max(at, len(self.output) - 100)
            self.sock.settimeout(timeout)
            try:
                if self.frame()[0] == CLOSE:
                    raise Ended(bytes(self.output[-300:]))
                if time.monotonic() > end:
                    raise TimeoutError
            except TimeoutError:
                raise TimeoutError(bytes(self.output[-500:])) from None
            finally:
                self.sock.settimeout(self.timeout)
        return found

    def listen(self, seconds: float) -> None:
        """Read a frame if one comes."""
        self.sock.settimeout(seconds)
        with contextlib.suppress(TimeoutError):
            op, payload = self.frame()
            assert op != CLOSE, payload
            if op == BINARY and payload[:2] == b"WB":
                self.early.append(payload)
        self.sock.settimeout(self.timeout)

    def answer(self) -> None:
        """An answer of the file protocol, which says that all is well. Raises TimeoutError."""
        end = time.monotonic() + 10 * self.timeout  # text may come for ever
        while not self.early:
            op, payload = self.frame()
            assert op != CLOSE, payload
            if op == BINARY and payload[:2] == b"WB":
                self.early.append(payload)
            elif time.monotonic() > end:
                raise TimeoutError("no answer of the file protocol")
        answer = self.early.pop(0)
        assert answer == b"WB\0\0", answer


def numbers(output: bytes, kind: bytes) -> list[int]:
    """Of the pieces of a kind, which have to be whole."""
    found = []
    for piece in re.finditer(rb"<%s(\d+)(:x*)?>" % kind, output):
        found.append(int(piece[1]))
    return found


def check(output: bytes, n: int, h: int, k: int):
    """Whether a program's pieces are all in its output, in order, and once."""
    for kind, count in ((b"M", n), (b"H", h), (b"T", k)):
        got = numbers(output, kind)
        # A Ctrl-C that rises in the timer's function does so before or after it prints.
        missing = sorted(set(range(1, max(got, default=0) + 1)) - set(got))
        assert kind == b"T" and len(missing) <= output.count(b"in tick") or not missing, (kind, missing, output)
        assert got == sorted(set(got)), (kind, got, output)
        # The last may have been counted and not printed.
        assert count - len(missing) - (kind != b"H") <= len(got) <= count, (kind, count, len(got), output[-3000:])


class Storm:
    """Round after round in one session. `keys` is how many Ctrl-C there were."""

    def __init__(self, client: Client, board, seed: int = 16):
        self.client = client
        self.board = board
        self.chance = random.Random(seed)
        self.keys = self.rounds = self.marks = 0

    def prepare(self):
        assert self.client.put(b"stormy.py", MODULE) == 0

    def round(self, name: str):
        client, chance = self.client, self.chance
        before, loop, after = PROGRAMS[name]
        client.output = bytearray()
        client.text("\x05")
        client.wait_for(rb"=== $", 20)
        client.text(START + before + EACH + loop + "\x04")
        client.wait_for(rb"<M1:", 20)
        transfer = self._transfer() if chance.random() < 0.3 else iter(())
        console = False
        for _ in range(chance.randint(1, 3)):
            for _ in range(chance.randint(0, 6)):
                next(transfer, None)
                if chance.random() < 0.3:
                    client.listen(chance.random() / 100)
            typed = b"typed " if chance.random() < 0.3 else b""
            count = chance.randint(1, 4)
            client.text(typed + b"\x03" * count)
            self.keys += count
            if chance.random() < 0.3:
                self.board.console.write(b"\x03")
                self.keys += 1
                console = True
        for _ in transfer:
            pass
        self._stopped(after)
        if console:  # its Ctrl-C may be slower than all that came by the network, and may have ended that
            self.board.console.write(b"\rprint('<C%%d>' %% %d)\r" % self.rounds)
            client.wait_for(rb"<C%d>" % self.rounds, 20)
            self._stopped(after)
        if "alive" in after:
            client.text("while not done: time.sleep_ms(1)\r\r")
        client.text(f"print('<N%d %d %d %d>' % ({self.rounds}, n, h, k))\r")
        found = client.wait_for(rb"<N%d (\d+) (\d+) (\d+)>" % self.rounds, 20)
        check(bytes(client.output[: found.start()]), *(int(found[i]) for i in (1, 2, 3)))
        assert b"deactivating" not in client.output
        self.rounds += 1

    def _stopped(self, after: str):
        # A Ctrl-C may have come up in a timer's function, which it ends instead of the program: one more, then.
        client = self.client
        for _ in range(40):
            self.marks += 1
            mark = b"[%d]" % self.marks
            client.text("\r%s\rprint('[%%d]' %% %d)\r" % (after, self.marks))
            with contextlib.suppress(TimeoutError):
                client.wait_for(re.escape(mark), 2)
                break
            client.text("\x03")
            self.keys += 1
        else:
            raise TimeoutError(bytes(client.output[-1000:]))

    def _transfer(self):
        # A put, a frame at a time; then a get of it.
        content = os.urandom(self.chance.randint(1, 5000))
        name = b"stormy.bin"
        self.client.request(PUT, name, len(content))
        self.client.answer()
        for i in range(0, len(content), 1024):
            self.client.binary(content[i : i + 1024])
            yield
        self.client.answer()
        yield
        assert self._get(name) == content

    def _get(self, name: bytes) -> bytes:
        self.client.getting = True
        try:
            return self._get_pieces(name)
        finally:
            self.client.getting = False

    def _get_pieces(self, name: bytes) -> bytes:
        self.client.request(2, name)
        self.client.answer()
        content = b""
        while True:
            self.client.binary(b"\0")
            while True:
                op, piece = self.client.frame()
                assert op != CLOSE, piece
                if op == BINARY:
                    break
            (n,) = struct.unpack("<H", piece[:2])
            assert len(piece) == 2 + n
            if not n:
                self.client.answer()
                return content
            content += piece[2:]

    def run(self, keys: int, programs=tuple(PROGRAMS)):
        """Rounds until there were so many Ctrl-C, each program at least once."""
        while self.keys < keys or self.rounds < len(programs):
            name = programs[self.rounds % len(programs)]
            try:
                self.round(name)
            except (AssertionError, OSError, Ended) as e:
                e.add_note(f"round {self.rounds}, program {name!r}, {self.keys} Ctrl-C")
                with contextlib.suppress(Exception):
                    self.board.console.write(b"\x03\x03")
                    e.add_note(self.board.run("print(wss_repl.status())"))
                raise
