"""mpremote, when its port is a board behind wss: what the board says is data, of this machine's file system and of its
terminal. mpremote trusts the board on its cable; so what it takes from one is looked at here, on the way in.

Works on mpremote 1.25 and later; what a version has not is left as it is.
"""

import contextlib
import errno
import functools
import os
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..errors import BoardError
from ..text import brief, say, shown
from ..wire.remote import HEAP, NONSENSE, component, has_room

_MOUNT = 36 << 10  # bytes of heap that mpremote's mount (its fs_hook_code) needs on a board of 32 bits
_files: "weakref.WeakSet[Any]" = weakref.WeakSet()  # mpremote's servers of mounted folders
_folder: list[Path] = []  # where a recursive copy from a board may write, while one is under way


def guard(ours: type) -> None:
    """Puts mpremote under guard, once, for transports whose port is of the class `ours`; nothing without mpremote."""
    try:
        from mpremote import commands, transport, transport_serial
    except ImportError:
        return
    if getattr(commands, "_wssctl", False):
        return
    commands._wssctl = True
    error = commands.CommandError

    def is_ours(port: Any) -> bool:
        return isinstance(getattr(port, "orig_serial", port), ours)

    def listdir(self: Any, *words: Any, _theirs: Any = transport.Transport.fs_listdir, **more: Any) -> Any:
        if not is_ours(self.serial):
            return _theirs(self, *words, **more)
        with _a_sentence(error, "list a folder"):
            found = _theirs(self, *words, **more)
            for entry in found:
                component(entry.name)
                int(entry.st_mode), int(entry.st_size)
        if _folder and (hidden := [e.name for e in found if e.name.startswith(".")]):
            say(f"NOTE: hidden files are left out ({brief(', '.join(hidden))}); copy them by their names.")
            found = [e for e in found if not e.name.startswith(".")]
        return found

    def evaluate(self: Any, *words: Any, _theirs: Any = transport_serial.SerialTransport.eval, **more: Any) -> Any:
        if not is_ours(self.serial):
            return _theirs(self, *words, **more)
        with _a_sentence(error, "answer"):
            return _theirs(self, *words, **more)

    def copy(
        state: Any, src: str, dest: str, *words: Any, _theirs: Any = commands.do_filesystem_recursive_cp, **more: Any
    ) -> Any:
        if not (is_ours(state.transport.serial) and src.startswith(":") and not dest.startswith(":")):
            return _theirs(state, src, dest, *words, **more)
        _folder.append(Path(os.path.realpath(dest)))
        try:
            return _theirs(state, src, dest, *words, **more)
        finally:
            _folder.pop()

    def open_(file: str, mode: str = "r", *words: Any, **more: Any) -> Any:
        """open(), as mpremote.commands has it: not through a link out of the folder that is copied into."""
        if _folder and "w" in mode and not Path(os.path.realpath(file)).is_relative_to(_folder[-1]):
            raise error(f"{file} is a link out of {_folder[-1]} and is left alone; copy that file by its name")
        return open(file, mode, *words, **more)

    def begin(self: Any, *words: Any, _theirs: Any = transport_serial.PyboardCommand.__init__, **more: Any) -> None:
        _theirs(self, *words, **more)
        _files.add(self)
        if is_ours(self.fin):
            self.path_check = functools.partial(_not_hidden, self.path_check, self.root)

    def mount(self: Any, *words: Any, _theirs: Any = transport_serial.SerialTransport.mount_local, **more: Any) -> Any:
        if is_ours(self.serial) and not has_room(self.exec(HEAP), _MOUNT):
            raise error(
                f"the board has too little memory to mount a folder, {_MOUNT >> 10} KB of heap in a session: `wssctl "
                "shell BOARD sync FOLDER` copies what differs instead"
            )
        return _theirs(self, *words, **more)

    def follow(self: Any, *words: Any, _theirs: Any = transport_serial.SerialTransport.follow, **more: Any) -> Any:
        try:
            return _theirs(self, *words, **more)
        except KeyboardInterrupt:
            if is_ours(self.serial):  # else the program goes on, and mpremote's unmount with it in the way
                with contextlib.suppress(OSError, transport.TransportError):
                    self.enter_raw_repl(soft_reset=False)
            raise

    def printfile(data: bytes, _theirs: Any = transport.stdout_write_bytes) -> None:
        _theirs(shown(data.decode("utf-8", "replace"), "\r\n\t").encode() if sys.stdout.isatty() else data)

    transport.Transport.fs_listdir = listdir
    transport_serial.SerialTransport.eval = evaluate
    commands.do_filesystem_recursive_cp = copy
    commands.open = open_
    transport_serial.PyboardCommand.__init__ = begin
    transport_serial.SerialTransport.mount_local = mount
    transport_serial.SerialTransport.follow = follow
    transport.stdout_write_bytes = printfile


def _not_hidden(check: Callable[[str], None], root: str, path: str) -> None:
    """For what a board does in a mounted folder: nothing to hidden files, which a project has for other programs."""
    check(path)
    if any(part.startswith(".") for part in os.path.relpath(path, root).split(os.sep) if part != "."):
        raise PermissionError(errno.EPERM, "")


@contextlib.contextmanager
def _a_sentence(error: Callable[[str], Exception], what: str) -> Iterator[None]:
    try:
        yield
    except BoardError as e:
        raise error(str(e).rstrip(".")) from None
    except NONSENSE as e:
        raise error(f"the board does not {what}: what it sends is none ({shown(str(e))[:200]})") from None


def close_files() -> None:
    """Those that the board's programs left open on a mounted folder: what was written is in them from now on."""
    for server in list(_files):
        for entry in getattr(server, "data_files", []):
            if entry:
                with contextlib.suppress(OSError, ValueError):
                    entry[0].close()


class Messages:
    """A text stream in which what a board named does nothing to a terminal. Its `buffer` takes bytes as they are: by
    that way mpremote writes what the user's own program prints."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(shown(text, "\r\n\t"))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def guard_terminal() -> None:
    """For what mpremote prints itself: names, errors, tracebacks."""
    for name in ("stdout", "stderr"):
        if not isinstance(getattr(sys, name), Messages):
            setattr(sys, name, Messages(getattr(sys, name)))
