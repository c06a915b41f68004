"""The boards this user knows, by name and group: devices.json beside the keys."""

import json
import re
import sys
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime

from ..errors import KeyFileError, UsageError
from ..keys import ca
from ..keys.remembered import remember
from ..keys.store import Store, write_files

WARNING_DAYS = 30  # before a certificate's end


@dataclass(frozen=True)
class Board:
    name: str
    uid: str = ""
    host: str = ""
    port: int = ca.WSS_PORT
    groups: list[str] = field(default_factory=list)
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
    def __init__(self, store: Store):
        self.path = store.folder / "devices.json"

    def load(self) -> dict[str, Board]:
        if not self.path.exists():
            return {}
        try:
            rows = json.loads(self.path.read_text(encoding="utf-8"))["devices"]
            return {name: Board(name, **row) for name, row in rows.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
            raise KeyFileError(
                f"Cannot read {self.path} ({e}); repair it, or move it away and add the boards anew."
            ) from None

    def save(self, boards: dict[str, Board]) -> None:
        rows = {n: {k: v for k, v in asdict(d).items() if k != "name"} for n, d in sorted(boards.items())}
        write_files({self.path: (json.dumps({"devices": rows}, indent=1) + "\n").encode()}, force=True)

    def name_of(self, uid: str) -> str | None:
        return next((d.name for d in self.load().values() if uid and d.uid == uid), None)

    def addresses(self, name: str | None) -> list[str]:
        """The IP address a board was reached at, if it was one."""
        board = self.load().get(name or "")
        return [board.host] if board and re.fullmatch(r"[0-9.]+|[0-9a-f:]+", board.host) else []

    def port(self, name: str | None) -> int:
        """Where a board listens, as far as is known."""
        board = self.load().get(name or "")
        return board.port if board else ca.WSS_PORT

    def update(
        self, name: str, *, cert: bytes | None = None, groups: list[str] | None = None, seen: bool = True, **changes
    ) -> Board:
        """Adds or changes one; raises UsageError for a name that could be taken for something else."""
        boards = self.load()
        if uid := changes.get("uid"):
            self.refuse_taken(name, uid)
            for other in [n for n, d in boards.items() if d.uid == uid and n != name]:
                boards[name] = replace(boards.pop(other), name=name)
        board = boards.get(name) or Board(check_name(name))
        if cert is not None:
            report = ca.report(cert, "device")
            changes |= {"serial": report.serial, "not_after": report.not_after.isoformat()}
        if groups:
            changes["groups"] = sorted({*board.groups, *map(check_name, (g.removeprefix("@") for g in groups))})
        if seen:
            changes["last_seen"] = datetime.now(UTC).replace(microsecond=0).isoformat()
        boards[name] = replace(board, **changes)
        self.save(boards)
        return boards[name]

    def refuse_taken(self, name: str, uid: str) -> None:
        other = self.load().get(name)
        if other and other.uid not in ("", uid):
            raise UsageError(
                f"{name} is already the name of board {other.uid}; take another with --name, or forget the "
                f"old one with `wssctl boards forget {name}`."
            )

    def find(self, text: str) -> Board | None:
        """The board of that name, `upydev`'s way too (shl@name). None for what is an address."""
        return self.load().get(text) if "://" not in text else None

    def select(self, words: list[str]) -> list[Board]:
        """Boards by name and @group, all of them for no words. Raises UsageError for an unknown one."""
        boards = self.load()
        found = {} if words else dict(boards)
        for word in words:
            if word.startswith("@"):
                members = {n: d for n, d in boards.items() if word[1:] in d.groups}
                if not members:
                    raise UsageError(f"There is no group {word}; `wssctl boards` lists what there is.")
                found |= members
            elif word in boards:
                found[word] = boards[word]
            else:
                raise UsageError(f"There is no board {word!r}; `wssctl boards` lists them, `boards add` adds one.")
        return list(found.values())


def check_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", name):
        raise UsageError(f"{name!r} is no name for a board: take letters, digits, '-', '_' and dots.")
    return name


def server_name(store: Store, board: Board) -> str | None:
    """The name to expect in its certificate: its own, so that it may change its address; None if that is not in it."""
    path = store.folder / f"SSL_certificate{board.uid}.pem"
    if not board.uid or not path.exists():
        return None
    return board.name if board.name in ca.report(store.read(path), "device").names else None


def warn(board: Board) -> None:
    left = board.days_left()
    if left is not None and left < WARNING_DAYS:
        when = f"has expired ({board.not_after[:10]})" if left < 0 else f"expires in {left} days"
        print(f"NOTE: the certificate of {board.name} {when}; `wssctl boards renew {board.name}`.", file=sys.stderr)


# Remembered secrets


# Commands


def list_(args) -> int:
    boards = Registry(Store(args.keys)).select(args.board)
    if not boards:
        print("No boards yet: `wssctl setup PORT` sets one up, `wssctl boards add NAME ADDRESS` adds one that is.")
        return 0
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for head in ("name", "address", "groups", "id", "valid until", "last seen", "serial"):
        table.add_column(head, overflow="fold")
    late = []
    for d in boards:
        left = d.days_left()
        state = "?" if left is None else d.not_after[:10]
        if left is not None and left < WARNING_DAYS:
            state += " EXPIRED" if left < 0 else f" ({left} days)"
            late.append(d.name)
        groups = " ".join("@" + g for g in d.groups)
        address = d.host + ("" if d.port == ca.WSS_PORT else f":{d.port}")
        table.add_row(d.name, address, groups, d.uid, state, d.last_seen[:16].replace("T", " "), d.serial[:8])
    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(table)
    if late:
        print(f"Expiring: {', '.join(late)}. `wssctl boards renew` renews all that are due.")
    return 0


def add(args) -> int:
    from ..wire.link import parse_target

    target = parse_target(args.address)
    store = Store(args.keys)
    changes: dict = {"host": target.host, "port": target.port}
    if args.uid:
        changes["uid"] = args.uid.lower()
        path = store.device_files(changes["uid"])["cert_pem"]
        if path.exists():
            changes["cert"] = store.read(path)
    board = Registry(store).update(args.name, groups=args.group, seen=False, **changes)
    print(f"{board.name} is {board.url}" + "".join(f", @{g}" for g in board.groups))
    return 0


def forget(args) -> int:
    store = Store(args.keys)
    registry = Registry(store)
    boards = registry.load()
    for board in registry.select(args.board):
        del boards[board.name]
        remember(store, f"password:{board.name}", None)
        print(f"Forgot {board.name}; its key files are kept.")
    registry.save(boards)
    return 0
