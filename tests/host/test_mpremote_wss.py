"""Stock mpremote, as PyPI has it, on a board over wss; each command beside the same one over the board's own cable."""

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from desk import WSSCTL, Desk, Terminal, far
from network import Network
from targets import ROOT, Unix

sys.path.insert(0, str(ROOT / "tests" / "interop"))
import venvs

NEWEST, YEAR_OLD = "1.29.0", "1.25.0"
PAIRS = [(NEWEST, "unix32", "0"), (YEAR_OLD, "unix", "5m")]  # the second one over a connection that is kept


@pytest.fixture(scope="module", params=PAIRS, ids=lambda p: "-".join(p))
def desk(request, keys, tmp_path_factory):
    """A board, and a machine where mpremote's config.py has the one line that the README names."""
    version, target, keep = request.param
    keep = os.environ.get("WSSCTL_KEEP", keep)
    try:
        commands = venvs.make(f"mpremote-{version}-wss", f"mpremote=={version}\n-e {ROOT}\n")
    except venvs.NoClient as e:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(e))
    folder = tmp_path_factory.mktemp("desk")
    shutil.copytree(keys.board, folder / "board")
    config = folder / "config" / "mpremote"
    config.mkdir(parents=True)
    (config / "config.py").write_text("from wssctl import protocol_wss; protocol_wss.install()\n")
    with Desk(keys, Unix(target), folder / "board") as running:
        running.env |= {"XDG_CONFIG_HOME": str(folder / "config"), "XDG_RUNTIME_DIR": str(folder), "WSSCTL_KEEP": keep}
        running.mpremote = commands / "mpremote"
        running.version = version
        yield running
        running.run(*WSSCTL, "keep", "stop")
        assert (folder / "wssctl").exists() == (keep != "0")


def both(desk, tmp_path, name, *words, **more):
    """The same command over wss and over the cable: (wss, cable), each with a `folder` of its own to work in and
    `/net` or `/tty` on the board. Outputs must agree; %s in a word is that name."""
    results = []
    for way, port in (("net", desk.url), ("tty", desk.tty)):
        folder = tmp_path / way
        folder.mkdir(exist_ok=True)
        done = desk.run(desk.mpremote, "connect", port, *[w.replace("%s", way) for w in words], cwd=folder, **more)
        done.folder = folder
        results.append(done)
    wss, tty = results
    said = [
        (r.returncode, same(r.stdout, way), same(r.stderr, way)) for r, way in zip(results, ("net", "tty"), strict=True)
    ]
    assert said[0] == said[1], name
    return wss, tty


def same(text, way):
    return re.sub(rf"(?<![a-z]){way}(?![a-z])", "WAY", text)


def test_code(desk, tmp_path):
    (tmp_path / "program.py").write_text("for i in range(300):\n    print('line', i)\nprint('caf\\u00e9')\n")
    (tmp_path / "long.py").write_text("x = 0\n" + ("x += 1  # " + "-" * 190 + "\n") * 320 + "print(x)\n")
    wss, _ = both(desk, tmp_path, "exec", "exec", "print(6*7)")
    assert (wss.returncode, wss.stdout.strip()) == (0, "42")
    both(desk, tmp_path, "eval", "eval", "[1, 'x', b'\\xff', {}]")
    wss, _ = both(desk, tmp_path, "run", "run", str(tmp_path / "program.py"))
    assert "line 299" in wss.stdout and "café" in wss.stdout
    wss, _ = both(desk, tmp_path, "a program of 64 KB", "run", str(tmp_path / "long.py"), timeout=120)
    assert wss.stdout.split() == ["320"]
    wss, _ = both(desk, tmp_path, "traceback", "exec", "raise ValueError(3)")
    assert wss.returncode == 1 and "ValueError: 3" in wss.stdout + wss.stderr
    both(desk, tmp_path, "syntax error", "exec", "for")
    both(desk, tmp_path, "several commands", "exec", "x = 5", "eval", "x + 1", "+", "exec", "print(x)")
    both(desk, tmp_path, "state", "exec", "keep = 1")
    wss, _ = both(desk, tmp_path, "no reset with resume", "resume", "exec", "y = 2", "+", "resume", "eval", "y")
    assert wss.stdout.strip() == "2"


def test_files(desk, tmp_path):
    for way in ("net", "tty"):
        tree = tmp_path / way / "tree" / "inner"
        tree.mkdir(parents=True)
        (tree / "deep.py").write_text("DEEP = 1\n")
        (tree.parent / "top.bin").write_bytes(bytes(range(256)) * 20)
        (tmp_path / way / "a.txt").write_text("first\nsecond\n")
    run = lambda *words: both(desk, tmp_path, words, *words)  # noqa: E731
    run("fs", "mkdir", ":/%s")
    run("fs", "cp", "a.txt", ":/%s/a.txt")
    wss, _ = run("fs", "cat", ":/%s/a.txt")
    assert wss.stdout.replace("\r", "") == "first\nsecond\n"
    run("fs", "cp", "-r", "tree", ":/%s/")
    assert (desk.directory / "net/tree/inner/deep.py").read_text() == "DEEP = 1\n"
    run("fs", "ls", ":/%s/tree")
    wss, _ = run("fs", "sha256sum", ":/%s/tree/top.bin")
    assert hashlib.sha256(bytes(range(256)) * 20).hexdigest() in wss.stdout
    run("fs", "tree", ":/%s")
    run("fs", "touch", ":/%s/empty")
    run("fs", "cp", ":/%s/a.txt", ":/%s/b.txt")
    run("fs", "cp", ":/%s/a.txt", "back.txt")
    run("fs", "cp", "-r", ":/%s/tree", "copy")
    run("fs", "cp", ":/%s/missing", "never.txt")
    run("fs", "rm", ":/%s/a.txt")
    run("fs", "rm", ":/%s/a.txt")
    run("fs", "rm", "-r", ":/%s/tree")
    run("fs", "rmdir", ":/%s/nothing")
    for way in ("net", "tty"):
        here, there = tmp_path / way, desk.directory / way
        assert (here / "back.txt").read_text() == "first\nsecond\n" and not (here / "never.txt").exists()
        assert sorted(p.name for p in there.iterdir()) == ["b.txt", "empty"]
        names = sorted(str(p.relative_to(here)) for p in (here / "copy").rglob("*"))
        assert any(n.endswith("inner/deep.py") for n in names), names


def test_a_hundred_small_files(desk, tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(100):
        (folder / f"f{i}.txt").write_text(f"file {i}\n" * (i % 7))
    (tmp_path / "back").mkdir()
    for words in (("many", ":/"), (":/many", "back")):
        done = desk.run(desk.mpremote, "connect", desk.url, "fs", "cp", "-r", *words, cwd=tmp_path, timeout=120)
        assert done.returncode == 0, done
    for copy in (desk.directory / "many", tmp_path / "back" / "many"):
        assert {p.name: p.read_bytes() for p in copy.iterdir()} == {p.name: p.read_bytes() for p in folder.iterdir()}


def test_packages_mount_edit_and_the_rest(desk, tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "gift.py").write_text("def open():\n    return 'unwrapped'\n")
    (package / "package.json").write_text('{"urls": [["gift.py", "gift.py"]], "version": "1"}')
    (tmp_path / "editor").write_text('#!/bin/sh\necho "edited = 1" >> "$1"\n')
    (tmp_path / "editor").chmod(0o755)
    for way in ("net", "tty"):
        (tmp_path / way).mkdir()
        (tmp_path / way / "local.py").write_text("print('from the host')\n")
        (desk.directory / f"{way}.py").write_text("start = 0\n")
    json = str(package / "package.json")
    both(desk, tmp_path, "mip", "mip", "install", "--no-mpy", "--target", "/%s_lib", json)
    assert (desk.directory / "net_lib/gift.py").read_text() == (package / "gift.py").read_text()
    wss, _ = both(
        desk, tmp_path, "mount", "mount", ".", "exec", "import local; f = open('made', 'w'); f.write('x'); f.close()"
    )
    assert "from the host" in wss.stdout and (tmp_path / "net/made").read_text() == "x"
    both(desk, tmp_path, "edit", "edit", ":/%s.py", env={"EDITOR": str(tmp_path / "editor")})
    assert (desk.directory / "net.py").read_text().splitlines() == ["start = 0", "edited = 1"]
    for way in (desk.url, desk.tty):  # what changes by itself
        done = desk.run(desk.mpremote, "connect", way, "df")
        assert done.returncode == 0 and re.search(r"avail.*\d{6}", done.stdout, re.S), done
        done = desk.run(desk.mpremote, "connect", way, "rtc", "--set", "rtc")
        assert re.fullmatch(r"\(\d{4}, \d+, \d+, \d, \d+, \d+, \d+, \d+\)", done.stdout.strip()), done
    both(desk, tmp_path, "soft-reset", "soft-reset")
    # A board that is being reset takes Ctrl-C as the end of boot.py, on a cable as here: only wss may be quick
    assert desk.run(desk.mpremote, "connect", desk.url, "reset").returncode == 0
    done = desk.run(desk.mpremote, "connect", desk.url, "eval", "'back'")
    assert (done.returncode, done.stdout.strip()) == (0, "back"), done


def test_a_file_left_open_on_a_mount_holds_what_was_written(desk, tmp_path):
    code = "f = open('/remote/left','w'); f.write('x'*5000)"
    for words in ((), ("resume",)):
        wss, tty = both(desk, tmp_path, "left open", *words, "mount", ".", "exec", code)
        for done in (wss, tty):
            assert done.returncode == 0 and (done.folder / "left").read_text() == "x" * 5000
            (done.folder / "left").unlink()


def test_a_megabyte_there_and_back(desk, tmp_path):
    data = os.urandom(1_000_000)
    (tmp_path / "big").write_bytes(data)
    for words in (("fs", "cp", "big", ":/big"), ("fs", "cp", ":/big", "again")):
        assert desk.run(desk.mpremote, "connect", desk.url, *words, cwd=tmp_path, timeout=600).returncode == 0
    assert (desk.directory / "big").read_bytes() == data == (tmp_path / "again").read_bytes()


def test_64_kb_stream(desk, tmp_path):
    """How often the network has to be crossed, which is what a copy takes wherever the machine is not too busy:
    mpremote by itself writes 256 bytes at once, and waits 256 times."""
    (tmp_path / "part").write_bytes(os.urandom(64 << 10))
    desk.run(*WSSCTL, "keep", "stop")  # or its session, to the board's own port, would be in the way
    with Network(desk.port, 0) as network:
        for words in (("part", ":/part"), (":/part", "back")):
            before = network.trips
            url = f"wss://127.0.0.1:{network.port}"
            assert desk.run(desk.mpremote, "connect", url, "fs", "cp", *words, cwd=tmp_path).returncode == 0
            print(f"{desk.version}: {network.trips - before} trips")
            assert network.trips - before < 60
        desk.run(*WSSCTL, "keep", "stop")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "part").read_bytes()


# FAT of 66 KB in the board's memory. (littlefs keeps the old file until the new one is closed: no copy has less room.)
DISK = """
import os
class Disk:
 data = bytearray(130 * 512)
 def readblocks(self, n, buf):
  buf[:] = memoryview(self.data)[n * 512 : n * 512 + len(buf)]
 def writeblocks(self, n, buf):
  self.data[n * 512 : n * 512 + len(buf)] = buf
 def ioctl(self, op, arg):
  return 130 if op == 4 else 512 if op == 5 else 0
os.VfsFat.mkfs(Disk())
os.mount(os.VfsFat(Disk()), '/small')
"""


def test_what_does_not_stream(desk, tmp_path):
    """A name that is too long, a file system without room for two copies, a mounted folder: mpremote's own way."""
    contents = [os.urandom(40_000) for _ in range(2)]
    for name, data in zip("ab", contents, strict=True):
        (tmp_path / name).write_bytes(data)
    run = lambda *words: desk.run(desk.mpremote, "connect", desk.url, *words, cwd=tmp_path)  # noqa: E731
    long = ":/" + "n" * 70
    assert run("fs", "cp", "a", long, "+", "fs", "cp", long, "long").returncode == 0
    assert (tmp_path / "long").read_bytes() == contents[0]
    copies = ("a", ":/small/f"), ("b", ":/small/f"), (":/small/f", "f")
    done = run("exec", DISK, *(word for copy in copies for word in ("+", "fs", "cp", *copy)))
    assert done.returncode == 0 and (tmp_path / "f").read_bytes() == contents[1], done
    assert run("mount", ".", "fs", "cp", "a", ":mounted", "+", "fs", "cp", ":mounted", "back").returncode == 0
    assert (tmp_path / "mounted").read_bytes() == (tmp_path / "back").read_bytes() == contents[0]
    done = run("fs", "cp", "a", ":/no/such/folder")
    assert done.returncode == 1 and "Traceback" not in done.stderr, done


def copying(desk, *words, **more):
    """mpremote, as soon as the board has the file open that it copies. What it says is in `copy.log`."""
    log = desk.directory.parent / "copy.log"
    with open(log, "w") as f:
        process = subprocess.Popen(words, env=desk.env, stdout=f, stderr=f, **more)
    while not any(
        re.search(r"/(large|half\.part)$", os.path.realpath(f))
        for f in Path(f"/proc/{desk.board.proc.pid}/fd").iterdir()
    ):
        assert process.poll() is None, log.read_text()
        time.sleep(0.005)
    return process


LARGE = 48 << 20  # bytes: nobody has copied so many before a signal comes


def test_interrupted_copies(desk, tmp_path):
    (tmp_path / "big").write_bytes(bytes(LARGE))
    (desk.directory / "large").write_bytes(bytes(LARGE))
    (desk.directory / "half").write_text("old")
    for number in (signal.SIGINT, signal.SIGKILL):
        for words in (("big", ":/half"), (":/large", "half")):
            process = copying(desk, desk.mpremote, "connect", desk.url, "fs", "cp", *words, cwd=tmp_path)
            process.send_signal(number)
            assert process.wait(60) != 0, (desk.directory.parent / "copy.log").read_text()
            done = desk.run(desk.mpremote, "connect", desk.url, "eval", "'free'")
            assert done.stdout.strip() == "free", done
    assert not (tmp_path / "half").exists()
    assert (desk.directory / "half").read_text() == "old" and not (desk.directory / "half.part").exists()


def test_ctrl_c_with_a_mounted_folder(desk, tmp_path):
    """The program on the board ends, too: else mpremote's unmount runs into it, and what it wrote is lost."""
    code = "import time; f = open('made', 'w'); f.write('x' * 3000); print('writ' + 'ten')\nwhile True: time.sleep(1)"
    process = subprocess.Popen(
        [desk.mpremote, "connect", desk.url, "mount", ".", "exec", code],
        cwd=tmp_path,
        env=desk.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    with process:
        lines = iter(process.stdout.readline, b"")
        assert any(b"written" in line for line in lines)
        process.send_signal(signal.SIGINT)
        said = process.stdout.read()
    assert process.returncode and b"raw repl" not in said, said
    assert (tmp_path / "made").read_text() == "x" * 3000
    done = desk.run(desk.mpremote, "connect", desk.url, "eval", "'free'")
    assert done.stdout.strip() == "free", done


def test_repl(desk):
    with Terminal(desk.mpremote, "connect", desk.url, "repl", env=desk.env) as t:
        t.until("Connected to MicroPython at wss://")
        t.prompt()
        t.type("6*7\r")
        t.until("42\r\n>>> ")
        t.type("kept = 1\r")
        t.until(">>> ")
        t.type(b"\x04")
        t.until("soft reboot.*MicroPython .*\r\n>>> ", 60)
        t.type("kept\r")
        t.until("NameError.*>>> ")
        t.type("while True: pass\r\r")
        time.sleep(0.3)
        t.type(b"\x03")
        t.until("KeyboardInterrupt.*>>> ")
        t.type(b"\x1d")
        assert t.wait() == 0


def test_mount_survives_a_soft_reset(desk, tmp_path):
    (tmp_path / "here.py").write_text("print('imported', 6 * 7)\n")
    with Terminal(desk.mpremote, "connect", desk.url, "mount", tmp_path, "repl", env=desk.env) as t:
        t.prompt()
        for _ in range(2):
            t.type("import here\r")
            t.until("imported 42")
            t.until(">>> ")
            t.type(b"\x04")
            t.until("Remount local directory.*>>> ", 60)
        t.type(b"\x1d")
        t.wait()


def test_wrong_password_says_so_first(desk):
    done = desk.run(desk.mpremote, "connect", desk.url, "eval", "1", env={"WSSCTL_PASSWORD": "wrong"})
    assert done.returncode == 1 and done.stderr.startswith("wss: Wrong password for wss://")
    assert "Traceback" not in done.stderr
    done = desk.wssctl("mpremote", "eval", "1", env={"WSSCTL_PASSWORD": "wrong"})
    assert done.returncode == 5 and done.stderr.startswith("wssctl: Wrong password")


def test_without_any_set_up(desk, tmp_path):
    (tmp_path / "m.txt").write_text("hello\n")
    assert desk.wssctl("mpremote", "fs", "cp", "m.txt", ":/m.txt", cwd=tmp_path).returncode == 0
    done = desk.wssctl("mpremote", "resume", "fs", "cat", ":/m.txt")
    assert (done.returncode, done.stdout.strip()) == (0, "hello")
    assert desk.wssctl("mpremote", "exec", "raise ValueError").returncode == 1
    with Terminal(*WSSCTL, "mpremote", desk.url, env=desk.env) as t:
        t.until("Connected to MicroPython")
        t.prompt()
        t.type("6*7\r")
        t.until("42\r\n>>> ")
        t.type(b"\x18")
        assert t.wait() == 0


def test_a_repl_without_a_terminal(desk):
    done = desk.wssctl("mpremote", "resume", "repl")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "needs a terminal" in done.stderr


def test_a_server_that_boot_py_does_not_bring_back(desk, monkeypatch):
    boot = desk.directory / "boot.py"
    text = boot.read_text()
    line = "from wssctl.tools import serial_handler as p; p.BOOT = 3; p.install()\n"
    config = Path(desk.env["XDG_CONFIG_HOME"]) / "mpremote/config.py"
    before = config.read_text()
    try:
        boot.write_text("")
        config.write_text(line)
        done = desk.run(desk.mpremote, "connect", desk.url, "eval", "1", timeout=30)
    finally:
        boot.write_text(text)
        config.write_text(before)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done
    assert re.search(r"wss: .* did its soft reset and does not come back in 3 s; does its boot.py", done.stderr)
    desk.board.restart()
    desk.ready()


def test_unplugged_in_a_copy(keys, tmp_path):
    with far(keys, tmp_path) as desk:
        unplugged_in_a_copy(desk, tmp_path)


def unplugged_in_a_copy(far, tmp_path):
    (far.directory / "large").write_bytes(bytes(LARGE))
    process = copying(far, *WSSCTL, "mpremote", far.url, "fs", "cp", ":/large", "half", cwd=tmp_path)
    far.cable.unplug()
    code, said = process.wait(120), (far.directory.parent / "copy.log").read_text()
    assert code == 6 and "wss: " in said and "Traceback" not in said, (code, said)
    assert not (tmp_path / "half").exists()


def test_unplugged_at_the_prompt_and_back(keys, tmp_path):
    with far(keys, tmp_path) as desk:
        unplugged_at_the_prompt(desk)


def unplugged_at_the_prompt(far):
    with Terminal(*WSSCTL, "mpremote", far.url, "repl", env=far.env) as t:
        t.until("Connected to MicroPython")
        t.prompt()
        t.type("x = 5\r")
        t.until(">>> ")
        far.cable.unplug()
        t.until("Connecting again", 60)
        far.cable.replug()
        t.until("connected again", 60)
        t.type("x\r")
        t.until("5\r\n>>> ")
        t.type(b"\x1d")
        assert t.wait() == 0
