"""A board's files by names of any length: WebREPL's file protocol carries 64 bytes of a name."""

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from ..errors import KeyFileError, UsageError
from ..wire.client import Client
from ..wire.files import MAX_NAME
from ..wire.remote import Remote

Progress = Callable[[int], None] | None
_PART = 5  # bytes of ".part", by which the board calls a file that is on its way


def board_name(name: str) -> str:
    """A name for a file on the board. Raises UsageError for one with Windows' separator, which is a character there."""
    if "\\" in name:
        raise UsageError(f"Folders on the board are separated by '/': write {name.replace(chr(92), '/')}.")
    return name


class Files:
    """Over one session. cwd: the board's current folder, asked for when it is needed first."""

    def __init__(self, board: Client):
        self.board, self.remote = board, Remote(board)
        self._cwd: str | None = None

    @property
    def cwd(self) -> str:
        if self._cwd is None:
            self._cwd = self.remote.cwd()
        return self._cwd

    @property
    def known(self) -> str | None:
        """cwd, if it has been asked for."""
        return self._cwd

    def chdir(self, path: str) -> None:
        self._cwd = self.remote.chdir(path)

    def forget_cwd(self) -> None:
        """Code has run on the board that may have called chdir()."""
        self._cwd = None

    def relative(self, path: str) -> str:
        """A path from the current folder, if it leads into it."""
        if path.startswith("/"):
            path = path.removeprefix(self.cwd.rstrip("/") + "/") or "."
        return path

    def in_its_folder(self, name: str, action: Callable[[str], object]) -> None:
        """`action` with a name that fits the protocol: a long one from inside its folder."""
        short = self.relative(name)
        if len(short.encode("utf-8", "surrogateescape")) + _PART <= MAX_NAME or "/" not in short:
            action(short)
            return
        folder, back = short.rpartition("/")[0], self.cwd
        self.remote.chdir(folder)
        try:
            action(short.rpartition("/")[2])
        finally:
            self.remote.chdir(back)

    def put(self, source: Path | bytes, name: str, progress: Progress = None) -> int:
        """Returns its size in bytes. Raises KeyFileError for a file here that can't be read, else as Client.put()."""
        sizes: list[int] = []
        if isinstance(source, bytes):
            self.in_its_folder(name, lambda short: sizes.append(self.board.put(source, short, progress=progress)))
            return sizes[0]
        try:
            with source.open("rb") as f:
                self.in_its_folder(name, lambda short: sizes.append(self.board.put(f, short, progress=progress)))
        except OSError as e:
            raise KeyFileError(f"Cannot read {source} ({e.strerror}).") from None
        return sizes[0]

    def get(self, name: str, sink: BinaryIO, progress: Progress = None) -> None:
        """Raises as Client.get()."""
        self.in_its_folder(name, lambda short: self.board.get(short, sink, progress=progress))
