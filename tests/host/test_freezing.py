"""Frozen into firmware: MicroPython's own tools read our manifests, the ESP32 build gets as far as without ESP-IDF.

ESP-IDF is not here: what it would compile is made (frozen_content.c), what it would be told is looked at, no further.
"""

import os
import re
import shutil
import subprocess
import sys

import firmware
import firmware_esp32
import package
import pytest
from peers import Peer
from ports import free_port
from targets import ROOT, Unix

EVERYTHING = {p.relative_to(ROOT / "lib").as_posix() for p in (ROOT / "lib").rglob("*.py")}
PARTS = {"ussl": "ussl.py", "helper": "wss_helper.py"} | {
    part: f"wss/{part}.py" for part in ("page", "enrol", "about", "log", "signed")
}
FORMS = {
    "include": 'include("{root}/manifest.py"{options})\n',
    "require": 'add_library("wss-repl", "{root}/boards")\nrequire("wss-repl"{options})\n',
    "require from the library": 'add_library("x", "{root}/boards")\nrequire("wss-repl", library="x"{options})\n',
}


@pytest.fixture
def manifestfile(monkeypatch):
    """MicroPython's reader of manifests."""
    tools = firmware.source().path / "tools"
    monkeypatch.syspath_prepend(tools)
    import manifestfile

    return manifestfile


def resolved(manifestfile, path, **variables) -> dict[str, str]:
    """What a manifest freezes: name on the board, file."""
    variables = {"MPY_DIR": str(firmware.source().path), "MPY_LIB_DIR": ""} | variables
    manifest = manifestfile.ManifestFile(manifestfile.MODE_FREEZE, variables)
    manifest.execute(str(path))
    assert all(f.kind == manifestfile.KIND_FREEZE_AS_MPY for f in manifest.files())
    return {f.target_path: f.full_path for f in manifest.files()}


@pytest.mark.parametrize("left_out", [(), ("page",), ("ussl", "helper"), tuple(PARTS)], ids="+".join)
@pytest.mark.parametrize("form", FORMS)
def test_a_users_manifest(manifestfile, tmp_path, form, left_out):
    options = "".join(f", {part}=False" for part in left_out)
    (tmp_path / "manifest.py").write_text(FORMS[form].format(root=ROOT, options=options))
    files = resolved(manifestfile, tmp_path / "manifest.py")
    assert set(files) == EVERYTHING - {PARTS[part] for part in left_out}
    assert all((ROOT / "lib" / name).samefile(path) for name, path in files.items())


def test_the_library_has_the_bundles_version(manifestfile):
    manifest = manifestfile.ManifestFile(manifestfile.MODE_FREEZE, {"MPY_DIR": "", "MPY_LIB_DIR": ""})
    manifest.execute(str(ROOT / "boards/wss-repl/manifest.py"))
    assert manifest.metadata().version == package.version()


def test_as_frozen_manifest_itself(manifestfile):
    assert set(resolved(manifestfile, ROOT / "manifest.py")) == EVERYTHING


def test_a_part_that_does_not_exist_is_no_silent_nothing(manifestfile, tmp_path):
    (tmp_path / "manifest.py").write_text(f'add_library("x", "{ROOT}/boards")\nrequire("wss-replx")\n')
    with pytest.raises(manifestfile.ManifestFileError, match="wss-replx"):
        resolved(manifestfile, tmp_path / "manifest.py")


def test_it_serves_without_the_parts(manifestfile, tmp_path, provisioned, keys):
    """The smallest of them, on a board that has nothing else."""
    options = "".join(f", {part}=False" for part in PARTS)
    (tmp_path / "manifest.py").write_text(FORMS["include"].format(root=ROOT, options=options))
    for name, path in resolved(manifestfile, tmp_path / "manifest.py").items():
        (provisioned / "lib" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, provisioned / "lib" / name)
    with (
        Unix("unix32").board(provisioned, port=free_port(), env={"BOARD_BARE": "1"}) as board,
        Peer(board.address, keys.host) as peer,
    ):
        peer.login()
        assert b"ImportError" in peer.command("import wss.page")
        assert peer.put(b"x", b"y" * 2000) == 0 and peer.get(b"x") == b"y" * 2000


# ESP32


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """micropython-lib's place: its packages are named in the port's manifest, and empty here."""
    source = firmware.source().path
    to = tmp_path_factory.mktemp("micropython-lib")
    for name in re.findall(r'require\("([^"]+)"', (source / "ports/esp32/boards/manifest.py").read_text()):
        (to / "micropython" / name).mkdir(parents=True)
        (to / "micropython" / name / "manifest.py").write_text(f"metadata(description={name!r}, version='0')\n")
    return to


@pytest.mark.parametrize("manifest", ["boards/ESP32_GENERIC_WSS/manifest.py", "boards/manifest_esp32.py"])
def test_what_an_esp32_board_freezes(manifest, library, tmp_path):
    """makemanifest.py makes the C file that ESP-IDF compiles: with the port's own modules, and all of ours."""
    source = firmware.source()
    firmware.firmware(32)
    shutil.copytree(source.out / "build-32" / "genhdr", tmp_path / "genhdr")  # the words that the firmware has anyway
    out = tmp_path / "frozen_content.c"
    variables = {"MPY_DIR": source.path, "PORT_DIR": source.path / "ports/esp32", "MPY_LIB_DIR": library}
    done = subprocess.run(
        [sys.executable, source.path / "tools/makemanifest.py", "-o", out, "-b", tmp_path, "-f=-march=xtensawin"]
        + [word for n, v in variables.items() for word in ("-v", f"{n}={v}")]
        + [ROOT / manifest],
        env=os.environ | {"MICROPY_MPYCROSS": str(firmware.mpy_cross())}, capture_output=True, text=True, timeout=180,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    frozen = set(re.findall(r'"([\w/]+\.py)\\0"', out.read_text()))
    frozen |= {f.removesuffix(".mpy") + ".py" for f in re.findall(r'"([\w/]+\.mpy)\\0"', out.read_text())}
    assert frozen >= EVERYTHING | {"_boot.py", "inisetup.py", "asyncio/core.py"}


CMAKE = """
foreach(name MICROPY_BOARD MICROPY_FROZEN_MANIFEST IDF_TARGET MICROPY_DEF_BOARD)
    message(STATUS "SEEN ${name}=${${name}}")
endforeach()
"""


@pytest.mark.skipif(not shutil.which("cmake"), reason="needs cmake")
@pytest.mark.parametrize(
    ("variant", "has"),
    [(None, "CONFIG_BT_NIMBLE_ENABLED"), ("SPIRAM", "CONFIG_SPIRAM=y"), ("OTA", "partitions-4MiB-ota.csv")],
    ids=["plain", "SPIRAM", "OTA"],
)
def test_the_ports_cmake_takes_the_board(tmp_path, variant, has):
    """Upstream's CMakeLists.txt up to the line that includes ESP-IDF."""
    idf = tmp_path / "idf"
    (idf / "tools" / "cmake").mkdir(parents=True)
    (idf / "tools" / "cmake" / "project.cmake").write_text(CMAKE + 'message(FATAL_ERROR "as far as without ESP-IDF")\n')
    board = ROOT / "boards" / "ESP32_GENERIC_WSS"
    words = ["-DMICROPY_BOARD=ESP32_GENERIC_WSS", f"-DMICROPY_BOARD_DIR={board}"]
    words += [f"-DMICROPY_BOARD_VARIANT={variant}"] if variant else []
    done = subprocess.run(
        ["cmake", "-S", firmware.source().path / "ports/esp32", "-B", tmp_path / "out", *words],
        env=os.environ | {"IDF_PATH": str(idf)}, capture_output=True, text=True, timeout=180,
    )  # fmt: skip
    assert "as far as without ESP-IDF" in done.stderr, done.stdout + done.stderr
    assert f"SEEN MICROPY_FROZEN_MANIFEST={board}/manifest.py" in done.stdout
    config = (tmp_path / "out" / "sdkconfig.combined").read_text()
    assert has in config and len(config) > 1000
    assert variant != "OTA" or "CONFIG_BOOTLOADER_APP_ROLLBACK_ENABLE=y" in config


@pytest.fixture
def esp32(tmp_path):
    """MicroPython's ports/esp32 as it is; an ESP-IDF whose idf.py writes down what it is told, and fails to build."""
    source = firmware.source().path
    mpy, idf = tmp_path / "mpy", tmp_path / "idf"
    for name in ("ports/esp32", "py"):
        shutil.copytree(source / name, mpy / name)
    (mpy / "mpy-cross").mkdir()
    (mpy / "mpy-cross" / "Makefile").write_text("all:\n\t@echo made mpy-cross\n")
    idf.mkdir()
    (idf / "export.sh").write_text('export PATH="$IDF_PATH:$PATH"\n')
    (idf / "idf.py").write_text('#!/bin/sh\necho "$@" >> "$IDF_PATH/told"\ncase "$*" in *" build") exit 3;; esac\n')
    (idf / "idf.py").chmod(0o755)
    qemu = mpy / "ports/esp32/boards/ESP32_GENERIC_C3/mpconfigvariant_QEMU.cmake"
    if not qemu.exists():  # came with a later MicroPython than this source
        qemu.touch()
    return mpy, idf


def make_esp32(*words, **env):
    return subprocess.run(
        ["make", "-s", "-C", ROOT, "firmware-esp32", *words], capture_output=True, text=True, timeout=180,
        env={k: v for k, v in os.environ.items() if k not in ("MPY_DIR", "IDF_PATH")} | env,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "-D MICROPY_BOARD=ESP32_GENERIC_WSS -D MICROPY_BOARD_DIR={root}/boards/ESP32_GENERIC_WSS"),
        (("VARIANT=SPIRAM",), "-D MICROPY_BOARD_VARIANT=SPIRAM"),
        (("BOARD=ESP32_GENERIC_S3",), "-D MICROPY_FROZEN_MANIFEST={root}/boards/manifest_esp32.py"),
        (("BOARD=ESP32_GENERIC_C3", "VARIANT=QEMU"), "-D MICROPY_BOARD_VARIANT=QEMU"),
    ],
)
def test_make_firmware_esp32_up_to_esp_idf(esp32, words, told):
    mpy, idf = esp32
    done = make_esp32(f"MPY_DIR={mpy}", f"IDF_PATH={idf}", *words)
    assert done.returncode and "firmware-esp32: 'make all' failed" in done.stderr, done.stdout + done.stderr
    assert "made mpy-cross" in done.stdout
    lines = (idf / "told").read_text().splitlines()
    assert "UPDATE_SUBMODULES=1 reconfigure" in lines[0] and lines[1].endswith(" build")
    assert all(told.format(root=ROOT) in line for line in lines)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "say where MicroPython's source is"),
        (["MPY_DIR={tmp}"], "is not a MicroPython checkout: it has no ports/esp32"),
        (["MPY_DIR={mpy}"], "say where ESP-IDF is"),
        (["MPY_DIR={mpy}", "IDF_PATH={tmp}"], "is not ESP-IDF: it has no export.sh"),
        (["MPY_DIR={mpy}", "IDF_PATH={idf}", "BOARD=TOASTER"], "there is no board TOASTER"),
        (["MPY_DIR={mpy}", "IDF_PATH={idf}", "VARIANT=BREAD"], "has no variant BREAD"),
    ],
)
def test_what_is_missing_is_one_sentence(esp32, tmp_path, words, sentence):
    done = make_esp32(*(w.format(tmp=tmp_path, mpy=esp32[0], idf=esp32[1]) for w in words))
    ours = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert done.returncode and len(ours) == 1 and sentence in ours[0], done.stderr


def test_the_board_is_upstreams_but_for_the_bundle():
    words = firmware_esp32.arguments_for(firmware.source().path, "ESP32_GENERIC_WSS", None, ROOT / "x")
    assert words == [f"BOARD_DIR={ROOT}/boards/ESP32_GENERIC_WSS", f"BUILD={ROOT}/x"]
