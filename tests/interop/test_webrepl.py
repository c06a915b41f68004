"""webrepl_cli's protocol as its heirs speak it, PyPI's webrepl 0.2.0 and belay 0.30.1: unmasked frames, header and
payload apart, a request in two parts, and plain ws only. So through `wssctl proxy`, and to a board told to take ws."""

import os
import signal
import subprocess
import sys

import pytest
from clients import PASSPHRASE, PASSWORD, USER
from ports import free_port


@pytest.fixture(scope="module")
def proxy(desk):
    """The port of `wssctl proxy`."""
    command = [sys.executable, "-m", "wssctl", "proxy", "wss://%s:%d" % desk.board.address]
    env = os.environ | {"WSSCTL_KEYS": str(desk.keys), "WSSCTL_PASSPHRASE": PASSPHRASE, "USER": USER}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        yield int(process.stdout.readline().rpartition(":")[2])
        process.send_signal(signal.SIGINT)


@pytest.fixture(scope="module")
def plain(target, tmp_path_factory):
    """A board that speaks ws, because it was told to by name."""
    port = free_port()
    call = "wss_repl.start(port=%d, password=%r, ssl=False)" % (port, PASSWORD)
    with target.board(tmp_path_factory.mktemp("plain"), port=port, call=call) as running:
        assert "ws://" in running.run("print(wss_repl.status()['listening'])")
        yield running


@pytest.fixture(params=["proxied", "plain"])
def way(request):
    """(port, the board's directory) of both ways in."""
    if request.param == "plain":
        board = request.getfixturevalue("plain")
        return board.port, board.directory
    return request.getfixturevalue("proxy"), request.getfixturevalue("desk").directory


def run(*arguments, timeout=120, **kwargs) -> str:
    done = subprocess.run(
        [str(a) for a in arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, timeout=timeout, **kwargs,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture
def webrepl(target, way, webrepl_bin, tmp_path):
    """webrepl(command, ...): PyPI's webreplcmd."""

    def webrepl(*arguments, password=PASSWORD, timeout=120):
        command = [webrepl_bin / "webreplcmd", "-i", "127.0.0.1", "-P", way[0], "-p", password]
        return run(*command, *arguments, cwd=tmp_path, timeout=timeout)

    return webrepl


def test_webrepl_command(webrepl):
    assert webrepl("cmd", "print(6*7)").split() == ["print(6*7)", "42"]


def test_webrepl_version(webrepl):
    assert webrepl("ver").startswith("[i] Version  1 ")


@pytest.mark.parametrize("size", [0, 1, 1023, 1_000_000])
def test_webrepl_put(webrepl, way, tmp_path, size):
    content = os.urandom(size)
    (tmp_path / "here").write_bytes(content)
    assert webrepl("put", "here", "there") == ""
    assert (way[1] / "there").read_bytes() == content


@pytest.mark.parametrize("size", [0, 1, 4090, 1_000_000])
def test_webrepl_get(webrepl, way, tmp_path, size):
    content = os.urandom(size)
    (way[1] / "there").write_bytes(content)
    assert webrepl("get", "there", "here") == ""
    assert (tmp_path / "here").read_bytes() == content


def test_webrepl_is_told_of_a_wrong_password(webrepl):
    assert "Check your password" in webrepl("ver", password="wrong")
    assert webrepl("ver").startswith("[i] Version  1 ")


def test_belay(target, way, webrepl_bin):
    """Raw REPL over text frames. belay soft-resets a board unless told not to, which ends any network session."""
    program = r"""
import sys
from belay.pyboard import Pyboard, PyboardException
board = Pyboard(sys.argv[1], password=sys.argv[2])
board.enter_raw_repl(soft_reset=False)
print(board.exec("print(6*7)").decode().strip())
print(len(board.exec("for i in range(1000): print(i, 'x' * 50)\n")))
try:
    board.exec("1/0")
except PyboardException as e:
    print("ZeroDivisionError" in str(e))
board.exit_raw_repl()
board.read_until(b">>> ")
board.close()
"""
    told = run(webrepl_bin / "python", "-c", program, "ws://127.0.0.1:%d" % way[0], PASSWORD)
    assert told.splitlines() == ["42", str(sum(len(f"{i} {'x' * 50}\r\n") for i in range(1000))), "True"]
