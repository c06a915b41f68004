"""`wssctl boards apply`, and `wssctl update`, which records what it wants first."""

import argparse
import os
from typing import Any

from ..errors import BoardError, UsageError, WssctlError
from ..keys import commands as keys
from ..keys.store import Store
from ..text import say
from . import fleet as changes
from . import modules, waiting
from . import update as updates
from .dialler import Dialler
from .fleet import Fleet
from .registry import Board, Registry
from .rotate import rotate

# What `wssctl update` was given, for when the board is there
_OPTIONS = ("overlay", "force", "deadline", "signed")


def apply(args: argparse.Namespace) -> int:
    """What waits for boards, to those that can be reached."""
    fleet = Fleet(args)
    record = fleet.store.record
    wait = waiting.words(record, [b.name for b in fleet.boards])
    boards = [b for b in fleet.boards if b.name in wait]
    if args.drop:
        for board in boards:
            for kind in waiting.pending(record, board.name):
                waiting.remove(record, board.name, kind)
                if kind == waiting.PASSWORD:
                    changes.forget_new_password(fleet.store, board)
                    say(
                        f"NOTE: {board.name}'s new password is forgotten; should it have that already (a connection "
                        "that broke), `wssctl setup PORT` on its cable sets another."
                    )
        fleet.note("Nothing but trust lists waits any more, and a rotation of the ROOT CA, if there is one.")
        return 0
    if not boards:
        fleet.note("Nothing waits.")
        return 0
    todo = {b.name: waiting.pending(record, b.name) for b in boards}
    certificates = any(waiting.CERTIFICATE in kinds for kinds in todo.values())
    authority = keys.load_authority(args, fleet.store) if certificates else None
    bundles = sum(waiting.BUNDLE in kinds for kinds in todo.values())

    def work(board: Board) -> str:
        kinds, said = todo[board.name], []
        if not kinds:
            fleet.connect(board).close()  # which brings the trust list
        if waiting.PASSWORD in kinds:
            said.append(changes.bring_password(fleet, board))
        if waiting.CERTIFICATE in kinds and authority:
            said.append(changes.bring_certificate(fleet, authority, board))
        if waiting.BUNDLE in kinds:
            said.append(_bring_bundle(fleet, board, kinds[waiting.BUNDLE]))
        return ", ".join(said) or "up to date"

    # A bundle that one board takes back is not tried on the others
    again = "`wssctl boards` shows what still waits for them; run it again when they are reachable."
    fleet.must(fleet.each(work, boards, halt=(BoardError,) if bundles > 1 else ()), again)
    return 0 if args.board else _go_on_rotating(args, fleet)


def _bring_bundle(fleet: Fleet, board: Board, how: dict[str, Any]) -> str:
    if updates.number(modules.version()) < updates.number(how["version"]):
        has = modules.version()
        raise UsageError(f"{board.name} is to get {how['version']}, and this wssctl has {has}: update wssctl first.")
    defaults = {"url": board.name, "server_name": None, "host_id": None, "keep": "0", "sign": False, "signed": None}
    args = argparse.Namespace(**(vars(fleet.args) | defaults | how))
    dial = Dialler(args, fleet.password(board), fleet.passphrase)
    return bring_bundle(args, dial)


def bring_bundle(args: argparse.Namespace, dial: Dialler) -> str:
    """On the board that the Dialler is for. Returns "OLD -> NEW", or that it has it already. Raises as Dialler does,
    and BoardError for what is against it."""
    dial.notes = False
    if not dial.board:
        return updates._update(args, dial)
    record, name = Store(args.keys).record, dial.board.name
    return waiting.bring(record, name, waiting.BUNDLE, lambda: updates._update(args, dial))


def _go_on_rotating(args: argparse.Namespace, fleet: Fleet) -> int:
    state = waiting.rotation(fleet.store.record)
    if state is None:
        return 0
    if state["step"] == 3 and state.get("keep_old"):
        say("Boards still trust the old ROOT CA, for other hosts; `wssctl ca rotate` drops it.")
        return 0
    args.name, args.keep_old, args.skip = None, state.get("keep_old", False), state.get("skip", [])
    return rotate(args)


def update(args: argparse.Namespace) -> int:
    """As boards/update.py has it; a board that is off gets it by `boards apply`."""
    from .many import named

    version = modules.version()
    if args.signed:
        updates.read_signature(args.signed)  # a wrong name is no reason to wait
    registry = Registry(Store(args.keys))
    boards = named(args) or [b for b in [registry.find(args.url)] if b]
    listed = [b.name for b in boards if b.uid or registry.find(b.name)]
    how = {n: getattr(args, n) for n in _OPTIONS if hasattr(args, n)} | {"version": version}
    if how.get("signed"):
        how["signed"] = os.path.abspath(how["signed"])
    if getattr(args, "sign", False):
        listed = []  # that asks for a passphrase, which nobody gives later: --signed FILE waits
    waiting.add(registry.record, listed, waiting.BUNDLE, how)
    try:
        code = updates.run(args, lambda dial: bring_bundle(args, dial), "update")
    except WssctlError as e:
        if waiting.is_final(e):
            for name in listed:
                waiting.remove(registry.record, name, waiting.BUNDLE)
        _tell(registry, listed)
        raise
    if code:
        _tell(registry, listed)
    return code


def _tell(registry: Registry, boards: list[str]) -> None:
    left = [n for n in boards if waiting.BUNDLE in waiting.pending(registry.record, n)]
    if left:
        say(f"It waits for {', '.join(left)}: `wssctl boards apply` brings it when they can be reached.")
