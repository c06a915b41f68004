"""Passwords and passphrases that wssctl was asked to remember: in the system's keyring where there is one, else in
the record (record.py), and only when asked."""

import contextlib
from typing import Any

from .store import Store

_SERVICE = "wssctl"


def _keyring() -> Any:
    try:
        import keyring
        from keyring.backends import fail, null

        backend = keyring.get_keyring()
        return None if isinstance(backend, (fail.Keyring, null.Keyring)) else keyring
    except Exception:  # it is not installed, or its configuration names what there is not: that raises anything
        return None


def remember(store: Store, what: str, secret: str | None) -> str:
    """Keeps a secret, or forgets it for None; `what` is "password:NAME" or "passphrase:FILE". Returns where it is; of
    one to forget, the entry of a keyring that does not say whether it still has it, because it is locked."""
    left = ""
    if ring := _keyring():
        entry = f"{store.folder}/{what}"
        if secret is None:
            try:
                ring.delete_password(_SERVICE, entry)
            except Exception as e:  # keyring's backends raise errors of their own
                left = "" if isinstance(e, ring.errors.PasswordDeleteError) else entry  # that one: it is not there
        else:
            with contextlib.suppress(Exception):  # locked, or nobody to unlock it: the file then
                ring.set_password(_SERVICE, entry, secret)
                _into_record(store, what, None)  # an older one there would be taken first
                return "the system's keyring"
    _into_record(store, what, secret)
    return left if secret is None else str(store.record.path)


def _into_record(store: Store, what: str, secret: str | None) -> None:
    with store.record.change() as db:
        if secret is not None:
            db.execute("INSERT OR REPLACE INTO secrets VALUES(?, ?)", (what, secret))
        else:
            db.execute("DELETE FROM secrets WHERE what = ?", (what,))


def remembered(store: Store, what: str) -> str | None:
    with store.record.view() as db:
        row = db.execute("SELECT secret FROM secrets WHERE what = ?", (what,)).fetchone()
    known: str | None = row and row["secret"]
    if known is None and (ring := _keyring()):
        with contextlib.suppress(Exception):  # a locked keyring: ask instead
            known = ring.get_password(_SERVICE, f"{store.folder}/{what}")
    return known
