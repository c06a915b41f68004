"""Passwords and passphrases that wssctl was asked to remember: in the system's keyring where there is one, else in a
0600 file, and only when asked."""

import contextlib
import json

from ..errors import KeyFileError
from .store import Store, write_files

_SERVICE = "wssctl"


def _keyring():
    try:
        import keyring
        from keyring.backends import fail, null

        backend = keyring.get_keyring()
        return None if isinstance(backend, (fail.Keyring, null.Keyring)) else keyring
    except ImportError:
        return None


def _file(store: Store):
    return store.folder / "remembered.json"


def _load(store: Store) -> dict[str, str]:
    path = _file(store)
    if not path.exists():
        return {}
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(known, dict):
            raise ValueError("no object")
        return known
    except (OSError, ValueError) as e:
        raise KeyFileError(f"Cannot read {path} ({e}); delete it, then remember the secrets anew.") from None


def remember(store: Store, what: str, secret: str | None) -> str:
    """Keeps a secret, or forgets it for None; `what` is "password:NAME" or "passphrase:FILE". Returns where it is."""
    if ring := _keyring():
        entry = f"{store.folder}/{what}"
        if secret is None:
            with contextlib.suppress(Exception):  # keyring's backends raise errors of their own for "not there"
                ring.delete_password(_SERVICE, entry)
        else:
            with contextlib.suppress(Exception):  # locked, or nobody to unlock it: the file then
                ring.set_password(_SERVICE, entry, secret)
                return "the system's keyring"
    known = _load(store)
    if secret is None and what not in known:
        return ""
    known.pop(what, None)
    if secret is not None:
        known[what] = secret
    write_files({_file(store): json.dumps(known).encode()}, force=True)
    return str(_file(store))


def remembered(store: Store, what: str) -> str | None:
    known = _load(store).get(what)
    if known is None and (ring := _keyring()):
        with contextlib.suppress(Exception):  # a locked keyring: ask instead
            known = ring.get_password(_SERVICE, f"{store.folder}/{what}")
    return known
