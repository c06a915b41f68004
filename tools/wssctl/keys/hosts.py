"""The hosts that have a certificate: which, until when, and by what people call them."""

import base64
import contextlib
import hashlib
import json
import os
import re
import unicodedata
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.x509.oid import NameOID

from ..errors import KeyFileError, UsageError
from ..text import say
from . import ca, trustlist
from .record import rows
from .store import Store, host_id

_NAME = 640  # characters: 64 (RFC 5280 appendix A.1), each escaped, or two hosts would have the same
_SERIAL = 40  # hex digits: RFC 5280 section 4.1.2.2; a longer one could be somebody's fingerprint
_PLAIN = {chr(c) for c in range(32, 127)} - {"#", "\\"}
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:+]{8,14}")
_SEAL = re.compile(r"[A-Za-z0-9+/=]{0,20000}")


@dataclass(frozen=True)
class Who:
    """A certificate: its serial and fingerprint in hex ("" for the one that is not known), and its name."""

    serial: str
    fingerprint: str
    name: str = ""

    @property
    def number(self) -> str:
        return self.fingerprint or self.serial


def of(pem: bytes) -> Who:
    cert = ca.load_cert(pem, "certificate")
    der = cert.public_bytes(ca.DER)
    names = [str(a.value) for a in cert.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    serial = trustlist.number(f"{cert.serial_number:x}")
    serial = serial if cert.serial_number > 0 and len(serial) <= _SERIAL else ""
    return Who(serial, hashlib.sha256(der).hexdigest(), plain(names[0] if names else cert.subject.rfc4514_string()))


def plain(name: str) -> str:
    """A name as it is compared and shown: printable ASCII, one line, and no two names the same. A letter that only
    looks like one of another name is seen."""
    text = unicodedata.normalize("NFC", name)
    escaped = (c if c in _PLAIN else c.encode("unicode_escape").decode() for c in text)
    return "".join("\\x23" if c == "#" else c for c in escaped)[:_NAME]


def all_of(store: Store, *paths: Path) -> set[str]:
    """The serials and fingerprints of all certificates in these files: a host's own with those above it, ROOT CAs."""
    for path in paths:
        ca.load_cert(store.read(path), path.name)  # raises what is to be said of it
    certificates = [c for path in paths for c in x509.load_pem_x509_certificates(store.read(path))]
    found = [of(c.public_bytes(ca.PEM)) for c in certificates]
    return {number for who in found for number in (who.serial, who.fingerprint) if number}


def known(store: Store, number: str) -> Who:
    """All that is known of a certificate of which an entry has one number."""
    with store.record.view() as db:
        row = db.execute("SELECT * FROM hosts WHERE fingerprint = ? OR serial = ?", (number, number)).fetchone()
    if row:
        return Who(row["serial"], row["fingerprint"], row["name"])
    return Who("", number) if len(number) == 64 else Who(number, "")


def which(store: Store, who: str) -> list[Who]:
    """Hosts by id, user name, name as `wssctl host list` shows it, serial or fingerprint (6 digits of one that was
    signed here are enough), or certificate file: a word with a separator in it is one, any other only when it is
    nothing else; one in the key folder needs no path. A name stands for all certificates that bear it: a laptop that
    was renewed has two, and is gone with both. The latest comes first. Raises UsageError."""
    is_path = any(c in who for c in (os.sep, os.altsep or os.sep))
    file = next((p for p in (store.folder / who, Path(who))[is_path:] if p.is_file()), None)
    if file and is_path:
        return [_in_file(store, file)]
    if found := _recorded(store, who):
        if file:
            say(f"NOTE: {who} is {found[0].name or found[0].number} here; for the file of that name: .{os.sep}{who}")
        return found
    number = trustlist.number(who)
    if _is_hex(number) and 8 <= len(number) <= 64:
        return [Who("", number) if len(number) == 64 else Who(number, "")]
    if file:
        return [_in_file(store, file)]
    raise UsageError(
        f"{who!r} is no host here (`wssctl host list` shows them), no certificate file and no serial or fingerprint in "
        "hex digits."
    )


def _in_file(store: Store, path: Path) -> Who:
    """Of a certificate that another CA signed, the fingerprint alone counts: its serial may be that of one of ours."""
    pem = store.read(path)
    cert, found = ca.load_cert(pem, path.name), of(pem)
    for authority in x509.load_pem_x509_certificates(store.read(store.find_ca_cert())):
        with contextlib.suppress(ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
            cert.verify_directly_issued_by(authority)
            say(f"{path} is the certificate of {found.name}.")
            return found
    say(f"{path} is the certificate of {found.name}, which this ROOT CA has not signed.")
    return replace(found, serial="")


def _is_hex(number: str) -> bool:
    return bool(number) and all(c in "0123456789abcdef" for c in number)


def _recorded(store: Store, who: str) -> list[Who]:
    number = trustlist.number(who)
    names = {plain(who), plain(f"HOST {who}"), who, f"HOST {who}"}  # as it is, and as it is shown
    files = [p for p in (store.host_files(who)[1], store.host_files(host_id(who))[1]) if p.is_file()]
    current = of(store.read(files[0])) if files else None
    if current and files[0] != store.host_files(who)[1] and len(who.encode()) * 2 > len(host_id(who)):
        # An id has the first letters of a user's name alone: it may be somebody else's
        current = current if current.name in names or current.name.startswith(plain(f"HOST {who}@")) else None
    if current:
        names = {current.name}
    with store.record.view() as db:
        marks = ", ".join("?" * len(names))
        order = "ORDER BY not_before DESC"
        found = rows(db.execute(f"SELECT * FROM hosts WHERE name IN ({marks}) {order}", tuple(names)))
        if not found and not current and _is_hex(number) and len(number) >= 6:
            beginning = f"SELECT * FROM hosts WHERE fingerprint LIKE ? || '%' OR serial LIKE ? || '%' {order}"
            found = rows(db.execute(beginning, (number, number)))
            if len(found) > 1:
                raise UsageError(f"{len(found)} certificates begin with {who}; give more digits.")
    known = [Who(row["serial"], row["fingerprint"], row["name"]) for row in found]
    return [current, *(h for h in known if h.fingerprint != current.fingerprint)] if current else known


def issued(store: Store, pem: bytes) -> None:
    """Notes a host certificate that was signed here."""
    cert, who = ca.load_cert(pem, "HOST certificate"), of(pem)
    row = (who.fingerprint, who.serial, who.name, *(
        d.replace(microsecond=0).isoformat() for d in (cert.not_valid_before_utc, cert.not_valid_after_utc)
    ))  # fmt: skip
    with store.record.change() as db:
        db.execute("INSERT OR REPLACE INTO hosts VALUES(?, ?, ?, ?, ?)", row)


# What goes along with a ROOT CA to another machine: who has a certificate, and who is revoked

_CONTEXT = b"wssctl: who has a certificate and who is revoked\n"  # no other signature of the CA begins so
BEGIN, _END = b"-----BEGIN WSSCTL RECORD-----\n", b"-----END WSSCTL RECORD-----\n"


def packed(store: Store, authority: ca.Authority) -> bytes:
    """The issued certificates and the revocations, as a block to put behind PEM blocks, signed by the ROOT CA: on its
    way the file is in anybody's hands, and its key alone is encrypted. It says which ROOT CAs are in front of it, too
    (two during a rotation): whose certificate is among them is believed to be any board."""
    with store.record.view() as db:
        found = {
            "authorities": _fingerprints(store.read(store.ca_cert)),
            "hosts": [list(row) for row in db.execute("SELECT * FROM hosts")],
            "revoked": [
                list(row)
                for row in db.execute("SELECT number, version, undone, words, seal FROM trust WHERE verb = 'revoked'")
            ],
        }
    text = json.dumps(found).encode()
    signature = authority.sign(_CONTEXT + text)
    return BEGIN + base64.encodebytes(len(signature).to_bytes(1, "big") + signature + text) + _END


def _fingerprints(certs: bytes) -> list[str]:
    return [hashlib.sha256(c.public_bytes(ca.DER)).hexdigest() for c in x509.load_pem_x509_certificates(certs)]


Packed = tuple[list[tuple[str, str, str, str, str]], list[trustlist.Entry]]


def unpack(data: bytes, authority: ca.Authority, certs: bytes) -> Packed | None:
    """What packed() wrote, None without such a block. certs: the ROOT CAs (PEM) in front of it. Raises KeyFileError,
    also when it or they were changed on their way."""
    _, mark, rest = data.partition(BEGIN)
    if not mark:
        return None
    try:
        block = base64.b64decode(rest.partition(_END)[0])
        end = 1 + block[0] if block else 1
        authority.verify(block[1:end], _CONTEXT + block[end:])
        found = json.loads(block[end:])
        if found["authorities"] != _fingerprints(certs):
            raise InvalidSignature
        revoked = [
            trustlist.Entry("revoked", checked(n), int(version), bool(undone), trustlist.words(str(text)), str(seal))
            for n, version, undone, text, seal in found["revoked"]
        ]
        certificates = [
            (checked(fp), serial and checked(serial), trustlist.words(str(name), _NAME), str(first), str(last))
            for fp, serial, name, first, last in found["hosts"]
        ]
        if not all(0 < e.version <= trustlist.LAST and _SEAL.fullmatch(e.seal) for e in revoked) or not all(
            _DATE.fullmatch(date) for row in certificates for date in row[3:]
        ):
            raise ValueError("it was not made by wssctl")
        return certificates, revoked
    except InvalidSignature:
        raise KeyFileError(
            "The ROOT CA's certificates or what goes along with them, who has a certificate and who is revoked, were "
            "changed since they were exported: export it once more, and look who had that file. Nothing was imported."
        ) from None
    except (ValueError, KeyError, TypeError, RecursionError) as e:
        raise KeyFileError(f"What goes along with the ROOT CA cannot be read ({e}); export it once more.") from None


def take_in(store: Store, packed: Packed) -> None:
    """Beside what is known here."""
    certificates, revoked = packed
    with store.record.change() as db:
        db.executemany("INSERT OR IGNORE INTO hosts VALUES(?, ?, ?, ?, ?)", certificates)
        trustlist.learn(db, "", {e.key: e for e in revoked})


def checked(text: object) -> str:
    """A number as an entry has it. Raises ValueError."""
    number = trustlist.number(str(text))
    if not 0 < len(number) <= 64 or any(c not in "0123456789abcdef" for c in number):
        raise ValueError(f"{text!r} is no number of a certificate")
    return number
