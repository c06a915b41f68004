"""The hosts that have a certificate: which, until when, and by what people call them."""

import base64
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import NameOID

from ..errors import KeyFileError, UsageError
from . import ca, trustlist
from .record import rows
from .store import Store, host_id

_NAME = 64  # characters: as many as a common name has (RFC 5280 appendix A.1), or two hosts would have the same
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
    name = names[0] if names else cert.subject.rfc4514_string()
    name = trustlist.words(name, _NAME)
    return Who(trustlist.number(f"{cert.serial_number:x}"), hashlib.sha256(der).hexdigest(), name)


def all_of(store: Store, *paths: Path) -> set[str]:
    """The serials and fingerprints of all certificates in these files: a host's own with those above it, ROOT CAs."""
    for path in paths:
        ca.load_cert(store.read(path), path.name)  # raises what is to be said of it
    certificates = [c for path in paths for c in x509.load_pem_x509_certificates(store.read(path))]
    found = [of(c.public_bytes(ca.PEM)) for c in certificates]
    return {number for who in found for number in (who.serial, who.fingerprint)}


def known(store: Store, number: str) -> Who:
    """All that is known of a certificate of which an entry has one number."""
    with store.record.view() as db:
        row = db.execute("SELECT * FROM hosts WHERE fingerprint = ? OR serial = ?", (number, number)).fetchone()
    if row:
        return Who(row["serial"], row["fingerprint"], row["name"])
    return Who("", number) if len(number) == 64 else Who(number, "")


def which(store: Store, who: str) -> list[Who]:
    """Hosts by id, user name, name as `wssctl host list` shows it, certificate file (one in the key folder needs no
    path), serial or fingerprint (6 digits of one that was signed here are enough). A name stands for all certificates
    that bear it: a laptop that was renewed has two, and is gone with both. The latest comes first. Raises
    UsageError."""
    for path in (Path(who), store.folder / who):
        if path.is_file():
            return [of(store.read(path))]
    number = trustlist.number(who)
    is_hex = bool(number) and all(c in "0123456789abcdef" for c in number)
    names = {who, f"HOST {who}"}
    files = [p for p in (store.host_files(who)[1], store.host_files(host_id(who))[1]) if p.is_file()]
    current = of(store.read(files[0])) if files else None
    if current and files[0] != store.host_files(who)[1] and len(who.encode()) * 2 > len(host_id(who)):
        # An id has the first letters of a user's name alone: it may be somebody else's
        current = current if current.name in names or current.name.startswith(f"HOST {who}@") else None
    if current:
        names = {current.name}
    with store.record.view() as db:
        marks = ", ".join("?" * len(names))
        order = "ORDER BY not_before DESC"
        found = rows(db.execute(f"SELECT * FROM hosts WHERE name IN ({marks}) {order}", tuple(names)))
        if not found and not current and is_hex and len(number) >= 6:
            beginning = f"SELECT * FROM hosts WHERE fingerprint LIKE ? || '%' OR serial LIKE ? || '%' {order}"
            found = rows(db.execute(beginning, (number, number)))
            if len(found) > 1:
                raise UsageError(f"{len(found)} certificates begin with {who}; give more digits.")
    hosts = [Who(row["serial"], row["fingerprint"], row["name"]) for row in found]
    if current:
        return [current, *(h for h in hosts if h.fingerprint != current.fingerprint)]
    if hosts:
        return hosts
    if is_hex and 8 <= len(number) <= 64:
        return [Who("", number) if len(number) == 64 else Who(number, "")]
    raise UsageError(
        f"{who!r} is no host here (`wssctl host list` shows them), no certificate file and no serial or fingerprint in "
        "hex digits."
    )


def issued(store: Store, pem: bytes) -> None:
    """Notes a host certificate that was signed here."""
    cert, who = ca.load_cert(pem, "HOST certificate"), of(pem)
    row = (who.fingerprint, who.serial, who.name, *(
        d.replace(microsecond=0).isoformat() for d in (cert.not_valid_before_utc, cert.not_valid_after_utc)
    ))  # fmt: skip
    with store.record.change() as db:
        db.execute("INSERT OR REPLACE INTO hosts VALUES(?, ?, ?, ?, ?)", row)


# What goes along with a ROOT CA to another machine: who has a certificate, and who is revoked

BEGIN, _END = b"-----BEGIN WSSCTL RECORD-----\n", b"-----END WSSCTL RECORD-----\n"


def packed(store: Store) -> bytes:
    """The issued certificates and the revocations, as a block to put behind PEM blocks."""
    with store.record.view() as db:
        found = {
            "hosts": [list(row) for row in db.execute("SELECT * FROM hosts")],
            "revoked": [
                list(row)
                for row in db.execute("SELECT number, version, undone, words, seal FROM trust WHERE verb = 'revoked'")
            ],
        }
    text = base64.encodebytes(json.dumps(found).encode())
    return BEGIN + text + _END


Packed = tuple[list[tuple[str, str, str, str, str]], list[trustlist.Entry]]


def unpack(data: bytes) -> Packed | None:
    """What packed() wrote, None without such a block. Raises KeyFileError."""
    _, mark, rest = data.partition(BEGIN)
    if not mark:
        return None
    try:
        found = json.loads(base64.b64decode(rest.partition(_END)[0]))
        revoked = [
            trustlist.Entry("revoked", checked(n), int(version), bool(undone), trustlist.words(str(text)), str(seal))
            for n, version, undone, text, seal in found["revoked"]
        ]
        certificates = [
            (checked(fp), checked(serial), trustlist.words(str(name), _NAME), str(first), str(last))
            for fp, serial, name, first, last in found["hosts"]
        ]
        if not all(0 < e.version <= trustlist.LAST and _SEAL.fullmatch(e.seal) for e in revoked) or not all(
            _DATE.fullmatch(date) for row in certificates for date in row[3:]
        ):
            raise ValueError("it was not made by wssctl")
        return certificates, revoked
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
