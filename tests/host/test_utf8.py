"""What a program prints and is not UTF-8: no text frame holds it, no byte of it is lost."""

import os
import random

import pytest
from peers import BINARY, GET, PROMPT, TEXT, Peer
from wssctl.wire.client import Client
from wssctl.wire.link import Credentials

# What no text frame may hold, each in its own way (Unicode 15, table 3-7): what CPython's decoder refuses.
WRONG = {
    "stray": b"\x80",
    "stray and more": b"a\xffb",
    "overlong": b"\xc0\x80",
    "overlong of three": b"\xe0\x9f\xbf",
    "overlong of four": b"\xf0\x8f\xbf\xbf",
    "surrogate": b"\xed\xa0\x80",
    "too large": b"\xf4\x90\x80\x80",
    "five bytes": b"\xf8\x88\x80\x80\x80",
    "cut": "é€".encode()[:-1] + b"x",
    "cut at the end": "€".encode()[:-1],
    "begun": b"\xf0",
    "flow control": b"R\x01\x80\x00\x01",
}


def frames_until(peer: Peer, end: bytes) -> list[tuple[int, bytes]]:
    """The terminal's frames; those of text are valid, Peer sees to that."""
    frames = []
    while not b"".join(data for _, data in frames).endswith(end):
        frames.append(peer.frame())
    return frames


def printed(peer: Peer, data: bytes, how: str) -> bytes:
    """What comes when a program writes data."""
    peer.command("import sys; w = sys.stdout.buffer.write")
    peer.text({"whole": f"_ = w({data!r})", "bytes": f"for i in {data!r}: _ = w(bytes([i]))\r"}[how] + "\r")
    peer.until(b"\r\n" if how == "whole" else b"... \r\n")
    frames = frames_until(peer, PROMPT)
    for op, got in frames:
        assert op == TEXT or got[0] > 127
        assert b"\r\n" not in got or got == b"\r\n"
    assert frames[-1] == (TEXT, PROMPT)
    return b"".join(got for _, got in frames[:-1])


@pytest.mark.parametrize("how", ["whole", "bytes"])
def test_every_byte_comes_and_text_is_text(connect, how):
    peer = connect().login()
    for data in WRONG.values():
        with pytest.raises(UnicodeDecodeError):
            data.decode()
        assert printed(peer, b"<" + data + b">", how) == b"<" + data + b">"
        assert printed(peer, data, how) == data
    everything = bytes(range(256)) + random.Random(11).randbytes(600)
    everything = everything.replace(b"\r\n", b"\n")
    assert printed(peer, everything, how) == everything
    assert peer.command(r"print('\ud800')") == b"\xed\xa0\x80\r\n"


def test_a_character_is_not_cut(connect):
    """Neither where a program writes it in pieces, nor where a frame is full."""
    peer = connect().login()
    text = "é€😀ü" * 20
    # The board's clock stands still, or a character's beginning would be sent after 20 ms in which the machine is busy.
    peer.command("import wss.port as p; d = p.ticks_diff; p.ticks_diff = lambda *_: 0")
    peer.command("import sys; w = sys.stdout.buffer.write")
    peer.text(f"for i in {text.encode()!r}: _ = w(bytes([i]))\r\r")
    peer.until(b"... \r\n")
    frames = frames_until(peer, PROMPT)
    assert {op for op, _ in frames} == {TEXT}
    assert b"".join(data for _, data in frames).decode() == text + ">>> "
    for n in range(4):
        peer.text(f"print({'x' * n!r} + '😀' * 500)\r")
        peer.until(b"\r\n")
        assert {op for op, _ in frames_until(peer, PROMPT)} == {TEXT}
    peer.command("p.ticks_diff = d")


def test_the_beginning_of_a_character_does_not_wait_for_ever(connect):
    """A program that waits for an answer to it, as mpremote's mount does."""
    peer = connect().login()
    peer.text("import sys; _ = sys.stdout.buffer.write(b'\\xe2'); x = sys.stdin.read(1)\r")
    peer.until(b"\r\n")
    assert peer.frame() == (BINARY, b"\xe2")
    peer.text("y")
    peer.until(PROMPT)
    assert peer.value("x") == "y"


def test_wssctl_gets_every_byte(board, keys):
    """Printed by a program, and beside a file."""
    host, number = board.address
    credentials = Credentials(keys.ca_file, keys.host.cert, keys.host.key, keys.passphrase)
    content = bytes(range(128, 256)) * 100
    with Client.connect(f"wss://{host}:{number}", credentials, "secret") as client:
        code = "import sys\nfor i in range(5, 256): _ = sys.stdout.buffer.write(bytes([260 - i, i]))\n"
        want = b"".join(bytes([260 - i, i]) for i in range(5, 256))  # 4 ends the output in the raw REPL
        assert client.exec(code).output == want
        assert client.exec("for i in b'\\xe2\\x82': _ = sys.stdout.buffer.write(bytes([i]))").output == b"\xe2\x82"
        client.write(b"import time\r")
        client.write(b"while True: _ = sys.stdout.buffer.write(b'\\xffWB\\0'); time.sleep_ms(1)\r\r")
        client.read_until(b"\xffWB\0", 60)
        for _ in range(3):
            client.put(content, "file")
            assert client.get("file") == content
        client.read_until(b"\xffWB\0", 60)
        client.write(b"\x03")
        client.read_until(PROMPT, 60)


def test_a_transfer_is_not_mixed_with_it(target, provisioned, keys):
    """The pieces of a file may look like it: meanwhile a ? stands for each byte that is not UTF-8."""
    content = os.urandom(30000)
    (provisioned / "file").write_bytes(content)
    with target.board(provisioned) as board, Peer(board.address, keys.host) as peer:
        peer.login()
        peer.command("import sys, time; w = sys.stdout.buffer.write")
        peer.text("while True: _ = w(b'a\\xff\\xc3'); time.sleep_ms(1)\r\r")
        peer.until(b"a\xff")
        for _ in range(3):
            peer.request(GET, b"file")
            while (frame := peer.frame()) != (BINARY, b"WB\0\0"):
                assert frame[0] == TEXT or frame[1][0] > 127
            text, got, n = b"", b"", 1
            while n:
                peer.binary(b"\0")
                while (frame := peer.frame())[0] == TEXT:
                    text += frame[1]
                n = int.from_bytes(frame[1][:2], "little")
                assert len(frame[1]) == 2 + n, "something else among the pieces"
                got += frame[1][2:]
            assert got == content
            assert not text.strip(b"a?")
            assert peer.data(4) == b"WB\0\0"
            peer.until(b"\xff")  # as before
        peer.text("\x03")
        peer.until(PROMPT)
