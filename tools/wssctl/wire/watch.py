"""What a login depends on: the key files, the revocation list, and what the record knows of the board. With another one
of them, a connection that is kept is not what it was (holder.py)."""

import contextlib
import hashlib
from pathlib import Path

from ..errors import WssctlError
from ..keys.record import Record
from .link import Target


class Watch:
    def __init__(self, files: list[Path], target: Target):
        self.target = target
        self.files = [*files, *(f.with_name("ROOT_CA_crl.pem") for f in files[:1])]
        self.record = Record(files[1].parent) if files else None
        self.marks = _marks(self.files)
        self.record_marks, self.rows = self._record_marks(), self._rows()

    def changed(self) -> bool:
        if _marks(self.files) != self.marks:
            return True
        if (marks := self._record_marks()) != self.record_marks:
            if self._rows() != self.rows:  # or it can't be read any more
                return True
            self.record_marks = marks
        return False

    def _record_marks(self) -> list[object]:
        return _marks([self.record.path]) if self.record else []

    def _rows(self) -> list[object]:
        if self.record is None:
            return []
        seen: list[object] = [object()]  # unlike any other, unless all could be read
        with contextlib.suppress(WssctlError), self.record.view() as db:
            rows = db.execute(
                "SELECT name, uid, serial, not_after FROM boards WHERE host = ? AND port = ? ORDER BY name",
                (self.target.host, self.target.port),
            ).fetchall()
            for row in rows:
                seen.append(tuple(row))
                for table in ("trust", "wanted"):
                    found = db.execute(f"SELECT * FROM {table} WHERE board IN ('', ?)", (row["name"],))
                    seen.append(sorted(map(repr, map(tuple, found))))
                secret = db.execute("SELECT secret FROM secrets WHERE what = ?", (f"password:{row['name']}",))
                seen.append(hashlib.sha256(repr([tuple(r) for r in secret]).encode()).digest())
            del seen[0]
        return seen


def _marks(paths: list[Path]) -> list[object]:
    seen: list[object] = []
    for path in paths:
        try:
            info = path.stat()
            seen.append((info.st_mtime_ns, info.st_size, info.st_ino))
        except OSError:
            seen.append(None)
    return seen
