"""The one record of a key folder, wssctl.db: boards, the hosts that have a certificate, who is revoked or pinned, what
is remembered, and what each board holds and is still to get. SQLite (sqlite.org/atomiccommit.html).

Whoever changes something opens the database anew, takes its write lock (BEGIN IMMEDIATE), changes and commits: two
processes wait for each other, and one that dies leaves nothing half done. The journal is a rollback journal, not a
write-ahead log, because that one needs shared memory, which home folders on a network do not have.

Key files stay files, under upydev's names. To change several as one, their new contents are written here first, in one
transaction; in a second one the files are renamed into place and the contents are deleted. If the power fails in
between, or another process comes first, whoever takes the lock next finds the contents and puts them into place before
it does anything else. A name in that list is a name in this folder and nothing else.

Until a file has its name it is beside it, as `.NAME.new`: only whoever has the lock makes one. So whoever takes the
lock knows that those he finds are of somebody who was killed, and deletes them: one may be a board's key.
"""

import contextlib
import json
import os
import re
import sqlite3
import stat
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic, TypeVar

from ..errors import KeyFileError

NAME = "wssctl.db"
_PATIENCE = 60.0  # seconds to wait for other processes: each holds the lock for some milliseconds
# Threads of one process take turns by this. SQLite alone lets them ask for its lock again and again, with pauses of up
# to 0.1 s, and whoever comes late may be the last for long. Reentrant: a change within a change fails as SQLite has it.
_TURN = threading.RLock()
_Item = TypeVar("_Item")
_APPLICATION = 0x77737363  # "wssc", in the file's header
_JOURNAL_END = bytes.fromhex("d9d505f920a163d7")  # of one that names a file of SQLite's to delete (src/pager.c)

# One entry a version: what makes the next version of the one before. What is here is never changed, only added to.
_MIGRATIONS = (
    """
    CREATE TABLE boards(
        name TEXT PRIMARY KEY, uid TEXT NOT NULL DEFAULT '', host TEXT NOT NULL DEFAULT '', port INTEGER NOT NULL,
        serial TEXT NOT NULL DEFAULT '', not_after TEXT NOT NULL DEFAULT '', last_seen TEXT NOT NULL DEFAULT ''
    ) STRICT;
    CREATE TABLE groups(
        board TEXT NOT NULL REFERENCES boards(name) ON UPDATE CASCADE ON DELETE CASCADE, name TEXT NOT NULL,
        PRIMARY KEY(board, name)
    ) STRICT;
    -- host certificates that this CA has signed
    CREATE TABLE hosts(
        fingerprint TEXT PRIMARY KEY, serial TEXT NOT NULL, name TEXT NOT NULL, not_before TEXT NOT NULL,
        not_after TEXT NOT NULL
    ) STRICT;
    -- who is turned away (board '': on all boards) or let in alone; the higher version of an entry counts
    CREATE TABLE trust(
        board TEXT NOT NULL, verb TEXT NOT NULL CHECK(verb IN ('revoked', 'pinned')), number TEXT NOT NULL,
        version INTEGER NOT NULL, undone INTEGER NOT NULL, words TEXT NOT NULL, PRIMARY KEY(board, verb, number)
    ) STRICT;
    -- what a board is known to hold, and what it is still to get
    CREATE TABLE held(board TEXT NOT NULL, kind TEXT NOT NULL, value TEXT NOT NULL, since TEXT NOT NULL,
        PRIMARY KEY(board, kind)) STRICT;
    CREATE TABLE wanted(board TEXT NOT NULL, kind TEXT NOT NULL, value TEXT NOT NULL, since TEXT NOT NULL,
        PRIMARY KEY(board, kind)) STRICT;
    CREATE TABLE secrets(what TEXT PRIMARY KEY, secret TEXT NOT NULL) STRICT;
    CREATE TABLE state(what TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
    -- key files on their way: their contents
    CREATE TABLE files(name TEXT PRIMARY KEY, data BLOB NOT NULL) STRICT;
    """,
    # who vouches for what was taken back
    """
    ALTER TABLE trust ADD COLUMN seal TEXT NOT NULL DEFAULT '';
    """,
)

# What may be in the table of files on their way: the names of upydev, and those of a ROOT CA that is to come
_FILE_NAME = re.compile(
    r"(NEXT_)?(ROOT_CA_(key|cert|crl)|UPDATE_(key|cert)|HOST_(key|cert)@[^/\\]+|SSL_(key|certificate)[0-9a-f]+)\.(pem|der)"
)
_BESIDE = re.compile(r"\.(.+)\.new")
_BINARY = getattr(os, "O_BINARY", 0)


def now() -> str:
    return datetime.now(UTC).replace(microsecond=0).isoformat()


class Record:
    """The record of a key folder. Reading one that is not there finds it empty, and makes nothing."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.path = folder / NAME

    @contextlib.contextmanager
    def change(self) -> Iterator[sqlite3.Connection]:
        """A transaction with the write lock from its beginning: what is read in it is what is changed. Rolled back when
        the block raises. Raises KeyFileError."""
        with self._errors():
            make_folder(self.folder)
            with contextlib.closing(self._open()) as db:
                with _writing(db):
                    self._clean(db)
                    yield db

    @contextlib.contextmanager
    def view(self) -> Iterator[sqlite3.Connection]:
        """A connection to read from; nothing that is changed through it stays. Raises KeyFileError."""
        with self._errors(), _TURN:
            if self.path.exists() or any((self.folder / n).exists() for n in _OLD):
                db = self._open()
            else:
                db = sqlite3.connect(":memory:", isolation_level=None)
                db.row_factory = sqlite3.Row
                for script in _MIGRATIONS:
                    db.executescript(script)
            with contextlib.closing(db):
                db.execute("BEGIN")
                yield db

    def write_files(self, files: dict[str, bytes], force: bool) -> None:
        """All of these files of the folder as one, also for other processes and after a loss of power; none of them
        when one cannot be written. Raises KeyFileError."""
        for name in files:
            if not _FILE_NAME.fullmatch(name):
                raise ValueError(name)
        with self._errors():
            make_folder(self.folder)
            with contextlib.closing(self._open()) as db:
                with _writing(db):
                    if not force and (present := [n for n in files if (self.folder / n).exists()]):
                        raise exists(present, self.folder)
                    self._finish(db)
                    self._clean(db)
                    self._refuse_links(files)
                    # Beside their names first: a full disk shows before anything is decided
                    self._stage(files)
                    db.executemany("INSERT INTO files VALUES(?, ?)", files.items())
                # From here on they are the new ones: whoever takes the lock next puts them into place
                with _writing(db):
                    self._finish(db)

    def recover(self) -> None:
        """Ends what a loss of power cut off. Called before key files are read."""
        if not self.path.exists():
            return
        with self.view() as db:
            left = db.execute("SELECT 1 FROM files").fetchone()
        if left:
            with self._errors(), contextlib.closing(self._open()) as db, _writing(db):
                self._finish(db)

    def _finish(self, db: sqlite3.Connection) -> None:
        """Puts the files on their way into place."""
        files: dict[str, bytes] = dict(db.execute("SELECT name, data FROM files").fetchall())
        for name in files:
            if not _FILE_NAME.fullmatch(name):
                raise KeyFileError(f"{self.path} names {name!r}, which is no key file; it was not made by wssctl.")
        if not files:
            return
        self._refuse_links(files)
        self._stage({n: data for n, data in files.items() if not _holds(self._beside(n), data)})
        for name in files:
            os.replace(self._beside(name), self.folder / name)
        sync_folder(self.folder)
        db.execute("DELETE FROM files")

    def _beside(self, name: str) -> Path:
        return self.folder / f".{name}.new"

    def _stage(self, files: dict[str, bytes]) -> None:
        """Each beside its name, synced, 0600; none of them when one fails. For whoever has the lock. Raises OSError."""
        made: list[Path] = []
        with _all_or_none(made):
            for name, data in files.items():
                _refuse_no_file(self.folder / name)
                beside = self._beside(name)
                beside.unlink(missing_ok=True)  # a link there is not followed
                made.append(beside)
                _write(os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY | _BINARY, 0o600), data)

    def _clean(self, db: sqlite3.Connection) -> None:
        """Deletes what somebody who was killed left beside the names of key files. For whoever has the lock."""
        hidden = [n for n in os.listdir(self.folder) if n[0] == "."]
        left = [n for n in hidden if (name := _BESIDE.fullmatch(n)) and _FILE_NAME.fullmatch(name[1])]
        if left and not db.execute("SELECT 1 FROM files").fetchone():  # else they are what is to be put into place
            for n in left:
                (self.folder / n).unlink(missing_ok=True)

    def _refuse_links(self, files: Iterable[str]) -> None:
        """A folder that came from elsewhere may have links in it, and what is written would go where they lead."""
        for path in (self.folder / name for name in files):
            if path.is_symlink():
                raise KeyFileError(
                    f"{path} is a link, and no key is written to where it leads: put the file itself there, or name "
                    "the folder where it is with --keys. Nothing was changed."
                )

    def _open(self) -> sqlite3.Connection:
        private(self.folder)
        if not self.path.exists():
            # 0600 from its first moment on, whatever the umask; sqlite gives its journal the same mode
            with contextlib.suppress(FileExistsError):
                os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_NOFOLLOW", 0), 0o600))
        private(self.path)
        self._look_at_journal()
        db = sqlite3.connect(self.path, timeout=_PATIENCE, isolation_level=None)
        try:
            with _TURN:
                self._set_up(db)
        except BaseException:
            db.close()
            raise
        return db

    def _set_up(self, db: sqlite3.Connection) -> None:
        db.row_factory = sqlite3.Row
        db.execute("PRAGMA trusted_schema = OFF")  # the file may have been anybody's
        if db.execute("SELECT 1 FROM sqlite_schema WHERE type IN ('trigger', 'view')").fetchone():
            raise KeyFileError(f"{self.path} has rules in it that wssctl did not make; restore it from a backup.")
        db.execute("PRAGMA foreign_keys = ON")
        db.execute("PRAGMA secure_delete = ON")  # secrets that are forgotten are overwritten
        db.execute("PRAGMA synchronous = EXTRA")  # the journal's end is on the disk, too, when a commit returns
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > len(_MIGRATIONS):
            raise KeyFileError(f"{self.path} was written by a newer wssctl; update this one.")
        if version < len(_MIGRATIONS) or any((self.folder / n).exists() for n in _OLD):
            self._migrate(db)

    def _look_at_journal(self) -> None:
        """What a process that was killed left beside the record is rolled back by SQLite. Of several databases that
        change as one it names a file, which SQLite then deletes: ours is alone and never has one."""
        journal = self.path.with_name(NAME + "-journal")
        with contextlib.suppress(FileNotFoundError):
            with open(journal, "rb", opener=lambda p, flags: os.open(p, flags | getattr(os, "O_NONBLOCK", 0))) as f:
                size = f.seek(0, os.SEEK_END)
                f.seek(max(0, size - len(_JOURNAL_END)))
                ends = f.read() == _JOURNAL_END
            if ends or journal.is_symlink():
                raise KeyFileError(f"{journal} was not made by wssctl; restore {NAME} and it from a backup.")

    def _migrate(self, db: sqlite3.Connection) -> None:
        with _writing(db):  # two may have come here: the second finds it done
            version = db.execute("PRAGMA user_version").fetchone()[0]
            for script in _MIGRATIONS[version:]:
                for statement in script.split(";\n"):
                    db.execute(statement)
            db.execute(f"PRAGMA application_id = {_APPLICATION}")
            db.execute(f"PRAGMA user_version = {len(_MIGRATIONS)}")
            taken = _take_over(db, self.folder)
        for path in taken:  # renamed, not deleted: somebody may want to look
            with contextlib.suppress(OSError):
                path.rename(path.with_name(path.name + ".old"))

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as e:
            if "locked" in str(e) or "busy" in str(e):
                text = f"{self.path} has been busy for {_PATIENCE:g} s: another wssctl hangs; end it and try again."
            elif "readonly" in str(e) or "full" in str(e) or "unable to open" in str(e) or "disk I/O" in str(e):
                text = f"Cannot write to {self.path} ({e}); nothing was changed there."
            else:
                text = f"Cannot read {self.path} ({e}); restore it from a backup, or move it away to begin anew."
            raise KeyFileError(text) from None
        except OSError as e:
            where = e.filename or self.folder
            raise KeyFileError(f"Cannot write to {where} ({e.strerror}); nothing was changed there.") from None


class Together(Generic[_Item]):
    """What threads have to write while one of them writes, the next of them writes in one transaction: with many
    boards, each would wait for the disk once for every other. `write(items)` makes it, in the order of their add()."""

    def __init__(self, write: Callable[[list[_Item]], None]):
        self._write = write
        self._waiting: deque[_Item] = deque()
        self._one_writes = threading.Lock()

    def add(self, item: _Item) -> None:
        """When it returns, item is written. Raises what write() raises."""
        self._waiting.append(item)
        with self._one_writes:
            batch = [self._waiting.popleft() for _ in range(len(self._waiting))]
            if not batch:  # another thread has written it
                return
            try:
                self._write(batch)
            except BaseException:
                self._waiting.extend(batch)  # whoever waits for its own among them is to know of the failure, too
                raise


@contextlib.contextmanager
def _writing(db: sqlite3.Connection) -> Iterator[None]:
    """A transaction that has the write lock from its beginning, so that it never meets another one half-way."""
    with _TURN:
        db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            db.rollback()
            raise
        db.commit()


# What earlier versions kept in files of their own
_OLD = ("devices.json", "remembered.json", "rotation.json", "wss_trust.txt")
_LISTED = re.compile(r"(revoked|pinned)\s+([0-9a-fA-F]{1,64})\s*(?:#\s*(.*))?")


def _take_over(db: sqlite3.Connection, folder: Path) -> list[Path]:
    """Takes in what the files of earlier versions hold and the record does not; returns those files. Raises
    KeyFileError for one that cannot be read: what it says would be lost."""
    from . import trustlist

    taken = []
    for name in _OLD:
        path = folder / name
        if not path.exists():
            continue
        try:
            if not path.is_file():
                raise ValueError("it is no file")  # a pipe would be waited for
            text = path.read_text(encoding="utf-8")
            if name == "devices.json":
                for board, row in json.loads(text)["devices"].items():
                    known = ("uid", "host", "port", "serial", "not_after", "last_seen")
                    values = {k: row[k] for k in known if k in row} | {"name": board}
                    values.setdefault("port", 8833)
                    marks = ", ".join(":" + k for k in values)
                    db.execute(f"INSERT OR IGNORE INTO boards({', '.join(values)}) VALUES({marks})", values)
                    groups = [(board, g) for g in row.get("groups", [])]
                    db.executemany("INSERT OR IGNORE INTO groups VALUES(?, ?)", groups)
            elif name == "remembered.json":
                db.executemany("INSERT OR IGNORE INTO secrets VALUES(?, ?)", json.loads(text).items())
            elif name == "rotation.json":
                state = json.loads(text)
                state["step"], state["done"], state["old"]
                db.execute("INSERT OR IGNORE INTO state VALUES('rotation', ?)", (text,))
            else:
                for line in text.splitlines():
                    if entry := _LISTED.fullmatch(line.strip()):
                        verb, number, words = entry[1], trustlist.number(entry[2]), trustlist.words(entry[3] or "")
                        # Pins were sent to all boards alike, and nobody knows whom they were meant for: they stay
                        # where they are, and each board's list tells them.
                        if verb == "revoked":
                            row = (verb, number, words)
                            db.execute("INSERT OR IGNORE INTO trust VALUES('', ?, ?, 1, 0, ?, '')", row)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, sqlite3.Error) as e:
            raise KeyFileError(f"Cannot read {path} ({e}); repair it, or move it away.") from None
        taken.append(path)
    return taken


# Files


def private(path: Path) -> None:
    """Refuses what others can change. Raises KeyFileError."""
    if not hasattr(os, "geteuid"):  # Windows
        return
    try:
        info = os.lstat(path) if path.name == NAME else os.stat(path)
    except FileNotFoundError:
        return
    if stat.S_ISLNK(info.st_mode) or not (stat.S_ISREG(info.st_mode) or stat.S_ISDIR(info.st_mode)):
        raise KeyFileError(f"{path} is no file of wssctl's own; it was put there by somebody else.")
    if info.st_uid not in (os.geteuid(), 0):
        raise KeyFileError(f"{path} is another user's, who could change whom your boards trust; take one of your own.")
    if info.st_mode & 0o022:
        raise KeyFileError(
            f"{path} can be written to by others (mode {stat.S_IMODE(info.st_mode):04o}), who could change whom your "
            f"boards trust: `chmod go-w {path}`, and look whether it is as you left it."
        )


def make_folder(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def exists(present: list[str], folder: Path) -> KeyFileError:
    one = len(present) == 1
    return KeyFileError(
        f"{', '.join(present)} exist{'s' if one else ''} in {folder} already and {'is' if one else 'are'} left alone; "
        "--force makes new ones."
    )


def stage(files: dict[Path, bytes]) -> list[tuple[Path, Path]]:
    """Each beside its name, synced, 0600: (temporary, name). None of them is left when one fails. Raises OSError."""
    import tempfile

    made: list[Path] = []
    names: list[Path] = []
    with _all_or_none(made):
        for path, data in files.items():
            path = Path(os.path.realpath(path))  # a symbolic link stays one
            _refuse_no_file(path)
            make_folder(path.parent)
            fd, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # 0600 by mkstemp's contract
            made.append(Path(temporary))
            names.append(path)
            _write(fd, data)
    return list(zip(made, names, strict=True))


@contextlib.contextmanager
def _all_or_none(made: list[Path]) -> Iterator[None]:
    """Deletes the files of `made` when the block raises."""
    try:
        yield
    except BaseException:
        for path in made:
            path.unlink(missing_ok=True)
        raise


def _refuse_no_file(path: Path) -> None:
    if path.exists() and not path.is_file():
        raise KeyFileError(f"{path} is no file, and stays; name a file.")


def _write(fd: int, data: bytes) -> None:
    """All of it, to the disk; closes fd."""
    with os.fdopen(fd, "wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())


def _holds(path: Path, data: bytes) -> bool:
    """Whether a file has these contents, for its owner alone, and on the disk."""
    try:
        info = os.lstat(path)
        if not stat.S_ISREG(info.st_mode) or info.st_mode & 0o077:
            return False
        with open(path, "rb") as f:
            if f.read() != data:
                return False
            os.fsync(f.fileno())
            return True
    except OSError:
        return False


def sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # Windows cannot open folders; there the rename is already durable enough
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def rows(cursor: sqlite3.Cursor) -> list[dict[str, Any]]:
    return [dict(row) for row in cursor]
