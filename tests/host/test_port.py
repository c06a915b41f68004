"""`make test TARGET=PORT` itself: what it says, and that a board has afterwards what it had, whatever happens."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from board import Board
from port_target import DEVICE_TESTS, KEPT, PortMicroPython
from ports import free_port
from served_port import ServedPort
from targets import ROOT

UID = "30aea4b0a2ff"  # whose files are kept apart from those of other tests
LIST = "tests/board_suite"


class Desk:
    """A board of somebody's, with their own files, at a pseudo-terminal."""

    def __init__(self, path, **env):
        self.path, self.port = path, free_port()
        for name, text in {
            "boot.py": "print('their boot')\n",
            "main.py": "print('their main')\n",
            "ROOT_CA_cert.pem": "their CA",
            f"SSL_key{UID}.der": "their key",
            "lib/wss_repl.py": "# an old one\n",
            "lib/theirs.py": "x = 1\n",
            "data/log.txt": "1\n",
        }.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_text(text)
        self.before = self.files()
        self.board = Board(path, 32, pty=True, env={"BOARD_UID": UID} | env)
        self.board.read_until(b"their main")
        self.board.read_until(b">>> ")

    def files(self):
        return {p.relative_to(self.path): p.is_file() and p.read_bytes() for p in self.path.rglob("*")}

    def start(self, *words, port=None, **env):
        own = {k: v for k, v in os.environ.items() if not k.startswith(("WSS_TEST", "PYTEST"))}
        own |= {"WSS_TEST_ADDRESS": f"127.0.0.1:{self.port}", "WSS_TEST_PORT": str(self.port), "WSS_TEST_PATIENCE": "2"}
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
        return subprocess.Popen(
            [*command, "--target", port or self.board.tty, *words], cwd=ROOT, env=own | env, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def run(self, *words, **more) -> tuple[int, str]:
        process = self.start(*words, **more)
        said = process.communicate(timeout=300)[0]
        return process.returncode, said

    def wait_for_ours(self):
        deadline = time.monotonic() + 60
        while b"wss_repl.start" not in (self.path / "boot.py").read_bytes():
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.fixture
def desk(tmp_path):
    desk = Desk(tmp_path, BOARD_BARE="1")
    try:
        yield desk
    finally:
        desk.board.close()
        assert not (KEPT / UID).exists()


def test_a_run_and_its_report(desk):
    status, said = desk.run(LIST, "tests/device", "-k", "login_and or put_and or fds or constants or side_effects")
    assert status == 0, said
    for line in (
        f"board: Board on the desk with 32-bit unix, id {UID}, on {desk.board.tty}",
        "firmware: MicroPython 1.2",
        "files as .mpy, installed by mip, hashes equal",
        "3 passed, 1 skipped, 0 failed, 0 error",
        "  1 skipped: it looks at, or changes, the board's files or process from this machine",
    ):
        assert line in said, said
    commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, cwd=ROOT)
    assert f"commit {commit.stdout.strip()}" in said
    assert desk.files() == desk.before
    desk.board.read_until(b"their main")  # and it runs again


@pytest.mark.parametrize("scheme", ["socket", "rfc2217"])
def test_a_port_on_the_network(desk, scheme):
    with ServedPort(desk.board.tty, scheme) as served:
        status, said = desk.run(LIST, "-k", "login_and or put_and", port=served.url)
    assert status == 0 and f"id {UID}, on {served.url}" in said, said
    assert "2 passed, 0 skipped, 0 failed, 0 error" in said, said
    assert desk.files() == desk.before


def test_real_clients_with_keys_of_their_own(desk):
    """interop/ has wssctl make the keys, for the board's id, and the address and port that it is reached at."""
    status, said = desk.run(LIST, "tests/interop/test_openssl.py", "-k", "tlslite_gets_in or login_and")
    assert status == 0 and "2 passed, 0 skipped, 0 failed, 0 error" in said, said
    assert desk.files() == desk.before


def test_ctrl_c_puts_the_board_back(desk):
    process = desk.start(LIST)
    desk.wait_for_ours()
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 2 and "KeyboardInterrupt" in said
    assert desk.files() == desk.before


def test_after_a_kill_the_next_run_puts_the_board_back(desk):
    process = desk.start(LIST)
    desk.wait_for_ours()
    process.kill()
    process.communicate()
    assert desk.files() != desk.before
    status, said = desk.run(LIST, "-k", "login_and", "-s")
    assert status == 0 and "its files are put back first" in said, said
    assert desk.files() == desk.before


def test_a_board_that_dies_is_not_put_back_and_the_run_says_where_its_files_are(desk):
    process = desk.start(LIST, "-k", "login_and")
    desk.wait_for_ours()
    os.kill(desk.board.pid, signal.SIGKILL)
    said = process.communicate(timeout=300)[0]
    try:
        assert process.returncode == 2 and "Traceback" not in said, said
        assert "The board was not put back (" in said and f"are in {KEPT / UID}" in said, said
        assert (KEPT / UID / "files" / "boot.py").read_text() == "print('their boot')\n"
    finally:
        shutil.rmtree(KEPT / UID)


def test_a_failing_test_puts_the_board_back(desk):
    status, said = desk.run(LIST, "-k", "login_and", WSS_TEST_ADDRESS=f"127.0.0.1:{free_port()}")
    assert status == 1 and "1 failed" in said
    assert desk.files() == desk.before


@pytest.mark.parametrize(
    ("env", "sentence"),
    [
        ({"WSS_TEST_ADDRESS": ""}, "say where this machine reaches it, WSS_TEST_ADDRESS=host:port"),
        ({"WSS_TEST_BUNDLE": "zip"}, "WSS_TEST_BUNDLE=zip is neither mpy nor py."),
        ({"MPY_CROSS": "/no/such"}, "mpy-cross does not run (No such file or directory): /no/such"),
        ({"WSS_TEST_BOOT": "/no/such"}, "/no/such"),
    ],
)
def test_what_is_missing_is_said_and_nothing_changed(desk, env, sentence):
    status, said = desk.run(LIST, "-k", "login_and", **env)
    assert status == 2 and f"Exit: {said.split('Exit: ')[-1].splitlines()[0]}".count(sentence), said
    assert "Traceback" not in said
    assert desk.files() == desk.before


def test_a_board_that_gets_into_no_network_says_so(desk, tmp_path_factory):
    lines = tmp_path_factory.mktemp("boot") / "lines.py"
    lines.write_text("print('wss_test: no network, status', 201)\n")
    status, said = desk.run(LIST, "-k", "login_and", WSS_TEST_BOOT=str(lines))
    assert "does not get into the network: are WSS_TEST_WIFI" in said and status
    assert desk.files() == desk.before


def test_no_such_port(desk):
    status, said = desk.run(LIST, "-k", "login_and", port="/dev/ttyNONE7")
    assert status == 2 and "Exit: Cannot open /dev/ttyNONE7" in said and "is the board plugged in?" in said, said
    assert desk.files() == desk.before


def test_a_small_heap_is_named(tmp_path):
    """Sources on a board that has no memory to compile them."""
    desk = Desk(tmp_path, BOARD_BARE="1")
    try:
        desk.board.close()
        desk.board = Board(tmp_path, 32, pty=True, env={"BOARD_UID": UID, "BOARD_BARE": "1"}, heap="40k")
        desk.board.read_until(b"their main")
        status, said = desk.run(LIST, "-k", "login_and", WSS_TEST_BUNDLE="py")
        assert status and "has not enough memory for the bundle" in said, said
        assert desk.files() == desk.before
    finally:
        desk.board.close()


def test_a_script_that_was_silent_for_too_long_has_ended_before_the_next_begins(ports, tmp_path, monkeypatch):
    """It looks at no Ctrl-C, as the firmware does not while it checks an RSA key."""
    target = ports["pty"]
    transport = target._cable.transport
    patient = transport.exec_raw, transport.read_until

    def exec_raw(code, **more):
        if "kbd_intr" in code:  # from here on it waits for nothing
            transport.serial.timeout = 0.1
            monkeypatch.setattr(transport, "read_until", read_until)
        return patient[0](code, **more)

    def read_until(at_least, ending, timeout=10, **more):
        return patient[1](at_least, ending, timeout=timeout and 0.1, **more)

    monkeypatch.setattr(transport, "exec_raw", exec_raw)
    script = "import micropython, time\nmicropython.kbd_intr(-1)\ntime.sleep_ms(1000)\nopen('ended', 'w').close()\n"
    mpy = PortMicroPython(target)
    with pytest.raises(pytest.fail.Exception, match="stopped answering"):
        mpy.run(script, tmp_path)
    assert (Path(target._folder.name) / DEVICE_TESTS / "ended").exists()
    monkeypatch.undo()
    assert mpy.run("print(6 * 7)", tmp_path) == ["42"]
