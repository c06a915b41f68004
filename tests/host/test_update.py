"""`wssctl update`: a new bundle over the network, in the firmware's place or in lib's, and every way it can go wrong.

The tool that updates is an installation of its own (`newer`): this checkout with another version and, where a test says
so, with something broken in the bundle.
"""

import contextlib
import json
import os
import re
import shutil

import pytest
from desk import WSSCTL, Desk
from targets import ROOT, Unix
from wssctl.boards import modules, update
from wssctl.errors import BoardError
from wssctl.wire.remote import has_room

NEW = "9.8.7"
FROZEN, LIB = "frozen", "lib"
GOOD = {
    "home": "/", "path": ["", ".frozen"], "bundle": ".frozen", "base": ".frozen", "mpy": 6, "version": "0.1.0",
    "block": 4096, "free": 100_000, "note": "", "trial": False, "starts": True,
    "signed": False,
}  # fmt: skip


@pytest.fixture
def newer(tmp_path):
    """newer(file, old, new, version): a wssctl whose bundle has that version, and `new` in the place of `old`."""

    def make(file=None, old="", new="", version=NEW):
        site = tmp_path / f"site{len(list(tmp_path.glob('site*')))}"
        shutil.copytree(ROOT / "tools/wssctl", site / "wssctl", ignore=shutil.ignore_patterns("__pycache__"))
        bundle = site / "wssctl/bundle"
        shutil.copytree(ROOT / "lib", bundle)
        port = bundle / "wss/port.py"
        port.write_text(re.sub(r'^VERSION = ".+?"', f'VERSION = "{version}"', port.read_text(), flags=re.M))
        if file:
            text = (bundle / file).read_text()
            assert old in text
            (bundle / file).write_text(text.replace(old, new, 1))
        return {"PYTHONPATH": str(site)}

    return make


class Updated(Desk):
    def update(self, env, *words, status=0):
        # A login that shall come gets the time of a busy machine; one that shall not has to be waited for.
        words = "--deadline", "5" if status else "60", *words
        done = self.run(*WSSCTL, "update", *words, self.url, env=env, timeout=150)
        assert done.returncode == status and "Traceback" not in done.stderr, (done, self.board.log[-2000:])
        return done.stdout + done.stderr

    def runs(self):
        """(where wss_repl runs from, its version) as a login sees it."""
        code = "import wss, wss_repl; print(wss.__path__.rpartition('/')[0], wss_repl.VERSION)"
        done = self.wssctl("exec", code)
        assert done.returncode == 0, done
        return tuple(done.stdout.split())

    def files(self):
        """What lies in its file system of bundles and of updates: name, bytes."""
        found = {p.relative_to(self.directory).as_posix(): p for p in self.directory.rglob("*") if p.is_file()}
        return {n: p.read_bytes() for n, p in found.items() if n.startswith(("lib/", "wss_")) and n != "wss_time.txt"}


def desk_of(keys, folder, kind, **more):
    shutil.copytree(keys.board, folder)
    if kind == FROZEN:
        return Updated(keys, Unix("unix"), folder, **more)
    for name, data in modules.compiled().items():
        (folder / "lib" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "lib" / name).write_bytes(data)
    return Updated(keys, Unix("unix32"), folder, env={"BOARD_BARE": "1"}, **more)


@pytest.fixture(params=[FROZEN, LIB])
def desk(request, keys, tmp_path):
    with desk_of(keys, tmp_path / "board", request.param) as running:
        running.kind = request.param
        running.overlay = ["--overlay"] if request.param == FROZEN else []
        yield running


def version():
    return modules.version()


SMALL = "import wss.port\nwss.port.memory_to_spare = lambda: False\n"


def little(keys, folder, left):
    """A board whose bundle is not frozen, with so many bytes of heap left in a session and the others taken from the
    beginning, and with collections as start() asks for them on an ESP32 without memory to spare."""
    desk = desk_of(keys, folder, LIB)
    boot = (desk.directory / "boot.py").read_text()
    taken = 0
    for _ in range(2):
        before = f"import gc\ngc.threshold(4096)\nballast = bytearray({taken})\n"
        (desk.directory / "boot.py").write_text(before + boot + SMALL)
        desk.board.restart()
        desk.ready()
        if not taken:
            taken = int(desk.wssctl("exec", "import gc; gc.collect(); print(gc.mem_free())").stdout) - left
    return desk


def test_who_has_too_little_heap_for_an_update_is_told_before_anything_is_sent(keys, tmp_path, newer):
    with little(keys, tmp_path / "board", 5_000) as desk:
        first = desk.files()
        said = desk.update(newer(), status=1)
        assert "too small for an update over the network" in said and "`wssctl setup`" in said
        assert desk.files() == first


USED = "import gc, sys; gc.collect(); print(gc.mem_alloc(), 'wss_update' in sys.modules)"


def test_a_board_without_the_memory_to_compile_the_loader_runs_it_as_bytecode(keys, tmp_path, newer):
    """As an ESP32 without PSRAM whose bundle is not frozen, which has 7 KB in a session."""
    with little(keys, tmp_path / "board", 9_000) as desk:
        assert desk.wssctl("status").returncode == 0  # which loads what transfers need
        before = int(desk.wssctl("exec", USED).stdout.split()[0])
        assert f"{version()} -> {NEW}" in desk.update(newer())
        assert desk.runs() == ("/wss_a", NEW)
        assert {"wss_update.mpy", "wss_a/wss_repl.mpy"} <= set(desk.files())
        desk.board.restart()
        desk.ready()
        assert desk.wssctl("status").returncode == 0
        used, loaded = desk.wssctl("exec", USED).stdout.split()
        assert int(used) - before < 2000 and loaded == "False", "of the loader its names alone stay in memory"
        # taken back, told, and where the first one lay that came by cable is known still
        bad = newer("wss_repl.py", "        new = Server(", "        1 // 0; new = Server(", "9.8.8")
        said = desk.update(bad, status=1)
        assert "9.8.8 was taken back: start raises ZeroDivisionError" in said and desk.runs() == ("/wss_a", NEW)
        assert f"{NEW} -> 9.8.9" in desk.update(newer(version="9.8.9"))
        assert desk.runs() == ("/lib", "9.8.9")
        # between the two steps of FAT that replace a file, or on a MicroPython that does not read it
        for data in (None, b"M\x07\0\x1f"):
            (desk.directory / "wss_update.mpy").unlink(missing_ok=True)
            if data:
                (desk.directory / "wss_update.mpy").write_bytes(data)
            desk.board.restart()
            desk.ready()
            assert desk.runs() == ("/lib", "9.8.9")
        assert "9.8.9 -> 9.9.0" in desk.update(newer(version="9.9.0"))
        assert desk.runs() == ("/wss_a", "9.9.0")
        # the program that took the memory is gone: from here on as source, which any MicroPython reads
        boot = desk.directory / "boot.py"
        boot.write_text(re.sub(r"bytearray\(\d+\)", "None", boot.read_text()))
        desk.board.restart()
        desk.ready()
        assert "9.9.0 -> 9.9.1" in desk.update(newer(version="9.9.1"))
        assert desk.runs() == ("/lib", "9.9.1") and (desk.directory / "wss_repl.py").read_bytes() == modules.loader()


def test_new_firmware_is_refused_where_the_loader_cannot_be_compiled(monkeypatch):
    """It has to be source: the new MicroPython may read no bytecode of the old one's."""
    said = b"GC: total: 56000, used: 48912, free: 7088, max new split: 59392"
    monkeypatch.setattr(update, "_heap", lambda client: said)
    with pytest.raises(BoardError, match="too small for new firmware over the network"):
        update.refuse_without_room(None)


def test_a_small_board_that_takes_signed_updates_alone_is_told_that_it_cannot_check_one():
    board = update.Survey(**GOOD | {"signed": True, "is_small": True})
    with pytest.raises(BoardError, match="no memory to look at a signature"):
        update._loader(board)


@pytest.mark.parametrize("text", ["", "[]", "7", '{"n": "1"}', '{"n": 1}', '{"n": 1, "base": 2}', "{" * 5000, "\xff"])
def test_what_a_board_says_its_state_is_may_be_anything(text):
    """The latest one counts that is whole and has what is needed."""
    whole = b'{"n": 3, "base": "/lib"}'
    files = {"/wss_state0": text.encode("latin-1"), "/wss_state1": whole}

    class Client:
        def get_if_there(self, name):
            return update._check(files[name]) + files[name]

    assert update._stored(Client(), "/") == {"n": 3, "base": "/lib"}
    files["/wss_state1"] = whole[:-1]
    assert update._stored(Client(), "/") == {}


def test_where_the_heap_would_grow_into_what_tls_needs():
    """The first is what an emulated ESP32 said (1.26.1, not frozen); less used, or more to grow into, will do."""
    said = b"GC: total: 56000, used: %d, free: %d, max new split: %d\r\n"
    assert not has_room(said % (48912, 7088, 59392), 36 << 10) and has_room(said % (48912, 7088, 59392), 5632)
    assert has_room(said % (12000, 44000, 59392), 36 << 10)
    assert has_room(said % (48912, 7088, 2031616), 36 << 10)
    assert has_room(b"nothing of the kind", 36 << 10)


def test_updates_take_turns_and_leave_no_third_bundle(desk, newer):
    first = desk.files()
    old = desk.runs()
    if desk.kind == FROZEN:
        said = desk.update(newer(), status=1)
        assert "part of the firmware" in said and "--overlay" in said and desk.files() == first
    assert f"{version()} -> {NEW}" in desk.update(newer(), *desk.overlay)
    assert desk.runs() == ("/wss_a", NEW)
    assert {n: d for n, d in desk.files().items() if n in first} == first, "nothing of the old one is touched"
    # it stays, through a reset and without power
    desk.board.restart()
    desk.ready()
    assert desk.runs() == ("/wss_a", NEW)
    assert f"has {NEW} already" in desk.update(newer(), *desk.overlay)
    assert f"{NEW} -> 9.8.8" in desk.update(newer(version="9.8.8"))
    assert desk.runs() == ("/lib" if desk.kind == LIB else "/wss_b", "9.8.8")
    bundle = sum(map(len, modules.compiled().values()))
    assert sum(map(len, desk.files().values())) < 2 * bundle + 8192, sorted(desk.files())
    said = desk.update(newer(version="9.8.1"), status=1)
    assert "newer than 9.8.1" in said
    assert "9.8.8 -> 9.8.1" in desk.update(newer(version="9.8.1"), "--force")
    assert old != desk.runs() == ("/wss_a", "9.8.1")


BROKEN = {
    "its import raises": ("wss_repl.py", "_server = None", "1 // 0", "its import fails: ZeroDivisionError"),
    "start() raises": (
        "wss_repl.py", "        new = Server(", "        1 // 0; new = Server(", "start raises ZeroDivisionError",
    ),
    "start() hangs": (
        "wss_repl.py", "        new = Server(", "        while 1: pass\n        Server(", "no login proved it in 5 s",
    ),
    "its import hangs": ("wss/port.py", "has_gil =", "while 1: pass\nhas_gil =", "no login proved it in 5 s"),
    "a callback hangs": (
        "wss/server.py", "        now = port.ticks_ms()\n", "        while 1: pass\n", "no login proved it in 5 s",
    ),
    "it refuses this host": (
        "wss/trust.py", "        if revoked:\n", "        if True:\n", "no login proved it in 5 s",
    ),
    "it refuses the password": ("wss/login.py", "return not diff", "return False", "no login proved it in 5 s"),
    "it takes all memory": (
        "wss_repl.py", "def stop(", "_all = []\ntry:\n    while 1:\n        _all.append(bytearray(64))\n"
        "except MemoryError:\n    pass\n\n\ndef stop(", "",
    ),
    "it takes memory once it listens": (
        "wss/server.py", "        now = port.ticks_ms()\n", "        now = port.ticks_ms()\n"
        "        self.all = [getattr(self, 'all', None), bytearray(50_000)]\n", "",
    ),
    "its login is not understood": ("wss/session.py", 'b"\\r\\nWebREPL connected', 'b"\\r\\nHello', "no login"),
}  # fmt: skip
# More of the same kind wait in the long cut (make evidence)
SHORT = ("its import raises", "start() raises", "a callback hangs", "it refuses this host")


@pytest.mark.parametrize("what", BROKEN if os.environ.get("EVIDENCE") == "long" else SHORT)
def test_the_old_one_is_back_by_itself_and_tells_why(keys, tmp_path, newer, what):
    file, old, new, why = BROKEN[what]
    kind = [FROZEN, LIB][list(BROKEN).index(what) % 2]
    with desk_of(keys, tmp_path / "board", kind) as desk:
        before = desk.runs()
        said = desk.update(newer(file, old, new), *(["--overlay"] if kind == FROZEN else []), status=1)
        assert f"{NEW} was taken back: {why}" in said and f"{version()} runs again" in said, said
        assert desk.runs() == before
        told = desk.wssctl("exec", "import wss_repl; print(wss_repl.status()['update'])")
        assert f"{NEW} was taken back: {why}" in told.stdout and f"NOTE: 127.0.0.1: {NEW} was taken back" in told.stderr
        # nor is the board reset once more, by a watchdog that was for the trial
        assert desk.wssctl("exec", "import wss_update; print(wss_update.needs_reset)").stdout == "False\n"
        # one that works is taken all the same, and the old story is over
        assert f"{version()} -> 9.9.9" in desk.update(
            newer(version="9.9.9"), *(["--overlay"] if kind == FROZEN else [])
        )
        assert desk.wssctl("exec", "pass").stderr == ""


def test_without_a_login_the_second_start_goes_back(keys, tmp_path, newer):
    """Whoever began it has gone: power is taken away twice."""
    with desk_of(keys, tmp_path / "board", LIB) as desk:
        desk.update(newer(version="9.0.0"))
        loader = "import os; os.chdir('/'); u = {'__name__': 'wss_update'}; exec(open('wss_repl.py').read(), u)"
        shutil.copytree(desk.directory / "wss_a", desk.directory / "wss_b")
        begun = desk.wssctl("exec", f"{loader}; u['begin']('/wss_a', '/wss_b', '9.0.1', 600, 'x')")
        assert begun.returncode == 0, begun
        on_trial = "import wss_update as u; print(u.active, bool(u.trial))"
        for expected in ("/wss_b True", "/wss_a False", "/wss_a False"):
            desk.board.restart()
            desk.ready()
            assert desk.wssctl("exec", on_trial).stdout.strip() == expected
        refused = desk.wssctl("exec", "import wss_update; wss_update.confirm('x')")
        assert "no such update is on trial" in refused.stderr
        assert "9.0.1 was taken back: no login proved it" in desk.wssctl("exec", "pass").stderr


# Of a board whose boot.py has another file system: its keys and boot.py go there, too
MOVE = """\
def move(to):
    for n in os.listdir("/"):
        if n.endswith(("der", "pem", "boot.py")):
            with open("/" + n, "rb") as f, open(to + n, "wb") as g:
                g.write(f.read())
"""
ROOM = f"import os, vfs\n{MOVE}" + """\
class Ram:
    def __init__(self, n): self.d = bytearray(n * 512)
    def readblocks(self, n, b, o=0): b[:] = memoryview(self.d)[n * 512 + o : n * 512 + o + len(b)]
    def writeblocks(self, n, b, o=0): self.d[n * 512 + o : n * 512 + o + len(b)] = b
    def ioctl(self, op, x): return {4: len(self.d) // 512, 5: 512}.get(op, 0)
disk = Ram(%d)
vfs.VfsLfs2.mkfs(disk)
vfs.mount(vfs.VfsLfs2(disk), "/ram")
move("/ram/")
os.chdir("/ram")
"""


def test_what_there_is_no_room_for_is_refused_before_it_starts(keys, tmp_path, newer):
    with desk_of(keys, tmp_path / "board", FROZEN) as desk:
        boot = (desk.directory / "boot.py").read_text()
        size = sum(map(len, modules.compiled().values()))
        (desk.directory / "boot.py").write_text(ROOM % (size // 512) + boot)
        desk.board.restart()
        desk.ready()
        listing = desk.wssctl("exec", "import os; print(os.listdir('/ram'))").stdout
        said = desk.update(newer(), "--overlay", status=1)
        assert "needs" in said and "KB are free: delete files there. Nothing was changed." in said
        after = desk.wssctl("exec", "import os; print(os.listdir('/ram'))").stdout
        assert sorted(listing) == sorted(after) and desk.runs() == (".frozen", version())


def test_no_update_where_nobody_would_start_the_server_or_over_plain_ws(keys, tmp_path, newer):
    with desk_of(keys, tmp_path / "board", FROZEN) as desk:
        (desk.directory / "boot.py").write_text("")
        assert "names wss_repl" in desk.update(newer(), "--overlay", status=1)
        plain = desk.run(*WSSCTL, "update", "--overlay", desk.url.replace("wss:", "ws:"), env=newer())
        assert plain.returncode == 2 and "plain ws proves nobody" in plain.stderr


def test_a_bundle_in_the_root_is_not_overwritten_by_what_should_stand_before_it(keys, tmp_path, newer):
    with desk_of(keys, tmp_path / "board", LIB) as desk:
        for path in sorted((desk.directory / "lib").iterdir()):
            path.rename(desk.directory / path.name)
        desk.board.restart()
        desk.ready()
        assert "lies in the root" in desk.update(newer(), status=1)
        assert not (desk.directory / "wss_repl.py").exists() and desk.runs() == (version(),)


def test_of_a_group_the_first_has_to_be_well_before_the_others(keys, tmp_path, newer):
    with contextlib.ExitStack() as stack:
        desks = [stack.enter_context(desk_of(keys, tmp_path / f"board{n}", FROZEN)) for n in range(3)]
        names = ",".join(desk.url for desk in desks)
        bad = newer("wss_repl.py", "_server = None", "1 // 0")
        words = [*WSSCTL, "update", "--overlay", "--json", names, "--deadline"]
        done = desks[0].run(*words, "5", env=bad, timeout=100)
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        assert done.returncode == 1 and len(rows) == 3 and not any(row["ok"] for row in rows)
        assert "taken back" in rows[0]["output"] and [r["output"] for r in rows[1:]] == [
            f"not begun, because {desks[0].url} failed"
        ] * 2
        assert [desk.runs() for desk in desks[1:]] == [(".frozen", version())] * 2 and not desks[1].files()
        done = desks[0].run(*words, "60", env=newer(), timeout=150)
        assert done.returncode == 0 and [desk.runs() for desk in desks] == [("/wss_a", NEW)] * 3, done


@pytest.mark.parametrize(
    "said",
    [None, [], {}, {"version": 3}, GOOD | {"block": 0}, GOOD | {"path": None}, GOOD | {"trial": "no"}],
)
def test_a_board_that_does_not_say_what_it_has(said, monkeypatch):
    monkeypatch.setattr(update, "ask", lambda *_: said)
    with pytest.raises(BoardError, match="is that wss_repl"):
        update.survey(None)


@pytest.mark.parametrize("version", ["\x1b]0;x\x07", "\u00b2.1", "9" * 5000, "", "1.-2"])
def test_a_version_may_be_anything(version, monkeypatch):
    monkeypatch.setattr(update, "ask", lambda *_: GOOD | {"version": version})
    survey = update.survey(None)
    assert survey.version.isprintable() and isinstance(update.number(survey.version), tuple)
    assert update.number("0.10.2") > update.number("0.9") > update.number("0.9-rc1")
