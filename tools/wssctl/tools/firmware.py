"""`wssctl firmware`, with a bar for one board."""

import argparse
import contextlib

from ..boards import firmware as work
from ..boards.many import named
from .transfer import progress


def firmware(args: argparse.Namespace) -> int:
    args.progress = progress if named(args) is None else lambda name, size: contextlib.nullcontext()
    return work.firmware(args)
