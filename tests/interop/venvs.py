"""Private virtual environments for clients whose pins must not meet ours, under build/venvs/.

make() is quick when nothing changed: a stamp holds the requirement list and the Python it was made with.
"""

import fcntl
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
BUILD = HERE.parent.parent / "build"


class NoClient(Exception):
    """A client can't be had on this machine; the message says why."""


def make(name: str, requirements: str, complete: bool = False) -> Path:
    """The bin directory of a virtual environment with these requirements (the text of a requirements file).

    complete: the list names every dependency, so pip adds none. Raises NoClient with the end of pip's output.
    """
    folder = BUILD / "venvs" / name
    stamp = folder / ".stamp"
    wanted = f"{sys.version}\n{requirements}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.parent / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (stamp.exists() and stamp.read_text() == wanted):
            shutil.rmtree(folder, ignore_errors=True)
            _run([sys.executable, "-m", "venv", folder])
            pip = [folder / "bin/python", "-m", "pip", "install", "-q", "--disable-pip-version-check"]
            _run([*pip, *(["--no-deps"] if complete else []), "-r", "/dev/stdin"], requirements)
            stamp.write_text(wanted)
    return folder / "bin"


def npm(*packages: str) -> Path:
    """The directory of the commands of npm packages (name@version), in build/node. Raises NoClient."""
    if not (shutil.which("node") and shutil.which("npm")):
        raise NoClient("node and npm are not installed")
    folder = BUILD / "node"
    stamp = folder / ".stamp"
    wanted = "\n".join(packages)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (stamp.exists() and stamp.read_text() == wanted):
            _run(["npm", "install", "--no-fund", "--no-audit", "--prefix", folder, *packages])
            stamp.write_text(wanted)
    return folder / "node_modules/.bin"


def _run(command, text: str = ""):
    done = subprocess.run(
        [str(c) for c in command], input=text, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600
    )
    if done.returncode:
        raise NoClient(f"{' '.join(map(str, command[:4]))} failed: {done.stdout[-1500:]}")
