"""The start of a holder (holder.py), for the command that finds none."""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from ..errors import KeyFileError, NoAnswer
from ..text import shown
from . import kept
from .link import Credentials, Deadline


def start(path: Path, wanted: kept.Wanted) -> bool:
    """Starts a holder at `path`; False when somebody else just does. Secrets are asked for here, and reach it through a
    pipe. Raises KeyFileError, kept.NoPlace."""
    import fcntl  # there are holders on POSIX alone

    target, credentials, password, server_name, timeout, keep = wanted
    spec = {
        "target": target[:3],
        "identity": kept.identity(target, credentials),
        "files": [os.path.abspath(p) for p in credentials[:3]] if credentials else None,
        "passphrase": _passphrase(credentials) if credentials else None,
        "password": password if isinstance(password, str) else password(),
        "server_name": server_name() if callable(server_name) else server_name,
        "keep": keep,
        "socket": str(path),
    }
    try:
        lock = os.open(path.with_suffix(".lock"), os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as e:
        raise kept.NoPlace(f"nothing can be written to {path.parent} ({e.strerror})") from None
    try:
        deadline = Deadline(timeout)
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if deadline.expired:
                    raise NoAnswer(f"Another command does not get on with starting a holder for {target}.") from None
                time.sleep(0.02)
        if (sock := kept.dial(path)) is not None:
            sock.close()
            return False
        kept.release(target)  # one with other keys has the board, maybe
        holder = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.holder"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
            env={k: v for k, v in os.environ.items() if not k.startswith("WSSCTL_PASS")},
        )
        assert holder.stdin and holder.stdout
        with contextlib.suppress(BrokenPipeError):
            holder.stdin.write(json.dumps(spec).encode())
            holder.stdin.close()
        with holder.stdout:
            said = holder.stdout.readline()
        holder.returncode = 0  # it lives on; the one who reaps it is init
        if said.startswith(b"no place "):
            raise kept.NoPlace(shown(said[9:].decode("utf-8", "replace").strip()))
        if said != b"ready\n":
            raise KeyFileError(f"The process that is to keep the connection does not start ({shown(repr(said))}).")
        return True
    finally:
        os.close(lock)


def _passphrase(credentials: Credentials) -> str | None:
    """The HOST key's, after it has been tried here: None for a key without one that nobody gave. Raises
    KeyFileError."""
    asked: list[str] = []
    ask = credentials.passphrase
    if not callable(ask):
        credentials.context()
        return ask

    def passphrase() -> str:
        asked.append(ask())
        return asked[0]

    credentials._replace(passphrase=passphrase).context()
    return asked[0] if asked else None
