"""Time without that for which this machine was busy elsewhere: what a board is slow for, and not its neighbours."""

import os
import time
from pathlib import Path


def starved(board) -> float:
    """Seconds so far for which there was no processor for the board or this process, or none for this machine (Linux:
    schedstat, and steal in /proc/stat)."""
    waits = (Path(f"/proc/{pid}/schedstat").read_text() for pid in (board.console.pid, "self"))
    with open("/proc/stat") as f:
        stolen = int(f.readline().split()[8]) / os.sysconf("SC_CLK_TCK")
    return sum(int(w.split()[1]) for w in waits) / 1e9 + stolen


class Stopwatch:
    """seconds() since it was made, less those for which the board was starved."""

    def __init__(self, board):
        self._board, self._start, self._starved = board, time.monotonic(), starved(board)

    def starved(self) -> float:
        return starved(self._board) - self._starved

    def seconds(self) -> float:
        return time.monotonic() - self._start - self.starved()
