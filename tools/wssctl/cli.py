"""The `wssctl` command line: parses, calls one function, turns errors into one sentence and an exit code."""

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Callable
from importlib import import_module

from .arguments import SECRETS, Commands, Common, Parser, deadline, options, port_number, seconds
from .errors import KeyFileError, WssctlError
from .text import shown

DESCRIPTION = """\
Keys, terminal and files for MicroPython boards whose REPL is served over wss with mutual TLS.

The three you need most:
  wssctl setup /dev/ttyUSB0 --name room1   a board on a cable, from the box to a prompt
  wssctl repl room1                        a terminal on it over the network; Ctrl-] leaves
  wssctl put room1 main.py lib/            copy files there; `get` brings them back

With the tools you have:
  wssctl mpremote room1 mount .            stock mpremote, all its commands
  wssctl bridge room1                      a serial port for Thonny, PyCharm, screen
  wssctl shell room1 sync src              send what differs; without `sync src`, a prompt
  https://room1.local:8833/                in a browser with `wssctl host export --p12 FILE`
"""

EPILOG = """\
BOARD is a name that `wssctl boards` lists, or an address: board.local, wss://192.168.1.20:8833; plain ws:// only when \
typed so.
Passwords are asked for, or come from --password-file / $WSSCTL_PASSWORD, passphrases from --passphrase-file / \
$WSSCTL_PASSPHRASE. Keys are in a folder of yours, or --keys DIR / $WSSCTL_KEYS.
Exit codes: 0 well, 1 the board's code raised or it refuses a file, 2 usage, 3 unreachable, 4 certificates, 5 login, \
6 connection lost, 7 local files, 130 Ctrl-C.
"""


def _lazy(module: str, function: str) -> Callable[[argparse.Namespace], int]:
    """Imports on call: `wssctl --help` and `repl` need not wait for what only other commands use."""

    def call(args: argparse.Namespace) -> int:
        return int(getattr(import_module(f".{module}", __package__), function)(args))

    return call


def _command(
    commands: Commands,
    name: str,
    call: Callable[[argparse.Namespace], int],
    text: str,
    *parents: Parser,
    more: str = "",
    usage: str | None = None,
) -> Parser:
    """text: its line in the list of commands, with which its own help begins and `more` goes on."""
    about = f"{text[0].upper()}{text[1:].rstrip(' .')}. {more}".rstrip()
    p = commands.add_parser(name, parents=parents, help=text, description=about, usage=usage)
    p.set_defaults(call=call)
    return p


def _group(commands: Commands, name: str, text: str) -> Commands:
    p = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    return p.add_subparsers(metavar="ACTION", required=True)


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from . import __version__

        print(f"wssctl {__version__}")
        parser.exit()


def build_parser() -> argparse.ArgumentParser:
    parser = Parser("wssctl", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    common = Common()
    _terminal_and_files(commands, common)
    _for_other_programs(commands, common)
    _state_and_updates(commands, common)
    _cable(commands, common)
    _boards(commands, common)
    _ca(_group(commands, "ca", "the ROOT CA that signs all other keys"), common)
    _host(_group(commands, "host", "people's keys, which boards let in"), common)
    _keys(_group(commands, "keys", "the boards' keys, one by one: `wssctl setup` does all of it"), common)
    _command(
        commands, "completion", _lazy("tools.completion", "completion"), "Tab in bash, zsh and fish, also for boards",
        more=(
            "It prints what the shell has to know.\n"
            '  bash, zsh: put eval "$(wssctl completion bash)" (or zsh) into ~/.bashrc (~/.zshrc)\n'
            "  fish:      wssctl completion fish > ~/.config/fish/completions/wssctl.fish"
        ),
    ).add_argument("shell", nargs="?", choices=("bash", "zsh", "fish"), help="default: by $SHELL")  # fmt: skip
    return parser


def _terminal_and_files(commands: Commands, common: Common) -> None:
    one, some = (common.one, common.login), (common.some, common.login, common.engine)
    _command(
        commands, "repl", _lazy("tools.repl", "repl"), "a terminal on a board", *one,
        more=(
            "Ctrl-C, Ctrl-D, Tab and arrows as on a cable; Ctrl-] leaves. A program on standard input is run as with "
            "`exec --file -`."
        ),
    )  # fmt: skip

    p = _command(
        commands, "exec", _lazy("tools.transfer", "exec_"), "run code on a board", *some,
        more=(
            "Its output goes to stdout, a traceback to stderr, and the exit code is 1 if it raised. It interrupts what "
            "the board is doing.\n"
            '  wssctl exec room1 "import gc; print(gc.mem_free())"\n'
            "  wssctl exec @greenhouse --file test.py"
        ),
    )  # fmt: skip
    p.add_argument("code", nargs="?", metavar="CODE", help="what to run there; or -f FILE")
    p.add_argument("-f", "--file", metavar="FILE", help="a program here to run there; '-' is standard input")

    p = _command(
        commands, "put", _lazy("tools.transfer", "put"), "copy files to a board", *some,
        usage="wssctl put [options] BOARD LOCAL... [FOLDER]\n       wssctl put [options] BOARD LOCAL :NAME",
        more=(
            "The board's program goes on, but for -r.\n"
            "  wssctl put room1 main.py                 into the current folder there\n"
            "  wssctl put room1 a.py b.py lib           into its folder lib\n"
            "  wssctl put room1 debug.py :main.py       under another name\n"
            "  wssctl put -r @greenhouse app            a folder with all that is in it, to many boards"
        ),
    )  # fmt: skip
    p.add_argument("paths", nargs="+", metavar="PATH", help="files here, then a folder on the board, or :NAME there")
    p.add_argument("-r", "--recursive", action="store_true", help="folders, too; that interrupts the board's program")

    p = _command(
        commands, "get", _lazy("tools.transfer", "get"), "copy files from a board", *some,
        usage="wssctl get [options] BOARD REMOTE [LOCAL]\n       wssctl get [options] BOARD REMOTE... FOLDER",
        more=(
            "The board's program goes on.\n"
            "  wssctl get room1 log.txt                 into this folder\n"
            "  wssctl get room1 log.txt -               to standard output\n"
            "  wssctl get @greenhouse log.txt logs      into logs/room1, logs/room2, ..."
        ),
    )  # fmt: skip
    p.add_argument("paths", nargs="+", metavar="PATH", help="files on the board, then a file or folder here, or '-'")

    p = _command(
        commands, "shell", _lazy("tools.shell", "shell"), "files of one board or many: ls cp put get sync ...", *some,
        usage="wssctl shell [options] BOARD [COMMAND...]\n       wssctl shell [options] --all COMMAND...",
        more=(
            "A prompt on the board's files; `help` lists its commands. With COMMAND it runs that one, on many boards "
            "at once, too, and a table tells how it went. Options come before BOARD.\n"
            "  wssctl shell room1\n"
            "  wssctl shell @greenhouse sync src        send the files of src that differ"
        ),
    )  # fmt: skip
    p.add_argument("--all", action="store_true", help="for BOARD: @all")
    p.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND", help="as typed at its prompt")


def _for_other_programs(commands: Commands, common: Common) -> None:
    p = _command(
        commands, "mpremote", _lazy("tools.mpremote", "main"), "stock mpremote on a board", common.one, common.login,
        usage="wssctl mpremote [options] BOARD [COMMAND...]",
        more=(
            "All of mpremote's commands. As on a cable, one starts with a soft reset; `resume` before it leaves the "
            "program's state alone. Options come before BOARD.\n"
            "  wssctl mpremote room1 fs cp main.py :\n"
            "  wssctl mpremote room1 resume mount ."
        ),
    )  # fmt: skip
    p.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND", help="as after `mpremote connect PORT`")

    p = _command(
        commands, "bridge", _lazy("tools.bridge", "bridge"), "a board as a serial port of this machine",
        common.one, common.login,
        more=(
            "A pseudo-terminal and, with --tcp, a TCP port of the loopback interface, for Thonny, PyCharm, screen, "
            "rshell and other programs that expect a serial port: start it, then choose the port that it names. One "
            "program at a time; resets are bridged, too."
        ),
    )  # fmt: skip
    p.add_argument(
        "--tcp", nargs="?", type=port_number, const=0, metavar="PORT",
        help="this TCP port, too; without PORT, at the line's end, a free one",
    )  # fmt: skip

    p = _command(
        commands, "proxy", _lazy("tools.proxy", "proxy"), "a board as plain ws:// here: webrepl_cli, belay, Thonny",
        common.one, common.way,
        more=(
            "It listens at ws://127.0.0.1:PORT and speaks TLS with the board, which asks for its password itself. It "
            "serves programs of this user, and no web page unless --origin names it.\n"
            "  wssctl proxy room1 --local-port 8266 --origin http://micropython.org"
        ),
    )  # fmt: skip
    p.add_argument("--local-port", type=port_number, default=0, metavar="PORT", help="this one, not a free one")
    p.add_argument(
        "--origin", action="append", default=[], metavar="URL",
        help="let a page of this origin in; null is a page from a file; may be repeated",
    )  # fmt: skip

    p = _command(
        commands, "keep", _lazy("tools.keep", "keep"), "one login for many commands: list, begin, stop", common.folder,
        usage="wssctl keep [options] [TIME|stop [BOARD]]",
        more=(
            "Alone, it lists the connections that are kept. With TIME every command keeps its connection from now on, "
            "for so long after its last use; `stop` ends those that are kept.\n"
            "  wssctl keep 5m room1                     0 in place of 5m: no more"
        ),
    )  # fmt: skip
    p.add_argument("what", nargs="?", metavar="TIME", help="90s, 5m, 2h, 0; or `stop`")
    p.add_argument("board", nargs="?", metavar="BOARD", help="as for other commands (default: all)")


def _state_and_updates(commands: Commands, common: Common) -> None:
    some = (common.some, common.login, common.engine)
    _command(
        commands, "status", _lazy("tools.status", "status"),
        "what boards say of themselves: memory, certificate, clock", *some,
        more=(
            "Also versions, time since the start, who is in, and refused logins. It takes one login a board, whose "
            "program goes on.\n"
            "  wssctl status @all --json"
        ),
    )  # fmt: skip

    p = _command(
        commands, "log", _lazy("tools.log", "log"), "what a board printed last; -f: and what it prints",
        common.one, common.login,
        more=(
            "Also what it printed while nobody was connected, if it was started with wss_repl.start(log=4096), which "
            "keeps 4096 bytes. Its program goes on, and nothing can be typed. It is a session: one at a time."
        ),
    )  # fmt: skip
    p.add_argument("-f", "--follow", action="store_true", help="go on with what it prints, until Ctrl-C")

    signs = options(common.update_key)
    signs.add_argument("--sign", action="store_true", help="sign it now, with the key of `wssctl ca update-key`")
    signs.add_argument("--signed", metavar="FILE", help="its signature, which `wssctl sign` made")
    p = _command(
        commands, "update", _lazy("boards.apply", "update"), "a new wss_repl over the network, taken back if it fails",
        *some, signs,
        more=(
            "Sends the bundle of this wssctl as .mpy files beside the one that runs, restarts the board and logs in. "
            "Without that login before the deadline, and at the second start, the board goes back by itself. Of "
            "several boards, the first has to succeed before the others begin.\n"
            "  wssctl update @greenhouse"
        ),
    )  # fmt: skip
    p.add_argument("--overlay", action="store_true", help="in front of a bundle that is part of the firmware")
    p.add_argument(
        "--force", action="store_true", help="an older version or the same again, or no wss_repl in its boot.py"
    )
    p.add_argument(
        "--deadline", type=deadline, default=120.0, metavar="S", help="seconds until the login (120; 5 to 3600)"
    )

    p = _command(
        commands, "firmware", _lazy("tools.firmware", "firmware"), "a new MicroPython (ESP32), taken back if it fails",
        *some, signs,
        more=(
            "Sends the application image into the partition that does not run, has it read back and started once, and "
            "logs in. Without that login before the deadline the board resets itself and the bootloader starts the old "
            "one. The board's program is stopped meanwhile. Run again after a break, it goes on where it was. Of "
            "several boards, the first has to succeed before the others begin.\n"
            "  wssctl firmware room1 ESP32_GENERIC-OTA-20260406-v1.28.0.app-bin"
        ),
    )  # fmt: skip
    p.add_argument("file", metavar="FILE", help="an .app-bin of micropython.org, or micropython.bin of a build")
    p.add_argument("--force", action="store_true", help="an older version, or no wss_repl in its boot.py")
    p.add_argument(
        "--deadline", type=deadline, default=180.0, metavar="S", help="seconds until the login (180; 5 to 3600)"
    )

    p = _command(
        commands, "sign", _lazy("tools.firmware", "sign"), "sign an update for boards that take no other",
        common.keys, common.update_key, common.force,
        more=(
            "For boards that were started with start(update_key=True). Signs FILE, an application image, or without "
            "FILE the bundle of this wssctl as this mpy-cross makes it. `wssctl firmware` takes FILE.signed along by "
            "itself; `wssctl update` is given --signed."
        ),
    )  # fmt: skip
    p.add_argument("file", nargs="?", metavar="FILE", help="what `wssctl firmware` takes")
    p.add_argument("--out", metavar="FILE", help="the signature (FILE.signed, wss_repl-VERSION.signed)")


def _cable(commands: Commands, common: Common) -> None:
    given = options(common.port, common.keys, common.ca)
    given.add_argument("--over-network", action="store_true", help="PORT may be a URL: secrets pass a network")
    given.add_argument("--name", action="append", default=[], help="its name, .local is added; may be repeated")
    given.add_argument("--ip", action="append", default=[], help="its address (the one it says); may be repeated")
    given.add_argument("--all-addresses", action="store_true", help="sign all addresses that the board says it has")
    given.add_argument("--wss-port", type=port_number, metavar="N", help="where it listens (as before, else 8833)")
    given.add_argument("--yes", action="store_true", help="replace keys of another ROOT CA without asking")

    p = _command(
        commands, "setup", _lazy("cable.setup", "setup"), "a board on a cable, from the box to a wss prompt",
        given, common.password,
        more=(
            "Makes your keys if you have none, installs wss_repl if the firmware lacks it, gives the board its key and "
            "certificate, password, clock and boot.py, restarts it and logs in over wss. Safe to run again.\n"
            "  wssctl setup /dev/ttyUSB0 --name room1 --group greenhouse"
        ),
    )  # fmt: skip
    p.add_argument("--group", action="append", default=[], help="put it into this group; may be repeated")
    p.add_argument("--host-made", action="store_true", help="make the board's key here, not on the board")
    p.add_argument("--new-keys", action="store_true", help="new keys even if those on the board are in order")
    p.add_argument(
        "--timeout", type=seconds, default=15.0, metavar="S",
        help="seconds to wait for answers (15); the server has 20 more to start",
    )  # fmt: skip

    _command(
        commands, "enrol", _lazy("cable.setup", "enrol"), "a board on a cable makes its own key", given,
        more=(
            "The key stays on the board; a request passes the cable, and a certificate goes back. `wssctl setup` does "
            "it, too."
        ),
    )  # fmt: skip
    _command(
        commands, "remove", _lazy("cable.setup", "remove"), "undo `setup` on a board on a cable", common.port,
        more=(
            "Takes keys, password, our block in boot.py and the modules that `setup` installed off the board; a "
            "webrepl_cfg.py that was there before comes back. Key files here are kept."
        ),
    )  # fmt: skip


def _boards(commands: Commands, common: Common) -> None:
    text = "your boards: names, groups, certificates, what waits"
    p = commands.add_parser(
        "boards", help=text, description=f"{text[0].upper()}{text[1:]}. Without ACTION it lists them."
    )
    p.set_defaults(call=_lazy("boards.commands", "list_"), keys=None, board=[])
    actions = p.add_subparsers(metavar="ACTION")
    several = (common.listed, common.fleet, common.ca)
    _command(
        actions, "list", _lazy("boards.commands", "list_"),
        "names, addresses, ends of certificates, what waits for them", common.listed, common.folder,
    )  # fmt: skip
    p = _command(
        actions, "find", _lazy("boards.find", "find"), "boards that have another address today", common.folder,
        more=(
            "Looks for your boards by name (NAME.local) and on a network, at the ports they had, and writes down their "
            "new addresses. A stranger there gets a TLS ClientHello and no more. Exit code 3 when one is not found."
        ),
    )  # fmt: skip
    p.add_argument("network", nargs="?", metavar="NETWORK", help="192.168.1.0/24 (default: where they were before)")
    p = _command(
        actions, "add", _lazy("boards.commands", "add"), "a name for a board that is set up, or a new address or group",
        common.folder,
        more="\n  wssctl boards add room2 192.168.1.21 --uid 24d7eb0e1a2c --group greenhouse",
    )  # fmt: skip
    p.add_argument("name", metavar="NAME", help="what to call it, best as its certificate does")
    p.add_argument("address", metavar="ADDRESS", help="192.168.1.21, room2.local, wss://room2.local:8833")
    p.add_argument("--uid", help="its id, by which its certificate here is found")
    p.add_argument("--group", action="append", default=[], help="put it into this group; may be repeated")
    p = _command(
        actions, "renew", _lazy("boards.fleet", "renew"), "new certificates for boards whose own end within 30 days",
        *several,
    )  # fmt: skip
    p.add_argument("--all", action="store_true", help="those that are not due, too")
    p = _command(
        actions, "apply", _lazy("boards.apply", "apply"), "bring what waits to the boards that can be reached", *several
    )
    p.add_argument("--drop", action="store_true", help="forget what waits instead, but for trust lists and `ca rotate`")
    p = _command(
        actions, "remember", _lazy("boards.fleet", "remember"), "keep a board's password, after trying it",
        common.keys, common.password, common.session,
        more="In the system's keyring, where there is one, else in the key folder. `boards forget` forgets it.",
    )  # fmt: skip
    p.add_argument("name", metavar="BOARD", help="its name")
    p.add_argument("--passphrase", action="store_true", help="and that of this host's key")
    p = _command(
        actions, "forget", _lazy("boards.commands", "forget"), "drop names and passwords of boards; key files are kept",
        common.folder,
    )  # fmt: skip
    p.add_argument("board", nargs="+", metavar="BOARD", help="names and @groups")
    p = _command(
        actions, "revoke", _lazy("boards.commands", "revoke"), "hosts refuse a board that was lost",
        common.keys, common.ca,
        more="It makes ROOT_CA_crl.pem in the key folder, a list that other hosts need, too.",
    )  # fmt: skip
    p.add_argument("uid", metavar="BOARD", help="its name or id")

    p = _command(
        commands, "password", _lazy("boards.fleet", "password"), "new random passwords for boards, and remember them",
        common.fleet,
    )  # fmt: skip
    p.add_argument("name", nargs="+", metavar="BOARD", help="names and @groups")
    p.add_argument("--show", action="store_true", help="print the new ones")
    p.add_argument("--no-remember", action="store_true", help="do not; only with --show or --new-password-file")
    p.section(SECRETS).add_argument(
        "--new-password-file", metavar="FILE", help="its first line is the new password, for all of them"
    )


def _ca(actions: Commands, common: Common) -> None:
    p = _command(actions, "init", _lazy("keys.commands", "ca_init"), "make it, once", common.make)
    p.add_argument("--name", help="its subject (default: ROOT CA user@machine)")
    _command(
        actions, "status", _lazy("keys.commands", "ca_status"), "how long it is valid, and the update key",
        common.folder,
    )  # fmt: skip
    p = _command(
        actions, "export", _lazy("keys.commands", "ca_export"), "key (encrypted) and certificate for another machine",
        common.new_passphrase, common.ca, common.force,
        more="The file also tells who has a key and who is revoked. There: `wssctl ca import FILE`.",
    )  # fmt: skip
    p.add_argument("file", metavar="FILE", help="to write")
    p = _command(
        actions, "import", _lazy("keys.commands", "ca_import"), "take over what `ca export` wrote elsewhere",
        common.new_passphrase, common.ca,
    )  # fmt: skip
    p.add_argument("--force", action="store_true", help="replace files that exist; take a file cut off behind the keys")
    p.add_argument("file", metavar="FILE", help="to read")
    _command(
        actions, "update-key", _lazy("keys.signing", "make"), "make a key that signs updates, and nothing else",
        common.make, common.update_key,
        more=(
            "UPDATE_key.pem and UPDATE_cert.pem. A board that was started with start(update_key=True) takes no update "
            "that is not signed by such a key; boards and hosts refuse it as a host's and as a board's."
        ),
    )  # fmt: skip
    p = _command(
        actions, "rotate", _lazy("boards.rotate", "rotate"), "a new ROOT CA, without locking anybody out",
        common.fleet, common.ca,
        more=(
            "Boards trust the old and the new ROOT CA; when each has let this host in under the new one, this machine "
            "changes over, the boards get new certificates and drop the old one. Run it again to go on after a break."
        ),
    )  # fmt: skip
    p.add_argument("--name", help="the new one's subject (default: ROOT CA user@machine and the day)")
    p.add_argument("--keep-old", action="store_true", help="stop where both are trusted: other hosts can follow")
    p.add_argument("--skip", action="append", default=[], metavar="BOARD", help="leave this one (name or id) behind")


def _host(actions: Commands, common: Common) -> None:
    p = _command(actions, "init", _lazy("boards.hosts", "init"), "make this machine's key, once", common.make)
    p.add_argument("--user", help="for this user name in place of yours")
    _command(
        actions, "status", _lazy("keys.commands", "host_status"), "whose keys are here, and how long they are valid",
        common.folder,
    )  # fmt: skip
    _command(
        actions, "list", _lazy("boards.hosts", "list_"), "who has a key of this ROOT CA, until when, who is revoked",
        common.folder,
    )  # fmt: skip
    p = _command(
        actions, "export", _lazy("keys.commands", "host_export"), "key and certificate as PKCS #12 or PEM",
        common.new_passphrase, common.force,
    )  # fmt: skip
    p.add_argument("file", metavar="FILE", help="to write")
    p.add_argument("--p12", action="store_true", help="PKCS #12, which browsers import (else PEM)")
    p.add_argument("--user", help="the key of this user name in place of yours")
    for verb, text, more, where in (
        ("revoke", "boards turn a host away", "All boards do, each as soon as it is reached.", "which to tell now"),
        ("pin", "boards let in pinned hosts alone", "Pin yourself first.", "which of them"),
    ):
        p = _command(actions, verb, _lazy("boards.hosts", verb), text, common.fleet, more=more)
        p.add_argument(
            "who", metavar="HOST", help="a user or name of `host list`, a serial or fingerprint, a certificate: ./FILE"
        )
        p.add_argument("board", nargs="*", metavar="BOARD", help=f"{where}: names and @groups (default: all)")
        p.add_argument("--undo", action="store_true", help="take it back")


def _keys(actions: Commands, common: Common) -> None:
    names = options()
    names.add_argument("--name", action="append", default=[], help="its name, .local is added; may be repeated")
    names.add_argument("--ip", action="append", default=[], help="its address; may be repeated")
    names.add_argument(
        "--wss-port", "--port", action="append", type=port_number, metavar="N",
        help="for upydev's names (8833); may be repeated",
    )  # fmt: skip
    p = _command(
        actions, "init", _lazy("keys.commands", "board_init"), "make a board's key and certificate", common.make, names,
        more="\n  wssctl keys init 30aea4b0a2d0 --name room1 --ip 192.168.1.20 --out FOLDER",
    )  # fmt: skip
    p.add_argument("uid", metavar="UID", help="machine.unique_id().hex() on the board")
    p.add_argument("--out", metavar="DIR", help="also copy the three files that a board needs there")
    p = _command(
        actions, "status", _lazy("keys.commands", "board_status"),
        "how long boards' certificates are valid, and for what", common.folder,
    )  # fmt: skip
    p.add_argument("uid", metavar="UID", nargs="?", help="a board's id (default: all)")
    p = _command(
        actions, "csr", _lazy("cable.setup", "csr"), "a board on a cable makes a key and a certificate request",
        common.port,
    )  # fmt: skip
    p.add_argument("--out", metavar="FILE", help="the request (SSL_request<uid>.pem)")
    p = _command(
        actions, "sign", _lazy("keys.commands", "board_sign"), "sign a certificate for a request", common.make, names
    )
    p.add_argument("request", metavar="FILE", help="the request, of `keys csr` for instance")
    p.add_argument("--uid", help="the board's id, if the request does not say")
    p = _command(
        actions, "install", _lazy("cable.setup", "install"), "bring a signed certificate to a board on a cable",
        common.port, common.folder,
    )  # fmt: skip
    p.add_argument("--cert", metavar="FILE", help="(default: the one in the key folder)")
    p = _command(
        actions, "export", _lazy("keys.commands", "board_export"), "copy the files that a board needs into a folder",
        common.folder, common.force,
    )  # fmt: skip
    p.add_argument("uid", metavar="UID", help="the board's id")
    p.add_argument("folder", metavar="DIR", help="which is there already: a board's drive, for instance")


def _standard_streams() -> None:
    """Those that the caller closed become /dev/null: Python has None for them, and a socket would get the number. And
    what is printed need not be in the terminal's encoding: a board's file may have any name."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as sys.stderr has it


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
    except UnicodeEncodeError as e:  # of a name, in a locale without UTF-8
        name = shown(e.object[e.start : e.end])
        print(f"wssctl: This locale's {e.encoding} has no {name} for a file's name; set PYTHONUTF8=1.", file=sys.stderr)
        return KeyFileError.exit_code
    except OSError as e:  # of this machine: the disk that the output goes to is full, for instance
        try:
            sys.stdout.flush()
        except OSError:  # Python would try once more at its end
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        where = f" ({e.filename})" if e.filename else ""
        print(f"wssctl: {e.strerror or e}{where}; see to that on this machine and try again.", file=sys.stderr)
        return KeyFileError.exit_code
