"""Keys both ways: what upydev 0.4.3 makes lets upydev and wssctl in; what `wssctl setup` makes lets upydev in."""

import os
import shutil
import socket
import ssl
import subprocess
import sys

import pytest
import venvs
from board import Board
from clients import OFFERS_CCM8, OPENSSL_CONF, PASSPHRASE, PASSWORD, USER, installed, wssctl
from ports import WORKER, free_port
from targets import UID

# upydev's device certificates are for port 8833 of an address: one that nothing else listens on
HOST = f"127.0.0.{77 + WORKER}"

# upydev's own generator; only the typing of passphrases is replaced (it wants a terminal).
GENERATE = """
import argparse, getpass, sys
getpass.getpass = lambda *args, **kwargs: sys.argv[3]
from upydev import keygen
args = argparse.Namespace(t=sys.argv[1], p=sys.argv[2], wss=False, zt=False, tfkey=False)
keygen.ssl_ECDSA_key_certgen_CA(args, dir=keygen.UPYDEV_PATH)
keygen.ssl_ECDSA_key_certgen_host(args, dir=keygen.UPYDEV_PATH)
keygen.ssl_ECDSA_key_certgen(args, dir=keygen.UPYDEV_PATH)
"""


@pytest.fixture
def upydev(tmp_path):
    """(its Python, its command, its key folder, an environment)"""
    bin = installed(venvs.make, "upydev", (venvs.HERE / "upydev.txt").read_text(), True)
    env = os.environ | {"USER": USER, "HOME": str(tmp_path), "TERM": "xterm", "LC_ALL": "C.UTF-8"}
    env |= {"PYTHONPATH": str(tmp_path / "python"), "PATH": f"{bin}:{os.environ['PATH']}"}
    if ssl.OPENSSL_VERSION_INFO >= (3, 2):
        (tmp_path / "openssl.cnf").write_text(OPENSSL_CONF)
        env["OPENSSL_CONF"] = str(tmp_path / "openssl.cnf")
    if subprocess.run([bin / "python", "-c", OFFERS_CCM8], env=env, timeout=120).returncode:
        pytest.skip(f"{ssl.OPENSSL_VERSION} keeps upydev's only TLS 1.2 suite, CCM8, from this Python")
    package = next((bin.parent / "lib").glob("python*/site-packages")) / "upydev"
    shutil.copytree(package, tmp_path / "python/upydev")
    return bin / "python", bin / "upydev", tmp_path / "python/upydev", env


def run(*command, env, cwd):
    done = subprocess.run(
        [*map(str, command)], env=env, cwd=cwd, text=True, timeout=180, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_a_board_with_upydevs_own_keys(target, upydev, tmp_path):
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind((HOST, 8833))
        except OSError:
            pytest.skip("somebody listens on port 8833 of all of this machine's addresses")
    python, command, folder, env = upydev
    files = tmp_path / "board"
    boot = "import wss_repl\nwss_repl.start(%d, %r, ssl=%r, host=%r)\n"
    files.mkdir()
    (files / "boot.py").write_text(boot % (8266, PASSWORD, False, HOST))
    with Board(files, target.bits) as board:
        board.read_until(b"wss_repl: listening", 60)
        run(python, "-c", GENERATE, HOST, PASSWORD, PASSPHRASE, env=env, cwd=tmp_path)
        for name in ("ROOT_CA_cert.pem", f"SSL_key{UID}.der", f"SSL_certificate{UID}.der"):
            shutil.copy(folder / name, files)
        (files / "boot.py").write_text(boot % (8833, PASSWORD, True, HOST))
        board.restart()
        board.read_until(b"wss_repl: listening", 60)
        board.read_until(b"warning: extended key usage", 60)  # upydev's certificates say nothing of their use
        board.read_until(b">>> ", 60)
        assert run(command, "print(6*7)", "-t", HOST, "-p", f"{PASSWORD}:{PASSPHRASE}", env=env, cwd=tmp_path) == "42\n"
        status = subprocess.run(
            [sys.executable, "-m", "wssctl", "keys", "status"], env=env | {"WSSCTL_KEYS": str(folder)},
            text=True, capture_output=True, timeout=120,
        ).stdout  # fmt: skip
        assert "lacks" in status and "the extended key usage serverAuth" in status


def test_upydev_works_from_the_keys_that_setup_made(target, upydev, tmp_path):
    python, command, folder, env = upydev
    files = tmp_path / "board"
    files.mkdir()
    (tmp_path / "password").write_text(PASSWORD + "\n")
    port = free_port()
    with Board(files, target.bits, pty=True) as board:
        wssctl(
            folder, "setup", board.tty, "--name", "room1", "--ip", "127.0.0.1", "--wss-port", port,
            "--password-file", tmp_path / "password",
        )  # fmt: skip
        there = ["-t", f"127.0.0.1:{port}", "-p", f"{PASSWORD}:{PASSPHRASE}"]
        assert run(command, "print(6*7)", *there, env=env, cwd=tmp_path) == "42\n"
