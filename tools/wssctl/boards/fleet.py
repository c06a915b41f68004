"""Keys of boards that are in use, over wss: new certificates, new passwords; and what rotate.py and hosts.py need, too.

Every change ends with a login under what is new; before that, nothing is dropped that the old login needs.
"""

import argparse
import contextlib
import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cryptography.hazmat.primitives import serialization

from ..errors import (
    AccessDenied,
    BoardError,
    ConnectionLost,
    HandshakeCut,
    KeyFileError,
    Unreachable,
    UsageError,
    WssctlError,
)
from ..keys import ask, ca, hosts
from ..keys import commands as keys
from ..keys.remembered import remember as keep_secret
from ..keys.remembered import remembered
from ..keys.store import Store
from ..keys.trustlist import List
from ..text import say
from ..wire.client import Client, twice
from ..wire.link import Credentials, Target
from . import trust, waiting
from .engine import JOBS, Engine, Outcome, tell, worst
from .registry import WARNING_DAYS, Board, Registry, server_name

_LATER = "it waits for them: `wssctl boards apply` brings it when they can be reached."


class NoCertificate(KeyFileError):
    """One board cannot be renewed from here; the others can."""


class NotDone(WssctlError):
    """On some boards. Its exit code is the worst of theirs."""

    def __init__(self, text: str, code: int):
        super().__init__(text)
        self.exit_code = code


class Fleet:
    """The boards named on the command line, and the secrets to log in to them, asked for once."""

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.store = Store(args.keys)
        self.registry = Registry(self.store)
        self.boards = self.registry.select(getattr(args, "board", []))
        key, _ = self.store.find_host()
        known = ask.given(args.passphrase_file, "WSSCTL_PASSPHRASE")
        self.passphrase = known or remembered(self.store, f"passphrase:{key.name}") or ask.secret(
            f"Passphrase for key '{key.name}'", None, "WSSCTL_PASSPHRASE", option="--passphrase-file"
        )  # fmt: skip
        self._passwords: dict[str, str] = {}

    def credentials(self, ca_file: Path | None = None, pair: tuple[Path, Path] | None = None) -> Credentials:
        key, cert = pair or self.store.find_host()
        return Credentials(ca_file or self.store.find_ca_cert(), cert, key, self.passphrase)

    def password(self, board: Board) -> str:
        if board.name not in self._passwords:
            self._passwords[board.name] = (
                ask.given(self.args.password_file, "WSSCTL_PASSWORD")
                or remembered(self.store, f"password:{board.name}")
                or ask.secret(f"Password of {board.name}", None, "WSSCTL_PASSWORD", option="--password-file")
            )
        return self._passwords[board.name]

    def now_has(self, board: Board, password: str) -> None:
        self._passwords[board.name] = password

    def knows_password(self, board: Board) -> bool:
        """Whether nobody has to be asked for it."""
        known = board.name in self._passwords or ask.given(self.args.password_file, "WSSCTL_PASSWORD")
        return bool(known or remembered(self.store, f"password:{board.name}"))

    def connect(
        self, board: Board, credentials: Credentials | None = None, password: str | None = None, wait: float = 0.0
    ) -> Client:
        """A session. `wait`: seconds in which a board that starts anew may be unreachable; another session gives way
        then. What waits for the board is brought to it first (trust.settle)."""
        credentials = credentials or self.credentials()
        client = self.login(board, credentials, password, wait)
        self.registry.seen(board.name)
        with self.store.record.view() as db:
            lacks = trust.pending(db, {board.name: client.link.certificate})
        if lacks:
            with trust.on_the_way():
                return self.settle(board, client, credentials, password)
        return client

    def login(
        self, board: Board, credentials: Credentials, password: str | None = None, wait: float = 0.0, over: bool = False
    ) -> Client:
        """As connect(), and nothing is brought. A login that breaks off is tried once more."""
        path = "/takeover" if wait or over or self.args.takeover else "/"
        target = Target(True, board.host, board.port, path)

        def connect() -> Client:
            return Client.connect(
                target,
                credentials,
                password or self.password(board),
                server_name=server_name(self.store, board),
                timeout=self.args.timeout,
            )

        deadline = time.monotonic() + wait
        while wait:
            try:
                return connect()
            except (Unreachable, ConnectionLost, HandshakeCut):  # the last: it was just about to restart
                if time.monotonic() >= deadline:
                    raise
                time.sleep(0.3)
        return twice(connect)

    def settle(
        self,
        board: Board,
        client: Client,
        credentials: Credentials | None = None,
        password: str | None = None,
        pin_too: hosts.Who | None = None,
        want: Callable[[List], List] | None = None,
    ) -> Client:
        credentials = credentials or self.credentials()

        def login() -> Client:
            return self.login(board, credentials, password, over=True)

        return trust.settle(self.store, board, client, login, credentials, pin_too, want)

    def prove(self, board: Board, pem: bytes, credentials: Credentials | None = None) -> None:
        """A login after a restart, to a board that shows this certificate. Raises BoardError, and as connect() does."""
        with self.connect(board, credentials, wait=self.args.timeout * 2) as client:
            if client.link.certificate != der(pem):
                raise BoardError("It shows another certificate than the one it was sent; is its boot.py naming one?")

    def restart(self, client: Client) -> None:
        """A soft reset: the server starts with what is on the board now, and so does main.py."""
        with contextlib.suppress(ConnectionLost):
            client.exec("import machine\nmachine.soft_reset()", timeout=2)
        client.link.closed = True
        client.link._sock.close()

    def each(
        self,
        work: Callable[[Board], Outcome | str | None],
        boards: Sequence[Board] | None = None,
        halt: tuple[type[WssctlError], ...] = (),
    ) -> list[Outcome]:
        """work(board) for all, by the engine; what it returns stands in the table."""
        boards = self.boards if boards is None else boards
        for board in boards:
            self.password(board)  # asked for now, one after the other
        engine = Engine(self.args.jobs or JOBS, connect=self.args.timeout, halt=halt)
        return tell(engine.outcomes(boards, work), len(boards), as_json=self.args.json)

    def note(self, text: str) -> None:
        """For a person; with --json there is an object a board on stdout and nothing else."""
        if self.args.json:
            say(text)
        else:
            print(text)

    def must(self, done: list[Outcome], again: str) -> None:
        failed = [o for o in done if o.code]
        if failed:
            raise NotDone(f"Not done on {', '.join(o.board for o in failed)}; {again}", worst(failed))


# Certificates


def certificate_for_same_names(authority: ca.Authority, store: Store, board: Board) -> bytes:
    """A new certificate (PEM) for the key and the names of the board's present one."""
    path = store.device_files(board.uid)["cert_pem"]
    if not board.uid or not path.exists():
        raise NoCertificate(f"There is no certificate of it in {store.folder}; use `wssctl setup` on its cable.")
    old = ca.load_cert(store.read(path), "device certificate")
    names = ca.report(store.read(path), "device").names
    addresses = [n for n in names if ":" in n and "://" not in n or n.replace(".", "").isdigit()]
    hosts = [n for n in names if "://" not in n and n not in addresses and not n.endswith(".local")]
    ports = sorted({int(n.rsplit(":", 1)[1]) for n in names if "://" in n}) or [ca.WSS_PORT]
    cert = authority.sign_device(old.public_key(), board.uid, names=hosts, addresses=addresses, ports=ports)
    return cert.public_bytes(serialization.Encoding.PEM)


def der(pem: bytes) -> bytes:
    return ca.load_cert(pem, "certificate").public_bytes(serialization.Encoding.DER)


def keep_certificate(fleet: Fleet, board: Board, pem: bytes) -> None:
    files = fleet.store.device_files(board.uid)
    fleet.store.write({files["cert_pem"]: pem, files["cert_der"]: der(pem)}, force=True)
    fleet.registry.update(board.name, cert=pem)


def renew(args: argparse.Namespace) -> int:
    fleet = Fleet(args)
    due = [d for d in fleet.boards if args.all or (d.days_left() or 0) < WARNING_DAYS]
    if not due:
        fleet.note("No certificate is due; --all renews them all the same.")
        return 0
    fleet.boards = due
    authority = keys.load_authority(args, fleet.store)

    waiting.add(fleet.store.record, [b.name for b in due], waiting.CERTIFICATE)
    fleet.must(fleet.each(lambda board: bring_certificate(fleet, authority, board)), _LATER)
    return 0


def bring_certificate(fleet: Fleet, authority: ca.Authority, board: Board) -> str:
    def work() -> str:
        pem = certificate_for_same_names(authority, fleet.store, board)
        with fleet.connect(board) as client:
            client.put(der(pem), f"SSL_certificate{board.uid}.der")
            fleet.restart(client)
        fleet.prove(board, pem)
        keep_certificate(fleet, board, pem)
        return "renewed"

    return waiting.bring(fleet.store.record, board.name, waiting.CERTIFICATE, work)


# Passwords


def _pending(board: Board) -> str:
    return f"new password:{board.name}"


def forget_new_password(store: Store, board: Board) -> None:
    keep_secret(store, _pending(board), None)


def password(args: argparse.Namespace) -> int:
    """New ones, random or as given. They are kept here before a board has them, and the old ones until they work."""
    args.board = args.name
    if args.no_remember and not (args.show or args.new_password_file):
        raise UsageError(
            "Nobody would know a random password that is neither remembered nor shown: add --show, or give one with "
            "--new-password-file. Nothing was changed."
        )
    fleet = Fleet(args)
    given = ask.from_file(args.new_password_file) if args.new_password_file else None
    if given:
        ask.check_password(given)
    for board in fleet.boards:
        before = remembered(fleet.store, _pending(board))
        if given and before not in (None, given):
            raise UsageError(
                f"Another new password waits for {board.name}, which may have it already: `wssctl boards apply "
                f"{board.name}` first. Nothing was changed."
            )
        if before:  # it may be on the board, and who lost it would be locked out
            say(
                f"NOTE: the new password that waits for {board.name} since an earlier attempt is the one that it gets; "
                "run it again after that for another."
            )
        keep_secret(fleet.store, _pending(board), before or given or secrets.token_urlsafe(15))
    names = [b.name for b in fleet.boards]
    new = {n: remembered(fleet.store, f"new password:{n}") for n in names}
    waiting.add(fleet.store.record, names, waiting.PASSWORD, {"remember": not args.no_remember})
    done = fleet.each(lambda board: bring_password(fleet, board))
    if args.show:
        for o in done:
            if not o.code or waiting.PASSWORD in waiting.pending(fleet.store.record, o.board):
                fleet.note(f"{o.board}: {new[o.board]}" if len(names) > 1 else str(new[o.board]))
    fleet.must(done, _LATER)
    return 0


def bring_password(fleet: Fleet, board: Board) -> str:
    """Raises BoardError, and the old one is in force, when the board takes its password from elsewhere."""
    store = fleet.store
    how = waiting.pending(store.record, board.name).get(waiting.PASSWORD, {})
    new = remembered(store, _pending(board))

    def work() -> str:
        if new is None:
            raise KeyFileError(f"The new password of {board.name} is not here any more; run `wssctl password` again.")
        try:
            client = fleet.connect(board)
        except AccessDenied:  # it has the new one: the last attempt was cut off before its proof
            fleet.connect(board, password=new).close()
        else:
            with client:
                old = client.get("webrepl_cfg.py")
                client.put(b"PASS = %a\n" % new, "webrepl_cfg.py")
                fleet.restart(client)
            try:
                fleet.connect(board, password=new, wait=fleet.args.timeout * 2).close()
            except AccessDenied:
                with fleet.connect(board, wait=fleet.args.timeout) as client:
                    client.put(old, "webrepl_cfg.py")
                forget_new_password(store, board)
                raise BoardError(
                    f"{board.name} takes its password from elsewhere (start(password=...) in its boot.py?); it is as "
                    "it was."
                ) from None
        fleet.now_has(board, new)
        where = ""
        if how.get("remember", True):
            where = f", remembered in {keep_secret(store, f'password:{board.name}', new)}"
        forget_new_password(store, board)
        return f"has a new password{where}"

    return waiting.bring(store.record, board.name, waiting.PASSWORD, work)


def remember(args: argparse.Namespace) -> int:
    """Logs in with the secrets first: what is remembered works."""
    args.board = [args.name]
    fleet = Fleet(args)
    board = fleet.boards[0]
    fleet.connect(board).close()
    where = keep_secret(fleet.store, f"password:{board.name}", fleet.password(board))
    if args.passphrase:
        key, _ = fleet.store.find_host()
        keep_secret(fleet.store, f"passphrase:{key.name}", fleet.passphrase)
    print(f"Remembered in {where}; `wssctl boards forget {board.name}` forgets.")
    return 0
