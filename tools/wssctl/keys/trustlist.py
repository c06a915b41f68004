"""Whom boards turn away or let in alone: the list as a board has it (lib/wss/trust.py), and how two lists become one.

Several people manage the same boards, and none of them knows what the others did. So a list is never replaced by
another one. Each entry has a version, which grows whenever somebody makes it or takes it back, and of two lists the
higher version of each entry counts; what was taken back stays in the list as a comment, or a list that does not know
of it yet would bring it in again. With equal versions, revoked counts.

Whoever has a board in his hands writes into its list what he likes. A revocation from there is believed: it fails
towards fewer people. That a revocation or a pin was taken back is believed when a host says so that is not revoked
itself: its signature stands behind the entry, and its certificate once in the list (vouched()). What such a signature
says of a pin it says of one board, or it could be copied into the list of another.

    revoked 5f3a...e1 #2 HOST eve@laptop          since the second change of this entry
    #undone revoked 77b0...04 3                   revoked, and taken back
    #by 1c9e...70 MEUCIQC3...                     by this host: its certificate's fingerprint begins so
    pinned 90ff...3c #1 HOST ana@desk             on this board only those that are pinned are let in
    #host 1c9e...70 MIIBszCCAVmgAwIBAgI...        the certificate of a host that vouches for something
    end
"""

import base64
import hashlib
import re
import sqlite3
from collections.abc import Container, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..errors import KeyFileError

if TYPE_CHECKING:  # a command through a kept connection starts without these
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

MOST = 1000  # entries that a board has to read at each login
LEARNED = MOST // 2  # entries up to which a host learns new ones from boards: nobody fills the list from there
SIZE = 204800  # bytes of a list that a board reads (lib/wss/trust.py)
LAST = 999_999_999  # the highest version
_BY = 120  # characters of a signature or certificate in a line, of which a board reads 160
_WORDS = 40  # characters of a name: a comment for people, bounded because anybody's certificate can end up here
_LINE = re.compile(r"(revoked|pinned)(?:\s+([0-9a-fA-F]{1,64}))?\s*(?:#(\d{1,9})?\s*(.*))?")
_UNDONE = re.compile(r"#undone (revoked|pinned) ([0-9a-f]{0,64}) (\d{1,9}) ?(.*)")
_SEAL = re.compile(r"#by ([0-9a-f]{16}) ([A-Za-z0-9+/=]{1,150})")
_HOST = re.compile(r"#host ([0-9a-f]{16}) ([A-Za-z0-9+/=]{1,150})")


@dataclass(frozen=True)
class Entry:
    """verb: "revoked" or "pinned". number: a certificate's SHA-256 fingerprint (64 hex digits) or its serial, in lower
    case; "" pins nobody, so that a board with this alone lets nobody in. words: whose it is, for people. seal: who
    vouches for an entry that is undone, a signature and a certificate in base64."""

    verb: str
    number: str
    version: int = 1
    undone: bool = False
    words: str = ""
    seal: str = ""

    @property
    def key(self) -> tuple[str, str]:
        return self.verb, self.number


List = dict[tuple[str, str], Entry]


def words(text: str, most: int = _WORDS) -> str:
    """What may stand behind an entry: one line of printable ASCII, short, and no second comment."""
    line = "".join(c if c.isascii() and c.isprintable() and c != "#" else "?" for c in text)
    return " ".join(line.split())[:most]


def number(text: str) -> str:
    """A serial or fingerprint as the list has it: a serial without leading zeros, which a board strips, too."""
    text = text.lower().replace(":", "")
    return text if len(text) == 64 else text.lstrip("0") or text[:1]


def parse(data: bytes, damaged: bool = False) -> List:
    """The entries of a board's list. Raises KeyFileError for one that a board refuses, too, unless it is known to be
    damaged: then what can be read of it."""
    if len(data) > SIZE and not damaged:
        raise KeyFileError(f"The board's trust list is over {SIZE} bytes; `wssctl setup PORT` on its cable mends it.")
    lines = data[:SIZE].decode("ascii", "replace").split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    whole = bool(lines) and lines[-1].split("#")[0].strip() == "end"
    if not whole and not damaged:
        raise KeyFileError("The board's trust list is cut off; `wssctl setup PORT` on its cable sends it again.")
    rows: list[tuple[Entry, str, str]] = []  # an entry, the host that vouches for it, and its signature
    known: dict[str, str] = {}  # hosts' certificates
    for i, line in enumerate(lines[:-1] if whole else lines):
        line = line.strip()
        if rows and (more := _SEAL.fullmatch(line)):
            e, _, signature = rows[-1]
            rows[-1] = e, more[1], signature + more[2]
        elif more := _HOST.fullmatch(line):
            known[more[1]] = known.get(more[1], "") + more[2]
        elif entry := _UNDONE.fullmatch(line):
            rows.append((Entry(entry[1], entry[2], int(entry[3]), True, words(entry[4])), "", ""))
        elif not line.split("#")[0].strip():
            continue
        elif (entry := _LINE.fullmatch(line)) and (entry[2] or entry[1] == "pinned"):
            e = Entry(entry[1], number(entry[2] or ""), int(entry[3] or 1), False, words(entry[4] or ""))
            rows.append((e, "", ""))
        elif not damaged:
            raise KeyFileError(f"Line {i + 1} of the board's trust list is malformed.")
    certificates = {by: _decoded(text) for by, text in known.items()}
    found: List = {}
    for e, by, text in rows:
        by_whom, what = certificates.get(by), _decoded(text)
        if e.undone and by_whom and 0 < len(what) < 256:
            e = replace(e, seal=_seal(what, by_whom))
        found[e.key] = winner(found[e.key], e) if e.key in found else e
    return found


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return b""


def _fingerprint(certificate: bytes) -> str:
    return hashlib.sha256(certificate).hexdigest()


def _seal(signature: bytes, certificate: bytes) -> str:
    return base64.b64encode(bytes([len(signature)]) + signature + certificate).decode()


def _unsealed(e: Entry) -> tuple[bytes, bytes]:
    """(signature, certificate in DER) of who vouches for an entry; both empty when nobody does."""
    data = _decoded(e.seal)
    return (data[1 : 1 + data[0]], data[1 + data[0] :]) if data else (b"", b"")


def vouches(e: Entry, certificate: bytes) -> bool:
    """Whether it is this host (DER) that has taken the entry back."""
    return e.undone and bool(certificate) and _unsealed(e)[1] == certificate


def winner(one: Entry, other: Entry) -> Entry:
    """Of two entries with the same key, the one that a merged list keeps."""
    return max(one, other, key=lambda e: (e.version, not e.undone, bool(e.seal), e.words, e.seal))


def merge(*lists: List) -> List:
    """The higher version of each entry of all lists: the order of the lists does not matter, nor how often."""
    result: List = {}
    for entries in lists:
        for key, e in entries.items():
            result[key] = winner(result[key], e) if key in result else e
    return result


def changed(entries: List, verb: str, which: str, text: str, undo: bool) -> Entry:
    """The entry that makes `which` revoked or pinned, or takes that back, whatever the list has of it. Raises
    KeyFileError for one that nobody can take back any more."""
    before = entries.get((verb, which))
    if before and before.undone == undo:
        return before
    version = before.version + 1 if before else 1
    if version > LAST and undo:
        raise KeyFileError("That cannot be taken back any more; give that host a new certificate: `wssctl host init`.")
    return Entry(verb, which, min(version, LAST), undo, words(text))


def sealed(e: Entry, key: "ec.EllipticCurvePrivateKey", cert: "x509.Certificate", board: str = "") -> Entry:
    """The entry, vouched for by a host. board: which one a pin is about, as its certificate has it."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding

    signature = key.sign(_signed(e, board), ec.ECDSA(hashes.SHA256()))
    return replace(e, seal=_seal(signature, cert.public_bytes(Encoding.DER)))


def vouched(e: Entry, authorities: "Iterable[x509.Certificate]", known: List, board: str = "") -> bool:
    """Whether a host of these ROOT CAs says so of an undone entry, and is none that `known` turns away. board: as for
    sealed()."""
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID

    try:
        signature, der = _unsealed(e)
        cert = x509.load_der_x509_certificate(der)
        usage = cert.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        if ExtendedKeyUsageOID.CLIENT_AUTH not in usage:
            return False  # a board's
        key = cert.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            return False
        key.verify(signature, _signed(e, board), ec.ECDSA(hashes.SHA256()))
        if verdict(known, f"{cert.serial_number:x}", _fingerprint(der))[0]:
            return False
        for authority in authorities:
            try:
                cert.verify_directly_issued_by(authority)
                return True
            except (ValueError, TypeError, InvalidSignature):
                pass
    except (ValueError, TypeError, IndexError, AttributeError, x509.ExtensionNotFound, InvalidSignature):
        pass
    return False


def _signed(e: Entry, board: str) -> bytes:
    where = f" on {board}" if e.verb == "pinned" else ""
    return f"wssctl: undone {e.verb} {e.number} {e.version}{where}".encode()


def render(entries: Iterable[Entry]) -> bytes:
    """The list as a board reads it. Raises KeyFileError when it is too long for that."""
    rows = sorted(entries, key=lambda e: (e.verb != "revoked", e.number))
    if len(rows) > MOST:
        raise KeyFileError(
            f"{len(rows)} entries are too many, a board takes {MOST}: set the boards up under a ROOT CA in a new key "
            "folder (`wssctl setup PORT --keys DIR`), which needs none of them. Nothing was sent."
        )
    text, hosts = [], {}
    for e in rows:
        e = replace(e, words=words(e.words))
        if e.undone:
            text.append(f"#undone {e.verb} {e.number} {e.version} {e.words}".rstrip())
            signature, certificate = _unsealed(e)
            if certificate:
                by = _fingerprint(certificate)[:16]
                hosts[by] = certificate
                text += [f"#by {by} {part}" for part in _parts(signature)]
        else:
            text.append(f"{e.verb} {e.number}".rstrip() + f" #{e.version} {e.words}".rstrip())
    text += [f"#host {by} {part}" for by in sorted(hosts) for part in _parts(hosts[by])]
    data = "\n".join([*text, "end", ""]).encode()
    if len(data) > SIZE:
        raise KeyFileError(
            f"The list is too long, a board takes {SIZE} bytes: set the boards up under a ROOT CA in a new key "
            "folder (`wssctl setup PORT --keys DIR`), which needs none of it. Nothing was sent."
        )
    return data


def _parts(data: bytes) -> list[str]:
    """In base64, by lines."""
    text = base64.b64encode(data).decode()
    return [text[i : i + _BY] for i in range(0, len(text), _BY)]


def verdict(entries: List, serial: str, fingerprint: str) -> tuple[bool, bool | None]:
    """(revoked, pinned) as a board says it of a certificate: pinned is None where the list pins nobody."""
    standing = [e for e in entries.values() if not e.undone]
    mine = {number(serial), fingerprint} - {""}
    pins = [e for e in standing if e.verb == "pinned"]
    revoked = any(e.verb == "revoked" and e.number in mine for e in standing)
    return revoked, any(e.number in mine for e in pins) if pins else None


def lets_in(entries: List, serial: str, fingerprint: str) -> bool:
    revoked, pinned = verdict(entries, serial, fingerprint)
    return not revoked and pinned is not False


# In the record


def entries(db: sqlite3.Connection, board: str) -> List:
    """What a board is to hold, as far as is known here: who is revoked, and who is pinned on it."""
    found = db.execute(
        "SELECT verb, number, version, undone, words, seal FROM trust "
        "WHERE (verb = 'revoked' AND board = '') OR (verb = 'pinned' AND board = ?)",
        (board,),
    )
    rows = [Entry(r["verb"], r["number"], r["version"], bool(r["undone"]), r["words"], r["seal"]) for r in found]
    return {e.key: e for e in rows}


def learn(
    db: sqlite3.Connection, board: str, known: List, doubtful: Container[tuple[str, str]] = ()
) -> list[Entry]:
    """Takes entries into the record. Versions decide, so that it does not matter who told of them.

    doubtful: of which a board alone tells. New ones about certificates that nobody here knows are taken as long as half
    a list is free, and returned from then on: whoever writes a thousand of them on a board would fill every board's
    list, and nobody could be revoked any more."""
    have = entries(db, board)
    room = LEARNED - len(have)
    left = []
    for e in known.values():
        if merge(have, {e.key: e})[e.key] is e and have.get(e.key) != e:
            if e.key in doubtful and e.key not in have and not _issued(db, e.number):
                room -= 1
                if room < 0:
                    left.append(e)
                    continue
            place = "" if e.verb == "revoked" else board
            row = (place, e.verb, e.number, e.version, e.undone, e.words, e.seal)
            db.execute("INSERT OR REPLACE INTO trust VALUES(?, ?, ?, ?, ?, ?, ?)", row)
    return left


def _issued(db: sqlite3.Connection, number: str) -> bool:
    row = db.execute("SELECT 1 FROM hosts WHERE fingerprint = ?1 OR serial = ?1", (number,)).fetchone()
    return row is not None
