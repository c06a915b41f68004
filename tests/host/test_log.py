"""What was printed while nobody looked: start(log=...) and `wssctl log`."""

import os
import re
import signal
import socket
import struct
import subprocess

import pytest
import zygote
from desk import WSSCTL, Terminal
from peers import Peer
from wssctl.wire.client import Client
from wssctl.wire.link import Credentials

COUNTS = """
import time
n = 0
while True:
    print("line", n)
    n += 1
    time.sleep_ms(3)
"""

PRINTER = """
import sys
def lines(n):
    for i in range(n):
        print(i, "x" * (i % 300))
def large():
    sys.stdout.buffer.write(bytes(range(14, 255)) * 20)
"""


@pytest.fixture
def env(keys):
    return os.environ | {
        "WSSCTL_KEYS": str(keys.directory),
        "WSSCTL_PASSPHRASE": keys.passphrase,
        "WSSCTL_PASSWORD": "secret",
    }


def wssctl(env, *words) -> subprocess.CompletedProcess:
    return zygote.run([*WSSCTL, *words], env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=180)


def numbers(text: bytes) -> list[int]:
    """Those of the lines that COUNTS printed; the first may be cut."""
    return [int(n) for n in re.findall(rb"line (\d+)\r\n", text)]


def test_what_was_printed_while_nobody_looked(target, provisioned, env, keys):
    """And the program that printed it goes on."""
    with target.board(provisioned, options=", log=4096") as board:
        board.run("print('alone', 0); print('alone', 1); print('alone', 2)")
        done = wssctl(env, "log", board.url)
        assert done.returncode == 0, done.stderr
        assert b"alone 0\r\nalone 1\r\nalone 2\r\n>>> " in done.stdout
        # in a session, too, and what its client did not get any more
        with Peer(board.address, keys.host) as peer:
            peer.login()
            peer.command("print('in a' + ' session')")
            peer.text("import time; time.sleep(0.5); print('after' + ' it')\r")
            peer.until(b"it')\r\n")
            peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        board.console.read_until(b"after it\r\n>>> ", 60)
        said = wssctl(env, "log", "--takeover", board.url).stdout
        assert b"in a session\r\n" in said and said.endswith(b"after it\r\n>>> ")
        assert said.count(b"in a session\r\n") == said.count(b"after it\r\n") == 1
        assert not re.search(rb"Password|WebREPL connected", said)


def test_follow_has_no_gap_and_nothing_twice(target, provisioned, env, tmp_path):
    (provisioned / "main.py").write_text(COUNTS)
    with target.board(provisioned, options=", log=1000", prompt=False) as board:
        board.console.read_until(b"line 100\r\n", 60)
        for _ in range(3):
            follow = subprocess.Popen(
                [*WSSCTL, "log", "-f", board.url], env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
            )
            said = b""
            while len(numbers(said)) < 400:
                said += os.read(follow.stdout.fileno(), 4096)
            follow.send_signal(signal.SIGINT)
            said += follow.stdout.read()
            follow.stdout.close()
            assert follow.wait(60) == 130
            got = numbers(said)
            assert got == list(range(got[0], got[0] + len(got)))
        board.console.read_until(b"line", 60)  # it goes on


def test_nothing_can_be_typed(target, provisioned, env):
    with target.board(provisioned, options=", log=1000") as board:
        with Terminal(*WSSCTL, "log", "-f", board.url, env=env, cwd=provisioned) as terminal:
            terminal.until(">>> ")
            terminal.type("typed = 1\r")
            board.console.write(b"print('a\\x1b[2Jb\\rc')\r")
            terminal.until(rb"a\\x1b\[2Jb\\rc\r?\n")  # and a terminal is not at the mercy of what is printed
            terminal.type(b"\x03")
            terminal.wait()
        assert board.run("'typed' in globals()") == "False"


def test_the_last_bytes_and_bounded_memory(target, provisioned, keys):
    (provisioned / "printer.py").write_text(PRINTER)
    with target.board(provisioned, options=", log=2000") as board:
        credentials = Credentials(keys.ca_file, keys.host.cert, keys.host.key, keys.passphrase)
        board.run("import gc, printer")
        board.run("printer.lines(100)")
        before = int(board.run("_ = gc.collect(); print(gc.mem_alloc())", 20))
        board.run("printer.lines(1000); printer.large()", 60)
        after = int(board.run("_ = gc.collect(); print(gc.mem_alloc())", 20))
        assert after - before < 1500  # of 150 KB
        with Client.connect(board.url, credentials, "secret") as client:
            said = client.log()
            assert len(said) == 2000
            assert said in board.console.log and said.endswith(b"\r\n>>> ")
            client.write(b"print('still' + ' here')\r")
            client.read_until(b"still here\r\n", 60)


def test_a_board_without_one_says_so(target, provisioned, env):
    with target.board(provisioned) as board:
        done = wssctl(env, "log", board.url)
        assert done.returncode == 1 and done.stdout == b""
        assert done.stderr == b"wssctl: The board keeps no log; have it call wss_repl.start(log=4096).\n"


@pytest.mark.parametrize("log", ["1", "-5", "1000000", "'4096'", "True"])
def test_a_wrong_size_is_refused_and_nothing_listens(target, provisioned, log):
    call = f"try: wss_repl.start(password='secret', log={log})\nexcept ValueError as e: print('refused:', e)"
    with target.board(provisioned, call=call, ready="refused: log is how many bytes to keep, 64 to 65536") as board:
        assert board.run("print(wss_repl.status()['listening'])") == "[]"
        assert board.run("import os; print(os.dupterm(None))") == "None"


def test_stop_gives_the_terminal_back(target, provisioned):
    with target.board(provisioned, options=", log=100") as board:
        board.run("import os, wss_repl; d = os.dupterm(None); os.dupterm(d)")
        assert "Log" in board.run("print(d)")
        board.run("wss_repl.stop()")
        assert board.run("print(os.dupterm(None))") == "None"


def test_ctrl_c_and_soft_resets_of_a_program_that_prints(target, provisioned, keys):
    """On the cable. The log keeps its place, and a new one begins with the new start."""
    with target.board(provisioned, options=", log=1000") as board:
        for _ in range(5):
            board.console.write(b"while True: print('again')\r\r")
            board.console.read_until(b"again\r\nagain\r\n", 60)
            board.console.write(b"\x03\x03")
            board.console.read_until(b"KeyboardInterrupt", 60)
            board.console.read_until(b">>> ", 60)
        assert "Log" in board.run("import os; d = os.dupterm(None); os.dupterm(d); print(d)")
        board.console.write(b"\x04")
        board.wait()
        board.run("print('new')")
        with Peer(board.address, keys.host) as peer:
            peer.login()
            assert peer.value("b'new' in __import__('wss.log').log.document().read()") is True
