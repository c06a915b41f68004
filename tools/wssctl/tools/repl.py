"""`wssctl repl`: this terminal's keys go to the board as they are typed, what the board prints comes back. Ctrl-]
leaves."""

import argparse
import contextlib
import os
import re
import signal
import sys
from collections.abc import Iterator
from typing import NoReturn

from ..boards.dialler import connect
from ..errors import ConnectionLost
from ..wire.client import Client
from ..wire.terminal import PROMPT
from . import transfer

LEAVE = b"\x1d"  # Ctrl-]
# Typing ahead of a busy board must not stop Ctrl-] from being seen, nor fill the memory.
_MAX_BACKLOG = 1 << 20


def repl(args: argparse.Namespace) -> int:
    if not sys.stdin.isatty():
        # as Python does: input that is no terminal is a program
        code = transfer.read_program("-")
        with connect(args) as board:
            return transfer.run(board, code)
    with connect(args) as board:
        if board.link.tls:
            print(f"WebSecREPL with {board.link.tls[0]} connected")
        print(board.tls_line)
        print("Ctrl-] leaves, Ctrl-C interrupts, Ctrl-D on an empty line resets the board and ends this.\n", flush=True)
        return interact(board)


def interact(board: Client, leave: bytes = LEAVE) -> int:
    """Until Ctrl-] (or another key in `leave`) or the end of the connection, which is raised as ConnectionLost. The
    terminal is always put back."""
    loop = _windows_loop if os.name == "nt" else _posix_loop
    try:
        loop(board, leave)
    except ConnectionLost:
        os.write(1, b"\r\n")
        raise
    os.write(1, b"\r\n")
    return 0


def _posix_loop(board: Client, leave: bytes) -> None:
    fd = sys.stdin.fileno()
    with _raw(fd):
        os.write(1, PROMPT)  # login took the board's own
        while True:
            _show(board)
            full = board.link.backlog > _MAX_BACKLOG
            if board.link.select(() if full else (fd,)):
                typed = os.read(fd, 4096)
                head = re.split(b"[" + re.escape(leave) + b"]", typed, maxsplit=1)[0]
                if head:
                    board.write(head, block=False)
                if len(head) < len(typed) or not typed:
                    return


def _show(board: Client) -> None:
    """Everything that has come: what the board said last is shown even when it has hung up since."""
    while data := board.read(0):
        while data:
            data = data[os.write(1, data) :]


@contextlib.contextmanager
def _raw(fd: int) -> Iterator[None]:
    import termios
    import tty

    def leave(signum: int, frame: object) -> NoReturn:
        raise SystemExit(128 + signum)

    saved = termios.tcgetattr(fd)
    previous = {s: signal.signal(s, leave) for s in (signal.SIGTERM, signal.SIGHUP)}
    try:
        tty.setraw(fd, termios.TCSADRAIN)
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, saved)
        for number, handler in previous.items():
            signal.signal(number, handler)


def _windows_loop(board: Client, leave: bytes) -> None:
    from mpremote.console import Console  # has the key codes and the UTF-8 output of Windows consoles

    console = Console()
    console.enter()
    try:
        console.write(PROMPT)
        while True:
            while data := board.read(0.01):
                console.write(data)
            while key := console.readchar():
                if key in leave:
                    return
                board.write(key, block=False)
    finally:
        console.exit()
