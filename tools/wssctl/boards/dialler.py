"""How every command that talks to one board connects to it."""

import argparse
import contextlib
import copy
import os
from collections.abc import Callable

from ..errors import KeyFileError
from ..keys import ask
from ..keys.remembered import remembered
from ..keys.store import Store
from ..text import say
from ..wire import kept
from ..wire.client import Client, twice
from ..wire.link import Credentials, parse_target
from .registry import Registry, server_name, warn

BOOT = 60.0  # seconds after which a board that was reset is given up: a slow one needs 20 to load what it runs


class Dialler:
    """Connects to the board that the command line names, as often as it is called, and asks for secrets once.

    It asks before it connects: a board gives a client that is not logged in a few seconds only.
    """

    notes = True  # whether to tell what waits for the board
    again = False  # whether a login that breaks off is tried once more
    told: str | None = ""  # what the board said of an update that it took back; None: who connects tells it

    def __init__(
        self,
        args: argparse.Namespace,
        password: str | None = None,
        passphrase: str | None = None,
        beside: "Dialler | None" = None,
    ):
        """beside: one for another board in the same command, of which secrets are not asked for again."""
        self._store: Store = beside._store if beside else Store(args.keys)
        self._registry: Registry = beside._registry if beside else Registry(self._store)
        self.board = self._registry.find(args.url)
        self.target = parse_target(self.board.url if self.board else args.url, args.takeover)
        self.timeout = args.timeout
        self._server_name = args.server_name or self._name_of_board
        self._credentials = None
        if self.target.secure:
            self._credentials = (beside and beside._credentials) or credentials_for(args, passphrase)
        self._keep = self._seconds_to_keep(args)
        self._typed: str | None = None
        self._args = args
        if self.board:
            warn(self.board)
        given = password or ask.given(args.password_file, "WSSCTL_PASSWORD")
        # a connection that is kept already needs none
        self._password: str | Callable[[], str] = given or (self._ask if self._is_kept() else self._ask())

    def _seconds_to_keep(self, args: argparse.Namespace) -> float | None:
        """By --keep, $WSSCTL_KEEP, or `wssctl keep` for this board or all."""
        said = getattr(args, "keep", None)
        if said is None:
            said = os.environ.get("WSSCTL_KEEP") or None
        if isinstance(said, str):
            return kept.seconds(said) or None
        if said is None:
            with self._store.record.view() as db:
                names = [f"keep:{args.url}", "keep:"]
                rows = dict(db.execute("SELECT what, value FROM state WHERE what IN (?, ?)", names).fetchall())
            value = next((rows[n] for n in names if n in rows), None)
            said = float(value) if value else 0.0
        return said or None

    def _is_kept(self) -> bool:
        if not self._keep:
            return False
        try:
            return kept.path_of(self.target, self._credentials).exists()
        except kept.NoPlace:
            return False

    def _name_of_board(self) -> str | None:
        return server_name(self._store, self.board) if self.board else None

    def _ask(self) -> str:
        if self._typed is None:
            self._typed = remembered(self._store, f"password:{self._args.url}")
        if self._typed is None:
            question = f"Password of {self.board.name if self.board else self.target.host}"
            self._typed = ask.secret(question, None, "WSSCTL_PASSWORD", option="--password-file")
        return self._typed

    def takeover(self) -> "Dialler":
        """The same, ending another client's session."""
        other = copy.copy(self)
        other.target = self.target._replace(path="/takeover")
        return other

    def __call__(self, timeout: float | None = None) -> Client:
        """A session. What waits for the board is brought to it first. Raises what Client.connect() raises, and what
        trust.settle() does."""
        client = self._login(timeout, self._keep)
        if isinstance(client.link, kept.KeptLink) and not client.link.fresh:
            return client  # whoever logged in has seen to all that follows
        note = client.link.bundle[1]
        if note and self.told is not None and note != self.told:
            say(f"NOTE: {self.board.name if self.board else self.target.host}: {note}.")
            self.told = note
        if not self.board or not self._credentials:
            return client
        from . import trust, waiting

        with contextlib.suppress(KeyFileError):  # a folder that is read-only, or on a full disk, serves to log in
            self._registry.seen(self.board.name)
        if self.notes and (kinds := waiting.pending(self._store.record, self.board.name)):
            self.notes = False
            name = self.board.name
            say(f"NOTE: for {name} there waits: {', '.join(sorted(kinds))}. `wssctl boards apply {name}` brings it.")
        with self._store.record.view() as db:
            lacks = trust.pending(db, {self.board.name: client.link.certificate})
        if lacks:
            if self._keep:  # that takes logins of its own
                client.close()
                client = self._login(timeout)
            again = self.takeover()
            with trust.on_the_way():
                return trust.settle(self._store, self.board, client, lambda: again._login(timeout), self._credentials)
        return client

    def _login(self, timeout: float | None, keep: float | None = None) -> Client:
        def login() -> Client:
            return Client.connect(
                self.target,
                self._credentials,
                self._password,
                server_name=self._server_name,
                timeout=timeout or self.timeout,
                keep=keep,
            )

        return twice(login) if self.again else login()


def connect(args: argparse.Namespace) -> Client:
    return Dialler(args)()


def open_board(
    name: str,
    *,
    keys: str | None = None,
    password: str | None = None,
    passphrase: str | None = None,
    timeout: float = 10.0,
    takeover: bool = False,
    keep: float | None = None,
) -> Client:
    """A board by its name in `wssctl boards` or its address, logged in, for programs. Keys and secrets that are not
    given come as for every command: the user's key folder, the environment, what is remembered. Raises what
    Client.connect() raises."""
    args = argparse.Namespace(
        url=name, keys=keys, takeover=takeover, timeout=timeout,
        password_file=None, passphrase_file=None, server_name=None, host_id=None, keep=keep,
    )  # fmt: skip
    return Dialler(args, password, passphrase)()


def credentials_for(args: argparse.Namespace, passphrase: str | None = None) -> Credentials:
    store = Store(args.keys)
    ca = store.find_ca_cert()
    if args.host_id:
        key, cert = store.host_files(args.host_id)
    else:
        key, cert = store.find_host()
    typed = ask.deferred(
        f"Passphrase for key '{key.name}'", args.passphrase_file, "WSSCTL_PASSPHRASE", option="--passphrase-file"
    )
    given = passphrase or ask.given(args.passphrase_file, "WSSCTL_PASSPHRASE")
    if given:
        return Credentials(ca, cert, key, given)
    return Credentials(ca, cert, key, lambda: remembered(store, f"passphrase:{key.name}") or typed())
