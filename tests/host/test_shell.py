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
    assert sh("du x").split()[0] == str(2 * size + 256)
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
        done = desk.run(*WSSCTL, "shell", "@all", "run", ":hello.py", cwd=tmp_path)
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
