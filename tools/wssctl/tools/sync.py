"""`sync` and `put -r`: a folder here and one on a board made alike, in either direction.

What can be known beforehand is looked at first: names that cannot be there or are one file there, a folder where a file
is to be, a source that does not compile, room for it all. If there is one, all of them are told and nothing is changed.
"""

import hashlib
import os
import tempfile
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from pathspec import GitIgnoreSpec

from ..boards import modules
from ..errors import BoardError, KeyFileError, UsageError
from ..text import shown
from ..wire.files import MAX_NAME
from ..wire.remote import RESERVED, Entry, component
from .files import Files, board_name
from .local import Bar, replacing

IGNORE = ".wssignore"  # in the folder here; gitignore's syntax (git-scm.com/docs/gitignore)
_IGNORED = (".*", "__pycache__/")
# Of a board, from its root: what it needs to be reached again, and its secrets. A sync deletes none of it and fetches
# none of it, but it sends what somebody has put there by this name. The names are those of lib/wss/credentials.py,
# lib/wss/trust.py, onboard/loader.py and `wssctl setup`.
_OURS = (
    "/SSL_key*", "/SSL_certificate*", "/ROOT_CA_cert.pem*", "/cert/", "/webrepl_cfg*", "/wss_*", "/lib/wss/",
    "/lib/wss_repl.*", "/lib/wss_helper.*", "/lib/ussl.*",
)  # fmt: skip
_BOOT = ("/boot.py", "/main.py")  # fetched, never deleted
_SOURCES = ("boot.py", "main.py")  # that MicroPython starts by these names and not as .mpy
_TOGETHER = 50  # files whose hashes are asked for in one go
_DOUBTFUL = set('"*:<>?|')  # which FAT has no names with
# sys.implementation._mpy >> 10 (docs.micropython.org/en/latest/reference/mpyfiles.html)
_ARCHITECTURES = (
    "", "x86", "x64", "armv6", "armv6m", "armv7m", "armv7em", "armv7emsp", "armv7emdp", "xtensa", "xtensawin",
    "rv32imc", "rv64imc",
)  # fmt: skip
_TRY = """\
def _wssctl_try(n):
 import os
 try:
  open(n,'xb').close()
  os.remove(n)
 except OSError as e:
  return '+' if e.args[0]==17 else '-'
 return '+'
"""
# Whether it takes names that differ in case alone for one; and the bytes of a block and those that are free
_CASE = """\
def _wssctl_case(d):
 import os
 n=d+'wssctl~case.part'
 open(n,'wb').close()
 try:
  os.stat(d+'WSSCTL~CASE.PART')
  return '+'
 except OSError:
  return '-'
 finally:
  os.remove(n)
"""
_FREE = """\
def _wssctl_free(p):
 import os
 try:
  s=os.statvfs(p)
  return '%d %d'%(s[1] or s[0],(s[1] or s[0])*s[4])
 except (OSError,AttributeError):
  return ''
"""


@dataclass(frozen=True)
class Step:
    """verb: make (a folder there), send, fetch, delete (there). name: the board's. data: what is sent in place of the
    local file's bytes."""

    verb: str
    name: str
    local: Path | None = None
    data: bytes | None = None

    def words(self, dry: bool = False) -> str:
        done = {"make": "made", "send": "sent", "fetch": "fetched", "delete": "deleted"}[self.verb]
        return f"{'would ' + self.verb if dry else done} {shown(self.name)}"


@dataclass
class Plan:
    """What is to be done, in this order. same: files that are alike already. back: from a board."""

    steps: list[Step] = field(default_factory=list)
    same: int = 0
    back: bool = False

    def count(self, verb: str) -> int:
        return sum(s.verb == verb for s in self.steps)

    def summary(self) -> str:
        moved = f"{self.count('fetch')} fetched" if self.back else f"{self.count('send')} sent"
        gone = self.count("delete")
        return f"{moved}, {self.same} the same" + (f", {gone} deleted" if gone else "")


class Ignored:
    """What a sync passes by, of a folder here: what is hidden, __pycache__, and what its .wssignore says. The same
    names on the board are passed by as well."""

    def __init__(self, folder: Path):
        path, lines = folder / IGNORE, [*_IGNORED]
        try:
            lines += path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            pass
        except (OSError, UnicodeDecodeError) as e:
            raise KeyFileError(f"Cannot read {path} ({getattr(e, 'strerror', None) or e}).") from None
        try:
            self.spec = GitIgnoreSpec.from_lines([*lines, f"/{IGNORE}"])
        except ValueError as e:
            raise UsageError(f"{path} is not in gitignore's syntax: {e}") from None

    def __call__(self, name: str, is_dir: bool) -> bool:
        return _matches(self.spec, name, is_dir)


def _matches(spec: GitIgnoreSpec, name: str, is_dir: bool) -> bool:
    """Whether it, or a folder that it is in, is in the spec."""
    parts = name.split("/")
    above = ("/".join(parts[:i]) + "/" for i in range(1, len(parts)))
    return any(spec.match_file(n) for n in (*above, name + "/" * is_dir))


def to_board(files: Files, folder: Path, to: str, *, delete: bool = False, mpy: bool = False) -> Plan:
    """To make `to` (a folder on the board; "" is the current one) like the folder here. delete: what is not here goes
    there. mpy: .py files go as .mpy. Raises UsageError with all that is against it."""
    board_name(to)
    ignored = Ignored(folder)
    problems: list[str] = []
    here = _local(folder, ignored, problems)
    there = _remote(files, to, problems)
    prefix = _prefix(to)
    on_board = {n: e for n, e in (there or {}).items() if not ignored(n, e.is_dir)}
    compiled: dict[str, bytes] = {}
    gone: set[str] = set()
    if mpy:
        here, compiled = _compile(files, here, problems)
        # MicroPython takes x.py before x.mpy (py/builtinimport.c)
        gone = {n for n in map(modules.other, compiled) if n in on_board and not on_board[n].is_dir}
    missing = _missing(files, to) if there is None else []
    place = _prefix(to) if not missing else _prefix(str(PurePosixPath(missing[0]).parent).lstrip("."))
    _check_names(files, here, place, problems)
    _check_case(files, here, {} if delete else on_board, place, problems)
    for name, path in here.items():
        other = on_board.get(name)
        if other and other.is_dir != (path is None):
            problems.append(f"{prefix}{name} is a {'folder' if other.is_dir else 'file'} on the board")
    _refuse(problems)
    plan = Plan()
    plan.steps += [Step("make", name) for name in missing]
    alike = [n for n, p in here.items() if p and n in on_board and on_board[n].size == _size(p, compiled.get(n))]
    sums = _sums(files, to, alike)
    for name, path in here.items():
        if path is None:
            if name not in on_board:
                plan.steps.append(Step("make", prefix + name))
        elif name in sums and sums[name] == _sha256(path, compiled.get(name)):
            plan.same += 1
        else:
            plan.steps.append(Step("send", prefix + name, path, compiled.get(name)))
    if delete:
        ours = _ours(files, to, _OURS + _BOOT)
        gone |= {n for n, e in on_board.items() if n not in here and not ours(n, e.is_dir)}
        stays = {str(p) for n in there or {} if n not in gone for p in PurePosixPath(n).parents}
        gone -= stays  # folders in which something is passed by
    # What differs from a name here in case alone goes first: on FAT it is the same file, and would go after it was sent
    folded = {n.casefold() for n in here}
    other_case = {n for n in gone if n.casefold() in folded}
    first = {n for n in gone if other_case & {n, *map(str, PurePosixPath(n).parents)}}
    plan.steps[:0] = _deletes(prefix, first)
    plan.steps += _deletes(prefix, gone - first)
    _check_room(files, plan, {prefix + n: e for n, e in on_board.items()}, place)
    return plan


def from_board(files: Files, folder: str, to: Path) -> Plan:
    """To have in `to`, a folder here, what is in the board's folder. Nothing here is deleted: a board is not to decide
    on that. Raises UsageError with all that is against it, BoardError for names that are none."""
    ignored = Ignored(to)
    problems: list[str] = []
    there = _remote(files, folder, problems)
    if there is None:
        raise BoardError(f"There is no folder {folder} on the board.")
    ours = _ours(files, folder, _OURS)
    root, wanted, alike, names = os.path.realpath(to), [], [], []
    for name, entry in there.items():
        for part in name.split("/"):
            component(part)
        if ignored(name, entry.is_dir) or ours(name, entry.is_dir):
            continue
        names.append(name)
        local = to / name
        if local.is_symlink() or not _is_in(os.path.realpath(local), root):
            problems.append(f"{local} is a link, or in one")
        elif local.exists() and local.is_dir() != entry.is_dir:
            problems.append(f"{local} is a {'folder' if local.is_dir() else 'file'} here")
        elif not entry.is_dir:
            wanted.append(name)
            if local.is_file() and local.stat().st_size == entry.size:
                alike.append(name)
    _check_here(to, names, problems)
    _refuse(problems)
    sums = _sums(files, folder, alike)
    same = {n for n in alike if sums.get(n) == _sha256(to / n, None)}
    return Plan([Step("fetch", _prefix(folder) + n, to / n) for n in wanted if n not in same], len(same), True)


def carry_out(
    files: Files, plan: Plan, tell: Callable[[Step], object], bar: Bar, to: Path | None = None
) -> None:
    """Does what the plan says; tell() after each step. to: the folder here that nothing that is fetched leaves."""
    for step in plan.steps:
        if step.verb == "make":
            files.remote.mkdir(step.name)
        elif step.verb == "send":
            assert step.local
            with bar(step.name, _size(step.local, step.data)) as advance:
                files.put(step.local if step.data is None else step.data, step.name, advance)
        elif step.verb == "fetch":
            assert step.local and to
            _make_folders(step.local.parent, to)
            with bar(step.name, None) as advance, replacing(step.local, step.local.parent) as f:
                files.get(step.name, f, advance)
        elif entry := files.remote.stat(step.name):
            (files.remote.rmdir if entry.is_dir else files.remote.remove)(step.name)
        tell(step)


# What there is


def _deletes(prefix: str, names: set[str]) -> list[Step]:
    """Folders behind what is in them."""
    return [Step("delete", prefix + n) for n in sorted(names, key=lambda n: (-n.count("/"), n))]


def _prefix(folder: str) -> str:
    return f"{folder.rstrip('/')}/" if folder else ""


def _local(folder: Path, ignored: Ignored, problems: list[str]) -> dict[str, Path | None]:
    """Files by their names below the folder; None for folders."""
    found: dict[str, Path | None] = {}

    def look(inside: Path, prefix: str) -> None:
        try:
            entries = sorted(os.scandir(inside), key=lambda e: e.name)
        except OSError as e:
            problems.append(f"{inside} cannot be read ({e.strerror})")
            return
        for entry in entries:
            name, path = prefix + entry.name, Path(entry.path)
            if ignored(name, entry.is_dir()):
                continue
            if entry.is_dir() and entry.is_symlink():
                problems.append(f"{path} is a link to a folder")
            elif entry.is_dir():
                found[name] = None
                look(path, name + "/")
            elif not path.is_file():
                problems.append(f"{path} is no file")
            elif not os.access(path, os.R_OK):
                problems.append(f"{path} cannot be read")
            else:
                found[name] = path

    look(folder, "")
    return found


def _remote(files: Files, folder: str, problems: list[str]) -> dict[str, Entry] | None:
    """What is in the board's folder, by names below it; None when there is no such one."""
    if not files.remote.is_dir(folder):
        if files.remote.stat(folder.rstrip("/")):
            problems.append(f"{folder} is a file on the board")
        return None
    entries = files.remote.walk(folder.rstrip("/") or folder, deep=True)
    return {e.path.removeprefix(_prefix(folder)): e for e in entries}


def _ours(files: Files, folder: str, patterns: tuple[str, ...]) -> Callable[[str, bool], bool]:
    """Whether a name below the folder is one of these patterns, which are from the board's root or /flash."""
    whole = folder if folder.startswith("/") else f"{files.cwd}/{folder}"
    parts = [p for p in whole.split("/") if p not in ("", ".")]
    above = "".join(p + "/" for p in parts[parts[:1] == ["flash"] :])
    spec = GitIgnoreSpec.from_lines(patterns)
    return lambda name, is_dir: _matches(spec, above + name, is_dir)


def _missing(files: Files, folder: str) -> list[str]:
    """Which folders have to be made for this one, from above."""
    pure = PurePosixPath(folder)
    return [str(p) for p in [*reversed(pure.parents), pure] if not files.remote.is_dir(str(p))]


def _sums(files: Files, folder: str, names: list[str]) -> dict[str, str]:
    """SHA-256 by name, computed there."""
    found: dict[str, str] = {}
    for i in range(0, len(names), _TOGETHER):
        found |= files.remote.sums(folder.rstrip("/") if folder else ".", names[i : i + _TOGETHER])
    return found


def _size(path: Path, data: bytes | None) -> int:
    return path.stat().st_size if data is None else len(data)


def _sha256(path: Path, data: bytes | None) -> str:
    if data is not None:
        return hashlib.sha256(data).hexdigest()
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


# What can't be


def _check_names(files: Files, here: Iterable[str], place: str, problems: list[str]) -> None:
    """place: a folder that is there, with a "/" at its end, on the file system that they go to."""
    doubtful = []
    for name in here:
        last = name.rpartition("/")[2]
        try:
            size = len(last.encode())
        except UnicodeEncodeError:
            problems.append(f"{name!r} is not in UTF-8")
            continue
        if "\\" in last:
            problems.append(f"{name} has a \\ in it")
        elif size > MAX_NAME:
            problems.append(f"{name} has {size} bytes in its last part, and {MAX_NAME} can be sent")
        elif _DOUBTFUL & set(last) or last[-1] in ". " or not last.isprintable():
            doubtful.append(name)
    if doubtful:  # the board is asked whether its file system has such names
        tried = [f"{place}{n.rpartition('/')[2]}.part" for n in doubtful]
        code = f"''.join(_wssctl_try(n) for n in {tried!r})"
        answers = files.remote.ask(code, "say which names its file system has", _TRY)
        no = [n for n, answer in zip(doubtful, answers, strict=True) if answer == "-"]
        problems += [f"{n} is no name for the board's file system" for n in no]


def _check_case(
    files: Files, here: Iterable[str], there: Iterable[str], place: str, problems: list[str]
) -> None:
    """there: what stays on the board."""
    alike: dict[str, set[str]] = {}
    for name in (*here, *there):
        alike.setdefault(name.casefold(), set()).add(name)
    doubtful = [sorted(names) for names in alike.values() if len(names) > 1]
    # Of folders that are one and what is in them, the folders alone are told
    doubtful = [n for n in doubtful if len({p.rpartition("/")[0] for p in n}) == 1]
    if doubtful and files.remote.ask(f"_wssctl_case({place!r})", "say whether its names have a case", _CASE) == "+":
        problems += [f"{' and '.join(names)} are one file to the board's file system" for names in doubtful]


def _check_here(to: Path, names: list[str], problems: list[str]) -> None:
    """Whether the file system here has these names, each for itself: it is asked, in a folder that goes again."""
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(_folded(name), []).append(name)
    groups = [n for n in alike.values() if len(n) > 1 and len({p.rpartition("/")[0] for p in n}) == 1]
    groups += [[n] for n in names if _is_odd(n.rpartition("/")[2])]
    for name in names:  # what is here by another spelling would be overwritten
        local = to / name
        if local.exists() and local.name not in (there := os.listdir(local.parent)):
            other = next((n for n in there if _folded(n) == _folded(local.name)), local.name)
            problems.append(f"{name} is {other} here, which is another name")
    if not groups:
        return
    try:
        with tempfile.TemporaryDirectory(prefix=".wssctl-", dir=to) as folder:
            problems += [words for i, group in enumerate(groups) if (words := _tried(Path(folder, str(i)), group))]
    except OSError as e:
        raise KeyFileError(f"Cannot write in {to} ({e.strerror}).") from None


def _tried(folder: Path, names: list[str]) -> str:
    """What is against having all of these names in one folder."""
    folder.mkdir()
    for name in names:
        try:
            os.close(os.open(folder / name.rpartition("/")[2], os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            return f"{' and '.join(names)} are one file here"
        except OSError as e:
            return f"{name} is no name here ({e.strerror})"
    # Windows opens a device by its name, and the part of a name before a colon
    return "" if len(os.listdir(folder)) == len(names) else f"{names[0]} is no name here"


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _is_odd(name: str) -> bool:
    odd = _DOUBTFUL & set(name) or "\\" in name or name[-1] in ". "
    return bool(odd or RESERVED.match(name) or not (name.isascii() and name.isprintable()))


def _check_room(files: Files, plan: Plan, there: dict[str, Entry], place: str) -> None:
    """Raises UsageError when the blocks of the files alone do not fit. Of each that is replaced, the old one stays
    until the new one is whole."""
    said = files.remote.ask(f"_wssctl_free({place or '.'!r})", "say how much is free", _FREE).split()
    if len(said) != 2 or not all(word.isascii() and word.isdigit() and len(word) < 20 for word in said):
        return
    block, free = map(int, said)
    if not block:
        return
    now = most = 0
    for step in plan.steps:
        old = there.get(step.name)
        before = -(-old.size // block) if old and not old.is_dir else 0
        if step.verb == "send":
            assert step.local
            now += -(-_size(step.local, step.data) // block)
            most = max(most, now)
        if step.verb in ("send", "delete"):
            now -= before
    if most * block > free:
        raise UsageError(
            f"Nothing was changed. It takes {most * block} bytes there, and {free} are free: delete something on the "
            f"board, or name in {IGNORE} what it does not need."
        )


def _compile(
    files: Files, here: dict[str, Path | None], problems: list[str]
) -> tuple[dict[str, Path | None], dict[str, bytes]]:
    """The names with .mpy in place of .py, and what these files hold."""
    said = files.remote.ask("str(getattr(sys.implementation,'_mpy',0))", "say what .mpy it reads", "import sys")
    number = int(said) if said.isascii() and said.isdigit() and len(said) < 10 else 0
    which = number >> 10 & 15
    machine = _ARCHITECTURES[which] if which < len(_ARCHITECTURES) else ""
    names: dict[str, Path | None] = {}
    made: dict[str, bytes] = {}
    for name, path in here.items():
        last = name.rpartition("/")[2]
        if path is None or not name.endswith(".py") or last in _SOURCES:
            names[name] = path
            continue
        other = modules.other(name)
        if other in here:
            problems.append(f"{other} is there and would be made of {name} as well")
            continue
        try:
            made[other] = modules.bytecode(path.read_bytes(), name, number & 255, machine)
        except modules.DoesNotCompile as e:
            problems.append(str(e))
        except modules.NoCompiler as e:
            raise KeyFileError(f"Nothing was changed, since no .mpy can be made: {e}.") from None
        names[other] = path
    return names, made


def _refuse(problems: list[str]) -> None:
    if problems:
        raise UsageError(f"Nothing was changed. {'; '.join(problems)}: mend that, or name it in {IGNORE}.")


def _is_in(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip(os.sep) + os.sep)


def _make_folders(folder: Path, root: Path) -> None:
    """Raises KeyFileError, also when somebody has put a link out of the root in its way meanwhile."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise KeyFileError(f"Cannot make {folder} ({e.strerror}).") from None
    if not _is_in(os.path.realpath(folder), os.path.realpath(root)):
        raise KeyFileError(f"{folder} is a link out of {root} and is left alone.")
