"""The fixtures of ussl's tests.

`mpy` is MicroPython: `unix` (the stand-in firmware, 64 bits), `unix32` (the same at 32 bits with a heap of 160 KB),
both with ussl compiled as mip installs it, and `stock` (Debian's package with a copy of lib/). With MICROPYTHON=path,
it is that binary instead, with --target=PORT the board there.
"""

import os
import shutil
import subprocess

import firmware
import pytest
import stock
from port_target import PortMicroPython, is_port
from ussl_support import FILES, LIB, MicroPython, Pki


def _commands(name: str) -> list[str]:
    if os.environ.get("MICROPYTHON"):
        return [os.environ["MICROPYTHON"]]
    try:
        if name == "stock":
            return stock.stock()
        return [str(firmware.firmware(32 if name == "unix32" else 64))] + ["-X", "heapsize=160k"] * (name == "unix32")
    except firmware.FirmwareError as e:
        pytest.skip(f"no MicroPython for {name}: {e}")


NAMES = ["given"] if os.environ.get("MICROPYTHON") else ["unix", "unix32", "stock"]


def pytest_generate_tests(metafunc):
    if "mpy" in metafunc.fixturenames:
        chosen = (metafunc.config.getoption("--target") or "").split(",")
        names = [n for n in chosen if n in NAMES or (n and is_port(n))] or NAMES
        metafunc.parametrize("mpy", names, indirect=True, ids=names, scope="session")


@pytest.fixture(scope="session")
def mpy(request, tmp_path_factory) -> MicroPython:
    if request.param not in (*NAMES, "given"):
        return PortMicroPython(request.getfixturevalue("ports")[request.param])
    command = _commands(request.param)
    lib = tmp_path_factory.mktemp("lib")
    (lib / "wss").mkdir()
    for file in FILES:
        if request.param in ("unix", "unix32"):
            to = (lib / file).with_suffix(".mpy")
            subprocess.run([firmware.mpy_cross(), "-O3", "-s", file, "-o", to, LIB / file], check=True)
        else:
            shutil.copy(LIB / file, lib / file)
    return MicroPython(request.param, command, lib)


@pytest.fixture(scope="session")
def bits(mpy) -> int:
    code = "import sys; print(sys.maxsize > 1 << 32)"
    return 64 if one_line(mpy, code).strip() == "True" else 32


@pytest.fixture(scope="session")
def every_pki(tmp_path_factory) -> dict[str, Pki]:
    return {kind: Pki(tmp_path_factory.mktemp(kind), kind) for kind in ("ec", "rsa")}


def one_line(mpy, code: str) -> str:
    if isinstance(mpy, PortMicroPython):
        return mpy.target.exec(code)
    return subprocess.run([*mpy.command, "-c", code], capture_output=True, text=True, check=True).stdout


class Usable(dict):
    """The Pki of each kind. A test that asks for one that this firmware has no cipher suites for is skipped."""

    def __init__(self, pkis, mpy):
        super().__init__(pkis)
        self._mpy = mpy

    def __getitem__(self, kind):
        code = "import tls; print(*tls.SSLContext(0).get_ciphers())"
        out = one_line(self._mpy, code)
        if kind == "rsa" and "-ECDHE-RSA-" not in out:
            pytest.skip(
                "this firmware has RSA certificates without ECDHE only (MicroPython's configuration of mbedTLS)"
            )
        return super().__getitem__(kind)


@pytest.fixture(scope="session")
def pkis(every_pki, mpy) -> Usable:
    return Usable(every_pki, mpy)


@pytest.fixture(scope="session")
def pki(every_pki) -> Pki:
    return every_pki["ec"]
