"""`wssctl boards`: list, add, forget, revoke."""

import argparse
import sys

from ..errors import KeyFileError
from ..keys import ca
from ..keys.commands import load_authority
from ..keys.remembered import remember
from ..keys.store import Store, check_uid
from ..text import say
from ..wire.link import WSS_PORT, parse_target
from . import waiting
from .registry import WARNING_DAYS, Registry


def list_(args: argparse.Namespace) -> int:
    store = Store(args.keys)
    boards = Registry(store).select(args.board)
    if not boards:
        print("No boards yet: `wssctl setup PORT` sets one up, `wssctl boards add NAME ADDRESS` adds one that is.")
        return 0
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for head in ("name", "address", "groups", "id", "valid until", "last seen", "serial", "waiting"):
        table.add_column(head, overflow="fold")
    late = []
    wait = waiting.words(store.record, [d.name for d in boards])
    for d in boards:
        left = d.days_left()
        state = "?" if left is None else d.not_after[:10]
        if left is not None and left < WARNING_DAYS:
            state += " EXPIRED" if left < 0 else f" ({left} days)"
            late.append(d.name)
        groups = " ".join("@" + g for g in d.groups)
        address = d.host + ("" if d.port == WSS_PORT else f":{d.port}")
        seen = d.last_seen[:16].replace("T", " ")
        waits = ", ".join(wait.get(d.name, []))
        table.add_row(d.name, address, groups, d.uid, state, seen, d.serial[:8], waits)
    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(table)
    if late:
        print(f"Expiring: {', '.join(late)}. `wssctl boards renew` renews all that are due.")
    return 0


def add(args: argparse.Namespace) -> int:
    target = parse_target(args.address)
    store = Store(args.keys)
    uid, cert = (args.uid or "").lower(), None
    if uid and (path := store.device_files(uid)["cert_pem"]).exists():
        cert = store.read(path)
    board = Registry(store).update(
        args.name, groups=args.group, seen=False, host=target.host, port=target.port, uid=uid, cert=cert
    )
    print(f"{board.name} is {board.url}" + "".join(f", @{g}" for g in board.groups))
    return 0


def forget(args: argparse.Namespace) -> int:
    store = Store(args.keys)
    registry = Registry(store)
    for board in registry.select(args.board):
        registry.forget(board.name)
        for what in ("password", "new password"):
            if left := remember(store, f"{what}:{board.name}", None):
                say(
                    f"NOTE: the system's keyring is locked and may still have a {what}: `keyring del wssctl {left}` "
                    "deletes it."
                )
        print(f"Forgot {board.name}; its key files are kept.")
    return 0


def revoke(args: argparse.Namespace) -> int:
    """A board that was lost or opened: hosts refuse it, by a revocation list that the ROOT CA signs (RFC 5280 5)."""
    store = Store(args.keys)
    known = Registry(store).find(args.uid)
    path = store.device_files(known.uid if known else check_uid(args.uid.lower()))["cert_pem"]
    if not path.exists():
        raise KeyFileError(f"There is no {path.name} in {store.folder}; `wssctl keys status` lists all.")
    cert = ca.load_cert(store.read(path), "device certificate")
    authority = load_authority(args, store)
    before = store.read(store.crl) if store.crl.exists() else None
    store.write({store.crl: authority.crl([cert.serial_number], before)}, force=True)
    print(f"Hosts with these keys refuse {args.uid} from now on. Give {store.crl.name} to other hosts too.")
    return 0
