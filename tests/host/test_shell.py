"""`wssctl shell`: one board's files, and many boards at once."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import time

import pytest
from desk import WSSCTL, Desk, Terminal, far
from targets import Unix


@pytest.fixture
def desk(keys, tmp_path):
    with Desk.new(keys, tmp_path, "unix32") as running:
        yield running


@pytest.fixture
def sh(desk):
    return desk.shell


def test_files_on_the_board(sh, desk, tmp_path):
    (tmp_path / "a.txt").write_text("".join(f"line {i}\n" for i in range(30)))
    (tmp_path / "b b.bin").write_bytes(bytes(range(256)))
    sh("put a.txt 'b b.bin'", "mkdir -p x/y/z", "cp a.txt x", "cp a.txt x/y/copy.txt", "mv 'b b.bin' x/b.bin")
    assert (desk.directory / "x/y/copy.txt").read_text() == (tmp_path / "a.txt").read_text()
    assert (desk.directory / "x/b.bin").read_bytes() == bytes(range(256))
    assert sh("ls x").split() == ["a.txt", "b.bin", "y/"]
    assert re.search(r" 256 b\.bin\n", sh("ls -l x"))
    assert sh("cd x/y", "pwd", "ls").split() == ["/x/y", "copy.txt", "z/"]
    assert sh("cat a.txt") == (tmp_path / "a.txt").read_text()
    assert sh("head -n 2 a.txt") == "line 0\nline 1\n"
    assert hashlib.sha256(bytes(range(256))).hexdigest() in sh("sha256sum x/b.bin")
    assert sh("tree x") == "a.txt\nb.bin\ny/\n  copy.txt\n  z/\n"
    size = (tmp_path / "a.txt").stat().st_size
    assert sh("du x").split()[0] == str(2 * size + 256) and sh("du x/b.bin").split() == ["256", "x/b.bin"]
    assert "free" in sh("df")
    assert sh("ls x/*.bin x/a*").split() == ["x/b.bin", "x/a.txt"]
    (tmp_path / "down").mkdir()
    sh("get x/*.bin x/a.txt down", "get x/b.bin other.bin")
    assert (tmp_path / "down/b.bin").read_bytes() == (tmp_path / "other.bin").read_bytes() == bytes(range(256))
    assert "not empty" in sh("rmdir x/y", code=1)
    sh("rmdir x/y/z", "rm x/*.txt", "rm -r x/y")
    assert sorted(p.name for p in (desk.directory / "x").iterdir()) == ["b.bin"]


@pytest.mark.parametrize(
    ("line", "code", "says"),
    [
        ("ls nothing", 1, "no nothing on the board"),
        ("cat nothing", 1, "no such file"),
        ("rm nothing", 1, "no such file"),
        ("rm *.none", 1, "no \\*.none"),
        ("rm /", 2, "name what is in it"),
        ("rm -x a", 2, "no option -x"),
        ("cp a", 2, "cp SOURCE"),
        ("dance", 2, "no command 'dance'"),
        ("cat 'a", 2, "quot"),
        ("put nothing", 7, "Cannot read nothing"),
        ("sync nothing", 7, "no folder"),
        ("cd nothing", 1, "cannot go to nothing"),
        ("get boot.py /no/such/place", 7, "Cannot write to /no/such"),
        ("repl", 2, "needs a terminal"),
        ("get boot.py nosuch/", 2, "nosuch/ is no folder here"),
        ("cp -r lib lib2", 2, "no option -r"),
        ("cat", 2, "cat FILE"),
        ("head", 2, "head .* FILE"),
        ("mkdir -p", 2, "mkdir .* PATH"),
        ("sha256sum", 2, "sha256sum FILE"),
        ("put /dev/null", 7, "/dev/null is no file"),
        ("exec 1/0", 1, "ZeroDivisionError"),
    ],
)
def test_what_cannot_be_done(sh, line, code, says):
    assert re.search(says, sh(line, code=code))


def test_programs(sh, desk, tmp_path):
    (tmp_path / "p.py").write_text("print('from here', __name__)\n")
    (desk.directory / "q.py").write_text("print('from there', __name__)\n")
    assert sh("run p.py") == "from here __main__\n"
    assert sh("run :q.py") == "from there __main__\n"
    assert sh("exec 'print(6*7)'") == "42\n"
    done = desk.wssctl("shell", "exec", "print(6*7)")
    assert (done.returncode, done.stdout) == (0, "42\n")
    (tmp_path / "bom.py").write_bytes(b"\xef\xbb\xbfprint('an editor of Windows')\r\n")
    done = subprocess.run([*WSSCTL, "repl", desk.url], stdin=open("/dev/zero"), env=desk.env, capture_output=True)  # noqa: SIM115
    assert done.returncode == 2 and b"no program for a board" in done.stderr, done
    assert sh("run bom.py") == "an editor of Windows\n" == desk.wssctl("exec", "-f", "bom.py").stdout


def test_what_is_printed_comes_byte_by_byte(desk):
    """Into a pipe: lines end in LF, and nothing else changes."""
    data = bytes(range(256)) + b"\r"
    code = f"import sys; print('line'); n = sys.stdout.buffer.write({data!r})"
    for words in (["exec", desk.url], ["shell", desk.url, "exec"]):
        done = subprocess.run([*WSSCTL, *words, code], env=desk.env, capture_output=True, timeout=180)
        assert (done.returncode, done.stdout) == (0, b"line\n" + data), done


def test_a_line_that_fails_ends_a_script(sh, desk):
    assert sh("mkdir one", "ls nothing", "mkdir two", code=1)
    assert (desk.directory / "one").is_dir() and not (desk.directory / "two").exists()


def test_sync_sends_what_differs(sh, desk, tmp_path):
    src = tmp_path / "src"
    (src / "lib" / "deep").mkdir(parents=True)
    (src / "lib/deep" / ("long" * 15 + ".py")).write_text("LONG = 1\n")  # longer than the file protocol's names
    (src / "main.py").write_text("print(1)\n")
    (src / "lib/a.py").write_text("A = 1\n")
    (src / "__pycache__").mkdir()
    (src / "__pycache__/x.pyc").write_text("no")
    assert "3 sent, 0 the same" in sh("sync src app")
    assert (desk.directory / "app/lib/deep" / ("long" * 15 + ".py")).read_text() == "LONG = 1\n"
    assert not (desk.directory / "app/__pycache__").exists()
    assert sh("sync src app") == "0 sent, 3 the same\n"
    (src / "lib/a.py").write_text("A = 2\n")  # as long as before: only the hash tells
    (src / "main.py").unlink()
    assert "would send app/lib/a.py" in sh("sync --dry-run src app")
    assert (desk.directory / "app/lib/a.py").read_text() == "A = 1\n"
    assert "1 sent, 1 the same" in sh("sync src app")
    assert (desk.directory / "app/main.py").exists(), "nothing is deleted unasked"
    assert "1 deleted" in sh("sync --delete src app")
    assert not (desk.directory / "app/main.py").exists()
    (src / "main.py").write_text("print(2)\n")
    sh("sync src")
    assert (desk.directory / "main.py").read_text() == "print(2)\n" and (desk.directory / "boot.py").exists()


def test_put_goes_where_it_says_also_beside_a_local_folder_of_that_name(sh, desk, tmp_path):
    (tmp_path / "lib").mkdir()
    for name in ("a.py", "b.py", "lib/c.py"):
        (tmp_path / name).write_text("x = 1\n")
    (desk.directory / "lib").mkdir()
    there = lambda: sorted(p.name for p in desk.directory.glob("*.py*") if p.name != "boot.py")  # noqa: E731
    for words in ("put *.py lib", "put *.py lib/", "put a.py b.py :lib", "put a.py b.py :/lib/"):
        said = sh(words)
        assert "a.py -> " in said and there() == []
        assert sorted(p.name for p in (desk.directory / "lib").iterdir()) == ["a.py", "b.py"]
        for path in (desk.directory / "lib").iterdir():
            path.unlink()
    said = sh("put a.py b.pyy", code=1)
    assert "is b.pyy a folder there?" in said and there() == [], "a typing error is no name"
    sh("put a.py :b.pyy")
    assert there() == ["b.pyy"]
    assert "separated by '/': write lib/a.py" in sh("put a.py :lib\\\\a.py", code=2)
    assert "does not exist" in sh("put a.py c.py lib", code=7), "nothing is sent"
    assert not (desk.directory / "lib" / "a.py").exists()
    done = desk.wssctl("put", "a.py", "lib\\a.py", cwd=tmp_path)
    assert done.returncode == 2 and "write lib/a.py" in done.stderr, done


def test_cp_and_mv_lose_nothing(sh, desk, tmp_path):
    """What would take the place of another, or of itself, is refused before anything is done."""
    names = {"a.py": "a" * 900, "b.py": "b" * 5000, "-x": "x"}
    (desk.directory / "lib").mkdir()
    for name, text in names.items():
        (desk.directory / name).write_text(text)
    for line, words in (
        ("mv a.py b.py away", "away is no folder on the board"),
        ("cp a.py b.py away", "`mkdir away` makes it"),
        ("mv a.py b.py a.py", "a.py is no folder"),
        ("cp a.py a.py", "are the same file"),
        ("cp a.py .", "are the same file"),
        ("cp /a.py lib/../a.py", "are the same file"),
        ("mv a.py ./a.py", "are the same file"),
        ("mv lib lib/in", "lib/in is in lib itself"),
        ("cp a.py lib/../a.py lib", "a.py would both be lib/a.py"),
    ):
        assert words in sh(line, code=2), line
    assert desk.wssctl("exec", RAM_DISK).returncode == 0
    sh("cp a.py /ram/one")
    assert "file system is full" in sh("cp b.py /ram/one", code=1), "it has room for the old one or for the new one"
    assert sh("ls /ram").split() == ["one"] and sh("cat /ram/one") == names["a.py"], "and the old one stays"
    assert {name: (desk.directory / name).read_text() for name in names} == names
    sh("rm -- -x", "cp a.py b.py lib", "mv a.py c.py")
    assert not (desk.directory / "-x").exists() and (desk.directory / "c.py").read_text() == names["a.py"]
    assert sorted(p.name for p in (desk.directory / "lib").iterdir()) == ["a.py", "b.py"]


RAM_DISK = """\
import vfs
class Disk:
    def __init__(self): self.data = bytearray(8 * 512)
    def readblocks(self, n, to, at=0): to[:] = self.data[n * 512 + at : n * 512 + at + len(to)]
    def writeblocks(self, n, data, at=0): self.data[n * 512 + at : n * 512 + at + len(data)] = data
    def ioctl(self, op, n): return {4: 8, 5: 512}.get(op, 0)
disk = Disk()
vfs.VfsLfs2.mkfs(disk)
vfs.mount(vfs.VfsLfs2(disk), "/ram")
"""


def test_names_with_a_tilde_that_is_nobodys_home(sh, desk, tmp_path):
    (tmp_path / "~$plan.txt").write_text("an editor's")
    sh("put ~$plan.txt", "put -- ~$plan.txt :t")
    assert (desk.directory / "~$plan.txt").read_text() == (desk.directory / "t").read_text() == "an editor's"
    assert "~nobody-here/x does not exist" in sh("put ~nobody-here/x", code=7)
    assert "~nobody-here/x is no folder" in sh("sync ~nobody-here/x", code=7)
    done = desk.wssctl("exec", "1", env={"WSSCTL_KEYS": "~nobody-here/keys"})
    assert done.returncode == 7 and "in ~nobody-here/keys" in done.stderr and "Traceback" not in done.stderr, done
    done = desk.wssctl("exec", "1", "--password-file", "~nobody-here/pw")
    assert done.returncode == 7 and "Cannot read the secret in ~nobody-here/pw" in done.stderr, done


def test_a_name_that_the_terminal_has_no_letters_for(desk, tmp_path):
    """On Windows into a pipe, for instance."""
    locale = {"LC_ALL": "C", "PYTHONIOENCODING": "cp1252"}
    (desk.directory / "日本.py").write_text("print(1)\n")
    (tmp_path / "ไทย.txt").write_text("x")
    (tmp_path / "back").mkdir()
    back = "sync --dry-run --from-board / back"
    for line in ("ls", "sha256sum 日本.py", back, "put ไทย.txt"):
        done = desk.wssctl("shell", line, env=locale, cwd=tmp_path)
        assert done.returncode == 0 and done.stdout and not done.stderr, done
    assert desk.wssctl("put", "ไทย.txt", env=locale, cwd=tmp_path).returncode == 0
    assert (desk.directory / "ไทย.txt").read_text() == "x"
    # Where no file here can have that name
    ascii_alone = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = desk.wssctl("shell", back, env=ascii_alone, cwd=tmp_path)
    assert done.returncode == 7 and "PYTHONUTF8=1" in done.stderr and done.stderr.count("\n") == 1, done


def test_a_key_folder_that_is_read_only_serves(desk, tmp_path):
    """Mounted into a container, on a full disk: only what has to be written is refused."""
    keys = tmp_path / "keys"
    shutil.copytree(desk.keys.directory, keys)
    env = {"WSSCTL_KEYS": str(keys)}
    address = desk.url.removeprefix("wss://")
    assert desk.run(*WSSCTL, "boards", "add", "room1", address, env=env).returncode == 0
    bind = f"mount --bind {keys} {keys} && mount -o remount,bind,ro {keys}"
    read_only = ["unshare", "-m", "sh", "-c", f'{bind} && exec "$@"', "sh"]
    if desk.run(*read_only, "true").returncode:
        pytest.skip("needs a mount namespace")
    done = desk.run(*read_only, *WSSCTL, "exec", "--server-name", "127.0.0.1", "room1", "print(6*7)", env=env)
    assert (done.returncode, done.stdout, done.stderr) == (0, "42\n", ""), done
    done = desk.run(*read_only, *WSSCTL, "boards", "add", "room2", address, env=env)
    assert done.returncode == 7 and "Cannot write to" in done.stderr, done


def test_a_program_that_goes_on_in_spite_of_ctrl_c(desk, tmp_path):
    """There is no way to its raw REPL; but there is one to mend it."""
    (desk.directory / "main.py").write_text(
        "import time\nprint('it runs')\nwhile True:\n try:\n  time.sleep_ms(5)\n except: pass\n"
    )
    desk.board.restart()
    desk.board.read_until(b"it runs", 60)
    done = desk.wssctl("exec", "print(6*7)", "--timeout", "2")
    assert done.returncode == 6 and "catches Ctrl-C" in done.stderr and "a reset frees it" in done.stderr, done
    (tmp_path / "main.py").write_text("print('mended')\n")
    assert desk.wssctl("put", "main.py", cwd=tmp_path).returncode == 0
    desk.board.restart()
    desk.board.read_until(b"mended", 60)


def test_put_and_get_leave_a_running_program_alone(desk, tmp_path):
    """As a watchdog needs it."""
    main = "import time\nn = 0\nwhile True:\n time.sleep_ms(5)\n n += 1\n open('n', 'w').write(str(n))\n"
    (desk.directory / "main.py").write_text(main)
    (desk.directory / "lib").mkdir()
    (tmp_path / "a.py").write_text("x = 1\n")
    desk.board.restart()
    desk.board.read_until(b"wss_repl: listening", 60)
    beats = lambda: int((desk.directory / "n").read_text() or 0) if (desk.directory / "n").exists() else 0  # noqa: E731
    for words in (
        ("shell", "put a.py lib"), ("shell", "put a.py"), ("shell", "put a.py :b.py"), ("put", "a.py", "lib/"),
        ("get", "a.py", "c.py"), ("shell", "get lib/a.py"),
    ):  # fmt: skip
        done = desk.wssctl(*words, cwd=tmp_path)
        assert done.returncode == 0, done
        before, deadline = beats(), time.monotonic() + 20
        while beats() <= before:
            assert time.monotonic() < deadline, f"{words} stopped the program"
            time.sleep(0.01)


def test_get_of_a_folder_is_a_sentence(desk, tmp_path):
    (desk.directory / "lib").mkdir()
    for words in (("get", "lib"), ("shell", "get lib")):
        done = desk.wssctl(*words, cwd=tmp_path)
        assert done.returncode == 1 and "it is a folder" in done.stderr, done
        assert not (tmp_path / "lib").exists()


def test_sync_goes_on_where_it_was_cut(sh, desk, tmp_path):
    src = tmp_path / "src"
    src.mkdir()
    for i in range(40):
        (src / f"f{i:02}").write_bytes(os.urandom(200_000))
    process = subprocess.Popen(
        [*WSSCTL, "shell", desk.url, "sync", "src", "app"],
        env=desk.env,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    )
    for _ in range(6):  # the first says that there is a folder now
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    time.sleep(0.5)
    there = {p.name: p.read_bytes() for p in (desk.directory / "app").iterdir()}
    assert there == {n: (src / n).read_bytes() for n in there}, "half a file"
    assert 5 <= len(there) < 40
    said = sh("sync src app")
    assert f"{40 - len(there)} sent, {len(there)} the same" in said


def shown(text: str) -> str:
    """What matches it as a line editor draws it, in as many pieces as it likes."""
    return r"(?:\x1b\[[?0-9;]*[A-Za-z])*".join(map(re.escape, text))


def test_a_person_at_the_shell(desk, tmp_path):
    (tmp_path / "local.txt").write_text("hello\n")
    env = desk.env | {"PROMPT_TOOLKIT_NO_CPR": "1"}
    with Terminal(*WSSCTL, "shell", desk.url, env=env, cwd=tmp_path) as t:
        t.until("WebSecREPL with TLSv1.. connected")
        t.until("bits Encryption")
        t.until("MicroPython")
        t.until(r"127.0.0.1:/\$")
        t.type("put loc\t")
        t.until(shown("put local.txt"))
        t.type("\r")
        t.until("local.txt -> local.txt")
        t.type("cat local.\t")
        t.until(shown("cat local.txt"))
        t.type("\r")
        t.until("hello\r\n")
        t.type("\x0b")
        t.until("Ctrl-s .*Ctrl-x")
        t.type("\x13")
        t.until(">>> ")
        t.type("import os; os.mkdir('made'); os.chdir('made')\r")
        t.until(">>> ")
        t.type("\x13")
        t.until(r"127.0.0.1:/made\$")
        t.type("\x1b[A\x1b[A\r")  # history: what was typed before the key
        t.until("local.txt -> local.txt")
        t.type("exec 'while True: pass'\r")
        time.sleep(1)
        t.type("\x03")
        t.until(r"made\$")
        t.type("pwd\r")
        t.until("/made\r\n")
        t.type("\x18e\r")  # at once: Ctrl-x e is a key of the line editor
        assert t.wait() == 1 or t.wait() == 0


def test_many_boards(keys, desk, tmp_path):
    shutil.copytree(keys.board, tmp_path / "second")
    (tmp_path / "hello.py").write_text("print('hi')\n")
    with Desk(keys, Unix("unix"), tmp_path / "second") as other:
        shutil.copytree(keys.directory, tmp_path / "keys")
        desk.env["WSSCTL_KEYS"] = str(tmp_path / "keys")
        for name, port, *group in (("kitchen", desk.port, "home"), ("garden", other.port, "home"), ("away", 1)):
            words = [word for g in group for word in ("--group", g)]
            assert desk.run(*WSSCTL, "boards", "add", name, f"127.0.0.1:{port}", *words).returncode == 0
        done = desk.run(*WSSCTL, "shell", "@home", "put", "hello.py", cwd=tmp_path)
        assert done.returncode == 0, done
        assert re.search(r"kitchen +ok .*hello.py", done.stdout) and re.search(r"garden +ok", done.stdout)
        assert (desk.directory / "hello.py").exists() and (other.directory / "hello.py").exists()
        done = desk.run(*WSSCTL, "shell", "--all", "run", ":hello.py", cwd=tmp_path)
        assert done.returncode == 3, done
        assert len(re.findall(r"ok .*hi", done.stdout)) == 2
        assert re.search(r"away +failed \(3\) .*refuses connections", done.stdout)
        assert "Traceback" not in done.stderr
        done = desk.run(*WSSCTL, "shell", "kitchen,garden", "ls", "none", cwd=tmp_path)
        assert done.returncode == 1 and done.stdout.count("failed (1)") == 2
        assert desk.run(*WSSCTL, "shell", "@nobody", "ls").returncode == 2
        assert desk.run(*WSSCTL, "shell", "@home").returncode == 2
        # The plain commands take several boards, too
        done = desk.run(*WSSCTL, "exec", "@all", "print(6*7)", "--json")
        rows = {row["board"]: row for row in map(json.loads, done.stdout.splitlines())}
        assert done.returncode == 3 and not rows["away"]["ok"] and rows["away"]["code"] == 3
        assert rows["kitchen"]["output"] == rows["garden"]["output"] == "42"
        assert desk.run(*WSSCTL, "put", "@home", "hello.py", ":sub.py", cwd=tmp_path).returncode == 0
        (tmp_path / "down").mkdir()
        done = desk.run(*WSSCTL, "get", "@home", "sub.py", "boot.py", "down", cwd=tmp_path)
        assert done.returncode == 0, done
        assert (tmp_path / "down/garden/sub.py").read_bytes() == (tmp_path / "hello.py").read_bytes()
        assert (tmp_path / "down/kitchen/boot.py").read_text() != (tmp_path / "down/garden/boot.py").read_text()
        assert "FOLDER/BOARD/NAME" in desk.run(*WSSCTL, "get", "@home", "boot.py", "nowhere", cwd=tmp_path).stderr


def test_unplugged_in_a_get(keys, tmp_path):
    with far(keys, tmp_path) as desk:
        (desk.directory / "large").write_bytes(bytes(60_000_000))
        (tmp_path / "large").write_text("the old one")
        process = subprocess.Popen(
            [*WSSCTL, "shell", desk.url, "get", "large"],
            cwd=tmp_path,
            env=desk.env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        deadline = time.monotonic() + 60
        while not sum(p.stat().st_size for p in tmp_path.glob(".large*")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        desk.cable.unplug()
        start = time.monotonic()
        said = process.stderr.readline()
        assert "Connecting again" in said and time.monotonic() - start < 60, said
        desk.cable.replug()
        _, more = process.communicate(timeout=120)
        assert process.returncode == 6 and "connected again" in more
        assert (tmp_path / "large").read_text() == "the old one"
        assert not [p for p in tmp_path.iterdir() if p.name.startswith(".large")]
