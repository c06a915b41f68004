"""What a test turns while a board on the desk runs: memory that runs out, and time that has passed."""

import mmap
import struct
from pathlib import Path


class Control:
    """The numbers of tests/board/board_control.c in a running board: env() goes into its environment."""

    NAMES = ("fail_at", "fail_more", "of_c", "allocations", "failed", "ticks_ms", "clock_s")

    def __init__(self, file: Path):
        file.write_bytes(bytes(8 * len(self.NAMES)))
        self.file = file
        with open(file, "r+b") as f:
            self._map = mmap.mmap(f.fileno(), 0)

    def env(self) -> dict[str, str]:
        return {"BOARD_CONTROL": str(self.file)}

    def __getitem__(self, name: str) -> int:
        return struct.unpack_from("q", self._map, 8 * self.NAMES.index(name))[0]

    def __setitem__(self, name: str, value: int):
        struct.pack_into("q", self._map, 8 * self.NAMES.index(name), value)
