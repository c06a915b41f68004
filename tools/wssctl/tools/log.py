"""`wssctl log`: what a board printed last, and with -f what it prints from now on. Nothing is typed at it, its program
goes on."""

import argparse
import codecs
import sys

from ..boards.dialler import connect
from ..text import shown


def log(args: argparse.Namespace) -> int:
    with connect(args) as board:
        show = _Output()
        show(board.log())
        while args.follow:
            show(board.read())
    return 0


class _Output:
    """Standard output: a file gets the bytes, a terminal nothing that moves its cursor or hides text."""

    def __init__(self) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")("backslashreplace").decode
        self._terminal = sys.stdout.isatty()
        self._end = ""  # half an end of a line: alone it would let a line be written over

    def __call__(self, data: bytes) -> None:
        if self._terminal:
            text = self._end + self._decode(data)
            self._end = "\r" if text.endswith("\r") else ""
            sys.stdout.write(shown(text.removesuffix("\r").replace("\r\n", "\n"), "\n\t"))
        else:
            sys.stdout.buffer.write(data)
        sys.stdout.flush()
