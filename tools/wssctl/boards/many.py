"""The boards that a command line names: one, or several by commas, @group and @all; and one command on each."""

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..errors import UsageError, WssctlError
from ..keys.store import Store
from .dialler import Dialler
from .registry import Board, Registry

if TYPE_CHECKING:  # one board needs none of it
    from .engine import Engine, Outcome


def named(args: argparse.Namespace) -> list[Board] | None:
    """What BOARD stands for when it stands for several; None for one. Raises UsageError for an unknown name."""
    registry = Registry(Store(args.keys))
    if "," not in args.url and not args.url.startswith("@"):
        return None
    by_name: dict[str, Board] = {}
    known = registry.load()
    for word in filter(None, args.url.split(",")):
        for board in registry.select([word]) if word[0] == "@" else [known.get(word) or Board(word)]:
            by_name[board.name] = board
    if not by_name:
        if not args.url.strip(","):
            raise UsageError(f"{args.url} names no board; `wssctl boards` lists them.")
        raise UsageError("There are no boards yet; `wssctl boards add` adds one.")
    return list(by_name.values())


def on_each(
    args: argparse.Namespace,
    boards: Sequence[Board],
    work: "Callable[[Dialler], Outcome | str | None]",
    engine: "Engine | None" = None,
    columns: Sequence[str] = ("output",),
) -> int:
    """Runs `work` with a Dialler for each board. Secrets are asked for first, one after the other. Returns the worst
    exit code."""
    from .engine import Engine, Outcome, tell, worst

    engine = engine or Engine()
    diallers: dict[str, Dialler | WssctlError] = {}
    first = None
    for board in boards:
        try:
            dial = Dialler(argparse.Namespace(**(vars(args) | {"url": board.name})), beside=first)
            first = first if first and first.target.secure else dial
            diallers[board.name] = dial
        except WssctlError as e:
            diallers[board.name] = e

    def one(board: Board) -> "Outcome | str | None":
        dial = diallers[board.name]
        if isinstance(dial, WssctlError):
            raise dial
        dial.notes = False
        dial.again = not engine.again
        done = work(dial)
        if isinstance(done, Outcome):
            done.board = board.name
        return done

    engine.jobs = getattr(args, "jobs", None) or engine.jobs
    engine.connect = args.timeout
    outcomes = engine.outcomes(boards, one)
    return worst(tell(outcomes, len(boards), as_json=getattr(args, "json", False), columns=columns))
