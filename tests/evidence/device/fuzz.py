# ruff: noqa: B007, B904, E501, I001, SIM105
"""Fuzzing on MicroPython itself: `micropython fuzz.py TARGET FIRST COUNT CORPUS [SECONDS]`, with the bundle in MICROPYPATH.

Input number n is a function of n and of the corpus: a failure is repeated with FIRST=n, COUNT=1. Each input is fresh from a
generator that knows the format, or a mutated one of the corpus (a file of lines: signature, space, hex). Printed are
"NEW signature hex" for an outcome not seen before, "BUG n kind hex", "AT n" for whoever watches for a hang, and at the end
"DONE inputs milliseconds longest_ms most_bytes kept_bytes". A bug is an exception that the contract does not name, an answer that differs
from the reference here, an input over a second, and one that allocates more than its cap and 64 bytes for each of
its own (they come in single bytes too, and each call costs something that is garbage afterwards).
"""

import gc
import os
import random
import struct
import sys
import time
import vfs
from binascii import b2a_base64, crc32, hexlify, unhexlify
from hashlib import sha1

import micropython

from ram import Ram

HANG = 1000  # ms
BUGS = 5  # then stop
CORPUS = 96  # entries kept


class Bug(Exception):
    """args[0] says what is wrong."""


spent = 0  # bytes that the code under test has allocated for this input


def metered(f, *args):
    """f(*args), its allocations counted: all of them, garbage too, so this is above what it needs at once."""
    global spent
    before = micropython.mem_total()
    try:
        return f(*args)
    finally:
        spent += micropython.mem_total() - before


def chance(n):
    return not random.randrange(n)


def pick(of):
    return of[random.randrange(len(of))]


def noise(n):
    return bytes([random.getrandbits(8) for _ in range(n)])


def mutate(data, words, others):
    data = bytearray(data)
    for _ in range(1 + random.randrange(4)):
        n = len(data)
        i = random.randrange(n + 1)
        what = random.randrange(9)
        if what == 0 and i < n:
            data[i] ^= 1 << random.randrange(8)
        elif what == 1 and i < n:
            data[i] = pick((0, 1, 10, 13, 32, 45, 48, 58, 125, 126, 127, 128, 129, 254, 255))
        elif what == 2:
            data[i : i + random.randrange(1, 20)] = b""
        elif what == 3:
            data[i:i] = data[i : i + random.randrange(1, 40)]
        elif what == 4:
            data[i:i] = pick(words)
        elif what == 5:
            other = pick(others)
            data[i:] = other[random.randrange(len(other) + 1) :]
        elif what == 6:
            data[i:] = b""
        elif what == 7 and i < n:
            data[i] = (data[i] + random.randrange(-3, 4)) & 255
        else:
            data[i:i] = noise(random.randrange(1, 10))
    return bytes(data[:8192])


def pieces(data, most=2048):
    """data as a stream brings it: in pieces of any length."""
    i = 0
    while i < len(data):
        k = pick((1, 1, 2, 3, 5, 14, 64, 125, 256, most))
        yield bytearray(data[i : i + k])
        i += k


# upgrade.py -------------------------------------------------------------------------------------------------


class Upgrade:
    cap = 40000

    def __init__(self):
        from wss import session, upgrade

        self.m = upgrade
        self.s = session
        self.words = [
            b"\r\n", b"\r\n\r\n", b"GET ", b" HTTP/1.1", b"Upgrade: websocket\r\n", b"Connection: Upgrade\r\n",
            b"Sec-WebSocket-Key: foo\r\n", b"Sec-WebSocket-Version: 13\r\n", b"sec-websocket-key:", b":", b" : ", b"\n", b"\r", b"\t",
            b"\0", b"/takeover", b"\xff\xfe", b"keep-alive, Upgrade", b"a:\r\n" * 40, b"X: " + b"y" * 200 + b"\r\n",
        ]  # fmt: skip

    def fresh(self):
        lines = [b"Host: x", b"Upgrade: websocket", b"Connection: Upgrade"]
        lines.append(b"Sec-WebSocket-Key: " + noise(random.randrange(70)).replace(b"\r", b"").replace(b"\n", b""))
        if chance(2):
            lines.append(b"Sec-WebSocket-Version: " + pick((b"13", b"13", b"8", b"", b"013")))
        for _ in range(pick((0, 0, 1, 5, 30, 200))):
            lines.append(pick((b"X-%d: y" % random.randrange(999), b"a:", b"Cookie: " + b"c" * random.randrange(99))))
        for _ in range(random.randrange(3)):
            i = random.randrange(len(lines))
            j = random.randrange(len(lines))
            what = random.randrange(6)
            if what == 0:
                lines[i] = lines[i].upper()
            elif what == 1:
                lines[i] = lines[i].replace(b": ", pick((b":", b" : ", b":\t", b"", b": ,")))
            elif what == 2:
                lines.pop(i)
            elif what == 3:
                lines.append(lines[i])
            else:
                lines[i], lines[j] = lines[j], lines[i]
            if not lines:
                break
        first = pick((b"GET", b"GET", b"GET", b"GET", b"POST", b"get", b""))
        first += b" " + pick((b"/", b"/", b"/takeover", b"*", b"", b"/ ", b"/" + b"p" * 300))
        first += b" " + pick((b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2", b"HTTP/1."))
        return first + b"\r\n" + b"\r\n".join(lines) + b"\r\n\r\n"

    def run(self, data):
        m = self.m
        if data[-4:] != b"\r\n\r\n":
            data += b"\r\n\r\n"
        data = data[: data.find(b"\r\n\r\n") + 4]
        try:
            response, path = metered(m.answer, data)
        except m.Refused as e:
            whole = m.refusal(*e.args)
            head, _, body = whole.partition(b"\r\n\r\n")
            if b"Content-Length: %d" % len(body) not in head or not whole.startswith(b"HTTP/1.1 %d " % e.args[0]):
                raise Bug("refusal is not HTTP")
            self.session(data, None)
            return "%d %s" % e.args
        if path is None:  # the page
            for line in data.lower().split(b"\r\n"):
                if line.startswith(b"upgrade:") and line[8:].strip():
                    raise Bug("a page for who asked for an upgrade")
            return "page"
        lines = data[:-4].split(b"\r\n")
        first = lines[0].split(b" ")
        keys = []
        upgrade = connection = False
        for line in lines[1:]:
            at = line.find(b":")
            name = line[:at].lower()
            value = line[at + 1 :].strip()
            if name == b"sec-websocket-key":
                keys.append(value)
            upgrade = upgrade or (name == b"upgrade" and value.lower() == b"websocket")
            connection = connection or (name == b"connection" and b"upgrade" in value.lower())
        if (
            len(keys) != 1
            or not upgrade
            or not connection
            or first[0] != b"GET"
            or path != first[1]
            or path[:1] != b"/"
        ):
            raise Bug("took what is no upgrade")
        if len(data) > 2048 or not keys[0] or len(keys[0]) > 64:
            raise Bug("took what is over a limit")
        right = b2a_base64(sha1(keys[0] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()).strip()
        if b"Sec-WebSocket-Accept: " + right + b"\r\n\r\n" not in response or response.count(b"\r\n\r\n") != 1:
            raise Bug("wrong response")
        self.session(data, response)
        return "101 %d" % len(lines)

    def session(self, data, response):
        # The same through the stage, in pieces: it may refuse earlier, and must not take what answer() refuses
        s = stage(Stub())
        s.stage = 2
        got = None
        try:
            for piece in pieces(data):
                if s.stage != 2:
                    break
                s.receiver._take_request(piece)
        except self.m.Refused:
            got = False
        if got is None and s.stage == 3:
            got = True
        if bool(got) != bool(response):
            raise Bug("in pieces it is answered otherwise")


# frames.py --------------------------------------------------------------------------------------------------


def frames(data):
    """RFC 6455 section 5.2, read once more and without hurry: ([(opcode, payload so far, whole)], close code or None)."""
    found = []
    message = None
    i = 0
    while True:
        if len(data) < i + 2:
            return found, None
        b0 = data[i]
        b1 = data[i + 1]
        at = i + 2
        n = b1 & 0x7F
        if n == 126:
            if len(data) < at + 2:
                return found, None
            n = struct.unpack(">H", data[at : at + 2])[0]
            at += 2
        elif n == 127:
            if len(data) < at + 8:
                return found, None
            n = struct.unpack(">Q", data[at : at + 8])[0]
            at += 8
        key = b"\0\0\0\0"
        if b1 & 0x80:
            if len(data) < at + 4:
                return found, None
            key = data[at : at + 4]
            at += 4
        fin = b0 & 0x80
        op = b0 & 0x0F
        if b0 & 0x70:
            return found, 1002
        if n >= 1 << 31:
            return found, 1009
        if op in (8, 9, 10):
            if not fin or b1 & 0x7F > 125:
                return found, 1002
        elif op == 0:
            if message is None:
                return found, 1002
        elif op in (1, 2):
            if message is not None:
                return found, 1002
        else:
            return found, 1002
        kind = op
        if op < 8:
            kind = op or message
            message = None if fin else kind
        end = at + n if n < 1 << 20 else len(data)
        payload = bytearray(data[at:end])
        for j in range(len(payload)):
            payload[j] ^= key[j & 3]
        payload = bytes(payload)
        whole = len(payload) == n
        if op < 8 or whole:
            found.append((kind, payload, whole))
        if not whole:
            return found, None
        i = at + n


def stream():
    """Frames, mostly as a client sends them."""
    out = b""
    message = 0
    for _ in range(random.randrange(1, 8)):
        op = pick((1, 1, 2, 9, 10, 8, 1, 2, random.randrange(16)))
        fin = 0x80
        if op in (1, 2) and message:
            op = 0
        if op < 8 and chance(3):
            fin = 0
        if op < 8:
            message = not fin
        if chance(40):
            fin ^= 0x80
        if chance(60):
            fin |= 0x10 << random.randrange(3)
        n = pick((0, 0, 1, 2, 3, 5, 15, 16, 17, 60, 125))
        if op < 8 and chance(4):
            n = pick((126, 127, 255, 256, 257, 300, 511, 513, 1000, 2049))
        elif chance(15):
            n = pick((126, 127, 200))
        body = noise(min(n, 20))
        body = (body * (n // 20 + 1))[:n] if n else b""
        mask = 0x80 if not chance(5) else 0
        if chance(30):  # a length in more bytes than it needs, or one that is a lie
            head = bytes([fin | op, mask | 127]) + struct.pack(
                ">Q", pick((n, n, 1 << 31, (1 << 31) - 1, 1 << 63, 65536))
            )
        elif n > 125 or chance(20):
            head = bytes([fin | op, mask | 126]) + struct.pack(">H", pick((n, n, n, 0, 65535)))
        else:
            head = bytes([fin | op, mask | n])
        if mask:
            key = noise(4)
            head += key
            body = bytearray(body)
            for j in range(n):
                body[j] ^= key[j & 3]
        out += head + body
    return out


class Frames:
    cap = 20000

    def __init__(self):
        from wss import frames

        self.m = frames
        self.words = [
            b"\x81\x80\0\0\0\0", b"\x01\x00", b"\x80\x00", b"\x88\x02\x03\xe8", b"\x89\x00", b"\x8a\x7d" + b"p" * 125,
            b"\x81\x7e\x00\x7e", b"\x82\x7f\0\0\0\0\0\1\0\0", b"\x82\xff\0\0\0\0\x7f\xff\xff\xff", b"\x82\xff\0\0\0\0\x80\0\0\0", b"\xc1",
        ]  # fmt: skip

    fresh = staticmethod(stream)

    def run(self, data):
        got = []
        parts = chance(3)

        def sink(op, payload, start):
            taken = random.randrange(len(payload)) + 1 if parts and op < 8 and chance(2) else len(payload)
            payload = payload[:taken]
            if start:
                got.append([op, b""])
            elif not got or got[-1][0] != op:
                raise Bug("a piece of no frame")
            got[-1][1] += payload
            if op > 7 and not start:
                raise Bug("a control frame in pieces")
            return taken

        decoder = self.m.Decoder(sink)
        code = None
        try:
            for piece in pieces(data):
                view = memoryview(piece)
                decoder.at = 0
                while decoder.at < len(view):
                    before = decoder.at
                    metered(decoder.feed, view)
                    if not before < decoder.at <= len(view):
                        raise Bug("went from %d to %d of %d" % (before, decoder.at, len(view)))
        except self.m.Refused as e:
            code = e.args[0]
        want, error = frames(data)
        if code != error:
            raise Bug("code %s, not %s" % (code, error))
        # A data frame is announced with its first payload byte, a control frame when it is whole.
        want = [list(w[:2]) for w in want if w[1] or w[2] and w[0] > 7]
        if got != want:
            raise Bug("%s, not %s" % (got, want))
        for op, payload in got:
            if op == 8:
                answer = self.m.closing(0, payload)[2:]
                if len(answer) not in (0, 2):
                    raise Bug("close")
                told = struct.unpack(">H", answer)[0] if answer else 1000
                if told in (1004, 1005, 1006, 1015) or told < 1000 or told > 4999:
                    raise Bug("sent close code %d" % told)
        ops = sorted(set([w[0] for w in want]))
        return "%s %s %s" % (code, ops, len(want) if len(want) < 4 else "many")


# session.py up to login.py ----------------------------------------------------------------------------------


class Stub:
    """What a Session asks of its server before login."""

    password = b"secret"
    session = None
    context = None
    wrong = 0

    def __init__(self):
        self.failures = []

    def count_refusal(self, cause):
        self.wrong += 1


class Nobody:
    """A socket that takes nothing, and gives what is put into `waiting`."""

    waiting = b""

    def write(self, data):
        return None

    def readinto(self, buf):
        n = min(len(buf), len(self.waiting))
        buf[:n] = self.waiting[:n]
        self.waiting = self.waiting[n:]
        return n or None


def stage(server):
    from wss.session import Session

    class Staged(Session):
        admitted = False

        def _open_terminal(self):  # what opens the REPL: everything up to here is real
            self.admitted = True
            self.stage = 6

    s = Staged(server, None, ("192.0.2.1", 1), 0)
    s.stream = Nobody()
    return s


class Login:
    cap = 100000

    def __init__(self):
        from wss import frames
        from wss.login import Login

        self.m = frames
        self.login = Login
        self.words = [b"\x81\x07secret\r", b"\x82\x07secret\n", b"\x01\x03sec", b"\x80\x04ret\r", b"\x89\x00", b"\x8a\x00", b"secret", b"\r",
                      b"\x81\x08secret\r\n", b"\x81\x7e\x00\xc8" + b"x" * 200]  # fmt: skip

    def fresh(self):
        word = pick(
            (b"secret", b"secret", b"secre", b"secrets", b"", b"Secret", b"x" * random.randrange(300), noise(8))
        )
        word += pick((b"\r", b"\n", b"\r\n", b"", b"\r\rsecret\r", b"\rimport os\r"))
        out = b""
        first = True
        if chance(20):
            out = stream()
        while word or first:
            k = random.randrange(len(word) + 1)
            if chance(3):
                out += bytes([pick((0x89, 0x8A)), 2]) + b"hi"
            k = k or len(word)
            op = (pick((1, 2)) if first else 0) | (0x80 if k >= len(word) else 0)
            part = word[:k]
            word = word[k:]
            out += bytes([op, len(part)]) if len(part) < 126 else bytes([op, 126]) + struct.pack(">H", len(part))
            out += part
            first = False
        return out

    def run(self, data):
        server = Stub()
        s = stage(server)
        s.stage = 3
        receiver = s.receiver
        login = receiver.login = self.login(server.failures, server.password, s.address[0])
        error = None
        try:
            for piece in pieces(data):
                s.stream.waiting = bytes(piece)
                while s.stream.waiting and not s.close_answer and not login.is_complete:  # receive() reads no more
                    metered(receiver.receive)
                if s.stage == 3 and login.is_complete:
                    s.judge()
        except self.m.Refused as e:
            error = e.args[0]
        if len(s.sender.replies) > 6 or len(login._typed) > 65:
            raise Bug("keeps more than it may")
        want, code = frames(data)
        typed = b""
        done = closed = False
        for op, payload, whole in want:
            if op == 8:
                closed = True
                break
            if op in (1, 2):
                ends = [i for i in (payload.find(b"\r"), payload.find(b"\n")) if i >= 0]
                if ends:
                    typed += payload[: min(ends)]
                    done = True
                    break
                typed += payload
        right = done and typed == b"secret"
        if s.admitted != right:
            raise Bug("admitted %s with %r" % (s.admitted, typed))
        if bool(server.wrong) != (done and not right):
            raise Bug("counted %d wrong ones with %r" % (server.wrong, typed))
        return "%s %s %s %s %d" % (error, s.admitted, server.wrong, closed, s.stage)


class Backoff:
    """Sources, times and passwords against what the comment in login.py promises. A byte pair is an event."""

    cap = 20000
    words = [b"\0\0", b"\x10\x10" * 6, b"\xff\xff"]

    def __init__(self):
        from wss import login

        self.m = login

    def fresh(self):
        return noise(2 * random.randrange(1, 40))

    def run(self, data):
        failures = []

        def attempt(source, password=b"wrong"):
            login = self.m.Login(failures, b"secret", source)
            login.feed(password + b"\r")
            return login

        full = time.ticks_add(0, -1)  # the largest value there is
        now = pick((0, full, full - 3000, full - 70000, full // 2, 12345))
        known = {}  # source: [failures, when judged again, time of it without wrap]
        clock = 0
        worst = 0
        for i in range(0, len(data) - 1, 2):
            step = pick((0, 1, 100, 1000, 5000, 61000, 70000)) if data[i] & 128 else data[i] & 15
            if data[i] & 0x60 == 0x60 and chance(3):
                step = full // 2 + 1 + 70000 * random.randrange(1, 9)  # days later: ticks_diff sees it as the future
            now = time.ticks_add(time.ticks_add(now, step // 2), step - step // 2)
            clock += step
            source = data[i + 1] & 7
            what = data[i + 1] >> 4
            wait = attempt(source).wait(now)
            if type(wait) is not int or not 0 <= wait <= 4000:
                raise Bug("waits %r ms" % wait)
            if what < 10:
                delay = attempt(source).judge(now)
                if not 125 <= delay <= 4000:
                    raise Bug("denies after %r ms" % delay)
                wait = attempt(source).wait(now)
                if wait != delay:
                    raise Bug("forgets the delay of %d ms: %r" % (delay, wait))
                if source in known:
                    n, at = known[source]
                    n = n + 1 if clock - at <= 60000 else 1
                else:
                    n = 1
                if delay != min(4000, 125 << min(n - 1, 8)):
                    raise Bug("failure %d costs %d ms" % (n, delay))
                known[source] = n, clock + delay
                for old in list(known):  # one may have given way
                    if not [f for f in failures if f[0] == old]:
                        known.pop(old)
            elif what < 12:
                if attempt(source, b"secret").judge(now):
                    raise Bug("denies what is right")
                known.pop(source, None)
                if attempt(source).wait(now):
                    raise Bug("does not forgive")
            if len(failures) > 4:
                raise Bug("remembers too many")
            worst = max(worst, wait)
        return "%d %d" % (len(failures), worst.bit_length() if hasattr(worst, "bit_length") else len(bin(worst)))


# files.py ---------------------------------------------------------------------------------------------------


NAMES = (
    b"a",
    b"b.py",
    b"dir/c",
    b"dir",
    b"none/x",
    b"",
    b"n" * 64,
    b"/a",
    b"./a",
    b"a.part",
    b"\xff",
    b"a\0b",
    b"dir/",
    b"..",
    b"/",
)


class Files:
    """Pieces of binary frames: a byte of flags (1: a frame's first, 2: fetch pieces afterwards, 4: the session ends, and a new one begins),
    two of length, payload."""

    cap = 300000

    def __init__(self):
        from wss import files

        self.m = files
        vfs.umount("/")
        disk = Ram(128)
        vfs.VfsLfs2.mkfs(disk)
        vfs.mount(disk, "/")
        os.chdir("/")
        self.words = [struct.pack("<BH2sBBQLH64s", 1, 82, b"WA", op, 0, 0, size, len(n), n) for op, size, n in (
            (1, 5, b"a"), (1, 0, b"a"), (2, 0, b"a"), (2, 0, b"dir"), (3, 0, b""), (9, 0, b"a"), (1, 0xFFFFFFFF, b"b.py"))]  # fmt: skip
        self.words += [b"\x01\x01\x00\0", b"\x03\x01\x00\0", b"\x05\x00\x00"]

    def piece(self, flags, data):
        return struct.pack("<BH", flags, len(data)) + data

    def fresh(self):
        out = b""
        for _ in range(random.randrange(1, 6)):
            name = pick(NAMES)
            op = pick((1, 1, 1, 2, 2, 3, random.randrange(256)))
            body = noise(8) * pick((0, 1, 3, 20))
            size = pick((len(body), len(body), len(body), len(body) + 7, max(0, len(body) - 3), 0xFFFFFFFF, 0))
            n = pick((len(name), len(name), len(name), 65, 0, 65535))
            request = struct.pack("<2sBBQLH64s", pick((b"WA", b"WA", b"WA", b"WB")), op, 0, 0, size, n, name)
            k = pick((82, 82, 82, random.randrange(83)))
            out += self.piece(1, request[:k])
            if k < 82:
                out += self.piece(pick((0, 1)), request[k:])
            if op == 1:
                k = random.randrange(len(body) + 1)
                out += self.piece(1, body[:k]) + self.piece(pick((0, 1)), body[k:])
            elif op == 2:
                for _ in range(random.randrange(4)):
                    out += self.piece(3, b"\0" * pick((1, 1, 2, 5)))
            if chance(4):
                out += self.piece(5, b"")
        return out

    def run(self, data):
        for name in ("a", "b.py", "dir/c"):
            try:
                os.remove(name)
            except OSError:
                pass
        clean("")
        os.mkdir("dir")
        with open("keep", "wb") as f:
            f.write(b"kept")
        replies = []
        made = lambda: self.m.Files(replies.append)  # noqa: E731
        files = made()
        i = 0
        codes = []
        sent = bytearray()
        while i + 3 <= len(data):
            flags, n = struct.unpack("<BH", data[i : i + 3])
            piece = bytearray(data[i + 3 : i + 3 + n])
            sent += piece
            i += 3 + n
            view = memoryview(piece)
            start = bool(flags & 1)
            while view:
                taken = metered(files.feed, view, start)
                if not 0 < taken <= len(view):
                    raise Bug("took %d of %d" % (taken, len(view)))
                view = view[taken:]
                start = False
            for _ in range(6 if flags & 2 else 0):
                if not files.busy():
                    break
                out = metered(files.piece)
                if out is not None and (len(out) > 4096 or out[0] != 0x82):
                    raise Bug("a piece that is no frame")
            if len(replies) > 2 * len(piece) + 8:
                raise Bug("%d replies to %d bytes" % (len(replies), len(piece)))
            for r in replies:
                if r[:2] == b"\x82\x03":
                    codes.append("v")
                elif r[:4] == b"\x82\x04WB":
                    codes.append(str(struct.unpack("<H", r[4:])[0]))
                else:
                    raise Bug("an unknown reply %r" % r)
            replies.clear()
            if flags & 4:
                files.abort()
                if files._file or files._buf or files._op:
                    raise Bug("abort keeps something")
                files = made()
        files.abort()
        for name in walk(""):
            if name.endswith(".part") and name != "a.part" and name.encode() not in sent:  # not one asked for
                raise Bug("left " + name)
        with open("keep", "rb") as f:
            if f.read() != b"kept":
                raise Bug("another file was changed")
        if os.stat("dir")[0] & 0x4000 == 0:
            raise Bug("a directory has become a file")
        return " ".join(codes[:5])


def walk(top):
    found = []
    for entry in os.ilistdir(top or "/"):
        name = top + "/" + entry[0]
        if entry[1] & 0x4000:
            found += walk(name)
        found.append(name)
    return [n.lstrip("/") for n in found]


def clean(top):
    for name in walk(top):
        try:
            os.remove("/" + name)
        except OSError:
            os.rmdir("/" + name)


# pem.py, credentials.py, trust.py ---------------------------------------------------------------------------


class Pem:
    cap = 120000
    words = [b"-----BEGIN ", b"-----END ", b"CERTIFICATE-----", b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n", b"\n", b"=", b"====",
             b"EC PARAMETERS", b"ENCRYPTED", b"\x30\x82", b"\x30\x80", b"\x30\xff", b"\x30\x81\x00"]  # fmt: skip

    def __init__(self):
        from wss import pem

        self.m = pem

    def fresh(self):
        out = b""
        for _ in range(random.randrange(4)):
            label = pick(
                (
                    b"CERTIFICATE",
                    b"EC PRIVATE KEY",
                    b"PRIVATE KEY",
                    b"EC PARAMETERS",
                    b"ENCRYPTED PRIVATE KEY",
                    b"",
                    b"X",
                )
            )
            out += b"-----BEGIN " + label + b"-----\n" + b2a_base64(noise(random.randrange(60)))
            out += b"-----END " + (label if not chance(6) else b"Y") + b"-----" + pick((b"\n", b"\r\n", b""))
        return out

    def run(self, data):
        try:
            found = metered(self.m.der_blocks, data, "a file")
        except ValueError as e:
            if type(e) is not ValueError or not str(e).startswith("a file "):
                raise Bug("says %r" % e)
            return str(e)
        for der in found:
            if type(der) is not bytes or len(der) > len(data):
                raise Bug("no DER")
        if data[:1] == b"\x30" and found != [data]:
            raise Bug("changed a DER")
        return "%d" % len(found)


class Credentials:
    """One of key, certificate and CA from the input, the others good: up to mbedTLS. The corpus has the three, in this order."""

    cap = 200000
    words = [b"\x30\x82\x01\x00", b"\x02\x01\x00", b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07", b"\xa0\x03\x02\x01\x02", b"\x17\x0d", b"\x18\x0f", b"\x03\x42\x00\x04",
             b"\x30\x80", b"\x30\x84\xff\xff\xff\xff", b"991231235959Z", b"\x04\x20"]  # fmt: skip

    def __init__(self):
        from wss import credentials

        self.m = credentials
        # status() tells what the certificate lacks; the clock, which it sets, is not this process's to set here
        credentials.probe.set_clock = lambda date: False
        self.good = None

    def fresh(self):
        return pick(self.corpus[:3])

    def run(self, data):
        if not self.good:
            self.good = self.corpus[:3]
        which = crc32(data) % 3
        if data and data[0] & 1 and len(data) > 200:
            which = 1
        three = list(self.good)
        three[which] = fix(data) if chance(2) else data
        try:
            metered(self.m.context, *three)
        except ValueError as e:
            if (
                type(e) is not ValueError
                or len(e.args) != 1
                or not any(w in e.args[0] for w in ("copy it again", "copy both again", "passphrase"))
            ):
                raise Bug("says %r" % e)
            return "%d %s" % (which, e.args[0][-50:])
        return "%d taken" % which


def fix(der):
    """The outermost length put right, so that what is inside is looked at."""
    if der[:2] == b"\x30\x82" and len(der) > 4:
        return der[:2] + struct.pack(">H", len(der) - 4) + der[4:]
    if der[:2] == b"\x30\x81" and 3 < len(der) < 256:
        return der[:2] + bytes([len(der) - 3]) + der[3:]
    return der


class Fields:
    cap = 20000
    words = Credentials.words

    def __init__(self):
        from wss import trust

        self.m = trust

    def fresh(self):
        return pick(self.corpus[:3])

    def run(self, data):
        data = fix(data)
        try:
            serial, first, last = metered(self.m.fields, data)
        except ValueError as e:
            return type(e).__name__
        if len(first) != 6 or len(last) != 6:
            raise Bug("a date of %d" % len(first))
        for c in serial:
            if c not in "0123456789abcdef":
                raise Bug("serial %r" % serial)
        for d in first + last:
            if type(d) is not int:
                raise Bug("a date that is none")
        self.m.show(first)
        return "taken"


class Listed:
    """The list of revoked and pinned hosts, against a reading of it in one piece."""

    cap = 120000
    words = [
        b"revoked ",
        b"pinned ",
        b"pinned\n",
        b"end\n",
        b"end",
        b"#",
        b"\n",
        b"00ab",
        b"ab" * 32,
        b"\xc3\xa4",
        b"\xff",
        b" " * 150,
        b"\t",
    ]

    def __init__(self):
        from wss import trust

        self.m = trust
        disk = Ram(128)
        vfs.VfsLfs2.mkfs(disk)
        vfs.mount(disk, "/ram")

    def fresh(self):
        lines = []
        for _ in range(pick((0, 1, 3, 10, 60))):
            word = pick((b"ab12", b"00ab12", b"AB12", b"cd", b"ab" * 32, b"12" * 32, b"xyz", b"ab" * 33, b"0"))
            lines.append(
                pick(
                    (
                        b"revoked " + word,
                        b"pinned " + word,
                        b"pinned",
                        b"# " + noise(5),
                        b"",
                        b"revoked",
                        b"  revoked   " + word + b" # why",
                    )
                )
            )
        return b"\n".join(lines) + pick((b"\nend\n", b"\nend\n", b"\nend", b"\nend\nmore", b"\n", b""))

    def run(self, data):
        with open("/ram/list", "wb") as f:
            f.write(data)
        try:
            revoked, pinned = metered(self.m.listed, "ab12", "12" * 32, "/ram/list")
        except self.m.Damaged as e:
            return e.args[0].split(" ")[2]
        want_revoked = False
        want_pinned = None
        for line in data.split(b"\n"):
            if len(line) > 150:
                return "long"
            words = line.split(b"#")[0].split()
            if words == [b"end"]:
                break
            if words:
                hit = False
                if len(words) > 1:
                    w = words[1].lower()
                    hit = w == b"12" * 32 or (len(w) < 64 and w.lstrip(b"0") == b"ab12")
                if words[0] == b"revoked":
                    want_revoked = want_revoked or hit
                elif words[0] == b"pinned":
                    want_pinned = bool(want_pinned) or hit
                else:
                    raise Bug("took %r" % line)
        else:
            raise Bug("took a list without an end")
        if (revoked, pinned) != (want_revoked, want_pinned):
            raise Bug("%s, not %s" % ((revoked, pinned), (want_revoked, want_pinned)))
        return "%s %s" % (revoked, pinned)


class Enrol:
    """The key and the request that the board writes, read back: scalar, point, name and signature of any size."""

    cap = 30000
    words = [b"\0" * 32, b"\xff" * 32, b"\x80", b"\x7f", "\xe4".encode(), b"n" * 130]

    def __init__(self):
        from wss import enrol

        self.m = enrol
        self.rs = None
        enrol.sign = lambda d, message, progress: self.rs  # the arithmetic is tests/host/test_keys_enrol.py's

    def fresh(self):
        return b"".join([pick((noise(32), b"\0" * 31 + noise(1), b"\xff" * 32)) for _ in range(5)]) + b"n" * pick(
            (0, 1, 12, 100, 127, 128, 255, 256, 300)
        )

    def read(self, data, at, end):
        """[(tag, content or list)] of DER, strictly."""
        found = []
        while at < end:
            tag = data[at]
            n = data[at + 1]
            at += 2
            if n & 128:
                k = n & 127
                n = int.from_bytes(data[at : at + k], "big")
                if not 1 <= k <= 2 or n < (128, 256)[k - 1]:
                    raise Bug("a length in more bytes than it needs")
                at += k
            if at + n > end:
                raise Bug("longer than what it is in")
            found.append((tag, self.read(data, at, at + n) if tag & 0x20 else data[at : at + n]))
            at += n
        return found

    def number(self, der):
        tag, b = der
        if tag != 2 or not b or b[0] & 128 or (len(b) > 1 and not b[0] and not b[1] & 128):
            raise Bug("no number: %r" % b)
        return int.from_bytes(b, "big")

    def run(self, data):
        data = data + bytes(max(0, 160 - len(data)))
        d, x, y, r, s = [int.from_bytes(data[i : i + 32], "big") for i in range(0, 160, 32)]
        try:
            name = data[160:660].decode()
        except UnicodeError:
            name = "n" * len(data[160:660])
        self.rs = r, s
        point = b"\4" + data[32:96]
        key = metered(self.m.private_key, d, point)
        ((tag, (version, secret, curve, public)),) = self.read(key, 0, len(key))
        if (tag, self.number(version), secret[1], public[1][0][1]) != (0x30, 1, data[:32], b"\0" + point):
            raise Bug("the key is another")
        csr = metered(self.m.request, d, point, name)
        ((tag, (info, algorithm, signature)),) = self.read(csr, 0, len(csr))
        version, subject, spki, attributes = info[1]
        if self.number(version) or subject[1][0][1][0][1][1] != (12, name.encode()) or attributes != (0xA0, []):
            raise Bug("the request is another")
        if spki[1][1][1] != b"\0" + point or signature[1][:1] != b"\0":
            raise Bug("the point is another")
        ((tag, both),) = self.read(signature[1], 1, len(signature[1]))
        if [self.number(i) for i in both] != [r, s]:
            raise Bug("the signature is another")
        return "%d %d" % (len(key).bit_length() if hasattr(0, "bit_length") else len(bin(len(key))), len(bin(len(csr))))


TARGETS = {
    "enrol": Enrol,
    "upgrade": Upgrade, "frames": Frames, "login": Login, "backoff": Backoff, "files": Files, "pem": Pem, "credentials": Credentials,
    "fields": Fields, "listed": Listed,
}  # fmt: skip


def load(name):
    corpus = []
    seen = set()
    with open(name) as f:
        for line in f:
            signature, _, data = line.rstrip("\n").rpartition(" ")
            corpus.append(unhexlify(data))
            seen.add(signature)
    return corpus, seen


def main(name, first, count, corpus, seconds="0"):
    global spent
    first = int(first)
    count = int(count)
    corpus, seen = load(corpus)
    fixed = len(corpus)
    trace = os.getenv("FUZZ_TRACE")
    target = TARGETS[name]()
    target.corpus = corpus
    if not corpus:
        random.seed(1)
        corpus.append(target.fresh())
    try:
        target.run(corpus[0])  # imports
    except Bug:
        pass  # to be told below
    longest = most = bugs = ran = 0
    start = last = time.ticks_ms()
    sys_print = sys.stdout.write
    gc.collect()
    kept = None
    for n in range(first, first + count):
        if seconds != "0" and time.ticks_diff(time.ticks_ms(), start) > int(seconds) * 1000:
            break
        random.seed(n)
        if n < fixed:
            data = corpus[n]  # the corpus itself comes first
        elif chance(2):
            # of the saved ones only: what this run found depends on where it began
            data = mutate(corpus[random.randrange(max(fixed, 1))], target.words, corpus[: max(fixed, 1)])
        else:
            data = target.fresh()
            if chance(3):
                data = mutate(data, target.words, corpus[: max(fixed, 1)])
        for again in (True, False):
            random.seed(crc32(data) & 0x7FFFFFFF)
            spent = 0
            at = time.clock()  # of this process: another one's work is no hang
            problem = signature = None
            try:
                signature = target.run(data)
            except Bug as e:
                problem = e.args[0]
            except MemoryError as e:
                problem = "MemoryError %s" % e
            except Exception as e:
                problem = "%s%r" % (type(e).__name__, e.args)
                if trace:
                    sys.print_exception(e)
            now = time.ticks_ms()
            took = int((time.clock() - at) * 1000)
            used = spent
            if took <= HANG:  # once over it may be a collection
                break
        ran += 1
        longest = max(longest, took)
        most = max(most, used)
        if not problem and took > HANG:
            problem = "took %d ms" % took
        if not problem and used > target.cap + 64 * len(data):
            problem = "allocates %d bytes" % used
        if problem:
            sys_print("BUG %d %s %s\n" % (n, problem[:300], hexlify(data).decode()))
            bugs += 1
            if bugs >= BUGS:
                break
        elif signature not in seen and len(seen) < CORPUS:
            seen.add(signature)
            sys_print("NEW %s %s\n" % (signature, hexlify(data).decode()))
        if time.ticks_diff(now, last) > 200:
            last = now
            sys_print("AT %d\n" % n)
        if ran == 300:
            gc.collect()
            kept = gc.mem_alloc()
    gc.collect()
    kept = gc.mem_alloc() - kept if kept else 0
    sys_print("DONE %d %d %d %d %d\n" % (ran, time.ticks_diff(time.ticks_ms(), start), longest, most, kept))


main(*sys.argv[1:])
