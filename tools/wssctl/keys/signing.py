"""The key that signs updates, and signatures: `wssctl ca update-key`, `wssctl sign`.

A signature is a file of three parts: the signer's certificate (DER), an ECDSA signature with SHA-256 of the third
(DER), and what is signed, as text. Boards check it (lib/wss/signed.py); what its lines mean is said there.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from ..errors import KeyFileError
from . import ask, ca
from .commands import days, load_authority, refuse_present, until, user_at_host
from .store import Store


def make(args: argparse.Namespace) -> int:
    """`wssctl ca update-key`."""
    store = Store(args.keys)
    refuse_present(args, store.update_key, store.update_cert)
    authority = load_authority(args, store)
    passphrase = _passphrase(ask.new_secret, "Passphrase for the new update key", args)
    key, cert = authority.update_key(user_at_host(), passphrase, days=days(args, ca.LEAF_DAYS))
    store.write({store.update_key: key, store.update_cert: cert}, args.force)
    print(f"Made {store.update_cert} and its key, valid until {until(cert, 'update')}: for updates and nothing else.")
    print("On a board: start(update_key=True). Best keep this key where no host's key is.")
    return 0


def _passphrase(how: Callable[..., str], question: str, args: argparse.Namespace) -> str:
    """By ask.secret() or ask.new_secret(), from the same places."""
    return how(
        question,
        args.update_passphrase_file or args.passphrase_file,
        "WSSCTL_UPDATE_PASSPHRASE",
        "WSSCTL_PASSPHRASE",
        option="--update-passphrase-file",
    )


@dataclass(frozen=True)
class UpdateKey:
    key: ec.EllipticCurvePrivateKey
    cert: x509.Certificate

    @classmethod
    def load(cls, args: argparse.Namespace, passphrase: str | None = None) -> "UpdateKey":
        """The one in the key folder; who gives no passphrase is asked for it. Raises KeyFileError."""
        store = Store(args.keys)
        if not store.update_key.exists():
            raise KeyFileError(
                f"There is no {store.update_key.name} in {store.folder}: `wssctl ca update-key` makes one; or give a "
                "signature that was made elsewhere, with --signed FILE."
            )
        passphrase = passphrase or _passphrase(ask.secret, "Passphrase of the update key", args)
        key = ca.load_key(store.read(store.update_key), passphrase, "update key")
        cert = ca.load_cert(store.read(store.update_cert), "update certificate")
        if cert.public_key() != key.public_key():
            raise KeyFileError(f"{store.update_key.name} and {store.update_cert.name} do not belong together.")
        return cls(key, cert)

    def sign(self, what: str) -> bytes:
        message = what.encode()
        return self.cert.public_bytes(ca.DER) + self.key.sign(message, ec.ECDSA(hashes.SHA256())) + message


def now() -> str:
    """The time in a signature: YYYYMMDDhhmmss, UTC."""
    return f"{datetime.now(UTC):%Y%m%d%H%M%S}"


def signed(data: bytes) -> str:
    """What is signed. Raises KeyFileError: not a signature, or a wrong one. Whether a board takes it is the board's."""
    try:
        cert_end = _end(data, 0)
        end = _end(data, cert_end)
        key = ca.load_cert(data[:cert_end], "certificate in the signature").public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise ValueError
        key.verify(data[cert_end:end], data[end:], ec.ECDSA(hashes.SHA256()))
        return data[end:].decode()
    except (ValueError, IndexError, InvalidSignature, KeyFileError):
        raise KeyFileError("The signature is damaged: make it again with `wssctl sign`.") from None


def _end(data: bytes, i: int) -> int:
    """Of the DER SEQUENCE at i (X.690 section 8.1)."""
    if data[i] != 0x30:
        raise ValueError
    n = data[i + 1]
    if n < 128:
        return i + 2 + n
    return i + 2 + (n & 127) + int.from_bytes(data[i + 2 : i + 2 + (n & 127)], "big")
