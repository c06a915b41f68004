#!/usr/bin/env python3
"""make run: firmware, keys, a board on the desk with its secure REPL, and a client in it. Every command is shown."""

import os
import secrets
import shlex
import socket
import subprocess
import sys
from pathlib import Path

from board import Board, BoardError
from firmware import FirmwareError
from ports import free_port

DEMO = Path(__file__).resolve().parent.parent.parent / "build" / "demo"
UID = "30aea4b0a2d0"  # machine.unique_id() of the board on the desk


def secret(name: str) -> str:
    """A random secret, kept in a file so that the next run has the same."""
    file = DEMO / name
    if not file.exists():
        file.touch(0o600)
        file.write_text(secrets.token_urlsafe(12))
    return file.read_text()


def port_to_use(wanted: int) -> int:
    with socket.socket() as s:
        try:
            s.bind(("127.0.0.1", wanted))
            return wanted
        except OSError:
            return free_port()


def main() -> int:
    board_files = DEMO / "board"
    board_files.mkdir(parents=True, exist_ok=True)
    env = os.environ | {"WSSCTL_KEYS": str(DEMO / "keys"), "WSSCTL_PASSPHRASE": secret("passphrase")}
    env["WSSCTL_PASSWORD"] = password = secret("password")

    def wssctl(*words: str) -> int:
        print("$ wssctl", shlex.join(words), file=sys.stderr)
        return subprocess.run([sys.executable, "-m", "wssctl", *words], env=env).returncode

    port = port_to_use(8833)
    if not (board_files / "ROOT_CA_cert.pem").exists():
        names = ("--name", "localhost", "--ip", "127.0.0.1", "--force", "--out", str(board_files))
        for words in (("ca", "init", "--force"), ("host", "init", "--force"), ("keys", "init", UID, *names)):
            if status := wssctl(*words):
                return status
    (board_files / "webrepl_cfg.py").write_text("PASS = %r\n" % password)
    (board_files / "boot.py").write_text("import wss_repl\nwss_repl.start(port=%d, host='127.0.0.1')\n" % port)
    url = "wss://localhost" if port == 8833 else "wss://localhost:%d" % port
    with Board(board_files) as board:
        board.read_until(b">>> ", 20)
        if sys.stdin and sys.stdin.isatty() and sys.stdout and sys.stdout.isatty():  # None: closed
            print("A board is listening. Its files: %s. Ctrl-] leaves." % board_files, file=sys.stderr)
            return wssctl("repl", url)
        return wssctl("exec", url, "import os, wss_repl; print(os.uname()); print(wss_repl.status())")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (BoardError, FirmwareError, OSError) as e:
        sys.exit(f"run: {e}")
    except KeyboardInterrupt:
        sys.exit(130)
