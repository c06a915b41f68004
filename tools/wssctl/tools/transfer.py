"""`wssctl exec`, `wssctl put`, `wssctl get`."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..boards.dialler import Dialler, connect
from ..boards.many import named, on_each
from ..boards.registry import Board
from ..errors import KeyFileError, UsageError
from ..text import say, shown
from ..wire.client import Client

if TYPE_CHECKING:  # with one board, a command starts without them
    from ..boards.engine import Outcome

# Below this a transfer is over before a bar is seen.
_BAR_FROM = 64 * 1024


def exec_(args) -> int:
    if (args.code is None) == (args.file is None):
        raise UsageError("Give either CODE or --file FILE ('-' is standard input).")
    code = args.code if args.file is None else read_program(args.file)
    boards = named(args)
    if boards is not None:
        return on_each(args, boards, lambda dial: _exec_one(dial, code))
    with connect(args) as board:
        return run(board, code)


def _exec_one(dial: Dialler, code: str | bytes) -> "Outcome":
    from ..boards.engine import Outcome

    with dial() as board:
        result = board.exec(code)
    out = result.output.decode("utf-8", "replace").replace("\r\n", "\n")
    return Outcome("", 1 if result.error else 0, (out + result.error).rstrip("\n"))


def read_program(file: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as e:
        raise KeyFileError(f"Cannot read {file} ({e.strerror}).") from None


def run(board: Client, code: str | bytes) -> int:
    """Output as it comes to stdout, a traceback to stderr; 1 if the code raised."""
    result = board.exec(code, output=write_stdout)
    if result.error:
        sys.stderr.write(shown(result.error, "\n\t"))
        return 1
    return 0


def write_stdout(data: bytes) -> None:
    # The board prints CR LF; a pipe or a file here wants lines
    sys.stdout.buffer.write(data if sys.stdout.isatty() else data.replace(b"\r", b""))
    sys.stdout.buffer.flush()


def put(args) -> int:
    jobs = [(Path(local), name) for local, name in pair(args.paths, to_board=True)]
    must_be_files([local for local, _ in jobs])
    for _, name in jobs:
        board_name(name)
    boards = named(args)
    if boards is not None:
        return on_each(args, boards, lambda dial: _put_one(dial, jobs))
    with connect(args) as board:
        for local, name in jobs:
            try:
                with local.open("rb") as f, progress(name, local.stat().st_size) as advance:
                    size = board.put(f, name, progress=advance)
            except OSError as e:
                raise KeyFileError(f"Cannot read {local} ({e.strerror}).") from None
            say(f"{local} -> {name}, {size} bytes")
    return 0


def _put_one(dial: Dialler, jobs: list[tuple[Path, str]]) -> str:
    said = []
    with dial() as board:
        for local, name in jobs:
            try:
                with local.open("rb") as f:
                    said.append(f"{name}, {board.put(f, name)} bytes")
            except OSError as e:
                raise KeyFileError(f"Cannot read {local} ({e.strerror}).") from None
    return "\n".join(said)


def must_be_files(paths: list[Path]) -> None:
    """Before anything is sent."""
    for path in paths:
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "does not exist"
            raise KeyFileError(f"Cannot read {path} ({path} {what}); name the files to put.")


def board_name(name: str) -> str:
    """A name for a file on the board. Raises UsageError for one with Windows' separator, which is a character there."""
    if "\\" in name:
        raise UsageError(f"Folders on the board are separated by '/': write {name.replace(chr(92), '/')}.")
    return name


def get(args) -> int:
    boards = named(args)
    if boards is not None:
        return _get_many(args, boards)
    jobs = pair(args.paths, to_board=False)
    with connect(args) as board:
        for name, local in jobs:
            with progress(name, None) as advance:
                if local == "-":
                    if sys.stdout.isatty():  # what is in a file is the board's word, too
                        text = board.get(name, progress=advance).decode("utf-8", "replace").replace("\r\n", "\n")
                        sys.stdout.write(shown(text, "\n\t"))
                    else:
                        board.get(name, sys.stdout.buffer, progress=advance)
                    sys.stdout.flush()
                    continue
                with replacing(Path(local)) as f:
                    board.get(name, f, progress=advance)
                    size = f.tell()
            say(f"{name} -> {local}, {size} bytes")
    return 0


def _get_many(args, boards: Sequence[Board]) -> int:
    """Each board's files into a folder of its name, below the one that is named last."""
    *names, folder = args.paths
    if not names or not Path(folder).is_dir():
        raise UsageError("Of several boards, files go to FOLDER/BOARD/NAME: name files, then a folder that is there.")
    names = [_bare(n) for n in names]
    for name in names:
        _base(name, False)

    from ..wire.remote import component

    def work(dial: Dialler) -> str:
        said = []
        place = Path(folder) / component(dial.board.name if dial.board else dial.target.host)
        place.mkdir(exist_ok=True)
        with dial() as board:
            for name in names:
                local = place / component(_base(name, False))
                with replacing(local, place) as f:
                    board.get(name, f)
                    said.append(f"{name} -> {local}, {f.tell()} bytes")
        return "\n".join(said)

    return on_each(args, boards, work)


def pair(paths: list[str], to_board: bool) -> list[tuple[str, str]]:
    """(source, destination) for `A`, `A B`, `A B... DIR`, `A... DIR/`; names on the board with or without mpremote's
    `:` in front."""
    if len(paths) == 1:
        source = paths[0] if to_board else _bare(paths[0])
        return [(source, _base(source, to_board))]
    *sources, last = paths
    if to_board:
        last = _bare(last)
        many = len(sources) > 1 or last.endswith("/") or last == "."
    elif last == "-":
        return [(_bare(s), last) for s in sources]
    else:
        sources = [_bare(s) for s in sources]
        many = len(sources) > 1 or last.endswith("/") or Path(last).is_dir()
        if many and not Path(last).is_dir():
            raise UsageError(f"{last} is not a folder; with several files the last name must be one.")
    if not many:
        return [(sources[0], last)]
    joint = "" if last == "." and to_board else last if last.endswith("/") else last + "/"
    return [(s, joint + _base(s, to_board)) for s in sources]


def _bare(name: str) -> str:
    return name[1:] or "." if name.startswith(":") else name


def _base(path: str, is_local: bool) -> str:
    name = Path(path).name if is_local else path.rstrip("/").rsplit("/", 1)[-1]
    if not name:
        raise UsageError(f"{path!r} names no file.")
    return name


@contextlib.contextmanager
def replacing(path: Path, inside: Path | None = None) -> Iterator:
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


@contextlib.contextmanager
def progress(name: str, size: int | None) -> Iterator[Callable[[int], None] | None]:
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
