"""Private virtual environments for clients whose pins must not meet ours, under build/venvs/.

make() is quick when nothing changed: a stamp holds the requirement list and the Python it was made with.
"""

import fcntl
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request
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


def unpacked(requirement: str, sha256: str) -> Path:
    """The files of a package (name==version) that is for MicroPython, in build/programs. Raises NoClient.

    pip finds it. Most of these archives it can't install, because they have no setup.py: then it says where it found
    the archive.
    """
    folder = BUILD / "programs" / requirement
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_name(folder.name + ".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=folder.parent) as tmp:
                archive = _archive(requirement, Path(tmp))
                found = hashlib.sha256(archive.read_bytes()).hexdigest()
                if found != sha256:
                    raise NoClient(f"{archive.name} has the SHA-256 {found}, not {sha256}")
                files = Path(tmp, "files")
                if archive.suffix == ".whl":
                    shutil.unpack_archive(archive, files, "zip")
                else:
                    shutil.unpack_archive(archive, files, "gztar", filter="data")
                files.rename(folder)
    inner = list(folder.iterdir())
    return inner[0] if len(inner) == 1 else folder  # an sdist has all in one folder


def _archive(requirement: str, folder: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--no-deps"]
    done = subprocess.run([*pip, "-d", folder, requirement], capture_output=True, text=True, timeout=600)
    if done.returncode:
        where = re.search(r" from (https?://\S+\.tar\.gz)", done.stderr)
        if not where:
            raise NoClient(f"pip does not find {requirement}: {done.stderr[-1500:]}")
        try:
            with urllib.request.urlopen(where[1], timeout=60) as answer:
                (folder / where[1].rpartition("/")[2]).write_bytes(answer.read())
        except OSError as e:
            raise NoClient(f"{requirement} can't be fetched: {e}") from None
    return next(f for f in folder.iterdir() if f.suffix in (".gz", ".whl"))


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
