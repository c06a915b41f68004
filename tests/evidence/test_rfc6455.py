"""RFC 6455 against a running board over TLS, in the order of Autobahn's case groups, as far as they mean something.

There is no echo: text is typed into the REPL, where a program takes it and says what came; binary frames are the file
protocol. Where tools that are in use need something else than the RFC, the row says so.
"""

import zlib

import pytest
from evidence_common import LONG
from peers import BINARY, CLOSE, FILE_REQUEST, PING, PONG, PROMPT, PUT, TEXT, Ended, Peer, encode

TAKE = (
    "import sys, binascii\n"
    "def take(n):\n"
    "    crc = got = 0\n"
    "    while got < n:\n"
    "        d = sys.stdin.buffer.read(min(256, n - got))\n"
    "        crc = binascii.crc32(d, crc)\n"
    "        got += len(d)\n"
    "    print('took', got, crc)\n"
)


@pytest.fixture(scope="module")
def desk(kept):
    (kept.directory / "taker.py").write_text(TAKE)
    return kept


@pytest.fixture
def peer(desk, keys):
    with Peer(desk.address, keys.host, timeout=10) as p:
        p.login(path=b"/takeover")
        p.command("from taker import take")
        yield p


@pytest.fixture
def rfc(row, target):
    return lambda case, result="as the RFC says": row("RFC 6455", f"{case}, {target.bits} bits", result)


def takes(peer, stream: bytes, content: bytes, chop=0):
    """The frames of stream bring content, whole, to a program that reads."""
    # What is typed is echoed by nobody while a program reads, so the next thing to come is its report
    peer.text("take(%d)\r" % len(content))
    peer.until(b"\r\n")
    for i in range(0, len(stream), chop or len(stream) or 1):
        peer.send(stream[i : i + (chop or len(stream))])
    assert peer.until(PROMPT, 60).endswith(b"took %d %d\r\n>>> " % (len(content), zlib.crc32(content)))


def closes(peer, code: int | None):
    """A CLOSE with this code comes (None: without any), then the end."""
    while True:
        op, payload = peer.frame()
        if op == CLOSE:
            break
    assert payload[:2] == (b"" if code is None else code.to_bytes(2, "big"))  # a reason may follow
    if LONG:  # the board waits a second for us to hang up first
        with pytest.raises(Ended):
            while True:
                peer.frame()


def content(n: int) -> bytes:
    return (b"abcdefghijklmnopqrstuvwxyz0123456789" * (n // 36 + 1))[:n]


SIZES = [0, 1, 125, 126, 127, 128, 65535, 65536]


def test_1_framing(peer, rfc, desk):
    for n in SIZES:
        takes(peer, encode(TEXT, content(n)), content(n))
    takes(peer, encode(TEXT, content(65536)), content(65536), chop=997)
    takes(peer, encode(TEXT, content(300)), content(300), chop=1)
    rfc("1.1 text of 0 to 65,536 bytes, whole, in chops of 997 and of 1")
    for n in SIZES:
        peer.request(PUT, b"framing", n)
        assert peer.reply() == 0
        if n:
            peer.binary(content(n))
        assert peer.reply() == 0
        assert (desk.directory / "framing").read_bytes() == content(n)
    rfc("1.2 binary of 0 to 65,536 bytes")


def test_1_unmasked_and_long_lengths(peer, rfc):
    takes(peer, encode(TEXT, content(500), mask=None), content(500))
    rfc("5.1 frame without a mask", "taken, against the RFC: webrepl_cli and its heirs send them")
    n = 5
    takes(peer, b"\x81\x7e\x00\x05" + content(n) + b"\x81\x7f" + n.to_bytes(8, "big") + content(n), content(n) * 2)
    rfc("5.2 length in more bytes than needed", "taken, against the RFC: it harms nobody and the check costs flash")


def test_2_pings(peer, rfc):
    for payload in (b"", b"Hello, world!", b"\0\xff\xfe\xfd", b"\xfe" * 125):
        peer.send(encode(PING, payload))
        assert peer.frame() == (PONG, payload)
    for byte in encode(PING, b"octet-wise"):
        peer.send(bytes([byte]))
    assert peer.frame() == (PONG, b"octet-wise")
    rfc("2.1-2.6 PING of 0 to 125 bytes, in single bytes too")
    peer.send(encode(PONG, b"unsolicited") + encode(PING, b"x"))
    assert peer.frame() == (PONG, b"x")
    rfc("2.7-2.9 unsolicited PONG")
    for i in range(10):
        peer.send(encode(PING, b"%d" % i))
        assert peer.frame() == (PONG, b"%d" % i)
    rfc("2.10 ten PINGs, each after the other's answer")
    peer.send(b"".join(encode(PING, b"%d" % i) for i in range(10)))
    answered = []
    while peer_more(peer):
        op, payload = peer.frame()
        assert op == PONG
        answered.append(payload)
    assert 1 <= len(answered) <= 10 and len(set(answered)) == len(answered)
    assert peer.command("1+1") == b"2\r\n"
    rfc(
        "2.11 ten PINGs in one record",
        f"{len(answered)} answered: no more than 4 wait, so that a flood takes no memory",
    )


def peer_more(peer) -> bool:
    peer.sock.settimeout(0.3)
    try:
        if not peer._buffer:
            peer._buffer += peer.recv()
    except TimeoutError:
        return False
    finally:
        peer.sock.settimeout(peer.timeout)
    return True


def test_2_ping_over_125(peer, rfc):
    peer.send(encode(PING, b"x" * 126))
    closes(peer, 1002)
    rfc("2.5 PING of 126 bytes: 1002")


@pytest.mark.parametrize("bits", range(1, 8))
@pytest.mark.parametrize("op", [TEXT, BINARY, PING, CLOSE])
def test_3_reserved_bits(peer, rfc, bits, op):
    frame = bytearray(encode(op, b"x" if op != CLOSE else b"\x03\xe8"))
    frame[0] |= bits << 4
    peer.send(encode(TEXT, b"") + bytes(frame) + encode(PING, b""))
    closes(peer, 1002)
    if bits == 7 and op == CLOSE:
        rfc("3.1-3.7 reserved bits in text, binary, PING and CLOSE: 1002")


@pytest.mark.parametrize("op", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
def test_4_reserved_opcodes(peer, rfc, op):
    peer.send(encode(op, b"x" if op % 2 else b""))
    closes(peer, 1002)
    if op == 15:
        rfc("4.1-4.2 reserved opcodes: 1002")


@pytest.mark.parametrize(
    ("case", "stream"),
    [
        ("5.1 fragmented PING", encode(PING, b"a", fin=False) + encode(0, b"b")),
        ("5.2 fragmented PONG", encode(PONG, b"a", fin=False) + encode(0, b"b")),
        ("5.9 continuation of nothing", encode(0, b"x")),
        ("5.12 continuation of nothing, without FIN", encode(0, b"x", fin=False)),
        (
            "5.15 continuation after the end",
            encode(TEXT, b"#", fin=False) + encode(0, b"#") + encode(0, b"x", fin=False),
        ),
        ("5.18 a new message inside another", encode(TEXT, b"#", fin=False) + encode(TEXT, b"x")),
        ("5.18 binary inside text", encode(TEXT, b"#", fin=False) + encode(BINARY, b"x")),
        ("9.0 a frame of 2 GiB and more", b"\x82\xff" + (1 << 31).to_bytes(8, "big") + b"\0\0\0\0"),
        ("9.0 a frame of 2^64 - 1 bytes", b"\x82\xff" + b"\xff" * 8 + b"\0\0\0\0"),
    ],
)
def test_5_not_allowed(peer, rfc, case, stream):
    code = 1009 if case.startswith("9") else 1002
    peer.send(stream)
    closes(peer, code)
    rfc(f"{case}: {code}")


def test_5_fragmentation(peer, rfc):
    two = encode(TEXT, b"frag", fin=False) + encode(0, b"ment")
    takes(peer, two, b"fragment")
    takes(peer, two, b"fragment", chop=1)
    rfc("5.3-5.5 text in two fragments, in single bytes too")
    peer.text("take(8)\r")
    peer.until(b"\r\n")
    peer.send(encode(TEXT, b"frag", fin=False) + encode(PING, b"mid") + encode(0, b"ment"))
    assert peer.frame() == (PONG, b"mid")
    assert peer.until(PROMPT).startswith(b"took 8 ")
    rfc("5.6-5.8 a PING between fragments")
    many = (
        encode(TEXT, b"a", fin=False)
        + encode(0, b"", fin=False) * 3
        + encode(0, b"b", fin=False) * 500
        + encode(0, b"")
    )
    takes(peer, many, b"a" + b"b" * 500)
    rfc("5.19-5.20 500 fragments, empty ones among them")
    data = content(3000)
    request = FILE_REQUEST.pack(b"WA", PUT, 0, 0, len(data), 4, b"frag")
    peer.send(encode(BINARY, request[:40], fin=False) + encode(0, request[40:]))
    assert peer.reply() == 0
    peer.send(encode(BINARY, data[:1], fin=False) + encode(0, data[1:2000], fin=False) + encode(0, data[2000:]))
    assert peer.reply() == 0
    assert peer.get(b"frag") == data
    rfc("5.x a put in fragments")


def test_6_utf8(peer, rfc):
    word = "κόσμε 🐍"
    assert peer.command("print(%s)" % ascii(word)) == word.encode() + b"\r\n"
    raw = word.encode()
    takes(peer, encode(TEXT, raw[:1], fin=False) + encode(0, raw[1:12], fin=False) + encode(0, raw[12:]), raw)
    rfc("6.1-6.2 UTF-8, cut inside of a character")
    for bad in (b"\xce\xba\xe1", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\xaf", b"\xff\xfe", b"\x80"):
        takes(peer, encode(TEXT, bad), bad)
    rfc(
        "6.3-6.23 text that is not UTF-8",
        "typed as it is, against the RFC (1007): keys and the raw REPL are bytes, and clients send them as text",
    )


def test_7_close(peer, rfc):
    peer.send(encode(CLOSE, b"\x03\xe8bye") + encode(PING, b"late") + encode(TEXT, b"open('late', 'w')\r"))
    assert peer.frame() == (CLOSE, b"\x03\xe8")
    with pytest.raises(Ended):
        peer.frame()


def test_7_nothing_behind_a_close(peer, rfc, desk, keys):
    peer.send(encode(CLOSE, b"\x03\xe8") * 2 + encode(TEXT, b"open('late', 'w').close()\r"))
    closes(peer, 1000)
    with Peer(desk.address, keys.host) as again:
        assert again.login().command("1+1") == b"2\r\n"
    assert not (desk.directory / "late").exists()
    rfc("7.1 CLOSE is answered once; what comes behind it is neither answered nor run")


def test_7_close_inside_a_message(peer, rfc):
    peer.send(encode(TEXT, b"#", fin=False) + encode(CLOSE, b"\x03\xe8"))
    closes(peer, 1000)
    rfc("7.1.5 CLOSE between fragments")


@pytest.mark.parametrize(
    ("case", "payload", "code"),
    [
        ("7.3.1 empty CLOSE: empty answer", b"", None),
        ("7.3.2 CLOSE of one byte: 1002", b"\x03", 1002),
        ("7.3.4 CLOSE with a reason", b"\x03\xe8Hello", 1000),
        ("7.3.5 CLOSE with 123 bytes of reason", b"\x03\xe8" + b"*" * 123, 1000),
        ("7.3.6 CLOSE of 126 bytes: 1002", b"\x03\xe8" + b"*" * 124, 1002),
        ("7.5.1 reason that is not UTF-8", b"\x03\xe8\xce\xba\xff", 1000),
    ],
)
def test_7_payloads(peer, rfc, case, payload, code):
    peer.send(encode(CLOSE, payload))
    closes(peer, code)
    rfc(case, "answered as a good one: the reason is not looked at" if "UTF-8" in case else "as the RFC says")


GOOD = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999]
BAD = [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535]


@pytest.mark.parametrize("code", GOOD + BAD)
def test_7_codes(peer, rfc, code):
    peer.send(encode(CLOSE, code.to_bytes(2, "big")))
    closes(peer, code if code in GOOD else 1002)
    if code == BAD[-1]:
        rfc("7.7 close codes that may be sent: the same back")
        rfc("7.9 close codes that may not: 1002")


def test_9_limits(peer, rfc, desk):
    n = 4 << 20 if LONG else 1 << 18
    peer.timeout = 300  # a frame of that size is one send(), which is waited for in all
    peer.sock.settimeout(peer.timeout)
    takes(peer, encode(TEXT, content(n)), content(n))
    rfc(f"9.1 text of {n:,} bytes in one frame, to a program that reads")
    small = content(n // 16)
    fragments = b"".join(encode(0 if i else TEXT, small[i : i + 64], fin=False) for i in range(0, len(small), 64))
    takes(peer, fragments + encode(0, b""), small)
    rfc(f"9.3 text of {len(small):,} bytes in fragments of 64")
    peer.request(PUT, b"limits", n)
    assert peer.reply() == 0
    peer.binary(content(n))
    assert peer.reply() == 0
    assert (desk.directory / "limits").read_bytes() == content(n)
    rfc(f"9.2 binary of {n:,} bytes in one frame, to a file")
