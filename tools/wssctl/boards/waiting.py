"""What waits for boards that were off: a new password, a new certificate, another bundle.

It is recorded before a board is contacted and taken out when the board has proved it. The trust list, which every
contact brings along, has a record of its own (trust.py); these are brought by `wssctl boards apply` alone, because each
restarts the board's program, and nobody who asks for a board's status expects that.
"""

import json
import sqlite3
from collections.abc import Callable, Iterable
from typing import Any

from ..errors import BoardError, KeyFileError, UsageError, WssctlError
from ..keys.record import Record, now
from . import trust

PASSWORD, CERTIFICATE, BUNDLE = "password", "certificate", "bundle"
# What does not go away when the board is reached another time, unless the error says that it passes
_FINAL = (BoardError, KeyFileError, UsageError)


def is_final(e: WssctlError) -> bool:
    """Whether what waits is given up after this error, because the board would say the same the next time."""
    return isinstance(e, _FINAL) and not e.passes


def add(record: Record, boards: Iterable[str], kind: str, how: dict[str, Any] | None = None) -> None:
    """how: what has to be known to bring it; JSON."""
    rows = [(name, kind, json.dumps(how or {}), now()) for name in boards]
    with record.change() as db:
        db.executemany("INSERT OR REPLACE INTO wanted VALUES(?, ?, ?, ?)", rows)


def remove(record: Record, board: str, kind: str, uid: str = "") -> None:
    """uid: of a board that may have got another name meanwhile."""
    with record.change() as db:
        db.execute(
            "DELETE FROM wanted WHERE kind = ? AND (board = ? OR "
            "board IN (SELECT name FROM boards WHERE uid = ? AND uid != ''))",
            (kind, board, uid),
        )


def pending(record: Record, board: str) -> dict[str, dict[str, Any]]:
    """What waits for it, and how it is brought, by kind."""
    with record.view() as db:
        found = db.execute("SELECT kind, value FROM wanted WHERE board = ?", (board,)).fetchall()
    return {row["kind"]: json.loads(row["value"]) for row in found}


def bring(record: Record, board: str, kind: str, work: Callable[[], str]) -> str:
    """Does it. It goes on waiting when the board could not be reached, its session broke, or what was in the way
    passes, and not when it cannot be done there."""
    with record.view() as db:
        row = db.execute("SELECT uid FROM boards WHERE name = ?", (board,)).fetchone()
    uid = row["uid"] if row else ""
    try:
        words = work()
    except WssctlError as e:
        if is_final(e):
            remove(record, board, kind, uid)
        raise
    remove(record, board, kind, uid)
    return words


def words(record: Record, boards: Iterable[str]) -> dict[str, list[str]]:
    """For people, by board; those for which nothing waits are left out."""
    names = list(boards)
    found: dict[str, list[str]] = {}
    with record.view() as db:
        for name in trust.pending(db, dict.fromkeys(names)):
            found[name] = ["trust list"]
        for row in db.execute("SELECT board, kind, value FROM wanted ORDER BY kind"):
            version = f" {json.loads(row['value'])['version']}" if row["kind"] == BUNDLE else ""
            found.setdefault(row["board"], []).append(row["kind"] + version)
        if state := _rotation(db):
            over = {*state["done"], *state.get("skip", [])}
            for name in names:
                if name not in over:
                    found.setdefault(name, []).append("ROOT CA")
    return {name: found[name] for name in names if name in found}


def rotation(record: Record) -> dict[str, Any] | None:
    """The change of the ROOT CA that is under way (rotate.py)."""
    with record.view() as db:
        return _rotation(db)


def _rotation(db: sqlite3.Connection) -> dict[str, Any] | None:
    row = db.execute("SELECT value FROM state WHERE what = 'rotation'").fetchone()
    return json.loads(row["value"]) if row else None
