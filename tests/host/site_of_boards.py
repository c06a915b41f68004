"""A user's folder of keys and boards with files made by it: for tests of commands on several boards."""

import os
import re
import subprocess

import zygote
from board import Board
from ports import free_port
from wssctl.boards.registry import Registry
from wssctl.keys import store

PASSPHRASE, PASSWORD = "correct horse", "sesame 23"
SECOND = "aabbccddee01"


class Site:
    """A user's folder of keys and boards with files made by it; wssctl runs as a command."""

    def __init__(self, path, bits):
        self.path, self.bits = path, bits
        self.keys = path / "keys"
        self.boards = {}
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("WSSCTL")} | {"USER": "ana"}
        self.env |= {"PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring"}  # not the developer's own
        self.env |= {"WSSCTL_PASSPHRASE": PASSPHRASE, "WSSCTL_PASSWORD": PASSWORD, "WSSCTL_KEYS": str(self.keys)}
        self.run("ca", "init")
        self.run("host", "init")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for board in self.boards.values():
            board.close()

    def run(self, *words, status=0, env=None, timeout=180, **more):
        done = zygote.run(
            [*zygote.WSSCTL, *words], env=self.env | (env or {}), capture_output=True,
            text=True, timeout=timeout, stdin=subprocess.DEVNULL, start_new_session=True, **more,
        )  # fmt: skip
        assert done.returncode == status, (words, done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    def remembered(self):
        with store.Store(self.keys).record.view() as db:
            return [row["what"] for row in db.execute("SELECT what FROM secrets")]

    def add(self, name, uid, group="all", **init):
        files = self.path / name
        files.mkdir()
        port = free_port()
        days = [f"--{k}={v}" for k, v in init.items()]
        self.run("keys", "init", uid, "--name", name, "--ip", "127.0.0.1", "--port", port, "--out", files, *days)
        (files / "webrepl_cfg.py").write_text(f"PASS = {PASSWORD!r}\n")
        (files / "boot.py").write_text(f"import wss_repl\nwss_repl.start(port={port})\n")
        self.run("boards", "add", name, f"127.0.0.1:{port}", "--uid", uid, "--group", group)
        self.boot(name, uid)
        return files, port

    def boot(self, name, uid):
        board = Board(self.path / name, self.bits, env={"BOARD_UID": uid}, pty=True)
        board.read_until(b"wss_repl: listening", 60)
        self.boards[name] = board

    def other_host(self, name="bea"):
        """Another machine, which got the CA."""
        folder = self.path / f"keys of {name}"
        env = {"WSSCTL_KEYS": str(folder), "USER": name}
        self.run("ca", "export", self.path / "ca.pem", "--force")
        self.run("ca", "import", self.path / "ca.pem", env=env)
        self.run("host", "init", env=env)
        self.tell(env)
        return env, folder

    def tell(self, env):
        """The boards' names, to another host."""
        for board in Registry(store.Store(self.keys)).load().values():
            words = [word for group in board.groups for word in ("--group", group)]
            self.run("boards", "add", board.name, f"{board.host}:{board.port}", *words, env=env)


def in_row(table, *cells):
    """Whether a row of the table has these cells, and what stands in between."""
    return re.search(r"\S* +.*".join(map(re.escape, cells)), table)
