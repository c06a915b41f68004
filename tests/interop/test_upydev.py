"""The upydev 0.4.3 command line over wss with mutual TLS.

upydev looks for keys in its own package directory and writes there, so each board gets a copy of that directory, with
the keys wssctl made in it, in front of the installed one.
"""

import hashlib
import os
import shutil
import subprocess
import time

import pytest
from clients import PASSPHRASE, PASSWORD
from console import Console

# What upydev's `info` and `check -i` ask of a board's Wi-Fi.
NETWORK = """
STA_IF, AP_IF = 0, 1
class WLAN:
    def __init__(self, interface):
        self.interface = interface
    def active(self):
        return self.interface == STA_IF
    def ifconfig(self):
        return ("127.0.0.1", "255.0.0.0", "127.0.0.1", "127.0.0.1")
    def status(self, what):
        return -55
    def config(self, what):
        return "desk"
"""
INFO = "Host Name: desk, RSSI: -55 dBm"
# upydev's own modules, which its `get` and `shl` use on the board
ON_BOARD = ("upysh", "upysh2", "nanoglob", "shasum")


class Upydev:
    def __init__(self, desk, bin, folder):
        self.desk, self.bin, self.folder = desk, bin, folder
        package = next((bin.parent / "lib").glob("python*/site-packages")) / "upydev"
        shutil.copytree(package, folder / "python/upydev")
        for key in desk.keys.iterdir():
            shutil.copy(key, folder / "python/upydev")
        for name in ON_BOARD:
            shutil.copy(package / "upyutils_dir" / f"{name}.py", desk.directory)
        (desk.directory / "network.py").write_text(NETWORK)
        self.env = desk.env | {"PYTHONPATH": str(folder / "python"), "PATH": f"{bin}:{os.environ['PATH']}"}
        self.there = ["-t", desk.target, "-p", f"{PASSWORD}:{PASSPHRASE}"]
        self.cwd = folder / "cwd"
        self.cwd.mkdir()

    def __call__(self, *arguments, there=True, timeout=180, code=0) -> str:
        done = subprocess.run(
            [self.bin / "upydev", *arguments, *(self.there if there else ())],
            cwd=self.cwd, env=self.env, timeout=timeout, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert code is None or done.returncode == code, done.stdout
        return done.stdout

    def shell(self) -> Console:
        return Console([self.bin / "upydev", "shl", *self.there], cwd=self.cwd, env=self.env)


@pytest.fixture(scope="module")
def upydev(desk, upydev_bin, tmp_path_factory) -> Upydev:
    return Upydev(desk, upydev_bin, tmp_path_factory.mktemp("upydev"))


def test_a_command(upydev):
    assert upydev("print(6*7)") == "42\n"


def test_a_command_that_raises(upydev):
    assert "ZeroDivisionError: divide by zero" in upydev("1/0")


def test_info(upydev):
    text = upydev("info")
    assert f"WebSocketDevice @ wss://{upydev.desk.target}, Type: linux, Class: WebSocketDevice" in text
    assert "MAC: 30:ae:a4:b0:a2:d0" in text and INFO in text


def test_config_and_check(upydev):
    upydev("config", "-@", "desk")
    assert INFO in upydev("check", "-i", "-wss", there=False)
    assert upydev("print(6*7)", there=False) == "42\n"


@pytest.mark.parametrize("size", [0, 1, 1024, 1_000_000])
def test_put(upydev, size):
    content = os.urandom(size)
    (upydev.cwd / "put.bin").write_bytes(content)
    if size:
        upydev("put", "put.bin")
    else:
        # It divides by the size when it draws its progress bar, behind the transfer's two answers: its own bug.
        assert "100 %" not in upydev("put", "put.bin", code=None)
    assert (upydev.desk.directory / "put.bin").read_bytes() == content


@pytest.mark.parametrize("size", [1, 4096, 1_000_000])
def test_get(upydev, size):
    """Raw bytes on the TLS stream, written by upydev's own rcat() to wss_repl.client_swr."""
    content = os.urandom(size)
    (upydev.desk.directory / "get.bin").write_bytes(content)
    upydev("get", "get.bin")
    assert (upydev.cwd / "get.bin").read_bytes() == content


@pytest.mark.parametrize("size", [1, 4096, 200_000])
def test_get_by_the_file_protocol(upydev, size):
    """No megabyte: with two small writes an acknowledgement and Nagle's algorithm it waits 40 ms a piece for itself."""
    content = os.urandom(size)
    (upydev.desk.directory / "fg.bin").write_bytes(content)
    upydev("get", "fg.bin", "-fg")
    assert (upydev.cwd / "fg.bin").read_bytes() == content


def test_shasum(upydev):
    content = os.urandom(5000)
    (upydev.desk.directory / "sum.bin").write_bytes(content)
    assert hashlib.sha256(content).hexdigest() in upydev("shasum", "sum.bin")


def test_shell(upydev):
    with upydev.shell() as shell:
        shell.until(b"WebSecREPL with TLSv1.2 connected\n")
        shell.until(b"TLSv1.2 @ ECDHE-ECDSA-AES128-CCM8 - 128 bits Encryption\n")
        shell.until(b"~ $ ")
        shell.send(b"ls\r")
        shell.until(b"upysh2.py")
        shell.until(b"~ $ ")
        shell.send(b"\x13")  # Ctrl-S: from its shell to the REPL
        shell.until(b">>>")
        shell.send(b"print(6*7)\r")
        shell.until(b"\n42\n")
        shell.until(b">>>")
        shell.send(b"sum(0 for _ in range(1 << 29))\r")  # a minute, and no call that could be waited in
        shell.until(b"29))\n")
        time.sleep(1)
        shell.send(b"\x03")
        shell.until(b"KeyboardInterrupt")
        shell.until(b">>>")
        shell.send(b"print(5*5)\r")
        shell.until(b"\n25\n")
        shell.send(b"\x18")  # Ctrl-X leaves
        shell.until(b"closed")
        assert shell.end() == 0


def test_reset(upydev):
    """A board that is gone within a second makes upydev end with a traceback in its own goodbye: its bug. What counts
    is that the board comes back and takes the next command."""
    upydev("kept = 17")
    assert "Rebooting device..." in upydev("reset", code=None)
    upydev.desk.board.wait()
    assert "NameError" in upydev("kept")
    assert upydev("print(6*7)") == "42\n"
