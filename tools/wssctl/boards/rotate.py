"""`wssctl ca rotate`: a new ROOT CA, without locking anybody out.

Boards trust the old and the new one; this machine changes over; boards get new certificates and drop the old one. How
far that has come is in the record after each board and each step, so that whoever runs it again goes on there.
"""

import argparse
import json
import time
from datetime import UTC, datetime
from typing import Any

from cryptography import x509

from ..errors import UsageError
from ..keys import ca, hosts
from ..keys import commands as keys
from ..keys.record import Together
from ..keys.store import Store
from ..text import say
from . import waiting
from .fleet import Fleet, certificate_for_same_names, der, keep_certificate
from .registry import Board, Registry

_NEXT = "NEXT_"  # before the names of the files that are to take the places of others


def rotate(args: argparse.Namespace) -> int:
    args.board = []
    rotation = _Rotation(args, Fleet(args))
    if rotation.step == 1:
        rotation.trust_both()
    if rotation.step == 2:
        rotation.change_over()
    if args.keep_old:
        rotation.fleet.note(
            "All boards trust both ROOT CAs. Other hosts: `wssctl ca import` and `host init --force` there; then run\n"
            "`wssctl ca rotate` again, which gives the boards new certificates and drops the old ROOT CA."
        )
        return 0
    rotation.drop_old()
    rotation.fleet.note("The rotation is complete.")
    return 0


class _Rotation:
    """One that was begun before, or a new one: step 1 to 3, and the boards with which that step is done."""

    def __init__(self, args: argparse.Namespace, fleet: Fleet):
        self.args, self.fleet, self.store = args, fleet, fleet.store
        self.key, self.cert = self.store.find_host()
        files = (self.store.ca_key, self.store.ca_cert, self.key, self.cert)
        self.later = {p: p.with_name(_NEXT + p.name) for p in files}
        state = waiting.rotation(self.store.record)
        if state:
            say(f"Going on with the rotation begun before, step {state['step']}")
        else:
            state = self._begin()
        self.old_pem = state["old"].encode()
        self.state = state | {"keep_old": args.keep_old, "skip": args.skip}
        self._save(self.state)
        self._together = Together(self._write_done)

    @property
    def step(self) -> int:
        return int(self.state["step"])

    def _begin(self) -> dict[str, Any]:
        """Makes the new ROOT CA and this host's new key, as files that nobody uses yet."""
        args, store = self.args, self.store
        _refuse_unlisted(store, self.fleet.registry, args.skip)
        authority = keys.load_authority(args, store)  # the passphrase is right, and both CAs get the same
        passphrase = keys.ca_passphrase(args)
        new = ca.Authority.create(args.name or f"ROOT CA {keys.user_at_host()} {time.strftime('%Y-%m-%d')}"[:64])
        key_pem, cert_pem = new.host(keys.user_at_host()[:59], self.fleet.passphrase)
        files = {
            store.ca_key: new.key_pem(passphrase), store.ca_cert: new.cert_pem, self.key: key_pem, self.cert: cert_pem
        }  # fmt: skip
        store.write({self.later[p]: data for p, data in files.items()}, force=True)
        hosts.issued(store, cert_pem)
        return {"step": 1, "done": [], "old": authority.cert_pem.decode()}

    def trust_both(self) -> None:
        """Step 1: each board trusts both ROOT CAs, and has let this host in under the new one."""
        fleet, later = self.fleet, self.later
        new_pem, new_host = self.store.read(later[self.store.ca_cert]), hosts.of(self.store.read(later[self.cert]))

        def work(board: Board) -> str:
            # where hosts are pinned, the new certificate is, too, before anything depends on it
            with fleet.settle(board, fleet.connect(board), pin_too=new_host) as client:
                client.put(self.old_pem.rstrip() + b"\n" + new_pem, "ROOT_CA_cert.pem")
                fleet.restart(client)
            pair = later[self.key], later[self.cert]
            fleet.connect(board, fleet.credentials(pair=pair), wait=self.args.timeout * 2).close()
            return self._done(board, "trusts both ROOT CAs")

        fleet.must(
            fleet.each(work, self._pending()),
            "the rotation waits for them: `wssctl boards apply` goes on, `wssctl ca rotate --skip NAME` without one.",
        )
        self._next_step(2)

    def change_over(self) -> None:
        """Step 2: what this machine trusts and shows changes in one write; the files are kept until the end."""
        store = self.store
        files = {p: store.read(n) for p, n in self.later.items()}
        files[store.ca_cert] = files[store.ca_cert].rstrip() + b"\n" + self.old_pem
        store.write(files, force=True)
        if store.crl.exists():
            new = ca.Authority.load(files[store.ca_cert], files[store.ca_key], keys.ca_passphrase(self.args))
            store.write({store.crl: store.read(store.crl) + new.crl([])}, force=True)
        self._next_step(3)

    def drop_old(self) -> None:
        """Step 3: each board has a new certificate and trusts the new ROOT CA alone; then so does this machine."""
        fleet, store = self.fleet, self.store
        authority = keys.load_authority(self.args, store)

        def work(board: Board) -> str:
            pem = certificate_for_same_names(authority, store, board)
            with fleet.connect(board) as client:  # under the new HOST key: the board trusts the new CA
                client.put(der(pem), f"SSL_certificate{board.uid}.der")
                client.put(authority.cert_pem, "ROOT_CA_cert.pem")
                fleet.restart(client)
            fleet.prove(board, pem, fleet.credentials(ca_file=self.later[store.ca_cert]))
            keep_certificate(fleet, board, pem)
            return self._done(board, "has its new certificate, trusts the new ROOT CA alone")

        fleet.must(fleet.each(work, self._pending()), "`wssctl boards apply` goes on.")
        store.write({store.ca_cert: authority.cert_pem}, force=True)
        store.crl.unlink(missing_ok=True)  # what it revokes, nobody trusts any more
        for path in self.later.values():
            path.unlink(missing_ok=True)
        self._save(None)

    # What is done

    def _pending(self) -> list[Board]:
        boards = self.fleet.registry.select([])
        return [b for b in boards if b.name not in self.state["done"] and b.name not in self.args.skip]

    def _done(self, board: Board, words: str) -> str:
        self._together.add(board.name)
        return words

    def _write_done(self, names: list[str]) -> None:
        finished = [*self.state["done"], *names]
        self._save(self.state | {"done": finished})
        self.state["done"] = finished

    def _next_step(self, step: int) -> None:
        self.state |= {"step": step, "done": []}
        self._save(self.state)

    def _save(self, state: dict[str, Any] | None) -> None:
        with self.store.record.change() as db:
            if state is None:
                db.execute("DELETE FROM state WHERE what = 'rotation'")
            else:
                db.execute("INSERT OR REPLACE INTO state VALUES('rotation', ?)", (json.dumps(state),))


def _refuse_unlisted(store: Store, registry: Registry, skip: list[str]) -> None:
    """A board that has a certificate and no name would be left behind with the old CA, and nobody told."""
    boards = registry.load()
    listed = {d.uid for d in boards.values()}
    gone: set[int] = set()
    if store.crl.exists():
        gone = {r.serial_number for r in x509.load_pem_x509_crl(store.read(store.crl))}
    for name in skip:
        if name not in boards and name not in store.devices():
            raise UsageError(f"There is no board {name!r} to skip; `wssctl boards` lists them.")
    unlisted = []
    for uid in store.devices():
        cert = ca.load_cert(store.read(store.folder / f"SSL_certificate{uid}.pem"), "device certificate")
        valid = cert.not_valid_after_utc > datetime.now(UTC) and cert.serial_number not in gone
        if valid and uid not in listed and uid not in skip:
            unlisted.append(uid)
    if unlisted:
        raise UsageError(
            f"`wssctl boards` does not list {', '.join(unlisted)}, whose keys are from this ROOT CA: add them "
            "(`wssctl boards add NAME ADDRESS --uid ID`), or leave them behind: --skip ID."
        )
