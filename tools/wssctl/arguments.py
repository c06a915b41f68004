"""How wssctl reads its command line: the parser, its help, and the arguments that several commands share (Common)."""

import argparse
import contextlib
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias


def port_number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
        raise argparse.ArgumentTypeError(f"{text!r} is no port: give a number from 1 to 65535")
    return int(text)


def count(text: str) -> int:
    if text.isascii() and text.isdigit() and 0 < int(text) < 1000:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no number of boards: give 1 to 999")


def seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < float(text) < 1e9:  # not nan, and what a socket takes
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no time to wait: give seconds, more than 0")


def deadline(text: str) -> float:
    if 5 <= (given := seconds(text)) <= 3600:
        return given
    raise argparse.ArgumentTypeError(f"{text!r}: give 5 to 3600 seconds, in which a board has to start and answer")


class Help(argparse.HelpFormatter):
    """Paragraphs are filled, but for lines that begin with a space: examples. The usage line is short, because all
    options are listed below it."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines = text.splitlines()
        return "\n".join(n if n[:1] == " " else super(Help, self)._fill_text(n, width, indent) for n in lines)

    def add_usage(
        self,
        usage: str | None,
        actions: Iterable[argparse.Action],
        groups: Iterable[argparse._MutuallyExclusiveGroup],
        prefix: str | None = None,
    ) -> None:
        actions = list(actions)
        positional = [a for a in actions if not a.option_strings]
        if len(positional) < len(actions):
            positional.insert(0, argparse.Action(["options"], "options", nargs=0))
        super().add_usage(usage, positional, [], prefix)


class Parser(argparse.ArgumentParser):
    """Takes options between positional arguments: before Python 3.12 `exec BOARD --timeout 5 CODE` is refused."""

    _nested = False

    def __init__(self, prog: str | None = None, **more: Any):
        super().__init__(prog, formatter_class=Help, **more)

    def section(self, title: str) -> argparse._ArgumentGroup:
        """Its options of that title. Sections of `parents` are joined by argparse."""
        return next((g for g in self._action_groups if g.title == title), None) or self.add_argument_group(title)

    def parse_known_args(  # type: ignore[override]  # the stub's overloads are about namespaces of one's own
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        if self._nested or self._subparsers or any(a.nargs == argparse.REMAINDER for a in self._actions):
            return super().parse_known_args(args, namespace)
        self._nested = True  # it calls this method for each of its two passes
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._nested = False


Commands: TypeAlias = "argparse._SubParsersAction[Parser]"
SECRETS, CONNECTION, SEVERAL = "keys and secrets", "connection", "several boards"


def options(*parents: Parser) -> Parser:
    """Arguments that several commands have."""
    return Parser(add_help=False, parents=parents)


class Common:
    """What commands have in common, as parents for their parsers: the secrets that they need, how they reach a board,
    and which boards, ports and files they are about."""

    def __init__(self) -> None:
        self._secrets()
        self._connection()
        self._others()

    def _secrets(self) -> None:
        self.folder = options()
        self.folder.section(SECRETS).add_argument(
            "--keys", metavar="DIR", help="the folder of key files (default: $WSSCTL_KEYS, else your own)"
        )
        self.keys = options(self.folder)
        self.keys.section(SECRETS).add_argument(
            "--passphrase-file", metavar="FILE", help="its first line is the passphrase of your keys"
        )
        self.ca = options()
        self.ca.section(SECRETS).add_argument(
            "--ca-passphrase-file", metavar="FILE", help="the ROOT CA key's passphrase, if another one"
        )
        self.password = options()
        self.password.section(SECRETS).add_argument(
            "--password-file", metavar="FILE", help="its first line is the board's WebREPL password"
        )

    def _connection(self) -> None:
        self.session = options()
        way = self.session.section(CONNECTION)
        way.add_argument("--takeover", action="store_true", help="end another client's session")
        way.add_argument("--timeout", type=seconds, default=10.0, metavar="S", help="seconds to wait for answers (10)")

        self.one = options()
        self.one.add_argument(
            "url", metavar="BOARD", help="a name of `wssctl boards`, or 192.168.1.20, board.local, wss://name:port"
        )
        self.way = options(self.keys, self.session)
        self.way.section(SECRETS).add_argument(
            "--host-id", metavar="ID", help="use HOST_cert@ID.pem in place of your own"
        )
        self.way.section(CONNECTION).add_argument(
            "--server-name", metavar="NAME", help="the name to expect in the board's certificate"
        )
        self.login = options(self.way, self.password)
        self.login.section(CONNECTION).add_argument(
            "--keep", metavar="TIME", help="keep the connection for later commands: 5m after the last one; 0: do not"
        )

    def _others(self) -> None:
        self.engine = options()
        several = self.engine.section(SEVERAL)
        several.add_argument("-j", "--jobs", type=count, metavar="N", help="how many to work on at a time (32)")
        several.add_argument("--json", action="store_true", help="print an object a board, a line each, as they end")
        self.some = options()
        self.some.add_argument(
            "url", metavar="BOARD", help="names of `wssctl boards` with commas, @group, @all; or one address"
        )
        self.listed = options()
        self.listed.add_argument("board", nargs="*", metavar="BOARD", help="names and @groups (default: all)")

        self.fleet = options(self.keys, self.password, self.session, self.engine)
        self.force = options()
        self.force.add_argument("--force", action="store_true", help="replace files that exist")
        self.new_passphrase = options(self.keys)
        self.new_passphrase.section(SECRETS).add_argument(
            "--new-passphrase-file", metavar="FILE", help="encrypt the copy under this one"
        )
        self.make = options(self.keys, self.ca, self.force)
        self.make.add_argument("--days", type=int, metavar="N", help="days of validity (ROOT CA 3650, others 824)")
        self.update_key = options()
        self.update_key.section(SECRETS).add_argument(
            "--update-passphrase-file", metavar="FILE", help="the update key's passphrase, if another one"
        )
        self.port = options()
        self.port.add_argument("port", metavar="PORT", help="/dev/ttyUSB0, u0, COM3, auto: as for `mpremote connect`")
        self.port.add_argument("--uid", help="refuse any board but the one with this id")
