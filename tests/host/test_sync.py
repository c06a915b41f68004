"""`sync` in both directions, `put` and `put -r`: what goes where, and what makes them change nothing at all."""

import functools
import os
import re
import shutil
import subprocess

import pytest
from desk import WSSCTL, Desk
from targets import UID
from wssctl.errors import KeyFileError, UsageError
from wssctl.tools.transfer import put_plan


@pytest.fixture
def desk(keys, tmp_path):
    with Desk.new(keys, tmp_path, "unix") as running:
        yield running


@pytest.fixture
def sh(desk):
    return desk.shell


def write(where, /, **files):
    """Names with "__" for "/" and "_" for "."."""
    for name, text in files.items():
        path = where / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def tree(folder):
    """What is in files, but for the clock that a board writes down by itself."""
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return {name: data for name, data in found.items() if name != "wss_time.txt"}


def test_what_the_ignore_file_names_is_left_out_on_both_sides(sh, desk, tmp_path):
    src, app = tmp_path / "src", desk.directory / "app"
    write(src, main_py="print(1)\n", notes_txt="n", data__x_csv="x", data__keep_csv="k", build__big_bin="b" * 99)
    write(app, log_txt="the board's own", old_py="gone soon", data__y_csv="the board's own", _hidden="stays")
    (src / ".wssignore").write_text("# of this side\n*.txt\n/data/*\n!/data/keep.csv\nbuild/\n")
    (src / ".git").mkdir()
    said = sh("sync --delete --dry-run src app")
    assert "would send app/main.py" in said and "would delete app/old.py" in said and (app / "old.py").exists()
    sh("sync --delete src app")
    assert sorted(tree(app)) == [".hidden", "data/keep.csv", "data/y.csv", "log.txt", "main.py"]
    assert sh("sync --delete src app") == "0 sent, 2 the same\n"
    (src / ".wssignore").write_text("a\n!\n")
    said = sh("sync src app", code=2)
    assert "gitignore" in said and tree(app)["main.py"] == b"print(1)\n"


def test_sources_go_as_bytecode_and_in_their_place(sh, desk, tmp_path):
    src, app = tmp_path / "src", desk.directory
    write(src, boot_py=(app / "boot.py").read_text(), main_py="M = 1\n", lib__thing_py="VALUE = 42\n", page_html="<p>")
    write(app, lib__thing_py="VALUE = 1\n")  # MicroPython would take it before thing.mpy
    said = sh("sync --mpy src", "exec 'import thing; print(thing.VALUE, thing.__file__)'")
    assert "sent lib/thing.mpy" in said and "deleted lib/thing.py" in said and re.search("42 .*lib/thing.mpy", said)
    assert (app / "main.py").read_text() == "M = 1\n" and not (app / "boot.mpy").exists()
    assert "0 sent, 4 the same" in sh("sync --mpy src")
    write(src, lib__bad_py="def f(:\n", lib__worse_py="x = = 1\n", new_py="N = 1\n")
    said = sh("sync --mpy src", code=2)
    assert "lib/bad.py does not compile" in said and "lib/worse.py does not compile" in said
    assert "Nothing was changed" in said and not (app / "new.mpy").exists()
    write(src, lib__bad_py="pass\n", lib__worse_py="pass\n", lib__thing_mpy="what is there")
    assert "thing.mpy is there and would be made of lib/thing.py" in sh("sync --mpy src", code=2)


def test_all_that_cannot_be_sent_is_told_before_anything_is(sh, desk, tmp_path):
    src, app = tmp_path / "src", desk.directory / "app"
    write(src, a_py="A", folder__x="x", file="f", z_py="Z")
    write(app, folder="a file", file__inside="x")
    (src / ("long" * 20)).write_text("x")
    (src / "back\\slash").write_text("x")
    os.mkfifo(src / "pipe")
    (src / "nowhere").symlink_to("is/not")
    (src / "elsewhere").symlink_to(tmp_path)
    with open(os.fsencode(src) + b"/\xff", "w"):
        pass
    before = tree(desk.directory)
    said = sh("sync --delete src app", code=2)
    for words in (
        "long has 80 bytes", "back\\\\?slash has a", "pipe is no file", "nowhere is no file", "link to a folder",
        "not in UTF-8", "app/folder is a file on the board", "app/file is a folder on the board",
    ):  # fmt: skip
        assert re.search(words, said), (words, said)
    assert tree(desk.directory) == before
    (src / ".wssignore").write_text("long*\n*slash\npipe\n*where\n[!a-z.]*\nfolder\nfile\n")
    assert "2 sent" in sh("sync src app")


def mount_fat(desk):
    """A FAT of 100 KB in the board's memory, at /fat."""
    return desk.wssctl("exec", RAM)


RAM = (
    "import os,vfs\nclass D:\n def __init__(s): s.d=bytearray(512*200)\n"
    " def readblocks(s,n,b,o=0): b[:]=s.d[n*512+o:n*512+o+len(b)]\n"
    " def writeblocks(s,n,b,o=0): s.d[n*512+o:n*512+o+len(b)]=b\n"
    " def ioctl(s,o,a):\n  if o==4: return 200\n  if o==5: return 512\n"
    "d=D()\nvfs.VfsFat.mkfs(d)\nvfs.mount(d,'/fat')\n"
)


def test_a_file_system_that_lacks_a_name_is_asked_first(sh, desk, tmp_path):
    """FAT, on the board, made in its memory."""
    write(tmp_path / "src", a_py="A", z_py="Z")
    (tmp_path / "src/what?.txt").write_text("x")
    assert mount_fat(desk).returncode == 0
    said = sh("ls /fat", "sync src /fat/new", code=2)
    assert "what?.txt is no name for the board's file system" in said and sh("ls /fat") == ""
    said = sh("ls /fat", "sync src /fat", code=2)
    assert "what?.txt is no name for the board's file system" in said and sh("ls /fat") == ""
    (tmp_path / "src/.wssignore").write_text("what*\n")
    assert "2 sent" in sh("sync src /fat") and sh("ls /fat") == "a.py\nz.py\n"
    # FAT takes names that differ in case alone for one: what was sent must not be deleted by its old name
    (tmp_path / "src/a.py").rename(tmp_path / "src/A.py")
    sh("sync --delete src /fat")
    assert sh("ls /fat", "cat /fat/A.py") == "A.py\nz.py\nA"
    write(tmp_path / "src", Lib__x_py="X")
    write(tmp_path / "old", lib__x_py="old", lib__y_py="old")
    sh("put -r old/lib /fat/", "sync --delete src /fat")
    assert sh("ls /fat", "ls /fat/Lib", "cat /fat/Lib/x.py") == "A.py\nLib/\nz.py\nx.py\nX"


def test_names_that_are_one_file_there_are_told_before_anything_is_sent(sh, desk, tmp_path):
    assert mount_fat(desk).returncode == 0
    write(tmp_path / "src", a_py="small", A_py="large", Lib__x_py="X", lib__x_py="x", z_py="Z")
    assert "5 sent" in sh("sync src app"), "where names have a case"
    for to in ("/fat", "/fat/app", "/fat/app/deeper"):
        said = sh(f"sync src {to}", code=2)
        assert "A.py and a.py are one file" in said and "Lib and lib are one" in said and "x.py" not in said, said
    assert sh("ls /fat") == ""
    # One that is there already, of which nobody spoke
    shutil.rmtree(tmp_path / "src")
    write(tmp_path / "src", A_py="large")
    write(tmp_path / "old", a_py="small")
    sh("sync old /fat")
    assert "A.py and a.py are one file" in sh("sync src /fat", code=2)
    assert sh("cat /fat/a.py") == "small"
    sh("sync --delete src /fat")
    assert sh("ls /fat", "cat /fat/A.py") == "A.py\nlarge"


def test_room_is_looked_at_before_anything_is_sent(sh, desk, tmp_path):
    assert mount_fat(desk).returncode == 0
    src = tmp_path / "src"
    write(src, a_bin="A" * 40_000)
    assert "1 sent" in sh("sync src /fat")
    write(src, a_bin="B" * 40_000, b_py="B", c_bin="C" * 60_000)
    for command in ("sync src /fat", "sync --delete src /fat", "put -r src /fat"):
        said = sh(command, code=2)
        assert re.search(r"Nothing was changed. It takes \d+ bytes there, and \d+ are free", said), said
    assert sh("ls /fat", "cat /fat/a.bin") == "a.bin\n" + "A" * 40_000
    # What is the same takes none
    write(src, a_bin="A" * 40_000, c_bin="C" * 30_000)
    assert "2 sent, 1 the same" in sh("sync src /fat")


def test_deleting_spares_what_the_board_needs(sh, desk, tmp_path):
    write(tmp_path / "src", main_py="M = 1\n")
    write(desk.directory, lib__wss__x_py="of the bundle", lib__other_py="goes", old_py="goes")
    (desk.directory / "wss_trust.txt").write_text("end\n")
    before = set(tree(desk.directory))
    for words in ("src", "src /"):
        sh(f"sync --delete {words}")
        now = set(tree(desk.directory))
        assert before - now == {"lib/other.py", "old.py"} and now - before == {"main.py"}
    assert {f"SSL_key{UID}.der", "ROOT_CA_cert.pem", "boot.py", "lib/wss/x.py", "wss_trust.txt"} <= now


def test_from_a_board(sh, desk, tmp_path):
    write(desk.directory, app__a_py="A = 1\n", app__deep__b_py="B = 1\n", app___cache="hidden", main_py="M")
    to = tmp_path / "back"
    to.mkdir()
    write(to, mine_txt="stays", a_py="A = 2\n")
    assert "would fetch app/a.py" in sh("sync --from-board --dry-run app back") and tree(to)["a.py"] == b"A = 2\n"
    assert "2 fetched, 0 the same" in sh("sync --from-board app back")
    assert tree(to) == {"a.py": b"A = 1\n", "deep/b.py": b"B = 1\n", "mine.txt": b"stays"}
    assert sh("sync --from-board app back") == "0 fetched, 2 the same\n"
    shutil.rmtree(to)
    to.mkdir()
    sh("sync --from-board / back")
    there = tree(to)
    assert there["main.py"] == b"M" and "boot.py" in there
    assert not [n for n in there if n.startswith(("SSL_", "ROOT_CA", "webrepl_cfg"))], "a board's key stays there"
    # A link out of the folder, and a folder where a file is: nothing is fetched
    shutil.rmtree(to / "app")
    (tmp_path / "outside").mkdir()
    (to / "app").symlink_to(tmp_path / "outside")
    (to / "main.py").unlink()
    (to / "main.py").mkdir()
    write(desk.directory, new_py="N")
    said = sh("sync --from-board / back", code=2)
    assert "is a link" in said and "main.py is a folder here" in said
    assert not tree(tmp_path / "outside") and not (to / "new.py").exists()
    for line, says in (
        ("sync --from-board app", "sync --from-board"), ("sync --from-board --delete app back", "deletes nothing here"),
        ("sync --from-board nothing back", "no folder nothing"), ("sync --from-board app nowhere", "make it first"),
    ):  # fmt: skip
        said = desk.run(*WSSCTL, "shell", desk.url, line, cwd=tmp_path)
        assert says in said.stdout + said.stderr and said.returncode in (1, 2, 7), said


NAMES = {"Readme.md": "1", "README.md": "2", "con": "3", "a.": "4", "b ": "5", "c:d": "6", "f|g": "7"}


def test_odd_names_are_fetched_where_the_file_system_has_them(sh, desk, tmp_path):
    """This one has: it is asked, whatever the system is called."""
    (desk.directory / "app").mkdir()
    for name, text in NAMES.items():
        (desk.directory / "app" / name).write_text(text)
    (tmp_path / "back").mkdir()
    assert f"{len(NAMES)} fetched" in sh("sync --from-board app back")
    assert tree(tmp_path / "back") == {n: t.encode() for n, t in NAMES.items()}
    assert f"0 fetched, {len(NAMES)} the same" in sh("sync --from-board app back")


@pytest.fixture
def blind(tmp_path):
    """A folder on exFAT, whose names have no case, and which takes no colons: as on Windows, and on an SD card."""
    tools = [shutil.which(n) for n in ("mkfs.exfat", "mount.exfat-fuse", "losetup", "umount")]
    if os.geteuid() or not all(tools) or not os.path.exists("/dev/fuse"):
        pytest.skip("needs root, exfatprogs and exfat-fuse")
    image, folder, made = tmp_path / "image", tmp_path / "blind", []
    image.write_bytes(bytes(8 << 20))
    folder.mkdir()
    run = functools.partial(subprocess.run, check=True, capture_output=True, text=True)
    try:
        run([tools[0], image])
        made.append(run([tools[2], "-f", "--show", image]).stdout.strip())
        run([tools[1], made[0], folder])
    except subprocess.CalledProcessError as e:
        subprocess.run([tools[2], "-d", *made])
        pytest.skip(f"no exFAT can be mounted here: {e.stderr}")
    yield folder
    run([tools[3], folder])
    run([tools[2], "-d", *made])


def test_what_is_one_file_here_is_told_before_any_is_fetched(sh, desk, blind):
    app = desk.directory / "app"
    write(app, fine_py="F = 1\n", lib__x_py="X = 1\n")
    assert "2 fetched" in sh("sync --from-board app blind")
    before = tree(blind)
    (app / "new.py").write_text("N")
    for name, text in NAMES.items():
        (app / name).write_text(text)
    (app / "Lib").mkdir()
    (app / "Lib/y.py").write_text("Y")
    (app / "FINE.py").write_text("F = 2\n")
    (app / "fine.py").unlink()
    said = sh("sync --from-board app blind", code=2)
    for words in (
        "README.md and Readme.md are one file here", "c:d is no name here", "f|g is no name here",
        "Lib and lib are one file here", "FINE.py is fine.py here, which is another name",
    ):  # fmt: skip
        assert words in said, (words, said)
    assert "new.py" not in said and tree(blind) == before
    for name in (*NAMES, "FINE.py", "Lib/y.py"):
        (app / name).unlink()
    (app / "Lib").rmdir()
    assert "1 fetched, 1 the same" in sh("sync --from-board app blind") and sorted(tree(blind)) == [
        "fine.py", "lib/x.py", "new.py",
    ]  # fmt: skip


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, a_py="a", b_py="b", lib__c_py="c", other__a_py="a", plain="p")
    (tmp_path / "a[1].py").write_text("[")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "jobs"),
    [
        ("a.py", "a.py"),
        ("a.py b.py", "b.py a.py"),  # both, and neither as the other
        ("a.py plain", "plain a.py"),  # first what may be meant as a folder there
        ("a.py lib", "lib/a.py"),
        ("a.py lib/", "lib/a.py"),
        ("a.py plain/", "plain/a.py"),
        ("a.py nothing", "nothing/a.py"),
        ("*.py lib", "lib/a.py lib/a[1].py lib/b.py"),
        ("a[1].py", "a[1].py"),
        ("a.py b.py :lib", "lib/a.py lib/b.py"),
        ("a.py :lib/", "lib/a.py"),
        ("a.py :lib", "lib"),
        ("a.py :", "a.py"),
        ("a.py :/", "/a.py"),
        ("a.py b.py .", "a.py b.py"),
        ("a.py ./a.py", "a.py"),
        ("lib/c.py a.py :/lib", "/lib/c.py /lib/a.py"),
    ],
)
def test_where_a_put_goes(here, words, jobs):
    plan = put_plan(words.split())
    assert " ".join(name for _, name in plan.files) == jobs
    if ":" not in words:
        assert all(path.name == name.rpartition("/")[2] for path, name in plan.files)


@pytest.mark.parametrize(
    ("words", "error", "says"),
    [
        ("a.py other/a.py lib", UsageError, "a.py and other/a.py would both be lib/a.py"),
        ("lib", KeyFileError, "is a folder; -r"),
        ("a.py lib b.py :x", KeyFileError, "is a folder; -r"),
        ("a.py nothing :x", KeyFileError, "does not exist"),
        ("a.py lib\\x", UsageError, "write lib/x"),
    ],
)
def test_what_a_put_refuses(here, words, error, says):
    with pytest.raises(error, match=re.escape(says)):
        put_plan(words.split())


def test_put_on_a_board(sh, desk, tmp_path):
    """A last word that is a file here and a folder there, a folder that is not there, folders with -r."""
    write(tmp_path, a_py="a", b_py="b", lib="a file here", src__x_py="x", src__deep__y_py="y")
    write(desk.directory, lib__there_py="t", a_py="the old one")
    in_shell = lambda *words: sh("put " + " ".join(words), code=1)  # noqa: E731
    for command in (in_shell, lambda *words: desk.wssctl("put", *words, cwd=tmp_path).stderr):
        before = tree(desk.directory)
        assert "has a folder named lib: `lib/`" in command("a.py", "b.py", "lib")
        assert "has a folder named lib: `lib/`" in command("a.py", ":lib")
        assert "is none a folder there?" in command("a.py", "b.py", "none/")
        assert tree(desk.directory) == before
    sh("put a.py b.py lib/", "put -r src lib/ ", "put -r src a.py :")
    now = tree(desk.directory)
    assert now["a.py"] == now["lib/a.py"] == b"a" and now["lib/there.py"] == b"t"
    assert now["src/deep/y.py"] == now["lib/src/deep/y.py"] == b"y"
    done = desk.wssctl("put", "-r", "src", "made", cwd=tmp_path)
    assert done.returncode == 0 and (desk.directory / "made/src/x.py").read_text() == "x", done
    assert "-r sends one" in sh("put src lib/", code=7)
