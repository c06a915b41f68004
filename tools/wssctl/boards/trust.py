"""Whom boards let in, and which boards hosts believe: `wssctl host revoke`, `host pin`, `boards revoke`."""

import hashlib
import time
from pathlib import Path

from ..errors import BoardError, KeyFileError, UsageError
from ..keys import ca
from ..keys import commands as keys
from ..keys.store import Store, check_uid, host_id, write_files
from .fleet import Fleet, der
from .registry import Registry

TRUST = "wss_trust.txt"


def revoke(args) -> int:
    return _trust(args, "revoked")


def pin(args) -> int:
    return _trust(args, "pinned")


def _trust(args, verb: str) -> int:
    fleet = Fleet(args)
    store = fleet.store
    path = store.folder / TRUST
    lines = [line for line in path.read_text().splitlines() if line.strip() != "end"] if path.exists() else []
    which, who = _which(store, args.who)
    entry = f"{verb} {which}"
    rest = [line for line in lines if line.split("#")[0].strip() != entry]
    lines = rest if args.undo else [*rest, f"{entry} # {who}, {time.strftime('%Y-%m-%d')}"]
    # a host that turns itself away could not take it back
    _, mine = store.find_host()
    own = {_fingerprint(store.read(mine)), ca.report(store.read(mine), "host").serial}
    entries = [line.split("#")[0].split() for line in lines]
    pins = {words[1] for words in entries if words[:1] == ["pinned"]}
    if own & {words[1] for words in entries if words[:1] == ["revoked"]} or (pins and not own & pins):
        raise UsageError(
            f"That would turn away this very host ({mine.name}), which could not undo it; do it from another host, or "
            "pin this one first."
        )
    text = "\n".join([*lines, "end", ""]).encode()
    write_files({path: text}, force=True)

    def send(board):
        with fleet.connect(board) as client:
            client.put(text, TRUST)
            result = client.exec("from wss import trust\ntrust.listed()")
            if result.error:
                raise BoardError(f"It does not take the list ({result.error.strip().splitlines()[-1]}).")
        fleet.connect(board, wait=1).close()

    done = "took back" if args.undo else verb
    fleet.must(fleet.each(send, f"{done} {who}"), "the list is kept: run it again when they are reachable.")
    return 0


def _fingerprint(pem: bytes) -> str:
    return hashlib.sha256(der(pem)).hexdigest()


def _which(store: Store, who: str) -> tuple[str, str]:
    """(fingerprint or serial, words for a person) of a host id, a user name, a certificate file, or either number."""
    for path in (store.host_files(who)[1], store.host_files(host_id(who))[1], Path(who)):
        if path.is_file():
            data = store.read(path)
            return _fingerprint(data), ca.report(data, "host").subject.replace("#", "")
    number = who.lower().replace(":", "")
    if 8 <= len(number) <= 64 and all(c in "0123456789abcdef" for c in number):
        return number, f"certificate {number[:16]}"
    raise UsageError(f"{who!r} is no host here, no certificate file and no serial or fingerprint in hex digits.")


def revoke_board(args) -> int:
    """A board that was lost or opened: hosts refuse it, by a revocation list that the ROOT CA signs (RFC 5280 5)."""
    store = Store(args.keys)
    known = Registry(store).find(args.uid)
    path = store.device_files(known.uid if known else check_uid(args.uid.lower()))["cert_pem"]
    if not path.exists():
        raise KeyFileError(f"There is no {path.name} in {store.folder}; `wssctl keys status` lists all.")
    cert = ca.load_cert(store.read(path), "device certificate")
    authority = keys.load_authority(args, store)
    before = store.read(store.crl) if store.crl.exists() else None
    store.write({store.crl: authority.crl([cert.serial_number], before)}, force=True)
    print(f"Hosts with these keys refuse {args.uid} from now on. Give {store.crl.name} to other hosts too.")
    return 0
