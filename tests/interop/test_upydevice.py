"""upydevice 0.3.8's WebSocketDevice over wss with mutual TLS, its class driven by programs in its own environment."""

import hashlib
import json
import subprocess

import pytest
from clients import PASSPHRASE, PASSWORD

PRELUDE = """
import json, sys, time
from upydevice import WebSocketDevice
target, password, keys, patience = sys.argv[1:]
def settle():
    # kbi() and code() type a CR behind their control character and go on at the first prompt, so that the CR's own
    # prompt can be taken for the next command's: a race of upydevice with itself, which a pause decides. Connecting
    # is the same: it types a CR behind the password, and gives a board 10 ms to answer that.
    time.sleep(0.2 * float(patience))
def device():
    dev = WebSocketDevice(target, password, init=True, ssl=True, auth=True, capath=keys)
    settle()
    return dev
def tell(value):
    print(json.dumps(value), flush=True)
"""


@pytest.fixture
def run(desk, target, upydev_bin, tmp_path):
    """run(code) -> what it told, as a list."""

    def run(code, timeout=120, password=PASSWORD):
        program = tmp_path / "program.py"  # a file: `@dev.code` reads a function's source
        program.write_text(PRELUDE + code)
        done = subprocess.run(
            [upydev_bin / "python", program, desk.target, f"{password}:{PASSPHRASE}", desk.keys, str(target.patience)],
            env=desk.env, capture_output=True, timeout=timeout * target.patience, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


def test_the_suite_it_asks_for(run):
    told = run("dev = device(); tell(dev.ws.sock.cipher()); dev.disconnect()")
    assert told == [["ECDHE-ECDSA-AES128-CCM8", "TLSv1.2", 128]]


def test_commands_and_their_values(run):
    told = run(
        """
dev = device()
for line in ("6*7", "[1, 'two', 3.5]", "{'a': b'b'.decode()}", "'x' * 300", "None", "print('a'); print('b')"):
    tell(dev.cmd(line, silent=True, rtn_resp=True))
tell(dev.wr_cmd("bytearray(3)", silent=True, rtn_resp=True).hex())
tell(dev.cmd("1/0", silent=True, rtn_resp=True))
dev.disconnect()
"""
    )
    assert told[:5] == [42, [1, "two", 3.5], {"a": "b"}, "x" * 300, None]
    assert told[5] == "ab"  # it takes line ends out unless told otherwise
    assert told[6] == "000000"
    assert told[7].startswith("Traceback") and "ZeroDivisionError" in told[7]


def test_a_hundred_kilobytes_of_output(run):
    told = run(
        """
import hashlib
dev = device()
dev.wr_cmd("for i in range(1500): print(i, 'x' * 60)\\r", silent=True, long_string=True)
tell(hashlib.sha256(dev.response[dev.response.index("0 x"):].encode()).hexdigest())
dev.disconnect()
"""
    )
    expected = "".join(f"{i} {'x' * 60}\n" for i in range(1500))
    assert told == [hashlib.sha256(expected.encode()).hexdigest()]


def test_ctrl_c(run):
    told = run(
        """
dev = device()
dev.cmd_nb("while True: pass\\r", block_dev=False)
time.sleep(0.5)
dev.kbi(long_string=True)
settle()
tell(dev.cmd("6*7", silent=True, rtn_resp=True))
dev.disconnect()
"""
    )
    assert told == [42]


def test_paste_of_a_function(run):
    told = run(
        """
dev = device()
@dev.code
def added(a, b):
    total = 0
    for n in range(a, b):
        if n % 2:
            total += n
    return total
settle()
added(0, 100)  # prints
dev.disconnect()
"""
    )
    assert told == [2500]


def test_disconnect_and_connect_again(run):
    told = run(
        """
dev = device()
dev.cmd("kept = 17", silent=True)
for _ in range(5):
    dev.disconnect()
    dev.connect(ssl=True, auth=True, capath=keys)
    settle()
    tell(dev.cmd("kept", silent=True, rtn_resp=True))
dev.disconnect()
"""
    )
    assert told == [17] * 5


def test_a_program_that_dies_leaves_the_board_to_the_next(run):
    run("import os; dev = device(); dev.cmd('1+1', silent=True); os._exit(0)")
    assert run("dev = device(); tell(dev.cmd('1+1', silent=True, rtn_resp=True)); dev.disconnect()") == [2]


def test_a_wrong_password_is_denied_and_the_board_goes_on(desk, run):
    """upydevice looks at neither the text nor the CLOSE: it takes itself for connected, and at the end of the
    connection reads nothing for ever, its bugs. So the program tells what it reads, and ends with the CLOSE."""
    code = """
import os
from upydevice import wsprotocol
read_frame = wsprotocol.Websocket.read_frame
def telling(self, *arguments):
    frame = read_frame(self, *arguments)
    tell([frame[1], frame[2].decode("latin-1")])
    if frame[1] == 8:
        os._exit(0)
    return frame
wsprotocol.Websocket.read_frame = telling
try:
    device().cmd("1+1", silent=True)
except Exception:  # on Pythons where the end of TLS is an error
    pass
"""
    told = run(code, password="wrong")
    assert told == [[1, "\r\nAccess denied\r\n"], [8, "\x03\xf0"]]  # 1008, policy violation
    assert "'wrong password': 1" in desk.status("refused")
    assert run("dev = device(); tell(dev.cmd('1+1', silent=True, rtn_resp=True)); dev.disconnect()") == [2]
