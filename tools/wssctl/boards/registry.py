"""The boards this user knows, by name and group, in the record beside the keys."""

import contextlib
import re
import sqlite3
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from ..errors import KeyFileError, UsageError
from ..keys.record import NAME, Together, now, private
from ..keys.store import Store
from ..wire.link import WSS_PORT

WARNING_DAYS = 30  # before a certificate's end


class Board(NamedTuple):
    name: str
    uid: str = ""
    host: str = ""
    port: int = WSS_PORT
    groups: tuple[str, ...] = ()
    serial: str = ""
    not_after: str = ""  # ISO 8601
    last_seen: str = ""

    @property
    def url(self) -> str:
        return f"wss://[{self.host}]:{self.port}" if ":" in self.host else f"wss://{self.host}:{self.port}"

    def days_left(self, now: datetime | None = None) -> int | None:
        if not self.not_after:
            return None
        return (datetime.fromisoformat(self.not_after) - (now or datetime.now(UTC))).days


class Registry:
    """The boards in the record of a key folder (keys/record.py)."""

    def __init__(self, store: Store):
        self.record = store.record
        self._seen = Together(self._write_seen)  # when, and name

    def load(self) -> dict[str, Board]:
        with self.record.view() as db:
            return _boards(db)

    def name_of(self, uid: str) -> str | None:
        return next((d.name for d in self.load().values() if uid and d.uid == uid), None)

    def addresses(self, name: str | None) -> list[str]:
        """The IP address a board was reached at, if it was one."""
        board = self.load().get(name or "")
        return [board.host] if board and re.fullmatch(r"[0-9.]+|[0-9a-f:]+", board.host) else []

    def port(self, name: str | None) -> int:
        """Where a board listens, as far as is known."""
        board = self.load().get(name or "")
        return board.port if board else WSS_PORT

    def update(
        self,
        name: str,
        *,
        cert: bytes | None = None,
        groups: list[str] | None = None,
        seen: bool = True,
        uid: str = "",
        **changes: str | int,
    ) -> Board:
        """Adds or changes one; raises UsageError for a name that could be taken for something else."""
        check_name(name)
        if uid:
            changes["uid"] = uid
        if cert is not None:
            from ..keys import ca

            report = ca.report(cert, "device")
            changes |= {"serial": report.serial, "not_after": report.not_after.isoformat()}
        if seen:
            changes["last_seen"] = now()
        with self.record.change() as db:
            if uid:
                _refuse_taken(_boards(db, name).get(name), uid)
                # a board that has another name now: what belongs to the old one goes along
                other = db.execute("SELECT name FROM boards WHERE uid = ? AND name != ?", (uid, name)).fetchone()
                if other:
                    db.execute("DELETE FROM boards WHERE name = ?", (name,))
                    rename(db, other["name"], name)
            db.execute("INSERT OR IGNORE INTO boards(name, port) VALUES(?, ?)", (name, WSS_PORT))
            for column, value in changes.items():
                if column not in _COLUMNS:
                    raise ValueError(column)
                db.execute(f"UPDATE boards SET {column} = ? WHERE name = ?", (value, name))
            for group in groups or []:
                db.execute("INSERT OR IGNORE INTO groups VALUES(?, ?)", (name, check_name(group.removeprefix("@"))))
            return _boards(db, name)[name]

    def seen(self, name: str) -> None:
        """A board was there just now."""
        self._seen.add((now(), name))

    def _write_seen(self, batch: list[tuple[str, str]]) -> None:
        with self.record.change() as db:
            db.executemany("UPDATE boards SET last_seen = ? WHERE name = ?", batch)

    def forget(self, name: str) -> None:
        """The board, and all that is known of it but its key files."""
        with self.record.change() as db:
            db.execute("DELETE FROM boards WHERE name = ?", (name,))
            for table in ("held", "wanted", "trust"):
                db.execute(f"DELETE FROM {table} WHERE board = ?", (name,))

    def refuse_taken(self, name: str, uid: str) -> None:
        _refuse_taken(self.load().get(name), uid)

    def find(self, text: str) -> Board | None:
        """The board of that name, `upydev`'s way too (shl@name). None for what is an address."""
        if "://" in text:
            return None
        with self.record.view() as db:
            return _boards(db, text).get(text)

    def select(self, words: list[str]) -> list[Board]:
        """Boards by name and @group, all of them for @all and for no words. Raises UsageError for an unknown one."""
        boards = self.load()
        found = {} if words else dict(boards)
        for word in words:
            if word == "@all":
                found |= boards
            elif word.startswith("@"):
                members = {n: d for n, d in boards.items() if word[1:] in d.groups}
                if not members:
                    raise UsageError(f"There is no group {word}; `wssctl boards` lists what there is.")
                found |= members
            elif word in boards:
                found[word] = boards[word]
            else:
                raise UsageError(f"There is no board {word!r}; `wssctl boards` lists them, `boards add` adds one.")
        return list(found.values())


_COLUMNS = ("uid", "host", "port", "serial", "not_after", "last_seen")


def _boards(db: sqlite3.Connection, name: str | None = None) -> dict[str, Board]:
    """By name; only the one of this name, if it is given."""
    groups: dict[str, list[str]] = {}
    for row in db.execute("SELECT board, name FROM groups WHERE ?1 IS NULL OR board = ?1 ORDER BY name", (name,)):
        groups.setdefault(row["board"], []).append(row["name"])
    rows = map(dict, db.execute("SELECT * FROM boards WHERE ?1 IS NULL OR name = ?1 ORDER BY name", (name,)))
    return {row["name"]: Board(**row, groups=tuple(groups.get(row["name"], ()))) for row in rows}


def _refuse_taken(other: Board | None, uid: str) -> None:
    if other and other.uid not in ("", uid):
        raise UsageError(
            f"{other.name} is already the name of board {other.uid}; take another with --name, or forget the "
            f"old one with `wssctl boards forget {other.name}`."
        )


def rename(db: sqlite3.Connection, old: str, new: str) -> None:
    db.execute("UPDATE boards SET name = ? WHERE name = ?", (new, old))
    for table in ("held", "wanted", "trust"):
        db.execute(f"UPDATE OR REPLACE {table} SET board = ? WHERE board = ?", (new, old))


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


def check_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no name for a board: take letters, digits, '-', '_' and dots.")
    return name


def known_names(folder: Path) -> tuple[list[str], list[str]]:
    """(names of boards, names of groups) in the record of a key folder, for completion: nothing is made, finished or
    changed, and what cannot be read is empty."""
    record = folder / NAME
    try:
        private(record)
        with contextlib.closing(sqlite3.connect(f"{record.absolute().as_uri()}?mode=ro", uri=True, timeout=0.2)) as db:
            boards = [row[0] for row in db.execute("SELECT name FROM boards ORDER BY name")]
            groups = [row[0] for row in db.execute("SELECT DISTINCT name FROM groups ORDER BY name")]
    except (sqlite3.Error, OSError, KeyFileError):
        return [], []
    return [n for n in boards if _NAME.fullmatch(n)], [n for n in groups if _NAME.fullmatch(n)]


def server_name(store: Store, board: Board) -> str | None:
    """The name to expect in its certificate: its own, so that it may change its address, and so that another board that
    comes to have that address is not taken for it. Where its certificate lies here and has another name, that one."""
    path = store.folder / f"SSL_certificate{board.uid}.pem"
    if not board.uid or not path.exists():
        return board.name
    from ..keys import ca

    names = ca.report(store.read(path), "device").names
    hosts = [n for n in names if "://" not in n and not re.fullmatch(r"[0-9.]+|[0-9a-f:]*:[0-9a-f:.]*", n)]
    return board.name if board.name in names else hosts[0] if hosts else None


def warn(board: Board) -> None:
    left = board.days_left()
    if left is not None and left < WARNING_DAYS:
        when = f"has expired ({board.not_after[:10]})" if left < 0 else f"expires in {left} days"
        print(f"NOTE: the certificate of {board.name} {when}; `wssctl boards renew {board.name}`.", file=sys.stderr)
