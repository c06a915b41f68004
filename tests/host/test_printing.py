"""An honest board that prints all the time, from a timer or a thread: every tool finds its own answers among that."""

import shutil

import pytest
from desk import PASSWORD, Desk
from site_of_boards import Site
from targets import UID, Unix
from wssctl.errors import UsageError
from wssctl.wire.client import Client
from wssctl.wire.link import Credentials
from wssctl.wire.remote import Remote

HELLO = ("exec", "room1", "print(6*7)")
TIMER = """\
import machine
timer = machine.Timer(1)
timer.init(period={ms}, mode=machine.Timer.PERIODIC, callback=lambda t: print('reading', 21.5))
"""
THREAD = """\
import _thread, time
def talk():
    while talking:
        print('reading', 21.5)
        time.sleep_ms(3)
talking = True
_thread.start_new_thread(talk, ())
"""


@pytest.fixture(params=["unix", "unix32"])
def desk(request, keys, tmp_path):
    shutil.copytree(keys.board, tmp_path / "board")
    with Desk(keys, Unix(request.param), tmp_path / "board") as running:
        yield running


def start(desk, program):
    """From boot.py, as people do; until it prints."""
    boot = desk.directory / "boot.py"
    boot.write_text(boot.read_text() + program)
    desk.board.restart()
    desk.board.read_until(b"wss_repl: listening", 60)
    desk.board.read_until(b"reading 21.5", 60)


def client(desk) -> Client:
    host = desk.keys.host
    return Client.connect(desk.url, Credentials(host.ca, host.cert, host.key, host.passphrase), PASSWORD)


def test_a_program_may_print_what_the_raw_repl_ends_with(desk):
    """Ctrl-D, as binary data has it, is output; and code with one in it is not sent."""
    every = bytes(range(256))
    with client(desk) as board:
        for code, output, raised in (
            (f"import sys; n = sys.stdout.buffer.write({every!r})", every, ""),
            (r"print('a\x04b')", b"a\x04b\r\n", ""),
            (r"print('\x04', 'x' * 70000)", b"\x04 " + b"x" * 70000 + b"\r\n", ""),
            (r"print('a\x04b'); 1/0", b"a\x04b\r\n", "ZeroDivisionError"),
            (r"print('\x04', 'x' * 70000, '\x04'); 1/0", b"\x04 " + b"x" * 70000 + b" \x04\r\n", "ZeroDivisionError"),
            (r"print('\x04'); raise KeyboardInterrupt", b"\x04\r\n", "KeyboardInterrupt"),
        ):
            result = board.exec(code)
            assert result.output == output and raised in result.error and bool(raised) == bool(result.error), code
        for key, name in (("\3", "Ctrl-C"), ("\4", "Ctrl-D")):
            with pytest.raises(UsageError, match=rf"a {name} in line 2, .* write \\x0{ord(key)}\."):
                board.exec(f"x = 1\nprint('{key}')")
        heard = bytearray()
        (desk.directory / "heard").write_bytes(heard)

        def hear(data):
            heard.extend(data)
            # From its first word on time-outs are short: no traceback comes in time, and the program goes on
            board.timeout = 10.0 if b"\x04" in heard else 0.3
            (desk.directory / "heard").write_bytes(heard)

        wait = "while True:\n with open('heard', 'rb') as f:\n  if b'\\x04' in f.read(): break"
        assert board.exec(f"print('on')\nprint('\\x04')\n{wait}\nprint('off')", output=hear).error == ""
        assert heard == b"on\r\n\x04\r\noff\r\n"
        assert board.exec("print(6*7)").output == b"42\r\n"


@pytest.mark.parametrize("program", [TIMER.format(ms=5), TIMER.format(ms=20), THREAD], ids=["5 ms", "20 ms", "thread"])
def test_answers_are_found(desk, program, tmp_path):
    start(desk, program)
    (desk.directory / "data").write_bytes(b"line\n" * 5000)
    src = tmp_path / "src" / "lib"
    src.mkdir(parents=True)
    for i in range(4):
        (src / f"f{i}.py").write_text(f"x = {i}\n")
    for _ in range(5):
        with client(desk) as board:
            remote = Remote(board)
            for _ in range(3):
                assert b"42" in board.exec("print(6*7)").output  # a line's end is a write of its own
                result = board.exec("print('before')\nraise ValueError('mine')")
                assert b"before" in result.output and "ValueError" in result.error and "mine" in result.error
                assert board.exec("x = 1  # " + "-" * 3000).error == ""
                assert {e.name for e in remote.walk("", True, True)} >= {"boot.py", "data"}
                assert remote.cwd() == "/" and remote.df()[0] > 0
                assert remote.head("data", 2) == b"line\nline\n"
            assert board.get("data") == b"line\n" * 5000
            board.put(b"new", "new")
            assert remote.stat("new").size == 3
    done = desk.wssctl("shell", "sync", "src", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "") and "4 sent, 0 the same" in done.stdout, done
    done = desk.wssctl("shell", "sync", "src", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "0 sent, 4 the same\n", ""), done
    done = desk.wssctl("exec", "print(6*7)")
    assert done.returncode == 0 and "42" in done.stdout and done.stderr == "", done
    done = desk.wssctl("exec", "1/0")
    assert done.returncode == 1 and "ZeroDivisionError" in done.stderr, done


def test_programs_print_what_they_like(desk):
    """What exec() brings back is what was printed, whatever that is like."""
    with client(desk) as board:
        for said in ("\x1e", "\x1e0123", "raw REPL; CTRL-B to exit\n>", ">>> ", "OK", "R\x01", "\x01", "a" * 5000):
            result = board.exec(f"print({said!r}, end='')")
            assert (result.output, result.error) == (said.replace("\n", "\r\n").encode(), ""), said


def test_a_host_is_revoked_on_a_board_that_prints(tmp_path):
    """The board's own word of whom it lets in is found among what is printed, too."""
    site = Site(tmp_path, 64)
    files, port = site.add("room1", UID)
    board = site.boards["room1"]
    try:
        (files / "boot.py").write_text(f"import wss_repl\nwss_repl.start(port={port})\n" + TIMER.format(ms=5))
        board.restart()
        board.read_until(b"reading 21.5", 60)
        eve, folder = site.other_host("eve")
        assert site.run(*HELLO, env=eve).count("42") == 1
        for _ in range(3):
            site.run("host", "revoke", next(folder.glob("HOST_cert@*.pem")))
            site.run(*HELLO, env=eve, status=4)
            site.run("host", "revoke", next(folder.glob("HOST_cert@*.pem")), "--undo")
            site.run(*HELLO, env=eve)
    finally:
        board.close()
