"""`wssctl host list`, `host init`, `host revoke`, `host pin`: who has a key, and whom boards let in."""

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from ..errors import BoardError, UsageError
from ..keys import ask, ca, hosts, trustlist
from ..keys import commands as keys
from ..keys.record import rows
from ..keys.store import Store, host_id
from ..text import say, shown
from .fleet import Fleet
from .registry import Board, Registry


def list_(args: argparse.Namespace) -> int:
    """Every certificate that this CA signed for a host, and what boards are told of it."""
    store = Store(args.keys)
    _take_in(store)
    mine = {hosts.of(store.read(store.host_files(i)[1])).fingerprint for i in store.hosts()}
    with store.record.view() as db:
        found = rows(db.execute("SELECT * FROM hosts ORDER BY name, not_before"))
        listed = rows(db.execute("SELECT * FROM trust WHERE undone = 0 ORDER BY board"))
    if not found:
        print("No host has a key yet: `wssctl host init` makes this one's.")
        return 0
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for head in ("host", "valid until", "state", "serial", "fingerprint"):
        table.add_column(head, overflow="fold")
    now = datetime.now(UTC).isoformat()
    for row in found:
        entries = [e for e in listed if e["number"] and e["number"] in (row["fingerprint"], row["serial"])]
        state = ["REVOKED"] if any(e["verb"] == "revoked" for e in entries) else []
        state += ["expired"] if row["not_after"] < now else []
        pinned = [e["board"] for e in entries if e["verb"] == "pinned"]
        state += [f"pinned on {', '.join(pinned)}"] if pinned else []
        state += ["key is here"] if row["fingerprint"] in mine else []
        words = row["name"], row["not_after"][:10], ", ".join(state), row["serial"], row["fingerprint"][:16]
        table.add_row(*(Text(shown(word)) for word in words))
    known = {n for row in found for n in (row["fingerprint"], row["serial"])}
    for e in listed:
        if e["verb"] == "revoked" and e["number"] not in known:
            serial = "" if len(e["number"]) == 64 else e["number"]
            # Whoever wrote it into a board's list may have made up the name, so that somebody else seems to be revoked
            name = Text(shown(f"? {e['words']}".rstrip()))
            table.add_row(name, "?", "REVOKED; who that is says a list alone", serial, e["number"][:16])
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    return 0


def _take_in(store: Store) -> None:
    """Host certificates that lie in the folder and not in the record: of an earlier version, or upydev's."""
    with store.record.view() as db:
        known = {row["fingerprint"] for row in db.execute("SELECT fingerprint FROM hosts")}
    for identity in store.hosts():
        pem = store.read(store.host_files(identity)[1])
        if hosts.of(pem).fingerprint not in known:
            hosts.issued(store, pem)


def init(args: argparse.Namespace) -> int:
    """A HOST key. Where boards pin the one that it replaces, they pin the new one before it is used."""
    store = Store(args.keys)
    key, cert = store.host_files(host_id(args.user) if args.user else None)
    keys.refuse_present(args, key, cert)
    authority = keys.load_authority(args, store)
    passphrase = ask.new_secret(
        "Passphrase for the new HOST key", args.passphrase_file, "WSSCTL_PASSPHRASE", option="--passphrase-file"
    )
    name = keys.user_at_host(args.user)[:59]
    key_pem, cert_pem = authority.host(name, passphrase, days=keys.days(args, ca.LEAF_DAYS))
    before = None
    if cert.exists():
        old = store.read(cert)
        before = hosts.of(old), ca.load_cert(old, "HOST certificate").not_valid_after_utc
        _pin_first(args, store, before[0], hosts.of(cert_pem), before[1] < datetime.now(UTC))
    store.write({key: key_pem, cert: cert_pem}, args.force)
    hosts.issued(store, cert_pem)
    print(f"Made {cert} and its key, valid until {keys.until(cert_pem, 'host')}.")
    if before and before[1] > datetime.now(UTC):
        print(
            f"The one before it counts until {before[1]:%Y-%m-%d}. If somebody else may have its key: "
            f"`wssctl host revoke {before[0].serial or before[0].fingerprint}`."
        )
    return 0


def _pin_first(args: argparse.Namespace, store: Store, old: hosts.Who, new: hosts.Who, expired: bool) -> None:
    with store.record.view() as db:
        pinned = db.execute(
            "SELECT DISTINCT board FROM trust WHERE verb = 'pinned' AND undone = 0 AND number IN (?, ?)",
            (old.fingerprint, old.serial),
        )
        names = [row["board"] for row in pinned if row["board"]]
    if not (boards := Registry(store).select([])):
        return
    if expired:  # with which nobody gets in to pin another one
        if names:
            say(f"NOTE: {', '.join(names)} pin the certificate that has expired; another host has to pin the new one.")
        return
    args.board = []
    fleet = Fleet(_with_defaults(args))

    beside = pinned_beside(old, new)

    def work(board: Board) -> str:
        fleet.settle(board, fleet.connect(board), want=beside).close()
        with store.record.view() as db:
            pinned = beside(trustlist.entries(db, board.name))
        return "pins the new certificate, too" if pinned else "does not pin the old one"

    # Another host may have pinned this one there, which only the board knows
    done = fleet.each(work, [b for b in boards if b.name in names or fleet.knows_password(b)])
    fleet.must(
        [o for o in done if o.board in names],
        "they pin the present certificate and would turn the new one away, so nothing was made. Reach them first, or "
        "take the pin back (`wssctl host pin HOST BOARD --undo`).",
    )
    asked = {o.board for o in done if not o.code}
    if unknown := [b.name for b in boards if b.name not in asked]:
        which = ", ".join(unknown)
        say(f"NOTE: {which} could not be asked: where another host pinned the old certificate, it has to pin this one.")


def pinned_beside(old: hosts.Who, new: hosts.Who) -> "Change":
    """Where `old` is pinned, `new` is to be, too."""

    def beside(have: trustlist.List) -> trustlist.List:
        pins = [e for e in have.values() if e.verb == "pinned" and not e.undone]
        if not any(e.number in (old.fingerprint, old.serial) for e in pins):
            return {}
        e = trustlist.changed(have, "pinned", new.number, new.name, undo=False)
        return {e.key: e}

    return beside


def _with_defaults(args: argparse.Namespace) -> argparse.Namespace:
    defaults = {"password_file": None, "takeover": False, "timeout": 10.0, "jobs": None, "json": False}
    return argparse.Namespace(**(defaults | vars(args)))


def revoke(args: argparse.Namespace) -> int:
    fleet = Fleet(args)
    who = hosts.which(fleet.store, args.who)
    # With whom a certificate above it is revoked, this host would be, too, and with the ROOT CA's everybody
    mine = hosts.all_of(fleet.store, fleet.store.find_host()[1], fleet.store.find_ca_cert())
    if not args.undo and not mine.isdisjoint(w.number for w in who):
        raise UsageError(
            "That would turn away this very host, which could not undo it; do it from another one. Nothing was changed."
        )
    change = _change(fleet, "revoked", who, args.undo)
    _want(fleet.store, change, [""], f"{who[0].name or who[0].number} is not revoked")
    boards = fleet.registry.select([]) if not args.board else fleet.boards
    return _bring(fleet, boards, "took back" if args.undo else "revoked", who, change)


def pin(args: argparse.Namespace) -> int:
    fleet = Fleet(args)
    who = hosts.which(fleet.store, args.who)
    who = who if args.undo else who[:1]
    me = hosts.of(fleet.store.read(fleet.store.find_host()[1]))
    change = _change(fleet, "pinned", who, args.undo)
    for board in fleet.boards:
        with fleet.store.record.view() as db:
            have = trustlist.entries(db, board.name)
        if not trustlist.lets_in(have | change(have), me.serial, me.fingerprint):
            raise UsageError(
                f"That would turn away this very host on {board.name}, which could not undo it: pin this one first, or "
                "do it from another host. Nothing was changed."
            )
    _want(fleet.store, change, [b.name for b in fleet.boards], f"{who[0].name or who[0].number} is not pinned")
    return _bring(fleet, fleet.boards, "took back" if args.undo else "pinned", who, change)


Change = Callable[[trustlist.List], trustlist.List]  # the entries that a command makes of those there are


def _change(fleet: Fleet, verb: str, who: list[hosts.Who], undo: bool) -> Change:
    if not undo:

        def make(have: trustlist.List) -> trustlist.List:
            return {e.key: e for w in who for e in [trustlist.changed(have, verb, w.number, w.name, False)]}

        return make
    numbers = {n for w in who for n in (w.fingerprint, w.serial) if n}
    key_file, cert_file = fleet.store.find_host()
    cert = ca.load_cert(fleet.store.read(cert_file), "HOST certificate")
    der = cert.public_bytes(ca.DER)
    key = ca.load_key(fleet.store.read(key_file), fleet.passphrase, "HOST key") if verb == "revoked" else None

    def take_back(have: trustlist.List) -> trustlist.List:
        found = {}
        for e in have.values():
            if e.verb == verb and e.number in numbers:  # by whichever number it was listed
                # Nobody needs the name any more, and a board's list is short of room
                new = trustlist.changed(have, verb, e.number, "", True)
                if key and not trustlist.vouches(new, der):
                    # Whoever took it back before may be revoked himself by now, and counts on no other host
                    version = min(new.version + 1, trustlist.LAST) if new is e else new.version
                    new = trustlist.sealed(replace(new, version=version), key, cert)
                elif new is e and e.seal and not trustlist.vouches(e, der):  # a pin: sealed where the board is known
                    new = replace(e, version=min(e.version + 1, trustlist.LAST), seal="")
                found[e.key] = new
        return found

    return take_back


def _want(store: Store, change: Change, boards: list[str], other: str) -> None:
    """Into the record, whole or not at all. Refused there when a board could not hold it, and, in the words `other`,
    when there is nothing to take back."""
    with store.record.change() as db:
        for name in boards:
            have = trustlist.entries(db, name)
            changes = change(have)
            if not changes:
                raise UsageError(f"{other}{' on ' + name if name else ''}.")
            trustlist.render((have | changes).values())  # raises when it is too long
            trustlist.learn(db, name, changes)


def _bring(fleet: Fleet, boards: list[Board], done: str, who: list[hosts.Who], change: Change) -> int:
    name = who[0].name or f"certificate {who[0].number[:16]}"

    def work(board: Board) -> str:
        client = fleet.login(board, fleet.credentials(), over=fleet.args.takeover)
        fleet.settle(board, client, want=change).close()
        fleet.registry.seen(board.name)
        return f"{done} {name}"

    # The first board that is odd stops the rest: what one does not take, the others would not, either
    fleet.must(
        fleet.each(work, boards, halt=(BoardError, UsageError)),
        "it is kept and brought to them when they are next reached, by any command or `wssctl boards apply`.",
    )
    return 0
