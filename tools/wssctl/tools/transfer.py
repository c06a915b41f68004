"""`wssctl exec`, `wssctl put`, `wssctl get`."""

import argparse
import codecs
import glob
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

from ..boards.dialler import Dialler, connect
from ..boards.many import named, on_each
from ..boards.registry import Board
from ..errors import BoardError, KeyFileError, UsageError
from ..keys.store import expanded
from ..text import say, shown
from ..wire.client import Client
from ..wire.remote import component
from .files import Files, board_name
from .local import Bar, no_bar, progress, replacing

if TYPE_CHECKING:  # with one board, a command starts without it
    from ..boards.engine import Outcome

_MAX_PROGRAM = 16 << 20  # bytes: what comes without an end (`yes | wssctl repl`) is not waited for


def exec_(args: argparse.Namespace) -> int:
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
        with sys.stdin.buffer if file == "-" else open(file, "rb") as f:
            code = f.read(_MAX_PROGRAM + 1)
        if len(code) > _MAX_PROGRAM:
            raise UsageError(f"{file} has more than {_MAX_PROGRAM >> 20} MB, which is no program for a board.")
        return code.removeprefix(codecs.BOM_UTF8)  # as Python does; MicroPython takes it for part of a name
    except OSError as e:
        raise KeyFileError(f"Cannot read {file} ({e.strerror}).") from None


def run(board: Client, code: str | bytes) -> int:
    """Output as it comes to stdout, a traceback to stderr; 1 if the code raised."""
    if sys.stdout.isatty():
        result = board.exec(code, output=_write_stdout)
    else:
        with Lines(_write_stdout) as lines:
            result = board.exec(code, output=lines)
    if result.error:
        sys.stderr.write(shown(result.error, "\n\t"))
        return 1
    return 0


def _write_stdout(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


class Lines:
    """What a board prints, for a file or a pipe here, which wants lines: LF where it prints CR LF. Other CRs stay, as
    binary data has them; one that comes last waits for what follows."""

    def __init__(self, write: Callable[[bytes], object]):
        self._write, self._kept = write, b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._kept:
            self._write(self._kept)

    def __call__(self, data: bytes) -> None:
        data = self._kept + data
        self._kept = b"\r" * data.endswith(b"\r")
        self._write(data.removesuffix(b"\r").replace(b"\r\n", b"\n"))


class Put(NamedTuple):
    """What goes where. files: as (here, name there). folders: here, each of which goes into `folder` under its own
    name. folder: there, "" for the current one, else with a "/" at its end."""

    files: list[tuple[Path, str]]
    folders: list[Path]
    folder: str


def put_plan(words: list[str], deep: bool = False) -> Put:
    """`LOCAL... [FOLDER]`, `LOCAL :NAME`, before anybody is connected to.

    The board is not asked what is a folder there, because that would interrupt its program. So a bare last word is
    one more source if it is a file here, else a folder there, which the board says if it is none. Raises UsageError
    and KeyFileError.
    """
    to = None
    if len(words) > 1 and (words[-1][:1] == ":" or words[-1][-1:] == "/" or not expanded(words[-1]).is_file()):
        *words, to = words
    sources = [p for w in words for p in _glob(w)]
    sources = list({os.path.abspath(p): p for p in sources}.values())
    folders = [p for p in sources if deep and p.is_dir()]
    files = [p for p in sources if p not in folders]
    must_be_files(files)
    if unnamed := [p for p in folders if p.name in ("", "..")]:
        raise UsageError(f"{unnamed[0]} has no name to have there; `sync` copies what is in a folder.")
    name = board_name((to or "").removeprefix(":"))
    folder = "" if name in ("", ".") else name.rstrip("/") + "/"
    if (to or "")[:1] == ":" and len(sources) == 1 and files and folder and name[-1] != "/":
        return Put([(files[0], name)], [], "")
    there: dict[str, Path] = {}
    for source in sources:
        if there.setdefault(source.name, source) is not source:
            raise UsageError(f"{there[source.name]} and {source} would both be {folder}{source.name}; none was sent.")
    if to is None and len(files) > 1:
        # It may have been meant as a folder there. Sent first, it is refused then, and nothing else has been changed.
        files.insert(0, files.pop())
    return Put([(p, folder + board_name(p.name)) for p in files], folders, folder)


def _glob(word: str) -> list[Path]:
    """A name as it is, if there is such a file; else as a pattern."""
    path = expanded(word)
    return [path] if os.path.lexists(path) else [Path(p) for p in sorted(glob.glob(str(path)))] or [path]


def refused_put(plan: Put, name: str, e: BoardError) -> BoardError:
    """The board's refusal, with what to do about it."""
    text = str(e).rstrip(".")
    if "is a folder" in text:
        return BoardError(f"The board has a folder named {name}: `{name}/` for what goes into it; it is as it was.")
    if plan.folder:
        return BoardError(
            f"{text}; is {plan.folder.rstrip('/')} a folder there? (`mkdir` makes one; another name for a file is "
            f"written :{plan.folder.rstrip('/')}.)"
        )
    return e


def put_all(files: Files, plan: Put, tell: Callable[[str], object], bar: Bar) -> None:
    """tell() gets a line for each file. Raises as Client.put() and sync.to_board() do."""
    from . import sync

    folders = [sync.to_board(files, p, plan.folder + p.name) for p in plan.folders]
    for local, name in plan.files:
        try:
            with bar(name, local.stat().st_size) as advance:
                size = files.put(local, name, advance)
        except BoardError as e:
            raise refused_put(plan, name, e) from None
        tell(f"{local} -> {name}, {size} bytes")
    for folder in folders:
        sync.carry_out(files, folder, lambda step: tell(step.words()), bar)


def put(args: argparse.Namespace) -> int:
    plan = put_plan(args.paths, args.recursive)
    boards = named(args)
    if boards is not None:
        return on_each(args, boards, lambda dial: _put_one(dial, plan))
    with connect(args) as board:
        put_all(Files(board), plan, say, progress)
    return 0


def _put_one(dial: Dialler, plan: Put) -> str:
    said: list[str] = []
    with dial() as board:
        put_all(Files(board), plan, said.append, no_bar)
    return "\n".join(said)


def must_be_files(paths: list[Path]) -> None:
    """Before anything is sent."""
    for path in paths:
        if not path.is_file():
            what = "is a folder; -r sends one" if path.is_dir() else "is no file" if path.exists() else "does not exist"
            raise KeyFileError(f"Cannot read {path} ({path} {what}); name the files to put.")
        if not os.access(path, os.R_OK):
            raise KeyFileError(f"Cannot read {path} (permission denied); nothing was sent.")


def get(args: argparse.Namespace) -> int:
    boards = named(args)
    if boards is not None:
        return _get_many(args, boards)
    jobs = pair(args.paths)
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


def _get_many(args: argparse.Namespace, boards: Sequence[Board]) -> int:
    """Each board's files into a folder of its name, below the one that is named last."""
    *names, folder = args.paths
    if not names or not Path(folder).is_dir():
        raise UsageError("Of several boards, files go to FOLDER/BOARD/NAME: name files, then a folder that is there.")
    names = [name for name, _ in pair([*names, folder if folder.endswith("/") else f"{folder}/"])]

    def work(dial: Dialler) -> str:
        said = []
        place = Path(folder) / component(dial.board.name if dial.board else dial.target.host)
        place.mkdir(exist_ok=True)
        with dial() as board:
            for name in names:
                local = place / component(_base(name))
                with replacing(local, place) as f:
                    board.get(name, f)
                    said.append(f"{name} -> {local}, {f.tell()} bytes")
        return "\n".join(said)

    return on_each(args, boards, work)


def pair(paths: list[str]) -> list[tuple[str, str]]:
    """(name there, name here) for `A`, `A B`, `A B... DIR`, `A... DIR/`, `A... -`; names on the board with or without
    mpremote's `:` in front."""
    if len(paths) == 1:
        source = _bare(paths[0])
        return [(source, _base(source))]
    *sources, last = paths
    sources = [_bare(s) for s in sources]
    if last == "-":
        return [(s, last) for s in sources]
    if not (len(sources) > 1 or last.endswith("/") or Path(last).is_dir()):
        return [(sources[0], last)]
    if not Path(last).is_dir():
        raise UsageError(f"{last} is not a folder; with several files the last name must be one.")
    here: dict[str, str] = {}
    for source in sources:
        local = (last if last.endswith("/") else last + "/") + _base(source)
        if here.setdefault(local, source) != source:
            raise UsageError(f"{here[local]} and {source} would both be {local}; nothing was copied.")
    return [(source, local) for local, source in here.items()]


def _bare(name: str) -> str:
    return name[1:] or "." if name.startswith(":") else name


def _base(path: str) -> str:
    name = path.rstrip("/").rsplit("/", 1)[-1]
    if not name:
        raise UsageError(f"{path!r} names no file.")
    return name
