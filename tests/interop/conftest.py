"""Real clients, as they come from their registries, against a board whose keys `wssctl` made.

One board a module and target: a client must leave it the way it found it, which `desk_is_free` checks after each test.
"""

import os
import ssl
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import venvs
from clients import OFFERS_CCM8, OPENSSL_CONF, PASSPHRASE, USER, installed, wssctl
from peers import Identity
from targets import Running


@dataclass
class Desk:
    """A running board, the folder of keys that opens it, and an environment to start clients in."""

    board: Running
    keys: Path
    env: dict

    @property
    def target(self) -> str:
        return "%s:%d" % self.board.address

    @property
    def host(self) -> Identity:
        cert, key = next(self.keys.glob("HOST_cert@*.pem")), next(self.keys.glob("HOST_key@*.pem"))
        return Identity(self.keys / "ROOT_CA_cert.pem", cert, key, PASSPHRASE)

    @property
    def directory(self) -> Path:
        return self.board.directory

    def status(self, key: str) -> str:
        self.board.console.write(b"print('~' * 9)\r")
        self.board.console.read_until(b"~" * 9)  # what clients made the console show may be no text
        return self.board.run("print(wss_repl.status().get(%r))" % key)


@pytest.fixture(scope="module")
def desk(target, tmp_path_factory):
    folder = tmp_path_factory.mktemp("desk")
    keys, board = folder / "keys", folder / "board"
    board.mkdir()
    port = target.free_port()
    host, number = target.reach(board, port)
    wssctl(keys, "ca", "init")
    wssctl(keys, "host", "init")
    wssctl(keys, "keys", "init", target.uid, "--name", "localhost", "--ip", host, "--wss-port", number, "--out", board)
    env = os.environ | {"USER": USER, "HOME": str(folder), "TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
    if ssl.OPENSSL_VERSION_INFO >= (3, 2):
        (folder / "openssl.cnf").write_text(OPENSSL_CONF)
        env["OPENSSL_CONF"] = str(folder / "openssl.cnf")
    with target.board(board, port=port) as running:
        yield Desk(running, keys, env)


@pytest.fixture(autouse=True)
def desk_is_free(request):
    """Every client, however it ended, leaves the board's terminal to the next one."""
    yield
    if "desk" in request.fixturenames:
        desk = request.getfixturevalue("desk")
        deadline = time.monotonic() + 60
        while (client := desk.status("client")) != "None":
            assert time.monotonic() < deadline, f"{client} still has the board's terminal"
            time.sleep(0.05)


@pytest.fixture(scope="module")
def upydev_bin(desk) -> Path:
    """The commands of upydev 0.4.3 with upydevice 0.3.8."""
    folder = installed(venvs.make, "upydev", (venvs.HERE / "upydev.txt").read_text(), True)
    if subprocess.run([folder / "python", "-c", OFFERS_CCM8], env=desk.env, timeout=120).returncode:
        pytest.skip(f"{ssl.OPENSSL_VERSION} keeps upydev's only TLS 1.2 suite, CCM8, from this Python")
    return folder


@pytest.fixture(scope="session")
def webrepl_bin() -> Path:
    """The commands of PyPI's webrepl, which is webrepl_cli as a package, and of belay."""
    return installed(venvs.make, "webrepl", "webrepl==0.2.0\nbelay==0.30.1\n")


@pytest.fixture(scope="session")
def wscat() -> Path:
    return installed(venvs.npm, "wscat@6.1.0") / "wscat"
