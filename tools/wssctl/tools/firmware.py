"""`wssctl firmware`, with a bar for one board, and `wssctl sign`."""

import argparse
import contextlib

from ..boards import firmware as work
from ..boards import update
from ..boards.many import named
from .local import progress


def firmware(args: argparse.Namespace) -> int:
    args.progress = progress if named(args) is None else lambda name, size: contextlib.nullcontext()
    return work.firmware(args)


def sign(args: argparse.Namespace) -> int:
    return work.sign(args) if args.file else update.sign(args)
