"""The `wssctl` command line: parses, calls one function, turns errors into one sentence and an exit code."""

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TypeAlias

from .errors import KeyFileError, WssctlError

DESCRIPTION = """\
Keys, terminal and files for MicroPython boards whose REPL is served over wss with mutual TLS.

The three you need most:
  wssctl setup /dev/ttyUSB0 --name room1   a board on a cable, from the box to a wss prompt
  wssctl repl room1                        a terminal on it over the network; Ctrl-] leaves
  wssctl put room1 main.py lib/            copy files there; `get` brings them back

And with the tools you have:
  wssctl mpremote room1 mount .            stock mpremote, all its commands
  wssctl bridge room1                      a serial port for Thonny, PyCharm, screen
  wssctl shell room1 sync src              send what differs; `wssctl shell room1` is a prompt, @group many boards
  https://room1.local:8833/                the board in a browser that holds `wssctl host export --p12 FILE`
"""

EPILOG = """\
BOARD is a name that `wssctl boards` lists, or an address: board.local, wss://192.168.1.20:8833; plain ws:// only
when typed so. Without a cable: `ca init`, `host init`, `keys init UID --name board --out FOLDER` make the keys.
Passwords are asked for, or come from --password-file / $WSSCTL_PASSWORD, passphrases from
--passphrase-file / $WSSCTL_PASSPHRASE. Keys are in a folder of yours, or --keys DIR / $WSSCTL_KEYS.
Exit codes: 0 well, 1 the board's code raised or it refuses a file, 2 usage, 3 unreachable, 4 certificates,
5 login, 6 connection lost, 7 local files, 130 Ctrl-C.
"""


def _lazy(module: str, function: str) -> Callable[[argparse.Namespace], int]:
    """Imports on call: `wssctl --help` and `repl` need not wait for what only other commands use."""

    def call(args: argparse.Namespace) -> int:
        return int(getattr(import_module(f".{module}", __package__), function)(args))

    return call


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
        raise argparse.ArgumentTypeError(f"{text!r} is no port: give a number from 1 to 65535")
    return int(text)


def _count(text: str) -> int:
    if text.isascii() and text.isdigit() and 0 < int(text) < 1000:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no number of boards: give 1 to 999")


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < float(text) < 1e9:  # not nan, and what a socket takes
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no time to wait: give seconds, more than 0")


def _deadline(text: str) -> float:
    if (seconds := _seconds(text)) < 5 or seconds > 3600:
        raise argparse.ArgumentTypeError(f"{text!r}: give 5 to 3600 seconds, in which a board has to start and answer")
    return seconds


class _Parser(argparse.ArgumentParser):
    """Takes options between positional arguments: before Python 3.12 `exec BOARD --timeout 5 CODE` is refused."""

    _nested = False

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


_Commands: TypeAlias = "argparse._SubParsersAction[_Parser]"


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from . import __version__

        print(f"wssctl {__version__}")
        parser.exit()


def build_parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = _Parser("wssctl", description=DESCRIPTION, epilog=EPILOG, formatter_class=raw)
    parser.add_argument("--version", action=_Version, nargs=0, help="show program's version number and exit")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    keys = _Parser(add_help=False)
    keys.add_argument("--keys", metavar="DIR", help="the folder of key files (default: $WSSCTL_KEYS, else your own)")
    keys.add_argument("--passphrase-file", metavar="FILE", help="its first line is the passphrase of your keys")

    remote = _Parser(add_help=False, parents=[keys])
    remote.add_argument(
        "url", metavar="BOARD", help="a name of `wssctl boards`, or 192.168.1.20, board.local, wss://name:port, ws://name"
    )
    remote.add_argument("--password-file", metavar="FILE", help="its first line is the board's WebREPL password")
    remote.add_argument("--takeover", action="store_true", help="end another client's session")
    remote.add_argument("--server-name", metavar="NAME", help="the name to expect in the board's certificate")
    remote.add_argument("--host-id", metavar="ID", help="use HOST_cert@ID.pem in place of your own")
    remote.add_argument("--timeout", type=_seconds, default=10.0, metavar="S", help="seconds to wait for answers (10)")
    remote.add_argument(
        "--keep", metavar="TIME", help="keep the connection for later commands: 5m after the last one; 0 goes without"
    )

    several = _Parser(add_help=False)
    several.add_argument("-j", "--jobs", type=_count, metavar="N", help="boards at work at a time, of several (32)")
    several.add_argument("--json", action="store_true", help="an object a board, a line each, as they end")

    p = commands.add_parser(
        "repl",
        parents=[remote],
        help="a terminal on a board",
        description=(
            "A terminal on the board: Ctrl-C, Ctrl-D, Tab and arrows as on a cable; Ctrl-] leaves. "
            "A program on standard input is run as with `exec --file -`."
        ),
    )
    p.set_defaults(call=_lazy("tools.repl", "repl"))

    p = commands.add_parser(
        "exec",
        parents=[remote, several],
        help="run code on a board",
        description=(
            "Runs code: its output on stdout, a traceback on stderr, exit code 1 if it raised. "
            "It interrupts what the board is doing. BOARD may be @group, @all, or names with commas between them."
        ),
    )
    p.add_argument("code", nargs="?", metavar="CODE", help="what to run there; or -f FILE")
    p.add_argument("-f", "--file", metavar="FILE", help="a program here to run there; '-' is standard input")
    p.set_defaults(call=_lazy("tools.transfer", "exec_"))

    p = commands.add_parser(
        "put",
        parents=[remote, several],
        help="copy files to a board",
        usage="wssctl put [-r] BOARD LOCAL... [FOLDER]\n       wssctl put BOARD LOCAL :NAME\n       BOARD: @group too",
    )
    p.add_argument("paths", nargs="+", metavar="PATH", help="local files, then a folder on the board, or :NAME there")
    p.add_argument("-r", "--recursive", action="store_true", help="folders, too; that interrupts the board's program")
    p.set_defaults(call=_lazy("tools.transfer", "put"))

    p = commands.add_parser(
        "get",
        parents=[remote, several],
        help="copy files from a board",
        usage=(
            "wssctl get BOARD REMOTE [LOCAL]\n       wssctl get BOARD REMOTE... FOLDER\n"
            "       BOARD: @group too, into FOLDER/BOARD"
        ),
    )
    p.add_argument("paths", nargs="+", metavar="PATH", help="files on the board, then a local name, folder or '-'")
    p.set_defaults(call=_lazy("tools.transfer", "get"))

    p = commands.add_parser(
        "mpremote",
        parents=[remote],
        help="stock mpremote on a board",
        usage="wssctl mpremote [options] BOARD [COMMAND...]",
        description=(
            "Runs mpremote's commands, for instance `wssctl mpremote board.local fs cp main.py :`, "
            "`mount .`, `mip install NAME`, `repl`. Options come before BOARD. As on a cable, a command starts with a "
            "soft reset; `resume` before it leaves the program's state alone."
        ),
    )
    p.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND", help="as after `mpremote connect PORT`")
    p.set_defaults(call=_lazy("tools.mpremote", "main"))
    tool_commands(commands, keys, remote, several)
    p = commands.add_parser(
        "keep",
        parents=[keys],
        help="connections kept for later commands: list, always keep, stop",
        usage="wssctl keep [TIME|stop [BOARD]]",
        description=(
            "Lists the connections that are kept. With TIME (5m, 0 for no more) every command keeps its connection "
            "from now on, to BOARD or to all; `stop` ends those that are kept."
        ),
    )
    p.add_argument("what", nargs="?", metavar="TIME", help="90s, 5m, 2h, 0; or `stop`")
    p.add_argument("board", nargs="?", metavar="BOARD", help="as for other commands; all for none")
    p.set_defaults(call=_lazy("tools.keep", "keep"))

    p = commands.add_parser(
        "completion",
        help="for bash, zsh and fish, with the names of your boards",
        description=(
            'Prints what the shell has to know. bash and zsh: put `eval "$(wssctl completion bash)"` (or zsh) into '
            "~/.bashrc or ~/.zshrc; fish: `wssctl completion fish > ~/.config/fish/completions/wssctl.fish`."
        ),
    )
    p.add_argument("shell", nargs="?", choices=("bash", "zsh", "fish"), help="default: by $SHELL")
    p.set_defaults(call=_lazy("tools.completion", "completion"))

    cable, over, boards = key_commands(commands, keys, several)
    make = _Parser(add_help=False, parents=[keys])
    make.add_argument("--ca-passphrase-file", metavar="FILE", help="the ROOT CA key's passphrase, if another one")
    make.add_argument("--days", type=int, metavar="N", help="days of validity (ROOT CA 3650, others 824)")
    make.add_argument("--force", action="store_true", help="replace files that exist")

    group = _group(commands, "ca", "the ROOT CA that signs all other keys")
    p = group.add_parser("init", parents=[make], help="make it, once")
    p.add_argument("--name", help="its subject (default: ROOT CA user@machine)")
    p.set_defaults(call=_lazy("keys.commands", "ca_init"))
    group.add_parser("status", parents=[keys], help="validity").set_defaults(call=_lazy("keys.commands", "ca_status"))
    passphrases = _Parser(add_help=False, parents=[keys])
    passphrases.add_argument("--ca-passphrase-file", metavar="FILE", help="the ROOT CA key's, if another one")
    passphrases.add_argument("--new-passphrase-file", metavar="FILE", help="encrypt the copy under this one")
    passphrases.add_argument("--force", action="store_true", help="replace files that exist")
    p = group.add_parser("export", parents=[passphrases], help="key (encrypted) and certificate for another machine")
    p.add_argument("file", metavar="FILE")
    p.set_defaults(call=_lazy("keys.commands", "ca_export"))
    p = group.add_parser(
        "import", parents=[passphrases], help="what `ca export` wrote elsewhere, with who is revoked and has a key"
    )
    p.add_argument("file", metavar="FILE")
    p.set_defaults(call=_lazy("keys.commands", "ca_import"))
    p = group.add_parser(
        "update-key",
        parents=[make],
        help="a key that signs updates, and nothing else",
        description=(
            "Makes UPDATE_key.pem and UPDATE_cert.pem. A board that was started with start(update_key=True) takes no "
            "update that is not signed by such a key; boards and hosts refuse it as a host's and as a board's."
        ),
    )
    p.add_argument("--update-passphrase-file", metavar="FILE", help="its passphrase, if another one")
    p.set_defaults(call=_lazy("keys.signing", "make"))
    p = group.add_parser(
        "rotate",
        parents=[over],
        help="a new ROOT CA, without locking anybody out",
        description=(
            "Boards trust the old and the new ROOT CA; when each has let this host in under the new one, this machine "
            "changes over, the boards get new certificates and drop the old one. Run it again to go on after a break."
        ),
    )
    p.add_argument("--name", help="the new one's subject")
    p.add_argument("--keep-old", action="store_true", help="stop where both are trusted: other hosts can follow")
    p.add_argument("--skip", action="append", default=[], metavar="NAME", help="leave this board (name or id) behind")
    p.set_defaults(call=_lazy("boards.fleet", "rotate"))

    group = _group(commands, "host", "people's keys, which boards let in: this machine's, and who else has one")
    p = group.add_parser("init", parents=[make], help="make this machine's, once")
    p.add_argument("--user", help="for another user name")
    p.set_defaults(call=_lazy("boards.hosts", "init"))
    group.add_parser("status", parents=[keys], help="validity").set_defaults(call=_lazy("keys.commands", "host_status"))
    p = group.add_parser("list", parents=[keys], help="who has a key of this ROOT CA, until when, and who is revoked")
    p.set_defaults(call=_lazy("boards.hosts", "list_"))

    p = group.add_parser("export", parents=[passphrases], help="key and certificate as PKCS #12 or PEM")
    p.add_argument("file", metavar="FILE")
    p.add_argument("--p12", action="store_true", help="PKCS #12, which browsers import (else PEM)")
    p.add_argument("--user", help="of another user name")
    p.set_defaults(call=_lazy("keys.commands", "host_export"))
    for verb, text, where in (
        ("revoke", "boards turn a host away: all boards, and each as soon as it is reached", "which to tell now"),
        ("pin", "these boards let in pinned hosts alone; pin yourself first", "which boards"),
    ):
        p = group.add_parser(verb, parents=[over], help=text, description=text[0].upper() + text[1:] + ".")
        p.add_argument(
            "who", metavar="HOST", help="user or name of `host list`, serial or fingerprint, or a certificate: ./FILE"
        )
        p.add_argument("board", nargs="*", metavar="BOARD", help=f"{where}: names and @groups; all for none")
        p.add_argument("--undo", action="store_true", help="take it back")
        p.set_defaults(call=_lazy("boards.hosts", verb))

    group = _group(commands, "keys", "the boards' keys")
    p = group.add_parser("init", parents=[make], help="make a board's key and certificate")
    p.add_argument("uid", metavar="UID", help="machine.unique_id().hex() on the board")
    p.add_argument("--name", action="append", default=[], help="its host name, .local is added; may be repeated")
    p.add_argument("--ip", action="append", default=[], help="its address; may be repeated")
    p.add_argument("--port", action="append", type=_port, help="upydev's entries are for this port (8833)")
    p.add_argument("--out", metavar="DIR", help="also copy the three files a board needs there")
    p.set_defaults(call=_lazy("keys.commands", "board_init"))
    p = group.add_parser("status", parents=[keys], help="validity and names")
    p.add_argument("uid", metavar="UID", nargs="?")
    p.set_defaults(call=_lazy("keys.commands", "board_status"))
    p = group.add_parser("csr", parents=[cable], help="a board on a cable makes a key and a certificate request")
    p.add_argument("--out", metavar="FILE", help="the request (SSL_request<uid>.pem)")
    p.set_defaults(call=_lazy("cable.setup", "csr"))
    p = group.add_parser("sign", parents=[make], help="a certificate for a request")
    p.add_argument("request", metavar="FILE", help="the request, of `keys csr` for instance")
    p.add_argument("--uid", help="the board's id, if the request does not say")
    p.add_argument("--name", action="append", default=[], help="its host name, .local is added; may be repeated")
    p.add_argument("--ip", action="append", default=[], help="its address; may be repeated")
    p.add_argument("--port", action="append", type=_port, help="upydev's entries are for this port (8833)")
    p.set_defaults(call=_lazy("keys.commands", "board_sign"))
    p = group.add_parser("install", parents=[cable], help="a signed certificate onto a board on a cable")
    p.add_argument("--cert", metavar="FILE", help="(default: the one in the key folder)")
    p.set_defaults(call=_lazy("cable.setup", "install"))
    p = group.add_parser("export", parents=[keys], help="the files a board needs, into a folder")
    p.add_argument("uid", metavar="UID")
    p.add_argument("folder", metavar="DIR")
    p.add_argument("--force", action="store_true", help="replace files that exist")
    p.set_defaults(call=_lazy("keys.commands", "board_export"))
    p = boards.add_parser("revoke", parents=[keys], help="hosts refuse a board that was lost")
    p.add_argument("--ca-passphrase-file", metavar="FILE", help="the ROOT CA key's passphrase, if another one")
    p.add_argument("uid", metavar="BOARD", help="its name or id")
    p.set_defaults(call=_lazy("boards.registry", "revoke"))
    return parser


def tool_commands(commands: _Commands, keys: _Parser, remote: _Parser, several: _Parser) -> None:
    """A board as other programs and people want it."""
    phrase = _Parser(add_help=False)
    phrase.add_argument("--update-passphrase-file", metavar="FILE", help="the update key's passphrase, if another one")
    signs = _Parser(add_help=False, parents=[phrase])
    signs.add_argument("--sign", action="store_true", help="sign it now, with the key of `wssctl ca update-key`")
    signs.add_argument("--signed", metavar="FILE", help="its signature, which `wssctl sign` made")

    p = commands.add_parser(
        "bridge",
        parents=[remote],
        help="a board as a serial port of this machine",
        description=(
            "Offers the board's REPL on a pseudo-terminal and, with --tcp, on a TCP port of the loopback interface, "
            "for Thonny, PyCharm, screen, rshell and other programs that expect a serial port: `wssctl bridge "
            "board.local`, then choose the port it names. One program at a time; resets are bridged, too."
        ),
    )
    p.add_argument(
        "--tcp", nargs="?", type=_port, const=0, metavar="PORT", help="this TCP port, too; a free one at the line's end"
    )
    p.set_defaults(call=_lazy("tools.bridge", "bridge"))

    p = commands.add_parser(
        "proxy",
        parents=[remote],
        help="a board as plain ws:// on this machine, for webrepl_cli, belay, Thonny",
        description=(
            "Offers the board at ws://127.0.0.1:PORT and speaks TLS with it. For programs of this user, and for no "
            "web page unless --origin names it. The board asks for its password itself."
        ),
    )
    p.add_argument("--local-port", type=_port, default=0, metavar="PORT", help="instead of a free one")
    p.add_argument(
        "--origin", action="append", default=[], metavar="URL",
        help="let a page of this origin in: http://micropython.org, null for a file; more than once for more",
    )  # fmt: skip
    p.set_defaults(call=_lazy("tools.proxy", "proxy"))

    p = commands.add_parser(
        "status",
        parents=[remote, several],
        help="what a board says of itself, or many: firmware, memory, certificate, clock, who is in",
        description=(
            "Versions, uptime, free memory, the certificate's end, the clock, refused logins: one login a board, and "
            "its program goes on. BOARD may be @group, @all, or names with commas between them."
        ),
    )
    p.set_defaults(call=_lazy("tools.status", "status"))

    p = commands.add_parser(
        "update",
        parents=[remote, several, signs],
        help="a new wss_repl over the network, on a board or many; a board takes it back by itself if it fails",
        description=(
            "Sends the bundle of this wssctl as .mpy files beside the one that runs, restarts the board and logs in. "
            "Without that login before the deadline, and at the second start, the board goes back by itself. BOARD may "
            "be @group, @all, or names with commas between them: then the first has to succeed before the others begin."
        ),
    )
    p.add_argument("--overlay", action="store_true", help="in front of a bundle that is part of the firmware")
    p.add_argument("--force", action="store_true", help="an older version, too, and the same one again")
    p.add_argument("--deadline", type=_deadline, default=120.0, metavar="S", help="seconds until the login (120)")
    p.set_defaults(call=_lazy("boards.apply", "update"))

    p = commands.add_parser(
        "firmware",
        parents=[remote, several, signs],
        help="a new MicroPython over the network, on ESP32 boards with OTA partitions, taken back if it fails",
        description=(
            "Checks FILE, an application image (.app-bin), sends it into the partition that does not run, has it read "
            "back and started once, and logs in. Without that login before the deadline the board resets itself and "
            "the bootloader starts the old one. The board's program is stopped meanwhile. Run again after a break, it "
            "goes on where it was. BOARD as for `update`."
        ),
    )
    p.add_argument("file", metavar="FILE", help="an .app-bin of micropython.org, or micropython.bin of a build")
    p.add_argument("--force", action="store_true", help="an older version, too")
    p.add_argument("--deadline", type=_deadline, default=180.0, metavar="S", help="seconds until the login (180)")
    p.set_defaults(call=_lazy("tools.firmware", "firmware"))

    p = commands.add_parser(
        "sign",
        parents=[keys, phrase],
        help="sign an update at build time, for boards that take nothing else: start(update_key=True)",
        description=(
            "Signs FILE, an application image, or without FILE the bundle of this wssctl as this mpy-cross makes it. "
            "`wssctl firmware` takes FILE.signed along by itself; `wssctl update` is given --signed."
        ),
    )
    p.add_argument("file", nargs="?", metavar="FILE", help="what `wssctl firmware` takes")
    p.add_argument("--out", metavar="OUT", help="where to (FILE.signed, wss_repl-VERSION.signed)")
    p.add_argument("--force", action="store_true", help="replace a file that exists")
    p.set_defaults(call=_lazy("tools.firmware", "sign"))

    p = commands.add_parser(
        "log",
        parents=[remote],
        help="what a board printed last, and with -f what it prints",
        description=(
            "What the board printed last, with nobody connected too, if it was started with wss_repl.start(log=4096). "
            "Its program goes on, and nothing can be typed. It is a session: one at a time."
        ),
    )
    p.add_argument("-f", "--follow", action="store_true", help="go on with what it prints, until Ctrl-C")
    p.set_defaults(call=_lazy("tools.log", "log"))

    p = commands.add_parser(
        "shell",
        parents=[remote, several],
        help="files of one board or many: ls cp put get sync ...",
        usage="wssctl shell [options] BOARD [COMMAND...]\n       wssctl shell [options] --all COMMAND...",
        description=(
            "A shell on the board's files; `help` lists its commands. With COMMAND it runs that alone: `wssctl shell "
            "board.local sync src`. BOARD may be @group or names with commas between them: then COMMAND runs on all at "
            "once and a table tells how it went. Options come before BOARD."
        ),
    )
    p.add_argument("--all", action="store_true", help="all boards that `wssctl boards` lists")
    p.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND", help="as typed at its prompt")
    p.set_defaults(call=_lazy("tools.shell", "shell"))


def key_commands(
    commands: _Commands, keys: _Parser, several: _Parser
) -> tuple[_Parser, _Parser, _Commands]:
    """From nothing to a board with keys, and for years after. Returns what follows needs: two parent
    parsers, and the actions of `wssctl boards`."""
    cable = _Parser(add_help=False, parents=[keys])
    cable.add_argument("port", metavar="PORT", help="/dev/ttyUSB0, u0, COM3, auto: what `mpremote connect` takes")
    cable.add_argument("--uid", help="refuse any board but this one")
    cable.add_argument("--over-network", action="store_true", help="PORT may be a URL: secrets pass a network")

    names = _Parser(add_help=False, parents=[cable])
    names.add_argument("--name", action="append", default=[], help="its name, NAME.local is added; may be repeated")
    names.add_argument("--ip", action="append", default=[], help="its address (the one it says); may be repeated")
    names.add_argument("--all-addresses", action="store_true", help="sign all addresses that the board says it has")
    names.add_argument("--wss-port", type=_port, metavar="N", help="where it listens (as before, else 8833)")
    names.add_argument("--ca-passphrase-file", metavar="FILE", help="the ROOT CA key's passphrase, if another one")
    names.add_argument("--yes", action="store_true", help="replace keys of another ROOT CA without asking")

    p = commands.add_parser(
        "setup",
        parents=[names],
        help="a board on a cable, from the box to a wss prompt",
        description=(
            "Makes your keys if you have none, installs wss_repl if the firmware lacks it, gives the board its key and "
            "certificate, password, clock and boot.py, restarts it and logs in over wss. Safe to run again."
        ),
    )
    p.add_argument("--password-file", metavar="FILE", help="its first line is the password for the board's REPL")
    p.add_argument("--group", action="append", default=[], help="put it into this group; may be repeated")
    p.add_argument("--host-made", action="store_true", help="make the board's key here, not on the board")
    p.add_argument("--new-keys", action="store_true", help="new keys even if those on the board are in order")
    p.add_argument("--timeout", type=_seconds, default=15.0, metavar="S", help="seconds to wait for the login (15)")
    p.set_defaults(call=_lazy("cable.setup", "setup"))

    p = commands.add_parser(
        "enrol", parents=[names], help="a board on a cable makes its own key", description="The key stays on the board."
    )
    p.set_defaults(call=_lazy("cable.setup", "enrol"))
    p = commands.add_parser(
        "remove",
        parents=[cable],
        help="undo `setup` on a board on a cable",
        description=(
            "Takes keys, password, our block in boot.py and the modules that `setup` installed off the board; a "
            "webrepl_cfg.py that was there before comes back. Key files here are kept."
        ),
    )
    p.set_defaults(call=_lazy("cable.setup", "remove"))

    many = _Parser(add_help=False, parents=[keys])
    many.add_argument("board", nargs="*", metavar="BOARD", help="names and @groups; all for none")
    p = commands.add_parser("boards", help="the boards you have, their names and groups; `boards list`", parents=[])
    actions = p.add_subparsers(metavar="ACTION")
    p.set_defaults(call=_lazy("boards.registry", "list_"), keys=None, board=[])
    actions.add_parser("list", parents=[many], help="names, addresses, expiry").set_defaults(
        call=_lazy("boards.registry", "list_")
    )
    p = actions.add_parser(
        "find",
        parents=[keys],
        help="boards that have another address today",
        description=(
            "Looks for your boards by name (NAME.local) and on a network, at the ports they had, and writes down their "
            "new addresses. A stranger there gets a TLS ClientHello and no more. Exit code 3 when one is not found."
        ),
    )
    p.add_argument("network", nargs="?", metavar="NETWORK", help="192.168.1.0/24 (default: where they were before)")
    p.set_defaults(call=_lazy("boards.find", "find"))
    p = actions.add_parser("add", parents=[keys], help="a name for a board that is set up, or a new address or group")
    p.add_argument("name", metavar="NAME")
    p.add_argument("address", metavar="ADDRESS")
    p.add_argument("--uid", help="its id, by which its certificate here is found")
    p.add_argument("--group", action="append", default=[], help="may be repeated")
    p.set_defaults(call=_lazy("boards.registry", "add"))
    over = _Parser(add_help=False, parents=[keys, several])
    over.add_argument("--ca-passphrase-file", metavar="FILE", help="the ROOT CA key's passphrase, if another one")
    over.add_argument("--password-file", metavar="FILE", help="its first line is the boards' WebREPL password")
    over.add_argument("--takeover", action="store_true", help="end other clients' sessions")
    over.add_argument("--timeout", type=_seconds, default=10.0, metavar="S", help="seconds to wait for answers (10)")
    p = actions.add_parser("renew", parents=[over], help="new certificates for boards whose own end within 30 days")
    p.add_argument("board", nargs="*", metavar="BOARD", help="names and @groups; all for none")
    p.add_argument("--all", action="store_true", help="those that are not due, too")
    p.set_defaults(call=_lazy("boards.fleet", "renew"))
    p = actions.add_parser("apply", parents=[over], help="what waits for boards, to those that can be reached")
    p.add_argument("board", nargs="*", metavar="BOARD", help="names and @groups; all for none")
    p.add_argument("--drop", action="store_true", help="forget what waits, but for trust lists")
    p.set_defaults(call=_lazy("boards.apply", "apply"))
    p = actions.add_parser("remember", parents=[over], help="keep a board's password, after trying it")
    p.add_argument("name", metavar="NAME")
    p.add_argument("--passphrase", action="store_true", help="and that of this host's key")
    p.set_defaults(call=_lazy("boards.fleet", "remember"))
    p = commands.add_parser("password", parents=[over], help="new random passwords for boards, and remember them")
    p.add_argument("name", nargs="+", metavar="BOARD", help="names and @groups")
    p.add_argument("--new-password-file", metavar="FILE", help="take this one instead of a random one")
    p.add_argument("--no-remember", action="store_true", help="with --show or --new-password-file")
    p.add_argument("--show", action="store_true", help="print it")
    p.set_defaults(call=_lazy("boards.fleet", "password"))
    p = actions.add_parser("forget", parents=[keys], help="drop a name; key files are kept")
    p.add_argument("board", nargs="+", metavar="BOARD")
    p.set_defaults(call=_lazy("boards.registry", "forget"))
    return cable, over, actions


def _group(commands: _Commands, name: str, text: str) -> _Commands:
    return commands.add_parser(name, help=text, description=text).add_subparsers(metavar="ACTION", required=True)


def _standard_streams() -> None:
    """Those that the caller closed become /dev/null: Python has None for them, and a socket would get the number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))


def main(argv: list[str] | None = None) -> int:
    _standard_streams()
    try:
        parser = build_parser()
        if "_ARGCOMPLETE" in os.environ:  # a shell asks what comes next
            import_module(".tools.completion", __package__).offer(parser)
        args = parser.parse_args(argv)
        code: int = args.call(args)
        sys.stdout.flush()
        return code
    except WssctlError as e:
        print(f"wssctl: {e}", file=sys.stderr)
        return e.exit_code
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except BrokenPipeError:  # `wssctl get ... - | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as e:  # of this machine: the disk that the output goes to is full, for instance
        try:
            sys.stdout.flush()
        except OSError:  # Python would try once more at its end
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        where = f" ({e.filename})" if e.filename else ""
        print(f"wssctl: {e.strerror or e}{where}; see to that on this machine and try again.", file=sys.stderr)
        return KeyFileError.exit_code
