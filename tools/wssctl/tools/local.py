"""This machine's side of a transfer: files that take the old ones' places whole, and a bar while it is waited for."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from ..errors import KeyFileError
from .files import Progress

Bar = Callable[[str, int | None], contextlib.AbstractContextManager[Progress]]  # of a name and its bytes, if known

# Below this a transfer is over before a bar is seen.
_BAR_FROM = 64 * 1024


@contextlib.contextmanager
def replacing(path: Path, inside: Path | None = None) -> Iterator[BinaryIO]:
    """A binary file that takes `path`'s place when the block ends well; otherwise the old one stays. With `inside`
    it is a file in that folder or none, whatever links lead out of it."""
    named, path = path, Path(os.path.realpath(path))  # a symbolic link stays one
    if inside is not None and path.parent != Path(os.path.realpath(inside)):
        raise KeyFileError(f"{named} is a link out of {inside} and is left alone; get that file by its name.")
    if path.exists() and not path.is_file():
        raise KeyFileError(f"{path} is no file, and stays; name a file, or '-' for standard output.")
    import tempfile

    try:
        fd, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as e:
        raise KeyFileError(f"Cannot write to {path.parent} ({e.strerror}).") from None
    try:
        with os.fdopen(fd, "wb") as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        os.chmod(name, path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask())
        os.replace(name, path)
    except OSError as e:
        raise KeyFileError(f"Cannot write {path} ({e.strerror}); what was there is untouched.") from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def no_bar(name: str, size: int | None) -> contextlib.AbstractContextManager[Progress]:
    return contextlib.nullcontext()


@contextlib.contextmanager
def progress(name: str, size: int | None) -> Iterator[Progress]:
    """A bar on stderr when that is a terminal and the file is big enough to be waited for."""
    if not sys.stderr.isatty() or (size is not None and size < _BAR_FROM):
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task(name, total=size)
        yield lambda done: bar.update(task, completed=done)
