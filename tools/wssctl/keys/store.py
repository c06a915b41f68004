"""The folder of key files, under the names upydev gives them, so that the folder also serves as upydev's `capath`.

ROOT_CA_key.pem, ROOT_CA_cert.pem, HOST_key@<id>.pem, HOST_cert@<id>.pem, SSL_key<uid>.der,
SSL_certificate<uid>.der/.pem. Files are 0600, in a folder of 0700, written beside their name, synced and renamed.
Nothing is overwritten unasked. What else there is to know is in one record beside them (record.py).
"""

import os
from pathlib import Path

from ..errors import KeyFileError, UsageError
from .record import Record, exists, private, stage, sync_folder


def expanded(path: str | os.PathLike[str]) -> Path:
    """With a home for ~. (Path.expanduser() raises where there is no such user; here it is part of a name then.)"""
    return Path(os.path.expanduser(path))


def key_folder(given: str | os.PathLike[str] | None) -> Path:
    """The folder of key files: the given one, $WSSCTL_KEYS, or this user's own."""
    if given or (given := os.environ.get("WSSCTL_KEYS")):
        return expanded(given)
    from platformdirs import user_config_path

    return user_config_path("wssctl", appauthor=False) / "keys"


def user_name() -> str:
    if user := os.environ.get("USER"):  # upydev goes by this alone
        return user
    import getpass

    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return "user"


def host_id(user: str | None = None) -> str:
    """upydev's id of a host: the user name in hex, ten digits of it (keygen.py, ssl_ECDSA_key_certgen_host)."""
    return (user or user_name()).encode().hex()[:10]


class Store:
    def __init__(self, folder: str | os.PathLike[str] | None = None):
        self.folder = key_folder(folder)
        self.ca_key = self.folder / "ROOT_CA_key.pem"
        self.ca_cert = self.folder / "ROOT_CA_cert.pem"
        self.crl = self.folder / "ROOT_CA_crl.pem"
        self.update_key = self.folder / "UPDATE_key.pem"
        self.update_cert = self.folder / "UPDATE_cert.pem"
        self.record = Record(self.folder)
        self.record.recover()

    def host_files(self, identity: str | None = None) -> tuple[Path, Path]:
        """(key, certificate) paths of a host id, this user's by default. They need not exist."""
        identity = identity or host_id()
        return self.folder / f"HOST_key@{identity}.pem", self.folder / f"HOST_cert@{identity}.pem"

    def find_host(self) -> tuple[Path, Path]:
        """The HOST key and certificate to log in with: this user's, else the only one there is."""
        key, cert = self.host_files()
        if not cert.exists():
            others = self.hosts()
            if len(others) > 1:
                raise KeyFileError(
                    f"{self.folder} holds the keys of several hosts and none is {user_name()}'s ({cert.name}); "
                    "make one with `wssctl host init` or choose with --host-id."
                )
            if others:
                key, cert = self.host_files(others[0])
        if not cert.exists() or not key.exists():
            missing = cert if not cert.exists() else key
            raise KeyFileError(
                f"There is no {missing.name} in {self.folder}; make it with `wssctl host init`, or name another "
                "folder with --keys."
            )
        return key, cert

    def find_ca_cert(self) -> Path:
        if not self.ca_cert.exists():
            raise KeyFileError(
                f"There is no ROOT_CA_cert.pem in {self.folder}; make a ROOT CA with `wssctl ca init`, "
                "or name another folder with --keys."
            )
        for path in (self.ca_cert, self.crl):  # which say whose boards and hosts these are
            private(path)
        return self.ca_cert

    def hosts(self) -> list[str]:
        return sorted(p.name[len("HOST_cert@") : -len(".pem")] for p in self.folder.glob("HOST_cert@*.pem"))

    def devices(self) -> list[str]:
        return sorted(p.name[len("SSL_certificate") : -len(".pem")] for p in self.folder.glob("SSL_certificate*.pem"))

    def device_files(self, uid: str) -> dict[str, Path]:
        """Paths by role: key_der, cert_der, cert_pem. They need not exist. Raises UsageError unless `uid` is hex."""
        check_uid(uid)
        return {
            "key_der": self.folder / f"SSL_key{uid}.der",
            "cert_der": self.folder / f"SSL_certificate{uid}.der",
            "cert_pem": self.folder / f"SSL_certificate{uid}.pem",
        }

    def read(self, path: Path) -> bytes:
        try:
            if path.is_fifo() and path.parent == self.folder:
                raise OSError(None, "it is a pipe")  # which nobody may ever write to
            return path.read_bytes()
        except OSError as e:
            raise KeyFileError(
                f"Cannot read {path} ({e.strerror}); check its permissions or name another folder with --keys."
            ) from None

    def write(self, files: dict[Path, bytes], force: bool = False) -> None:
        """All of these key files as one (Record.write_files), in the folder."""
        self.record.write_files({p.name: data for p, data in files.items()}, force)


def check_uid(uid: str) -> str:
    if not uid or len(uid) > 64 or not all(c in "0123456789abcdef" for c in uid):
        raise UsageError(
            f"{uid!r} is not a device id: take the lower-case hex digits of `machine.unique_id().hex()` on the board."
        )
    return uid


def write_files(files: dict[Path, bytes], force: bool = False) -> None:
    """Writes files anywhere, 0600: all or, when anything is in the way or the disk is full, none; old ones stay until
    the last moment. Raises KeyFileError. (Key files in the folder that belong together: Store.write.)"""
    files = {Path(os.path.realpath(p)): data for p, data in files.items()}
    folder = next(iter(files)).parent
    present = [p.name for p in files if p.exists()]
    if present and not force:
        raise exists(present, folder)
    try:
        staged = stage(files)
        for temporary, path in staged:
            os.replace(temporary, path)
        for folder in {p.parent for p in files}:
            sync_folder(folder)
    except OSError as e:
        where = e.filename or folder
        raise KeyFileError(f"Cannot write to {where} ({e.strerror}); nothing was changed there.") from None
