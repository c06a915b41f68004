"""What a board starts with: the first lines of its boot.py, the password in webrepl_cfg.py, its clock."""

import argparse
import re
from datetime import UTC, datetime, timedelta

from ..keys import ca
from ..text import say
from .port import UNFINISHED, About, Cable

BEGIN, END = "# wssctl setup begin", "# wssctl setup end"
BLOCK = re.compile(rf"^{BEGIN}[^\n]*\n.*?^{END}[^\n]*(?:\n|\Z)", re.M | re.S)
CLOCK = "wss_time.txt"
_CLOCK_OFF = 5  # seconds

# What boot.py begins with. It comes before the user's lines, because these may raise (ESP32's connect() does while the
# station still connects), or wait for a network for ever. The server needs no network to start, and answers when there
# is one (lwIP is up as soon as socket is imported: ports/esp32/modsocket.c). A commit() that lost power is finished
# before anything of the bundle is imported: half of it may be new. A Ctrl-C on the cable while this runs asks for the
# prompt. It gets one, and the server is there all the same: else nothing could reach the board until its next reset. An
# import that is cut off leaves no module behind (py/builtinimport.c), so it is simply begun again; and whoever goes on
# with Ctrl-C gets out, should a start never end.
_START = """\
{begin}
def _start():
    global wss_repl
    import os
    stop = None
    for _ in range(9):
        try:
            try:
                with open('{unfinished}') as f:
                    names = f.read().split('\\n')
                for name in names:  # files that setup had no time to put in their places
                    try:
                        os.rename(name + '.new', name)
                    except OSError:
                        pass
                os.remove('{unfinished}')
            except OSError:
                pass
{hostname}            try:
                import wss_repl
                wss_repl.start({port})
            except Exception as e:  # the board must boot all the same
                print('wss_repl: not started:', e)
            break
        except KeyboardInterrupt as e:  # first the server, then the prompt
            stop = e
    if stop:
        raise stop
_start()
del _start
{end} (`wssctl remove` takes this out again)
"""


# Before anything joins a network, because DHCP and mDNS are told then; lines of boot.py behind this block may set
# another one. network.hostname is there from MicroPython 1.20 on, where there is a network at all.
_HOSTNAME = """\
            try:
                import network
                network.hostname('{}')
            except Exception:  # no network, no names in it, or not this one
                pass
"""
_MAX_HOSTNAME = 32  # bytes (MICROPY_PY_NETWORK_HOSTNAME_MAX_LEN in extmod/modnetwork.h)


def _hostname(name: str) -> str:
    label = name.partition(".")[0]
    if len(label) > _MAX_HOSTNAME or not re.fullmatch("[A-Za-z0-9_-]+", label):
        say(f"NOTE: {label} is longer than a board's name on the network may be, so {label}.local will not be found")
        return ""
    return _HOSTNAME.format(label)


def configure(board: Cable, about: About, args: argparse.Namespace, name: str, password: str, installed: bool) -> None:
    files = {}
    config = b"PASS = %a\n" % password
    there = board.read("webrepl_cfg.py")
    boot = board.read("boot.py")
    text = (boot or b"").decode("utf-8", "surrogateescape")
    block = BLOCK.search(text)
    if there != config:
        if there is not None and not block and "webrepl_cfg.before.py" not in about["files"]:
            files["webrepl_cfg.before.py"] = there
        files["webrepl_cfg.py"] = config
    added = set(re.findall(r"\w+", block[0].split("\n", 1)[0].partition(":")[2])) if block else set()
    added |= ({"lib"} if installed else set()) | ({"boot"} if boot is None else set())
    port = "ssl=True" if args.wss_port == ca.WSS_PORT else f"ssl=True, port={args.wss_port}"
    head = f"{BEGIN}: {' '.join(sorted(added))}".rstrip(": ")
    new = _START.format(begin=head, unfinished=UNFINISHED, hostname=_hostname(name), port=port, end=END)
    new += BLOCK.sub("", text)
    if re.search(r"^\s*webrepl\.start", text, re.M):
        say("NOTE: boot.py starts plain WebREPL (webrepl.start) as well: it listens unencrypted; take it out there.")
    if re.search(r"^\s*wss_repl\.start", BLOCK.sub("", text), re.M):
        say("NOTE: boot.py has a wss_repl.start of its own, too, which takes the place of ours; take it out there.")
    if new != text:
        files["boot.py"] = new.encode("utf-8", "surrogateescape")
    if files:
        board.replace(files)
        say(f"Wrote {', '.join(files)}")


def set_clock(board: Cable, about: About) -> None:
    try:
        there = datetime(*about["time"]).replace(tzinfo=UTC)
    except (ValueError, OverflowError):  # the latter for numbers that are no C int
        there = datetime(2000, 1, 1, tzinfo=UTC)
    most = timedelta(seconds=_CLOCK_OFF)
    if about["asked"] - most < there < about["heard"] + most:  # when it was read: a setup may take minutes since
        return
    if board.set_clock(datetime.now(UTC)):
        board.remove([CLOCK])  # noted under a clock that was wrong
        say(f"Set the board's clock (it showed {there:%Y-%m-%d %H:%M})")
    else:
        say(f"NOTE: the board's clock shows {there:%Y-%m-%d %H:%M} UTC and cannot be set; certificates depend on it.")
