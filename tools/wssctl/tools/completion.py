"""Completion for bash, zsh and fish, by argcomplete: `wssctl completion SHELL` prints what the shell has to know, and
at each Tab the shell starts wssctl with _ARGCOMPLETE set, which ends in offer().
"""

import argparse
import copy
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from ..boards.registry import known_names
from ..errors import UsageError
from ..keys.store import key_folder

SHELLS = ("bash", "zsh", "fish")
_BOARD = "BOARD"  # the metavar of arguments that take a board


def completion(args: argparse.Namespace) -> int:
    """Prints the shell's part."""
    from argcomplete.shell_integration import shellcode

    shell = args.shell or os.path.basename(os.environ.get("SHELL", ""))
    if shell not in SHELLS:
        raise UsageError(f"Say for which shell: wssctl completion {' | '.join(SHELLS)}.")
    sys.stdout.write(shellcode(["wssctl"], shell=shell))
    return 0


def offer(parser: argparse.ArgumentParser) -> None:
    """Writes the words that fit to where argcomplete's shell code reads them, and ends the process."""
    import argcomplete

    for each, action in _boards(parser):
        several = action.nargs in ("*", "+") or any("--jobs" in a.option_strings for a in each._actions)
        action.completer = _Boards(several)  # type: ignore[attr-defined]  # where argcomplete looks for it
    argcomplete.autocomplete(parser)


def _boards(parser: argparse.ArgumentParser) -> Iterator[tuple[argparse.ArgumentParser, argparse.Action]]:
    """(parser, argument) of each command that takes a board. Each gets an argument of its own: those of `parents` are
    shared."""
    for at, action in enumerate(parser._actions):
        if isinstance(action, argparse._SubParsersAction):
            for below in dict.fromkeys(action.choices.values()):
                yield from _boards(below)
        elif action.metavar == _BOARD:
            own = copy.copy(action)
            parser._actions[at] = own
            parser._option_string_actions |= dict.fromkeys(own.option_strings, own)
            for group in parser._action_groups:
                group._group_actions = [own if a is action else a for a in group._group_actions]
            yield parser, own


class _Boards:
    """Names from the record, of which nothing is changed and no secret read; for several boards groups and @all, too,
    and names behind commas."""

    def __init__(self, several: bool):
        self.several = several

    def __call__(self, prefix: str, parsed_args: argparse.Namespace, **_: Any) -> Iterable[str]:
        folder = getattr(parsed_args, "keys", None)
        names, groups = known_names(key_folder(folder))
        if not self.several:
            return names
        before, comma, _rest = prefix.rpartition(",")
        return [f"{before}{comma}{n}" for n in [*names, "@all", *(f"@{g}" for g in groups)]]
