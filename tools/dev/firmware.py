#!/usr/bin/env python3
"""Get and build the firmware that stands in for a board: MicroPython's unix port with the bundle frozen in.

The source is MPY_DIR, a MicroPython checkout of 1.23 or later, where that is set. Otherwise it is Debian's source
packages of MicroPython and mbedTLS, fetched once with apt from the mirror this machine already uses. Everything is
kept in build/: the source in build/source, binaries and logs in build/firmware. A checkout is only read.
No build is used before it has been looked at: whether it is a program of the bits asked for, of the source's version,
and with the whole bundle frozen in.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
BUILD = ROOT / "build"
VARIANT = ROOT / "tests" / "board"
DEBIAN = ("bullseye", "bookworm", "trixie", "forky", "sid", "oldstable", "stable", "testing", "unstable")
SUITE = "trixie"  # has MicroPython 1.25.0
NEWER_SUITES = ("forky", "sid")  # have 1.26.1 or later: what `make matrix` runs on as well
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
OLDEST = (1, 23)


class FirmwareError(Exception):
    """The firmware cannot be had; the message is one sentence and says what to do."""


class NoLwip(FirmwareError):
    """A checkout has no lwIP in it, or is from before MicroPython's lwIP was as it is here."""


@dataclass(frozen=True)
class Source:
    """A MicroPython source tree and the directory that receives what is built from it."""

    path: Path
    out: Path
    checkout: bool  # somebody else's: look for changes in it, write nothing into it


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _lock(what: str = "source") -> Iterator[None]:
    """One at a time fetches the source and makes mpy-cross, and one each kind of firmware: who needs one that is there
    does not wait until another one is built."""
    BUILD.mkdir(exist_ok=True)
    with open(BUILD / f".{what}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _run(
    command: Sequence[str | Path], log: Path, cwd: Path | None = None, env: dict[str, str] | None = None
) -> bool:
    """Run a command with its output in a log file; tells whether it succeeded."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as out:
        out.write(("$ " + " ".join(map(str, command)) + "\n").encode())
        out.flush()
        return not subprocess.run(
            command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out
        ).returncode


def _first_line(log: Path, pattern: str) -> str:
    """The first line of a log that matches, as the reason to give."""
    for line in log.read_text(errors="replace").splitlines():
        if re.search(pattern, line):
            return re.sub(r"\w+://\S+", "the package mirror", line.strip())
    return "no reason was given"


# The source


def _mirrors() -> list[str]:
    """The mirrors of Debian's archive that this machine is configured to use."""
    form = "$(RELEASE) $(COMPONENT) $(REPO_URI)"
    command = ["apt-get", "indextargets", "--no-release-info", "--format", form, "Created-By: Packages"]
    try:
        targets = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        targets = ""
    words = [line.split(" ", 2) for line in targets.splitlines()]
    found = [uri for release, component, uri in words if release in DEBIAN and component == "main"]
    if not found:
        raise FirmwareError("no Debian mirror is configured here to fetch MicroPython's source from; set MPY_DIR=path")
    return list(dict.fromkeys(found))


def _fetch_debian(download: Path, suite: str, *packages: str) -> None:
    """Download the source packages into a folder. apt checks their signatures; its own configuration is not touched."""
    if not KEYRING.exists():
        raise FirmwareError(f"{KEYRING} is missing: run 'apt-get install debian-archive-keyring', or set MPY_DIR=path")
    apt = download / "apt"
    for folder in ("lists/partial", "cache/archives/partial", "etc"):
        (apt / folder).mkdir(parents=True, exist_ok=True)
    sources = apt / "etc" / "sources.list"
    options = [
        f"Dir::Etc::sourcelist={sources}",
        "Dir::Etc::sourceparts=-",
        f"Dir::State::Lists={apt / 'lists'}",
        f"Dir::Cache={apt / 'cache'}",
        "APT::Sandbox::User=root",  # its usual user cannot write here
    ]
    command: list[str | Path] = ["apt-get", "-q", *(word for option in options for word in ("-o", option))]
    log = download / "apt.log"
    log.unlink(missing_ok=True)
    for mirror in _mirrors():
        sources.write_text(f"deb-src [signed-by={KEYRING}] {mirror} {suite} main\n")
        if _run([*command, "update"], log) and _run(
            [*command, "source", "--download-only", *packages], log, cwd=download
        ):
            shutil.rmtree(apt)
            return
    raise FirmwareError(
        f"the source of {' and '.join(packages)} cannot be fetched ({_first_line(log, '^(Err|E:)')}); "
        f"see {log}, or set MPY_DIR to a MicroPython checkout"
    )


def _unpack(archive: Path, to: Path) -> None:
    """Unpack an archive without its top folder."""
    with tarfile.open(archive) as tar:
        members = []
        for member in tar.getmembers():
            top, _, member.name = member.name.partition("/")
            if member.islnk():
                member.linkname = member.linkname.partition("/")[2]
            if member.name:
                members.append(member)
        if hasattr(tarfile, "tar_filter"):  # Python 3.11.4
            tar.extractall(to, members, filter="tar")
        else:
            tar.extractall(to, members)


def _debian_packages(download: Path, suite: str, *names: str) -> list[Path]:
    """The archives of source packages, fetched if need be."""
    for retry in (False, True):
        found = [next(iter(download.glob(f"{name}_*.orig.tar.*")), Path()) for name in names]
        if all(path.name for path in found):
            return found
        if retry:
            break
        say(f"fetching the source of {' and '.join(names)} (Debian's {suite})")
        download.mkdir(parents=True, exist_ok=True)
        _fetch_debian(download, suite, *names)
    raise FirmwareError(f"the source packages in {download} are not the ones expected; set MPY_DIR=path")


@contextlib.contextmanager
def _unpacking(tree: Path, download: Path) -> Iterator[Path]:
    """A folder that takes the place of tree when it is complete."""
    part = tree.with_name("unpacking")
    shutil.rmtree(part, ignore_errors=True)
    try:
        yield part
    except (tarfile.TarError, EOFError, OSError) as error:
        raise FirmwareError(f"the source does not unpack ({error}): delete {download} and try again") from error
    shutil.rmtree(tree, ignore_errors=True)
    part.rename(tree)


def _debian_source(suite: str = SUITE) -> Path:
    top = BUILD / "source" if suite == SUITE else BUILD / "source" / suite
    tree, download = top / "micropython", top / "download"
    if tree.exists():
        return tree
    micropython, mbedtls = _debian_packages(download, suite, "micropython", "mbedtls")
    with _unpacking(tree, download) as part:
        _unpack(micropython, part)
        # A submodule, so Debian has it as a package of its own.
        shutil.rmtree(part / "lib" / "mbedtls", ignore_errors=True)
        _unpack(mbedtls, part / "lib" / "mbedtls")
    return tree


def version(tree: Path) -> tuple[int, ...]:
    """The version of a MicroPython source tree, such as (1, 25, 0). Raises OSError if it is none."""
    config = (tree / "py" / "mpconfig.h").read_text()
    return tuple(int(n) for n in re.findall(r"#define MICROPY_VERSION_(?:MAJOR|MINOR|MICRO) (\d+)", config))


def version_name(tree: Path) -> str:
    """The same as text, 1.29.0-preview where it is one: what MicroPython says of itself without git."""
    config = (tree / "py" / "mpconfig.h").read_text()
    preview = re.search(r"#define MICROPY_VERSION_PRERELEASE 1", config)
    return ".".join(map(str, version(tree))) + ("-preview" if preview else "")


def newer_debian_source() -> Path:
    """The source tree of a Debian suite whose MicroPython is newer than SUITE's, fetched if need be.

    It is a tree for MPY_DIR. Raises FirmwareError if it cannot be had.
    """
    with _lock():
        oldest = version(_debian_source())
        reasons = []
        for suite in NEWER_SUITES:
            try:
                tree = _debian_source(suite)
            except FirmwareError as error:
                reasons.append(str(error))
                continue
            if version(tree) > oldest:
                return tree
            reasons.append(f"{suite} has the version of {SUITE}")
    raise FirmwareError("; ".join(reasons))


def source(mpy_dir: str | os.PathLike[str] | None = None) -> Source:
    """The source tree to build from, fetched if need be.

    Raises FirmwareError if it cannot be had or is not usable.
    """
    mpy_dir = mpy_dir or os.environ.get("MPY_DIR") or None
    if mpy_dir is None:
        return Source(_debian_source(), BUILD / "firmware" / "debian", checkout=False)
    path = Path(mpy_dir).resolve()
    try:
        number = version(path)
    except OSError:
        raise FirmwareError(f"MPY_DIR={mpy_dir} is not a MicroPython checkout: it has no py/mpconfig.h") from None
    if number < OLDEST:
        raise FirmwareError(f"MPY_DIR={mpy_dir} is MicroPython {'.'.join(map(str, number))}, older than 1.23")
    if not (path / "lib" / "mbedtls" / "library").is_dir():
        raise FirmwareError(f"MPY_DIR lacks mbedTLS: run 'git -C {path} submodule update --init lib/mbedtls'")
    key = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    return Source(path, BUILD / "firmware" / f"{path.name}-{key}", checkout=True)


# The build


def _contents(*tops: Path) -> str:
    total = hashlib.sha256()
    for top in tops:
        for path in sorted([top] if top.is_file() else top.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                total.update(f"{path}\0".encode() + path.read_bytes() + b"\0")
    return total.hexdigest()


def _digest(src: Source) -> str:
    """Changes whenever something that goes into a build does."""
    total = hashlib.sha256(_contents(ROOT / "manifest.py", Path(__file__), VARIANT, ROOT / "lib").encode())
    if src.checkout:
        for folder in ("py", "extmod", "shared", "ports/unix", "mpy-cross", "tools", "lib"):
            for path in sorted((src.path / folder).rglob("*.[chpm]*")):
                if path.suffix in (".c", ".h", ".py", ".mk") and path.is_file():
                    stat = path.stat()
                    total.update(f"{path}\0{stat.st_mtime_ns}\0{stat.st_size}\0".encode())
    return total.hexdigest()


def _make(src: Source, where: str, log: Path, *arguments: str) -> bool:
    # Nothing of the caller's environment: make takes variables such as BUILD, DEBUG or V from there.
    env = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    env |= {"LC_ALL": "C", "PYTHONDONTWRITEBYTECODE": "1"}
    # The version in the banner is MicroPython's; do not let git find this repository around its source.
    env["GIT_CEILING_DIRECTORIES"] = str(src.path.parent)
    return _run(
        ["make", "-C", src.path / where, f"-j{os.cpu_count() or 1}", f"PYTHON={sys.executable}", *arguments],
        log, env=env,
    )  # fmt: skip


def _install(built: Path, to: Path) -> Path:
    """Put a finished binary where it is used, in one step: one that runs stays whole."""
    part = to.with_name(to.name + ".part")
    shutil.copy2(built, part)
    return part.replace(to)


def _need_tools() -> None:
    for tool in ("make", "gcc"):
        if not shutil.which(tool):
            raise FirmwareError(f"building firmware needs {tool}: run 'apt-get install build-essential' as root")
    if re.search(r"\s", f"{ROOT}"):
        raise FirmwareError(f"MicroPython's makefiles cannot build in '{ROOT}': move it to a path without spaces")


def _can_32bit() -> bool:
    program = '#include <stdio.h>\nint main(void) { return printf("%p", stdout) < 0; }\n'
    return not subprocess.run(
        ["gcc", "-m32", "-x", "c", "-", "-o", "/dev/null"], input=program, text=True, capture_output=True
    ).returncode


def _need_32bit(log: Path) -> None:
    if _can_32bit():
        return
    command = ["apt-get", "install", "-y", "gcc-multilib"]
    if os.geteuid() == 0 and shutil.which("apt-get"):
        say("installing gcc-multilib for the 32-bit firmware")
        env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        done = _run(command, log, env=env) or (
            _run(["apt-get", "update"], log, env=env) and _run(command, log, env=env)
        )
        if done and _can_32bit():
            return
        raise FirmwareError(f"gcc-multilib cannot be installed ({_first_line(log, '^E:')}); see {log}")
    raise FirmwareError("32-bit firmware needs a compiler for it: run 'apt-get install gcc-multilib' as root")


def _build_mpy_cross(src: Source) -> Path:
    program = src.out / "mpy-cross"
    if not program.exists() or src.checkout:
        log = src.out / "mpy-cross.log"
        log.unlink(missing_ok=True)
        _need_tools()
        if not program.exists():
            say(f"building mpy-cross from {src.path}")
        if not _make(src, "mpy-cross", log, f"BUILD={src.out / 'build-mpy-cross'}", "CFLAGS_EXTRA=-Wno-error"):
            raise FirmwareError(f"mpy-cross does not build ({_first_line(log, 'error|Error')}); see {log}")
        _install(src.out / "build-mpy-cross" / "mpy-cross", program)
    return program


def _elf_bits(program: Path) -> int:
    """32 or 64: the class in an ELF header (elf(5), EI_CLASS); 0 if the file is no ELF program."""
    with open(program, "rb") as file:
        header = file.read(5)
    return {b"\x7fELF\x01": 32, b"\x7fELF\x02": 64}.get(header, 0)


# What a build says of itself: its version, then each module that it cannot import from what is frozen in.
_SELF_TEST = """
import sys
print(*sys.implementation.version[:3])
sys.path[:] = [".frozen"]
for name in %r:
    try:
        __import__(name)
    except Exception as e:
        print(name)
"""


def _check(src: Source, program: Path, bits: int, bare: bool = False) -> None:
    """Raise FirmwareError unless a build is what it was to be: its bits, the source's version, all of the bundle; bare:
    and nothing of it."""
    if (found := _elf_bits(program)) != bits:
        what = f"a {found}-bit program" if found else "no ELF program"
        raise FirmwareError(f"the {bits}-bit firmware came out as {what}: see {src.out}/*.log for how it was compiled")
    files = sorted(path.relative_to(ROOT / "lib") for path in (ROOT / "lib").rglob("*.py"))
    code = _SELF_TEST % ([".".join(path.with_suffix("").parts) for path in files],)
    with tempfile.TemporaryDirectory() as nowhere:  # with no file that could be imported instead
        done = subprocess.run(
            [program, "-c", code], cwd=nowhere, capture_output=True, text=True, stdin=subprocess.DEVNULL,
            env={"ASAN_OPTIONS": "detect_leaks=0"},
        )  # fmt: skip
    if done.returncode != 0:
        raise FirmwareError(f"the {bits}-bit firmware does not run: {(done.stderr or 'no output').splitlines()[-1]}")
    number, *missing = done.stdout.splitlines()
    wanted = version(src.path)
    if tuple(map(int, number.split())) != wanted:
        raise FirmwareError(
            f"the {bits}-bit firmware is MicroPython {'.'.join(number.split())} and not {'.'.join(map(str, wanted))}: "
            f"delete {src.out} and build again"
        )
    if bare and len(missing) < len(files):
        raise FirmwareError(f"the bundle is in the firmware without it: delete {src.out} and build again")
    if missing and not bare:
        raise FirmwareError(f"the {bits}-bit firmware lacks frozen modules ({', '.join(missing)}): look at manifest.py")


# The collector looks for pointers on the stack, which must be where it is; memcpy() of nothing from nowhere is common.
_SANITIZE = "-fsanitize=address,undefined -fno-sanitize=nonnull-attribute --param asan-use-after-return=0"


def _need_lwip(src: Source) -> None:
    """lwIP is a submodule of MicroPython, too, and only one kind of firmware needs it."""
    tree = src.path / "lib" / "lwip"
    if not (src.path / "extmod" / "lwip-include" / "lwipopts_common.h").exists():
        raise NoLwip("the firmware with lwIP's sockets needs MicroPython 1.25 or later")
    if (tree / "src" / "core").is_dir():
        return
    if src.checkout:
        raise NoLwip(f"MPY_DIR lacks lwIP: run 'git -C {src.path} submodule update --init lib/lwip'")
    download = src.path.parent / "download"
    (archive,) = _debian_packages(download, SUITE, "lwip")
    with _unpacking(tree, download) as part:
        _unpack(archive, part)


def _build(
    mpy_dir: str | os.PathLike[str] | None, bits: int, sanitize: bool = False, lwip: bool = False, bare: bool = False
) -> Path:
    kind = "lwip" if lwip else f"{bits}-sanitize" if sanitize else f"{bits}-bare" if bare else f"{bits}"
    with _lock():
        src = source(mpy_dir)
    if bare:
        _build(mpy_dir, bits)  # it starts from a copy of that
    with _lock(kind):
        return _build_kind(src, kind, bits, sanitize, lwip, bare)


def _build_kind(src: Source, kind: str, bits: int, sanitize: bool, lwip: bool, bare: bool) -> Path:
    program, stamp = src.out / f"micropython-{kind}", src.out / f"{kind}.stamp"
    digest = _digest(src)
    if program.exists() and stamp.exists() and stamp.read_text() == digest and _elf_bits(program) == bits:
        return program
    log = src.out / f"{kind}.log"
    log.unlink(missing_ok=True)
    _need_tools()
    if bits == 32:
        _need_32bit(log)
    with _lock():
        mpy_cross = _build_mpy_cross(src)
    no_library = src.out / "no-micropython-lib"  # its README is looked for even though nothing of it is used
    no_library.mkdir(parents=True, exist_ok=True)
    (no_library / "README.md").touch()
    out = src.out / f"build-{kind}"
    # Object files and what was collected from sources go by absolute paths. In a build/ that was copied from elsewhere
    # they would be those of files that are not here. And MicroPython's makemanifest.py does not notice that the C code
    # has other names than when it gave frozen code their numbers.
    home, own = out / "root", f"{ROOT} {_contents(VARIANT)}"
    if out.exists() and (bare or not (home.exists() and home.read_text() == own)):
        shutil.rmtree(out)
    if bare:  # all but what is frozen in is the same
        shutil.copytree(src.out / f"build-{bits}", out)
        (out / "frozen_content.c").unlink()  # or makemanifest.py, which looks at dates, would leave it
    out.mkdir(exist_ok=True)
    home.write_text(own)
    what = " with sanitizers" if sanitize else " with lwIP's sockets" if lwip else " without the bundle" if bare else ""
    say(f"building the {bits}-bit firmware{what} from {src.path}")
    manifest = VARIANT / ("manifest_bare.py" if bare else "manifest.py")
    arguments = [f"VARIANT_DIR={VARIANT}", f"BUILD={out}", f"FROZEN_MANIFEST={manifest}",
                 f"MICROPY_MPYCROSS={mpy_cross}", "MICROPY_MPYCROSS_DEPENDENCY=", f"MPY_LIB_DIR={no_library}",
                 f"BOARD_BITS={bits}"]  # fmt: skip
    if lwip:
        _need_lwip(src)
        arguments.append("BOARD_LWIP=1")
    if sanitize:  # DEBUG: assert() is on
        arguments += ["DEBUG=1", "COPT=-O1", f"CFLAGS_EXTRA=-Wno-error {_SANITIZE}", f"LDFLAGS_EXTRA={_SANITIZE}"]
    if not _make(src, "ports/unix", log, *arguments):
        reason = _first_line(log, "error:|undefined reference|multiple definition|Error")
        raise FirmwareError(f"the firmware does not build ({reason}); see {log}")
    _check(src, out / "micropython", bits, bare)
    _install(out / "micropython", program)
    stamp.write_text(digest)
    return program


def firmware(bits: int = 64, mpy_dir: str | os.PathLike[str] | None = None, sanitize: bool = False) -> Path:
    """Path of the firmware for 64 or 32 bits, built first if it is missing or out of date.

    sanitize: with GCC's address and undefined behaviour sanitizers, and MicroPython's assertions. Raises FirmwareError.
    """
    return _build(mpy_dir, bits, sanitize)


def bare_firmware(mpy_dir: str | os.PathLike[str] | None = None) -> Path:
    """Path of the 32-bit firmware without the bundle, and so without its names: what a board has that gets the bundle
    as .mpy files. Raises FirmwareError."""
    return _build(mpy_dir, 32, bare=True)


def lwip_firmware(mpy_dir: str | os.PathLike[str] | None = None) -> Path:
    """Path of the firmware of a board like RP2: 32 bits, sockets by lwIP, no GIL. Raises FirmwareError."""
    return _build(mpy_dir, 32, lwip=True)


def mpy_cross(mpy_dir: str | os.PathLike[str] | None = None) -> Path:
    """Path of the mpy-cross of the same version, built first if it is missing. Raises FirmwareError."""
    with _lock():
        return _build_mpy_cross(source(mpy_dir))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], epilog="MPY_DIR=path builds from a checkout.")
    parser.add_argument(
        "what",
        choices=("build", "path", "lwip", "src", "mpy-cross"),
        help="build: both sizes; path, lwip, src, mpy-cross: print where it is, building what is missing",
    )
    parser.add_argument("--bits", type=int, choices=(64, 32), help="64 (default) or 32")
    arguments = parser.parse_args(argv)
    try:
        if arguments.what == "build":
            for bits in [arguments.bits] if arguments.bits else (64, 32):
                firmware(bits)
        elif arguments.what == "path":
            print(firmware(arguments.bits or 64))
        elif arguments.what == "lwip":
            print(lwip_firmware())
        elif arguments.what == "mpy-cross":
            print(mpy_cross())
        else:
            with _lock():
                print(source().path)
    except FirmwareError as error:
        say(f"firmware: {error}")
        return 1
    except OSError as error:
        say(f"firmware: {error.filename or 'a file'}: {error.strerror}")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
