"""tools/dev/firmware.py and the make targets in front of it, on a copy of the repository."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tools/dev"))

import firmware  # noqa: E402


def make(directory, *arguments, **env):
    return subprocess.run(
        ["make", "-s", "-C", directory, *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL,
        env={name: value for name, value in os.environ.items() if name != "MPY_DIR"} | env, timeout=1200,
    )  # fmt: skip


def printed(directory, *arguments, **env):
    """What a make target prints on stdout: exactly one line."""
    done = make(directory, *arguments, **env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1, done.stdout
    return Path(done.stdout.rstrip("\n"))


def python(binary, source):
    return subprocess.run([binary, "-c", source], capture_output=True, text=True, timeout=180)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The repository without anything built."""
    to = tmp_path_factory.mktemp("copy") / "repo"
    for name in ("lib", "tests/board"):
        shutil.copytree(ROOT / name, to / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Makefile", "manifest.py", "tools/dev/firmware.py"):
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, to / name)
    return to


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A MicroPython checkout of somebody's: the source at hand, with a change to know it by."""
    to = tmp_path_factory.mktemp("checkouts") / "micropython"
    shutil.copytree(firmware.source().path, to, ignore=shutil.ignore_patterns("docs", "tests", ".git"))
    change(to, "raw REPL; CTRL-B to exit", "raw REPL; first change")
    return to


def change(checkout, old, new):
    path = checkout / "shared" / "runtime" / "pyexec.c"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def snapshot(directory):
    return {path: path.stat().st_mtime_ns for path in sorted(directory.rglob("*"))}


@pytest.mark.parametrize("bits", [64, 32])
def test_path_is_printed_alone_and_runs(bits):
    path = printed(ROOT, "firmware-path", f"BITS={bits}")
    assert path == firmware.firmware(bits)
    done = python(path, "import sys, wss_repl; print(sys.maxsize)")
    assert done.stdout == f"{2 ** (bits - 1) - 1}\n", done.stderr


def test_src_is_a_micropython_source_tree():
    path = printed(ROOT, "firmware-src")
    assert "MICROPY_VERSION_MAJOR" in (path / "py" / "mpconfig.h").read_text()
    assert (path / "lib" / "mbedtls" / "library").is_dir()


def test_mpy_cross_is_of_the_same_version(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\n")
    subprocess.run([firmware.mpy_cross(), tmp_path / "a.py"], check=True)
    done = subprocess.run(
        [firmware.firmware(64), "-c", "import a; print(a.x)"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout == "1\n", done.stderr


def test_two_at_once_build_once_and_leave_the_checkout_alone(copy, checkout):
    before = snapshot(checkout)
    command = ["make", "-s", "-C", copy, "firmware-path", f"MPY_DIR={checkout}"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in "ab"]
    results = [process.communicate(timeout=1200) for process in both]
    assert [process.returncode for process in both] == [0, 0], results
    assert results[0][0] == results[1][0]
    assert sorted("building" in err for _, err in results) == [False, True]
    binary = Path(results[0][0].strip())
    assert b"raw REPL; first change" in binary.read_bytes()
    assert snapshot(checkout) == before

    # Again: nothing is done. After a change: it is in.
    stat = binary.stat()
    done = make(copy, "firmware-path", f"MPY_DIR={checkout}")
    assert done.stderr == "" and binary.stat() == stat
    change(checkout, "raw REPL; first change", "raw REPL; second change")
    assert printed(copy, "firmware-path", f"MPY_DIR={checkout}") == binary
    assert b"raw REPL; second change" in binary.read_bytes()
    assert printed(copy, "firmware-src", f"MPY_DIR={checkout}") == checkout


def test_a_change_is_frozen_in_and_an_error_leaves_the_old_firmware(copy, checkout):
    target = ("firmware-path", f"MPY_DIR={checkout}")
    show = "import wss_helper; print(wss_helper.frozen_test)"
    module = copy / "lib" / "wss_helper.py"
    text = module.read_text()
    module.write_text(text + "\nfrozen_test = 'first'\n")
    binary = printed(copy, *target)
    assert python(binary, show).stdout == "first\n"

    module.write_text(text + "\nthis is no Python\n")
    done = make(copy, *target)
    assert done.returncode != 0 and done.stdout == ""
    ours = [line for line in done.stderr.splitlines() if line.startswith("firmware:")]
    assert len(ours) == 1 and "does not build" in ours[0] and "64.log" in ours[0]
    assert "Traceback" not in done.stderr
    assert python(binary, show).stdout == "first\n"

    module.write_text(text)
    printed(copy, *target)
    assert "AttributeError" in python(binary, show).stderr


@pytest.mark.parametrize(
    "version, has_mbedtls, complaint",
    [
        ((1, 22), True, "older than 1.23"),
        ((1, 25), False, "submodule update"),
        (None, True, "not a MicroPython checkout"),
    ],
)
def test_an_unusable_checkout_is_refused_in_one_sentence(tmp_path, version, has_mbedtls, complaint):
    (tmp_path / "py").mkdir()
    if version:
        text = "#define MICROPY_VERSION_MAJOR %d\n#define MICROPY_VERSION_MINOR %d\n" % version
        (tmp_path / "py" / "mpconfig.h").write_text(text)
    if has_mbedtls:
        (tmp_path / "lib" / "mbedtls" / "library").mkdir(parents=True)
    done = make(ROOT, "firmware-path", MPY_DIR=str(tmp_path))
    assert done.returncode != 0 and done.stdout == ""
    ours = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert len(ours) == 1 and complaint in ours[0]


@pytest.mark.skipif(not shutil.which("apt-get"), reason="needs apt-get")
def test_without_network_the_reason_and_the_way_out_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(firmware, "BUILD", tmp_path)
    monkeypatch.setattr(firmware, "_mirrors", lambda: ["http://127.0.0.1:9"])
    monkeypatch.delenv("MPY_DIR", raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(firmware.FirmwareError, match="cannot be fetched .*MPY_DIR") as caught:
        firmware.source()
    assert "127.0.0.1" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_compiler_is_named(copy, checkout, tmp_path):
    (tmp_path / "make").symlink_to(shutil.which("make"))
    (copy / "manifest.py").write_text((copy / "manifest.py").read_text() + "\n")
    done = subprocess.run(
        [sys.executable, copy / "tools/dev/firmware.py", "path"],
        env={"PATH": str(tmp_path), "MPY_DIR": str(checkout)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == "firmware: building firmware needs gcc: run 'apt-get install build-essential' as root\n"


def test_a_missing_32_bit_compiler_is_one_command_away(monkeypatch, tmp_path):
    monkeypatch.setattr(firmware, "_can_32bit", lambda: False)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(firmware.FirmwareError, match="run 'apt-get install gcc-multilib' as root"):
        firmware._need_32bit(tmp_path / "log")


# What comes out of make is looked at before it is used


@pytest.fixture
def made(tmp_path, monkeypatch):
    """made(64) has make come out with that file, or made(64) with a 64-bit firmware; firmware.firmware() goes on."""
    source = firmware.source().path
    real = {bits: firmware.firmware(bits) for bits in (64, 32)}
    monkeypatch.setattr(firmware, "BUILD", tmp_path)
    monkeypatch.setenv("MPY_DIR", str(source))
    monkeypatch.setattr(firmware, "_build_mpy_cross", lambda src: Path("mpy-cross"))

    def come_out(binary):
        def make(src, where, log, *arguments):
            out = Path(next(word for word in arguments if word.startswith("BUILD=")).removeprefix("BUILD="))
            out.mkdir(parents=True, exist_ok=True)
            shutil.copy(real.get(binary, binary), out / "micropython")
            return True

        monkeypatch.setattr(firmware, "_make", make)

    return come_out


def refused(bits, tmp_path) -> str:
    with pytest.raises(firmware.FirmwareError) as caught:
        firmware.firmware(bits)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob(f"micropython-{bits}")), "it is used all the same"
    return str(caught.value)


def test_a_build_that_comes_out_with_other_bits_is_refused(made, tmp_path):
    """As all 32-bit ones did after MICROPY_FORCE_32BIT was gone: make warned, and built for 64."""
    made(64)
    assert "the 32-bit firmware came out as a 64-bit program" in refused(32, tmp_path)
    made(32)
    assert "the 64-bit firmware came out as a 32-bit program" in refused(64, tmp_path)
    made(firmware.source().path / "README.md")
    assert "came out as no ELF program" in refused(64, tmp_path)
    made(32)
    assert firmware._elf_bits(firmware.firmware(32)) == 32


def test_a_build_of_another_version_is_refused(made, tmp_path, monkeypatch):
    tree = tmp_path / "newer"
    (tree / "lib" / "mbedtls" / "library").mkdir(parents=True)
    (tree / "py").mkdir()
    parts = {"MAJOR": 1, "MINOR": 99, "MICRO": 2, "PRERELEASE": 1}
    number = "".join(f"#define MICROPY_VERSION_{part} {n}\n" for part, n in parts.items())
    (tree / "py" / "mpconfig.h").write_text(number)
    assert firmware.version_name(tree) == "1.99.2-preview"
    monkeypatch.setenv("MPY_DIR", str(tree))
    made(64)
    assert "and not 1.99.2" in refused(64, tmp_path)


def test_a_build_without_all_of_the_bundle_is_refused(made, tmp_path, monkeypatch):
    root = tmp_path / "root"
    shutil.copytree(ROOT / "lib", root / "lib")
    (root / "lib" / "wss" / "later.py").write_text("")
    (root / "manifest.py").write_text("")
    monkeypatch.setattr(firmware, "ROOT", root)
    made(64)
    assert "lacks frozen modules (wss.later)" in refused(64, tmp_path)


def test_a_build_that_does_not_run_is_refused(made, tmp_path):
    made("/bin/false")
    assert "the 64-bit firmware does not run: no output" in refused(64, tmp_path)


def test_a_build_folder_copied_from_elsewhere_is_not_built_on(made, tmp_path):
    """Its object files and what was collected from its sources are those of absolute paths that are not here."""
    made(64)
    out = next(firmware.firmware(64).parent.glob("build-64"))
    (out / "genhdr").mkdir()
    (out / "root").write_text("/elsewhere")
    next(tmp_path.rglob("64.stamp")).unlink()
    firmware.firmware(64)
    assert not (out / "genhdr").exists() and (out / "root").read_text().split()[0] == f"{ROOT}"
