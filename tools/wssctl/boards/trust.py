"""Whom boards let in: what this host wants, what each board has, and how the two become one on the board.

What a board has is read first and merged (keys/trustlist.py), so that nothing another host did is lost. The new list is
written beside the old one; the board itself says whom it would let in by it; it is renamed; the board says so again;
and a new login has to succeed under it. If it does not, the old list is put back over the session that is still open.
"""

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping

from cryptography import x509
from cryptography.x509.oid import NameOID

from ..errors import BoardError, ConnectionLost, LoginError, TrustError, Unreachable, UsageError, WssctlError
from ..keys import ca, hosts, trustlist
from ..keys.hosts import Who, known
from ..keys.record import Record, now
from ..keys.store import Store
from ..keys.trustlist import Entry, List
from ..text import say
from ..wire.client import Client
from ..wire.link import Credentials
from ..wire.remote import Remote
from .registry import Board

FILE = "wss_trust.txt"  # in the root of a board
KIND = "trust"  # in the tables of what boards hold and want

# An older wss_repl has no place(): it looks in the folder in which it was started, which is the root but for programs
# that go elsewhere first. Whether the board found the list, it says itself.
_PLACE = "from wss import trust\np = getattr(trust, 'place', lambda: '/wss_trust.txt')()\n"
# A serial that is not known is "-", which none is: the serial 0 is "" on a board.
_ASK = "'\\n'.join(str(trust.listed(s, f, {name})) for s, f in {who!r})"
_RENAME = "from wss.files import replace\nreplace(p + '.new', p)\n"


# What this host wants


def digest(list_: List) -> str:
    return hashlib.sha256(trustlist.render(list_.values())).hexdigest() if list_ else ""


def pending(db: sqlite3.Connection, shown: Mapping[str, bytes | None]) -> set[str]:
    """The boards that lack something of what is wanted, as far as is known here. shown: by name, the certificate (DER)
    that a board shows now, if it is asked now; with another one than before it is another board, or one that somebody
    has set up anew."""
    names = json.dumps(list(shown))
    those = "board IN (SELECT value FROM json_each(?))"  # by the index, for one as for thousands
    pins = db.execute(f"SELECT DISTINCT board FROM trust WHERE verb = 'pinned' AND {those}", (names,))
    pinned = {row["board"] for row in pins}
    rows = db.execute(f"SELECT board, value FROM held WHERE kind = ? AND {those}", (KIND, names))
    held = {row["board"]: row["value"] for row in rows}
    of_all = digest(trustlist.entries(db, ""))

    def waits(board: str, certificate: bytes | None) -> bool:
        entries = trustlist.entries(db, board) if board in pinned else {}
        wanted = digest(entries) if entries else of_all
        has, _, whose = held.get(board, "").partition(" ")
        if wanted != has or any(map(_to_seal, entries.values())):
            return True
        return bool(has and certificate and whose != hashlib.sha256(certificate).hexdigest())

    return {board for board, certificate in shown.items() if waits(board, certificate)}


def note_held(record: Record, board: str, list_: List, theirs: List, certificate: bytes | None) -> None:
    """The board has `list_`, of which it told `theirs` itself."""
    whose = hashlib.sha256(certificate).hexdigest() if certificate else ""
    with record.change() as db:
        left = trustlist.learn(db, board, list_, {k for k, e in list_.items() if theirs.get(k) == e})
        # What another process has added meanwhile is not on the board, and what was left is not wanted there
        kept = {k: e for k, e in list_.items() if e not in left}
        value = f"{digest(kept)} {whose}" if kept else ""
        db.execute("INSERT OR REPLACE INTO held VALUES(?, ?, ?, ?)", (board, KIND, value, now()))
    if left:
        say(
            f"NOTE: {board}'s list has {len(left)} more certificates that nobody here knows. They stay in it and are "
            "not told to other boards; `wssctl ca import` of who revoked them tells all. Did somebody write them there?"
        )


def _to_seal(e: Entry) -> bool:
    """A pin that was taken back here, for which this host has not vouched: that is done where the board is known."""
    return e.undone and e.verb == "pinned" and not e.seal


def identity(certificate: bytes | None) -> str:
    """Which board it is, whatever hosts call it: the id in its certificate (DER), which a renewed one has, too."""
    if not certificate:
        return ""
    subject = ca.load_cert(certificate, "board's certificate").subject
    ids = [str(a.value).lower() for a in subject.get_attributes_for_oid(NameOID.USER_ID)]
    return ids[0] if ids else subject.rfc4514_string()


def believed(store: Store, theirs: List, board: str, certificate: bytes | None) -> List:
    """A board's list without what takes back a revocation or a pin and no host vouches for, and without what would turn
    away everybody, everywhere. certificate: the board's (DER)."""
    which = identity(certificate)
    authorities = x509.load_pem_x509_certificates(store.read(store.find_ca_cert()))
    with store.record.view() as db:
        mine = trustlist.entries(db, board)
    standing = trustlist.merge({k: e for k, e in theirs.items() if not e.undone}, mine)
    roots = hosts.all_of(store, store.find_ca_cert())
    pins_known = any(e.verb == "pinned" and not e.undone for e in mine.values())
    found = {}
    for key, e in theirs.items():
        who = e.words or e.number[:16]
        if e.verb == "revoked" and e.number in roots:
            say(f"NOTE: {board}'s list says that the ROOT CA itself is revoked, which is left out.")
        elif e.undone and mine.get(key) != e and not trustlist.vouched(e, authorities, standing, which):
            if key in standing:
                say(f"NOTE: {board}'s list takes back that {who} is {e.verb}, which no host vouches for; it stays so.")
        else:
            found[key] = e
            if pins_known and e.verb == "pinned" and not e.undone and key not in mine:
                say(
                    f"NOTE: {board}'s list also pins {who}, which was not done here. If it was done by nobody: "
                    f"`wssctl host pin {e.number} {board} --undo`."
                )
    return found


# On a board


@contextlib.contextmanager
def on_the_way() -> Iterator[None]:
    """For a list that comes along with something else: what is against the list is not against that."""
    try:
        yield
    except (BoardError, UsageError) as e:
        e.passes = True
        raise


def settle(
    store: Store,
    board: Board,
    client: Client,
    login: Callable[[], Client],
    credentials: Credentials,
    pin_too: Who | None = None,
    want: Callable[[List], List] | None = None,
) -> Client:
    """Makes the list on the board and the record here one, over an open session, and proves it by `login()`, a new
    session that takes over from this one. Returns the session to go on with.

    credentials: this host's, who vouches by them for the pins that it took back. pin_too: a certificate to be pinned
    wherever somebody is. want: of the list as it would be, the entries that a command changes in it: they count,
    whatever the board has, and it is asked about them. Raises BoardError when the board does not take the list (its old
    one is in force then), UsageError when this host would lock itself out.
    """
    remote = Remote(client)
    name = remote.ask("p", "say where its trust list is", _PLACE)
    before = client.get_if_there(name)
    there = trustlist.parse(before) if before else {}
    me, shown = hosts.of(store.read(credentials.cert)), client.link.certificate
    theirs = believed(store, there, board.name, shown)
    merged = sealed(plan(store.record, board.name, theirs, me, pin_too, want), store, credentials, shown)
    text = trustlist.render(merged.values()) if merged else b""
    asked = [e for e in want(merged).values() if e.number][:16] if want else []
    if text == (before or b""):
        _expect(client, merged, [me, *(known(store, e.number) for e in asked)], "None", board)
        note_held(store.record, board.name, merged, theirs, shown)
        return client
    different = [e for e in merged.values() if there.get(e.key) != e and e.number]
    who = [me, *(known(store, e.number) for e in dict.fromkeys([*asked, *different[:16]]))]
    client.put(text, name + ".new")
    _expect(client, merged, who, "p + '.new'", board)
    try:
        remote.run(_PLACE + _RENAME, "replace its trust list")
    except BoardError as e:
        raise BoardError(f"{str(e).rstrip('.')}; the old one is in force.") from None
    try:
        _expect(client, merged, who, "None", board)
        proved = login()
    except (WssctlError, OSError) as e:
        _put_back(client, name, before, board)
        raise BoardError(
            f"{board.name} did not let this host in under the new list ({e}) The old one is back."
        ) from None
    note_held(store.record, board.name, merged, theirs, proved.link.certificate)
    return proved


def sealed(merged: List, store: Store, credentials: Credentials, certificate: bytes | None) -> List:
    """The list with this host's word for the pins that it took back on the board that shows this certificate (DER)."""
    if not any(map(_to_seal, merged.values())):
        return merged
    secret = credentials.passphrase
    passphrase = secret() if callable(secret) else secret
    key = ca.load_key(store.read(credentials.key), passphrase, "HOST key")
    cert = ca.load_cert(store.read(credentials.cert), "HOST certificate")
    which = identity(certificate)
    return {k: trustlist.sealed(e, key, cert, which) if _to_seal(e) else e for k, e in merged.items()}


def plan(
    record: Record,
    board: str,
    theirs: List,
    me: Who,
    pin_too: Who | None = None,
    want: Callable[[List], List] | None = None,
) -> List:
    """What a board that has `theirs` is to have. Raises UsageError when it would turn `me` away."""
    with record.view() as db:
        merged = trustlist.merge(theirs, trustlist.entries(db, board))
    if pin_too and any(e.verb == "pinned" and not e.undone for e in merged.values()):
        e = trustlist.changed(merged, "pinned", pin_too.number, pin_too.name, undo=False)
        merged[e.key] = e
    if want:
        merged |= want(merged)
    if not trustlist.lets_in(merged, me.serial, me.fingerprint):
        raise UsageError(
            f"That would turn away this very host on {board}, which could not undo it; do it from another host, or pin "
            "this one first."
        )
    return merged


def _expect(client: Client, merged: List, who: list[Who], name: str, board: Board) -> None:
    """The board's own answer about each certificate has to be ours."""
    code = _ASK.format(who=[(w.serial or "-", w.fingerprint) for w in who], name=name)
    try:
        said = Remote(client).ask(code, "take the trust list", _PLACE)
    except BoardError as e:
        raise BoardError(f"{str(e).rstrip('.')}; the old one is in force.") from None
    if said.splitlines() != [str(trustlist.verdict(merged, w.serial, w.fingerprint)) for w in who]:
        raise BoardError(f"{board.name} reads the list in another way than it was meant; the old one is in force.")


def _put_back(client: Client, name: str, before: bytes | None, board: Board) -> None:
    try:
        if before is None:
            Remote(client).remove(name)
        else:
            client.put(before, name)
    except (Unreachable, ConnectionLost, LoginError, TrustError, BoardError) as e:
        raise BoardError(
            f"{board.name} did not let this host in under the new list, and the old one could not be put back ({e}) "
            "`wssctl setup` on its cable mends it."
        ) from None
