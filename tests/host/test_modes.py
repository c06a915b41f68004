"""A client is lost while the REPL is in raw or paste mode: the next one has a working prompt, and no program is
disturbed."""

import os
import socket
import struct
import time

import pytest
from desk import WSSCTL, Terminal
from peers import CLOSE, PING, PONG, PROMPT, TEXT, Ended, Peer, encode

RAW = b"raw REPL; CTRL-B to exit\r\n>"
PASTE = b"paste mode; Ctrl-C to cancel, Ctrl-D to finish\r\n=== "

# What the lost client has typed, and what the board had answered when it was lost.
LEFT = {
    "raw": [(b"\x01", RAW)],
    "raw, half a program": [(b"\x01", RAW), (b"x = 1\nprint(", b"")],
    "raw, a program has run": [(b"\x01", RAW), (b"print(3 * 4)\x04", b"OK12\r\n\x04\x04>")],
    "raw paste": [(b"\x01", RAW), (b"\x05A\x01", b"R\x01\x80\x00\x01"), (b"x = 1", b"")],
    "raw paste after a program": [
        (b"\x01", RAW),
        (b"print(3 * 4)\x04", b"OK12\r\n\x04\x04>"),
        (b"\x05A\x01", b"R\x01\x80\x00\x01"),
        (b"x = 1", b""),
    ],
    "paste": [(b"\x05", PASTE), (b"x = 1\r", b"=== ")],
    "paste that fails": [(b"\x05", PASTE), (b"1/0\r", b"=== "), (b"\x04", b"ZeroDivisionError")],
}


def lose(peer: Peer):
    """Its end is a reset, as when a laptop is gone for good."""
    peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def leave(connect, how: str):
    peer = connect().login()
    for typed, answer in LEFT[how]:
        peer.text(typed)
        if answer:
            peer.until(answer)
    lose(peer)


@pytest.mark.parametrize("how", LEFT)
def test_the_next_client_has_a_prompt(connect, how):
    leave(connect, how)
    for _ in range(2):  # and the one after it, too
        peer = connect().login(path=b"/takeover")
        peer.text("print(6 * 7)\r")
        peer.until(b"print(6 * 7)\r\n42\r\n")
        peer.until(PROMPT)
        lose(peer)


# What a lost client had typed at the friendly prompt, and its echo.
TYPED = {
    "a part of a line": ("print(1", b"print(1"),
    "with spaces at its end": ("x = 1 > ", b"x = 1 > "),
    "a line within quotes": ("x = '''abc\r", b"abc\r\n... "),
    "a block": ("if True:\r", b"if True:\r\n...     "),
    "a line and a part": ("y = 1\rprint(1", b"y = 1\r\n>>> print(1"),
    "an escape sequence": ("\x1b[", b""),
    "a part and an escape sequence": ("print(1\x1b[", b"print(1"),
}


def leave_typed(connect, before: str, text: str, echo: bytes, says: bytes = b""):
    peer = connect().login()
    if before:
        peer.text(before + "\r")
        peer.until(says)
    peer.text(text)
    if echo:
        peer.until(echo)
    peer.send(encode(PING, b"read?"))
    while peer.frame() != (PONG, b"read?"):
        pass
    lose(peer)


@pytest.mark.parametrize("typed", TYPED)
def test_a_line_that_a_lost_client_had_begun_is_gone(connect, typed):
    leave_typed(connect, "", *TYPED[typed])
    peer = connect().login(path=b"/takeover")
    peer.text("print(6 * 7)\r")
    peer.until(b">>> print(6 * 7)\r\n42\r\n>>> ")
    lose(peer)
    peer = connect().login(path=b"/takeover")  # nothing is typed for this one
    peer.text("1\r")
    assert peer.until(PROMPT) == b"1\r\n1\r\n>>> "


READS = {
    "with the REPL's prompt": ("x = input('>>> ')", b"\r\n>>> ", b"an"),
    "Ctrl-C as data": (
        "import sys, micropython; micropython.kbd_intr(-1); print('re' + 'ads'); x = sys.stdin.read(4)",
        b"\r\nreads\r\n",
        b"",
    ),
}


@pytest.mark.parametrize("how", READS)
def test_a_program_that_looks_like_the_repl_is_left_alone(connect, how):
    code, says, echo = READS[how]
    leave_typed(connect, code, "an", echo, says)
    peer = connect().login(path=b"/takeover")
    peer.text("na\r")
    peer.until(PROMPT)
    peer.text("import micropython; micropython.kbd_intr(3); x\r")
    peer.until(b"'anna'\r\n>>> ")
    assert b"KeyboardInterrupt" not in peer.seen


def test_the_next_client_may_be_lost_at_once(connect):
    leave(connect, "raw paste")
    for _ in range(3):
        lose(connect().login(path=b"/takeover"))
    peer = connect().login(path=b"/takeover")
    peer.text("print(6 * 7)\r")
    peer.until(b"print(6 * 7)\r\n42\r\n")


def test_a_client_that_was_not_lost_leaves_the_mode_itself(connect):
    """Nothing is typed for it, nor for the one after it."""
    peer = connect().login()
    for typed, answer in (*LEFT["raw, a program has run"], (b"\x02", PROMPT), (b"\x05", PASTE), (b"\x03", PROMPT)):
        peer.text(typed)
        peer.until(answer)
    lose(peer)
    peer = connect().login(path=b"/takeover")
    peer.text("1\r")
    assert peer.until(PROMPT) == b"1\r\n1\r\n>>> "


@pytest.mark.parametrize("how", ["raw", "raw, a program has run", "paste"])
def test_a_client_that_leaves_the_mode_and_is_gone_at_once(connect, how):
    peer = connect().login()
    for typed, answer in LEFT[how]:
        peer.text(typed)
        peer.until(answer)
    peer.send(encode(TEXT, b"\x03" if how == "paste" else b"\r\x02") + encode(CLOSE, b"\x03\xe8"))
    with pytest.raises(Ended):
        peer.until(b"never")
    peer = connect().login()
    assert peer.command("6 * 7") == b"42\r\n"


ASKS = {"friendly": [], "raw": LEFT["raw"], "paste": [(b"\x05", PASTE)]}


def ask(connect, how: str) -> Peer:
    """A program of a client that is lost asks, half of the answer is typed; returns the next client."""
    peer = connect().login()
    for typed, answer in ASKS[how]:
        peer.text(typed)
        peer.until(answer)
    code = "x = input('name: ') + ' ' + input('and: '); print('got', x)"
    peer.text(code + ("\r" if how == "friendly" else "\x04"))
    peer.until(b"\r\nname: " if how == "friendly" else b"name: ")
    peer.text("an")
    peer.until(b"an")
    lose(peer)
    return connect().login(path=b"/takeover")


@pytest.mark.parametrize("how", ASKS)
def test_a_program_that_reads_goes_on(connect, how):
    """Its client is lost, the next one answers it, and is told where that takes more than typing."""
    peer = ask(connect, how)
    peer.text("na\r")
    peer.until(b"and: ")
    peer.text("bob\r")
    peer.until(b"got anna bob\r\n")
    if how == "raw":
        assert b"In raw mode" in peer.seen
        peer.until(b"\x04\x04>")
    peer.until(PROMPT)
    assert peer.value("x") == "anna bob"
    assert how == "raw" or b"In raw mode" not in peer.seen


@pytest.mark.parametrize("how", ASKS)
def test_a_program_that_reads_is_stopped(connect, how):
    """One Ctrl-C, as anywhere, and there is a prompt."""
    peer = ask(connect, how)
    peer.text("\x03")
    peer.until(b"KeyboardInterrupt")
    peer.until(PROMPT)
    assert peer.command("print(6 * 7)") == b"42\r\n"


def test_a_program_that_catches_the_first_ctrl_c(connect):
    peer = connect().login()
    peer.text("\x01")
    peer.until(RAW)
    program = "for i in range(2):\n try:\n  print('waits', i)\n  while True: pass\n except KeyboardInterrupt: pass\n"
    peer.text(program + "print('has caught them')\x04")
    peer.until(b"OK")
    lose(peer)
    peer = connect().login(path=b"/takeover")
    peer.text("\x03")
    peer.until(b"waits 1\r\n")
    peer.text("\x03")
    peer.until(b"has caught them")
    peer.until(PROMPT)
    peer.text("print(6 * 7)\r")
    peer.until(b"print(6 * 7)\r\n42\r\n")


def test_a_program_that_ended_while_nobody_looked(connect):
    peer = connect().login()
    peer.text("import time\r")
    peer.until(PROMPT)
    peer.text("\x01")
    peer.until(RAW)
    peer.text("print('begins'); time.sleep(0.5)\x04")
    peer.until(b"begins")
    lose(peer)
    time.sleep(0.7)  # it ends meanwhile; should it end later, that is the other case
    peer = connect().login(path=b"/takeover")
    peer.until(b"Ctrl-C stops both")
    peer.text("\x03")
    peer.until(PROMPT)
    assert peer.command("print(6 * 7)") == b"42\r\n"


@pytest.mark.parametrize("how", ["raw", "raw paste", "paste"])
def test_wssctl_repl(target, provisioned, keys, how):
    with target.board(provisioned) as board:
        leave(lambda: Peer(board.address, keys.host), how)
        env = os.environ | {
            "WSSCTL_KEYS": str(keys.directory),
            "WSSCTL_PASSPHRASE": keys.passphrase,
            "WSSCTL_PASSWORD": "secret",
        }
        url = "wss://%s:%d" % board.address
        with Terminal(*WSSCTL, "repl", "--takeover", url, env=env, cwd=provisioned) as terminal:
            terminal.until(">>> ")
            terminal.type("print(6*7)\r")
            terminal.until(r"42\r\n")
            terminal.until(">>> ")
            terminal.type(b"\x1d")
            assert terminal.wait() == 0
