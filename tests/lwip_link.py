"""The link of a board with lwIP's sockets, which a test makes worse while the board runs."""

import mmap
from pathlib import Path


class Link:
    """The numbers of BOARD_LINK, as tests/board/board_lwip.c has them: loss and reorder in packets of 1000 each way,
    unplugged 0 or 1; the others count."""

    NAMES = ("loss", "reorder", "unplugged", "packets", "lost", "reordered", "no_memory")

    def __init__(self, path: Path):
        path.write_bytes(bytes(4 * len(self.NAMES)))
        self.env = {"BOARD_LINK": str(path)}
        with open(path, "r+b") as file:
            self._numbers = memoryview(mmap.mmap(file.fileno(), 0)).cast("i")

    def __getitem__(self, name: str) -> int:
        return self._numbers[self.NAMES.index(name)]

    def __setitem__(self, name: str, value: int) -> None:
        self._numbers[self.NAMES.index(name)] = value
