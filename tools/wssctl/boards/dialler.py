"""How every command that talks to one board connects to it."""

import argparse
import copy
from dataclasses import replace

from ..keys import ask
from ..keys.hosts import of
from ..keys.remembered import remembered
from ..keys.store import Store
from ..text import say
from ..wire.client import Client
from ..wire.link import Credentials, parse_target
from . import trust
from .registry import Registry, server_name, warn


class Dialler:
    """Connects to the board that the command line names, as often as it is called, and asks for secrets once.

    It asks before it connects: a board gives a client that is not logged in a few seconds only.
    """

    told: str | None = ""  # what the board said of an update that it took back; None: who connects tells it

    def __init__(self, args, password: str | None = None, passphrase: str | None = None):
        self._store = store = Store(args.keys)
        self._registry = Registry(store)
        self.board = self._registry.find(args.url)
        self.target = parse_target(self.board.url if self.board else args.url, args.takeover)
        self.timeout = args.timeout
        self._server_name = args.server_name or (self.board and server_name(store, self.board))
        self._credentials = credentials_for(args, passphrase) if self.target.secure else None
        if self.board:
            warn(self.board)
        self._password = password or ask.given(args.password_file, "WSSCTL_PASSWORD") or remembered(
            store, f"password:{args.url}"
        )
        if self._password is None:
            question = f"Password of {self.board.name if self.board else self.target.host}"
            self._password = ask.secret(question, None, "WSSCTL_PASSWORD", option="--password-file")

    def takeover(self) -> "Dialler":
        """The same, ending another client's session."""
        other = copy.copy(self)
        other.target = replace(self.target, path="/takeover")
        return other

    def __call__(self, timeout: float | None = None) -> Client:
        """A session. What waits for the board is brought to it first. Raises what Client.connect() raises, and what
        trust.settle() does."""
        client = self._login(timeout)
        note = client.link.bundle[1]
        if note and self.told is not None and note != self.told:
            say(f"NOTE: {self.board.name if self.board else self.target.host}: {note}.")
            self.told = note
        if not self.board or not self._credentials:
            return client
        self._registry.update(self.board.name)
        if trust.pending(self._store.record, self.board.name):
            me = of(self._store.read(self._credentials.cert))
            return trust.settle(self._store, self.board, client, lambda: self.takeover()._login(timeout), me)
        return client

    def _login(self, timeout: float | None) -> Client:
        return Client.connect(
            self.target,
            self._credentials,
            self._password,
            server_name=self._server_name,
            timeout=timeout or self.timeout,
        )


def connect(args) -> Client:
    return Dialler(args)()


def open_board(
    name: str,
    *,
    keys: str | None = None,
    password: str | None = None,
    passphrase: str | None = None,
    timeout: float = 10.0,
    takeover: bool = False,
) -> Client:
    """A board by its name in `wssctl boards` or its address, logged in, for programs. Keys and secrets that are not
    given come as for every command: the user's key folder, the environment, what is remembered. Raises what
    Client.connect() raises."""
    args = argparse.Namespace(
        url=name, keys=keys, takeover=takeover, timeout=timeout,
        password_file=None, passphrase_file=None, server_name=None, host_id=None,
    )  # fmt: skip
    return Dialler(args, password, passphrase)()


def credentials_for(args, passphrase: str | None = None) -> Credentials:
    store = Store(args.keys)
    ca = store.find_ca_cert()
    if args.host_id:
        key, cert = store.host_files(args.host_id)
    else:
        key, cert = store.find_host()
    typed = ask.later(
        f"Passphrase for key '{key.name}'", args.passphrase_file, "WSSCTL_PASSPHRASE", option="--passphrase-file"
    )
    given = passphrase or ask.given(args.passphrase_file, "WSSCTL_PASSPHRASE")
    known = given or remembered(store, f"passphrase:{key.name}")
    return Credentials(ca, cert, key, known or typed)
