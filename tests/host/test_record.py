"""The record of a key folder: one for all processes, never torn, never anybody else's."""

import argparse
import collections
import itertools
import json
import os
import sqlite3
import stat
import subprocess
import sys
import threading
import time
import types

import pytest
from wssctl.boards import commands
from wssctl.boards.registry import Registry
from wssctl.errors import KeyFileError
from wssctl.keys import record, trustlist
from wssctl.keys.remembered import remember, remembered
from wssctl.keys.store import Store

NAMES = ["ROOT_CA_key.pem", "ROOT_CA_cert.pem", "HOST_key@78.pem", "HOST_cert@78.pem"]


@pytest.fixture(autouse=True)
def no_keyring(monkeypatch):
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")


def test_what_earlier_versions_kept_is_taken_over(tmp_path):
    row = {"uid": "aa01", "host": "10.0.0.7", "port": 8834, "groups": ["home"], "last_seen": "2026-11-01T10:00:00"}
    (tmp_path / "devices.json").write_text(json.dumps({"devices": {"room1": row}}))
    (tmp_path / "remembered.json").write_text(json.dumps({"password:room1": "sesame"}))
    (tmp_path / "wss_trust.txt").write_text("revoked 00AB # eve, 2026-11-01\nrevoked " + "1" * 64 + "\nend\n")
    store = Store(tmp_path)
    board = Registry(store).load()["room1"]
    assert (board.uid, board.host, board.port, board.groups) == ("aa01", "10.0.0.7", 8834, ("home",))
    assert remembered(store, "password:room1") == "sesame"
    with store.record.view() as db:
        assert {e.number for e in trustlist.entries(db, "room1").values()} == {"ab", "1" * 64}
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "devices.json.old", "remembered.json.old", "wss_trust.txt.old", "wssctl.db",
    ]  # fmt: skip
    # An older wssctl, or a backup that was copied back, does not overwrite what is newer
    rows = {"room1": row | {"host": "old"}, "room2": row | {"uid": ""}}
    (tmp_path / "devices.json").write_text(json.dumps({"devices": rows}))
    assert {n: b.host for n, b in Registry(store).load().items()} == {"room1": "10.0.0.7", "room2": "10.0.0.7"}


@pytest.mark.parametrize("name", ["devices.json", "remembered.json", "rotation.json", "wss_trust.txt"])
@pytest.mark.parametrize("text", ["{", "[]", '{"devices": 7}', "\xff\xfe"])
def test_an_old_file_that_cannot_be_read_stays_and_is_named(tmp_path, name, text):
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    if name == "wss_trust.txt" and text != "\xff\xfe" or name == "remembered.json" and text.startswith('{"'):
        return  # a list of no entries, and a secret that is a number
    with pytest.raises(KeyFileError, match=name):
        Registry(Store(tmp_path)).load()
    assert (tmp_path / name).read_bytes() == text.encode("latin-1")


def test_reading_makes_nothing(tmp_path):
    store = Store(tmp_path / "keys")
    assert Registry(store).load() == {} and remembered(store, "x") is None
    assert not (tmp_path / "keys").exists()


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_private_whatever_the_umask(tmp_path):
    program = "import os; os.umask(0)\nimport sys\nfrom wssctl.keys.store import Store\n"
    program += "from wssctl.keys.remembered import remember\ns = Store(sys.argv[1])\n"
    program += "remember(s, 'x', 'y'); s.write({s.ca_key: b'k', s.ca_cert: b'c'})"
    subprocess.run([sys.executable, "-c", program, tmp_path / "keys"], check=True, timeout=180)
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    assert {stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "keys").iterdir()} == {0o600}


@pytest.mark.skipif(os.name != "posix" or os.geteuid(), reason="needs root, to be another user")
def test_what_others_can_change_is_refused(tmp_path):
    folder = tmp_path / "keys"
    remember(Store(folder), "x", "y")
    db = folder / "wssctl.db"
    for path, mode in ((folder, 0o770), (folder, 0o777), (db, 0o620), (db, 0o602)):
        before = stat.S_IMODE(path.stat().st_mode)
        path.chmod(mode)
        with pytest.raises(KeyFileError, match="chmod go-w"):
            remembered(Store(folder), "x")
        path.chmod(before)
    store = Store(folder)
    store.write({store.ca_cert: b"c", store.crl: b"c"})
    for path in (store.ca_cert, store.crl):
        path.chmod(0o664)
        with pytest.raises(KeyFileError, match="chmod go-w"):
            store.find_ca_cert()
        path.chmod(0o644)
        assert store.find_ca_cert() == store.ca_cert
    for path in (folder, db):
        os.chown(path, 65534, 65534)
        with pytest.raises(KeyFileError, match="another user"):
            remembered(Store(folder), "x")
        os.chown(path, 0, 0)
    db.rename(tmp_path / "elsewhere")
    db.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(KeyFileError, match="somebody else"):
        remembered(Store(folder), "x")


def test_a_folder_from_elsewhere_moves_no_file(tmp_path):
    """trust-01: what a received folder says of files on their way. The journal of old is not looked at; in the record
    a name is one of a key file, in this folder, or the record is refused."""
    folder, home = tmp_path / "received", tmp_path / "home"
    home.mkdir()
    (home / ".bashrc").write_text("mine")
    remember(Store(folder), "x", "y")
    (folder / "x").write_text("evil")
    (folder / ".replacing.json").write_text(json.dumps([[str(folder / "x"), str(home / ".bashrc")]]))
    Store(folder)
    assert (home / ".bashrc").read_text() == "mine"
    (folder / ".replacing.json").unlink()
    for name in ("../home/.bashrc", str(home / ".bashrc"), ".bashrc", "wssctl.db", "HOST_key@../../x.pem"):
        with sqlite3.connect(folder / "wssctl.db") as db:
            db.execute("DELETE FROM files")
            db.execute("INSERT INTO files VALUES(?, ?)", (name, b"evil"))
        db.close()
        with pytest.raises(KeyFileError, match="no key file"):
            Store(folder)
    assert (home / ".bashrc").read_text() == "mine" and not (folder / ".bashrc").exists()
    # Rules of its own inside the file (triggers, views) do nothing either
    with sqlite3.connect(folder / "wssctl.db") as db:
        db.execute("DELETE FROM files")
        db.execute("CREATE TRIGGER t AFTER INSERT ON secrets BEGIN DELETE FROM boards; END")
    db.close()
    with pytest.raises(KeyFileError, match="did not make"):
        Store(folder)


def test_a_folder_from_elsewhere_writes_and_deletes_nothing_outside(tmp_path):
    """What a received folder may have in it beside the record: links under the names of key files, and a journal that
    names a file which SQLite would delete (pager.c, pager_delsuper)."""
    folder, victim = tmp_path / "received", tmp_path / ".bashrc"
    victim.write_text("mine")
    store = Store(folder)
    remember(store, "x", "y")
    link = folder / "HOST_cert@78.pem"
    link.symlink_to(victim)
    with sqlite3.connect(folder / "wssctl.db") as db:
        db.execute("INSERT INTO files VALUES(?, ?)", (link.name, b"evil"))
    db.close()
    for path in (link, folder / "nowhere"):  # one that leads to a name that is free, too
        path.unlink(missing_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(victim if path == link else tmp_path / "new")
        with pytest.raises(KeyFileError, match="is a link"):
            Store(folder)
    with sqlite3.connect(folder / "wssctl.db") as db:
        db.execute("DELETE FROM files")
    db.close()
    for force in (True, False):
        with pytest.raises(KeyFileError, match="is a link"):
            store.write({link: b"a certificate", folder / "HOST_key@78.pem": b"k"}, force)
    assert victim.read_text() == "mine" and not (tmp_path / "new").exists()
    assert sorted(p.name for p in folder.iterdir()) == [link.name, "wssctl.db"]
    # A journal as it is left by a process that was killed, SQLite's file format, section 3
    name, magic = str(victim).encode(), bytes.fromhex("d9d505f920a163d7")
    data = (folder / "wssctl.db").read_bytes()
    page = int.from_bytes(data[16:18], "big")
    header = magic + b"".join(n.to_bytes(4, "big") for n in (0, 0, len(data) // page, 512, page))
    parts = ((1 << 30) // page + 1, name, len(name), sum(name), magic)
    end = b"".join(part if isinstance(part, bytes) else part.to_bytes(4, "big") for part in parts)
    journal = folder / "wssctl.db-journal"
    journal.write_bytes(header.ljust(512, b"\0") + end)
    for look in (lambda: remembered(store, "x"), lambda: remember(store, "x", "z"), lambda: Store(folder)):
        with pytest.raises(KeyFileError, match="was not made by wssctl"):
            look()
    assert victim.read_text() == "mine"
    journal.unlink()
    assert remembered(store, "x") == "y"


def test_a_pipe_in_the_folder_is_waited_for_by_nobody(tmp_path):
    os.mkfifo(tmp_path / "HOST_cert@78.pem")
    with pytest.raises(KeyFileError, match="it is a pipe"):
        Store(tmp_path).read(tmp_path / "HOST_cert@78.pem")
    os.mkfifo(tmp_path / "wssctl.db-journal")
    remember(store := Store(tmp_path / "other"), "x", "y")
    for name in ("wssctl.db-journal", "devices.json", "wssctl.db"):
        path = store.folder / name
        path.unlink(missing_ok=True)
        os.mkfifo(path)
        with pytest.raises(KeyFileError):
            remembered(store, "x")
        path.unlink()


def test_a_record_that_is_damaged_or_newer_is_one_sentence(tmp_path):
    (tmp_path / "wssctl.db").write_bytes(b"no database" * 999)
    with pytest.raises(KeyFileError, match="restore it from a backup"):
        remember(Store(tmp_path), "x", "y")
    (tmp_path / "wssctl.db").unlink()
    remember(Store(tmp_path), "x", "y")
    with sqlite3.connect(tmp_path / "wssctl.db") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(KeyFileError, match="newer wssctl"):
        remember(Store(tmp_path), "x", "y")


def at_once(work, n):
    """work(0) to work(n - 1), each in a thread of its own, to their ends."""
    threads = [threading.Thread(target=work, args=(i,)) for i in range(n)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()


def test_many_threads_at_once(tmp_path):
    registry, failed = Registry(Store(tmp_path)), []

    def work(i):
        try:
            for n in range(5):
                registry.update(f"b{i}", host=str(n), groups=[f"g{n}"])
        except KeyFileError as e:
            failed.append(e)

    at_once(work, 16)
    boards = registry.load()
    assert not failed and len(boards) == 16 and all(b.host == "4" and len(b.groups) == 5 for b in boards.values())


def test_threads_wait_for_their_turn_and_not_for_sqlite(tmp_path, monkeypatch):
    """Whoever asks SQLite for a lock that is taken fails at once here."""
    monkeypatch.setattr(record, "_PATIENCE", 0.0)
    store, failed = Store(tmp_path), []
    registry = Registry(store)
    registry.update("b0")

    def work(i):
        try:
            for n in range(10):
                registry.update(f"b{i}", host=str(n))
                registry.seen("b0")
                assert registry.find(f"b{i}").host == str(n)
                store.write({store.ca_key: b"%d" % n}, force=True)
        except KeyFileError as e:
            failed.append(e)

    at_once(work, 8)
    assert not failed and len(registry.load()) == 8


def test_boards_that_are_seen_while_one_is_written_are_one_transaction(tmp_path, monkeypatch):
    registry = Registry(Store(tmp_path))
    names = [f"b{i}" for i in range(12)]
    for name in names:
        registry.update(name, seen=False)
    said = []

    class Said(collections.deque):
        def append(self, one):
            super().append(one)
            said.append(one)

    registry._seen._waiting = Said()
    count, change = [], record.Record.change
    monkeypatch.setattr(record.Record, "change", lambda self: count.append(1) or change(self))
    with change(registry.record):  # as somebody who writes just now
        threads = [threading.Thread(target=registry.seen, args=(name,)) for name in names]
        for t in threads:
            t.start()
        while len(said) < len(names):
            time.sleep(0.01)
    for t in threads:
        t.join()
    assert len(count) <= 2 and all(b.last_seen for b in registry.load().values())


def test_a_pair_is_of_one_generation_whoever_writes_and_looks(tmp_path):
    """trust-21: two processes that write the same four files, and two that only look at the folder."""
    writer = (
        "import sys\nfrom wssctl.keys.store import Store\ns = Store(sys.argv[1])\nfor n in range(30):\n"
        f" s.write({{s.folder / x: (sys.argv[2] + str(n)).encode() for x in {NAMES!r}}}, force=True)\n"
    )
    looker = "import sys\nfrom wssctl.keys.store import Store\nfor _ in range(200): Store(sys.argv[1])\n"
    programs = [(writer, "a"), (writer, "b"), (looker, ""), (looker, "")]
    processes = [subprocess.Popen([sys.executable, "-c", text, tmp_path, word]) for text, word in programs]
    assert [p.wait(120) for p in processes] == [0] * 4
    assert len({(tmp_path / n).read_bytes() for n in NAMES}) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*NAMES, "wssctl.db"])


def test_whoever_is_killed_while_he_writes_files_leaves_none_behind(tmp_path):
    """At each of his syncs and renames. The next who changes anything clears up, whatever he changes, and finds the
    files of one generation; what is another's stays."""
    program = (
        "import os, signal, sys\nfrom wssctl.keys.store import Store\n"
        "folder, left = sys.argv[1], int(sys.argv[2])\n"
        "def dying(real):\n"
        "    def call(*words):\n"
        "        global left\n"
        "        left -= 1\n"
        "        if left < 0: os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return real(*words)\n"
        "    return call\n"
        "os.fsync, os.replace = dying(os.fsync), dying(os.replace)\n"
        f"s = Store(folder)\ns.write({{s.folder / n: b'new' for n in {NAMES[:2]!r}}}, force=True)\n"
    )
    generations, codes, others = set(), [], [".HOST_notes.new", ".git"]
    for step in itertools.count():
        folder = tmp_path / str(step)
        store = Store(folder)
        store.write({folder / n: b"old" for n in NAMES[:2]})
        for other in others:
            (folder / other).write_text("mine")
        codes.append(subprocess.run([sys.executable, "-c", program, folder, str(step)], timeout=180).returncode)
        if codes[-1] == 0:
            break
        left = {p.name for p in folder.iterdir()} - {*NAMES[:2], "wssctl.db", "wssctl.db-journal", *others}
        assert all(stat.S_IMODE((folder / n).stat().st_mode) == 0o600 for n in left)
        remember(Store(folder), "x", "y")
        assert sorted(p.name for p in folder.iterdir()) == sorted([*NAMES[:2], "wssctl.db", *others])
        (generation,) = {(folder / n).read_bytes() for n in NAMES[:2]}
        generations.add(generation)
    assert generations == {b"old", b"new"} and set(codes[:-1]) == {-9} and len(codes) > 5


def test_a_full_disk_changes_nothing(tmp_path, monkeypatch):
    store = Store(tmp_path)
    store.write({tmp_path / n: b"old" for n in NAMES})
    real, calls = os.fsync, []

    def full(fd):
        calls.append(fd)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        real(fd)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(KeyFileError, match="No space left"):
        store.write({tmp_path / n: b"new" for n in NAMES}, force=True)
    monkeypatch.undo()
    Store(tmp_path)
    assert {(tmp_path / n).read_bytes() for n in NAMES} == {b"old"}
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*NAMES, "wssctl.db"])


def test_a_record_of_the_version_before_goes_on(tmp_path):
    store = Store(tmp_path)
    with store.record.change() as db:
        trustlist.learn(db, "", {e.key: e for e in [trustlist.Entry("revoked", "ab")]})
    with sqlite3.connect(tmp_path / "wssctl.db") as db:  # as it was
        db.execute("ALTER TABLE trust DROP COLUMN seal")
        db.execute("PRAGMA user_version = 1")
    db.close()
    with store.record.view() as db:
        assert {e.number for e in trustlist.entries(db, "x").values()} == {"ab"}
    Registry(store).update("b", host="h")
    Registry(store).forget("b")


def test_a_keyring_that_was_locked_once_leaves_no_older_secret_in_front(tmp_path, monkeypatch):
    class Ring:
        locked, kept = True, {}

        def set_password(self, service, entry, secret):
            if self.locked:
                raise OSError("locked")
            self.kept[entry] = secret

        def get_password(self, service, entry):
            return self.kept.get(entry)

    ring, store = Ring(), Store(tmp_path)
    monkeypatch.setattr("wssctl.keys.remembered._keyring", lambda: ring)
    remember(store, "password:room1", "old")
    ring.locked = False
    remember(store, "password:room1", "new")
    assert remembered(store, "password:room1") == "new"
    ring.locked = True
    remember(store, "password:room1", "newer")
    assert remembered(store, "password:room1") == "newer"


def test_a_password_that_a_locked_keyring_does_not_forget_is_told(tmp_path, monkeypatch, capsys):
    class Ring:
        class errors:
            class PasswordDeleteError(Exception):
                pass

        locked, kept = False, {}

        def set_password(self, service, entry, secret):
            self.kept[entry] = secret

        def delete_password(self, service, entry):
            if self.locked:
                raise OSError("locked")
            if entry not in self.kept:
                raise self.errors.PasswordDeleteError
            del self.kept[entry]

    ring, store = Ring(), Store(tmp_path)
    monkeypatch.setattr("wssctl.keys.remembered._keyring", lambda: ring)
    for ring.locked in (False, True):
        Registry(store).update("room1", host="h")
        remember(store, "password:room1", "sesame")
        commands.forget(argparse.Namespace(keys=str(tmp_path), board=["room1"]))
        said = capsys.readouterr().err
        assert bool(ring.kept) is ring.locked
        assert (f"`keyring del wssctl {tmp_path}/password:room1`" in said) is ring.locked, said


def test_a_keyring_that_is_not_to_be_had_is_none(tmp_path, monkeypatch):
    """Its configuration may be wrong in ways of which each raises something else."""
    module = types.ModuleType("keyring")
    module.backends = types.ModuleType("keyring.backends")
    for name in ("fail", "null"):
        setattr(module.backends, name, types.SimpleNamespace(Keyring=int))
    module.get_keyring = lambda: module.Missing
    monkeypatch.setitem(sys.modules, "keyring", module)
    monkeypatch.setitem(sys.modules, "keyring.backends", module.backends)
    remember(Store(tmp_path), "x", "y")
    assert remembered(Store(tmp_path), "x") == "y"
