"""The commands of `wssctl shell`."""

import fnmatch
import posixpath
import sys
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath
from typing import TextIO

from ..errors import BoardError, KeyFileError, UsageError
from ..keys.store import expanded
from ..text import shown
from ..wire.remote import component
from . import sync, transfer
from .files import Files, Progress
from .local import no_bar, progress, replacing

LINES = "\n\t"  # what several lines of ours have in them
_KEYS = """\
Ctrl-s  to the board's REPL; Ctrl-s or Ctrl-] comes back
Ctrl-k  these keys
Ctrl-x  leave, as `exit` and Ctrl-D
Ctrl-c  give up the line, or stop what runs on the board
Tab     complete a command or a file; Up, Down and Ctrl-r go through what was typed before"""


class Commands:
    """What `wssctl shell` knows. Their docstrings are the help."""

    files: Files
    home: str | None = None  # the folder it was in before the first cd

    def __init__(self, out: TextIO, errors: TextIO, bars: bool):
        self.out, self.errors, self.bars = out, errors, bars

    def say(self, *words: object) -> None:
        """A line; what a board named in it does nothing to a terminal."""
        print(shown(" ".join(map(str, words)), LINES), file=self.out, flush=True)

    # Names

    def expand(self, words: list[str]) -> list[str]:
        """Globs on the board's files."""
        found: list[str] = []
        for word in words:
            if not any(c in word for c in "*?["):
                found.append(word)
                continue
            folder, _, pattern = word.rpartition("/")
            folder = folder or ("/" if word.startswith("/") else "")
            if any(c in folder for c in "*?["):
                raise UsageError(f"{word}: * and ? work in the last part of a path only.")
            hidden = pattern.startswith(".")  # as in a shell here: `*` does not name what is hidden
            names = [
                e.path
                for e in self.files.remote.walk(folder)
                if fnmatch.fnmatchcase(e.name, pattern) and hidden == e.name.startswith(".")
            ]
            if not names:
                raise BoardError(f"There is no {word} on the board.")
            found += names
        return found

    def _options(self, words: list[str], allowed: str = "") -> tuple[set[str], list[str]]:
        flags: set[str] = set()
        rest: list[str] = []
        for i, word in enumerate(words):
            if word == "--":  # what follows is a name, whatever it begins with
                return flags, rest + words[i + 1 :]
            if word.startswith("--") and word in allowed.split():
                flags.add(word)
            elif word.startswith("-") and len(word) > 1 and all(c in allowed.partition(" ")[0] for c in word[1:]):
                flags |= set(word[1:])
            elif word.startswith("-") and len(word) > 1:
                raise UsageError(f"There is no option {word}; `help` shows what there is.")
            else:
                rest.append(word)
        return flags, rest

    def _pairs(self, words: list[str], how: str) -> list[tuple[str, str]]:
        """(source, where it goes) of `SOURCE... TO`. Raises UsageError before anything is done where one would take the
        place of another, or of itself."""
        words = self._options(words)[1]
        if len(words) < 2:
            raise UsageError(how)
        *sources, to = self.expand(words)
        folder = self.files.remote.is_dir(to)
        if len(sources) > 1 and not folder:
            raise UsageError(f"{to} is no folder on the board, and several files go into one; `mkdir {to}` makes it.")
        pairs: dict[str, str] = {}
        for source in sources:
            goal = f"{to.rstrip('/')}/{PurePosixPath(source).name}" if folder else to
            here, there = (posixpath.normpath(posixpath.join(self.files.cwd, p)) for p in (source, goal))
            if here == there:
                raise UsageError(f"{source} and {goal} are the same file.")
            if there.startswith(here.rstrip("/") + "/"):
                raise UsageError(f"{goal} is in {source} itself.")
            if pairs.setdefault(goal, source) != source:
                raise UsageError(f"{pairs[goal]} and {source} would both be {goal}; nothing was done.")
        return [(source, goal) for goal, source in pairs.items()]

    def _names(self, words: list[str], how: str) -> list[str]:
        """Files of the board, one at least."""
        if not words:
            raise UsageError(how)
        return self.expand(words)

    # The commands; their docstrings are the help

    def do_help(self, words: list[str]) -> None:
        """help                       this list"""
        for command in dict.fromkeys(COMMANDS.values()):
            self.say(getattr(self, command).__doc__)
        self.say("\n" + _KEYS)

    def do_keys(self, words: list[str]) -> None:
        """keys                       the keys (Ctrl-k)"""
        self.say(_KEYS)

    def do_ls(self, words: list[str]) -> None:
        """ls [-l] [PATH...]          files, folders end in /"""
        flags, paths = self._options(words, "la")  # -a changes nothing: what is hidden is listed, too
        for path in self.expand(paths) or [""]:
            if path and not self.files.remote.is_dir(path):
                entry = self.files.remote.stat(path)
                if entry is None:
                    raise BoardError(f"There is no {path} on the board.")
                entries = [entry]
            else:
                entries = self.files.remote.walk(path)
            names = [
                shown(e.path if entries == [e] and e.path == path else e.name) + "/" * e.is_dir for e in entries
            ]
            if "l" in flags:
                for name, e in zip(names, entries, strict=True):
                    self.say(f"{e.size if not e.is_dir else '-':>10} {name}")
            elif names:
                self.say("  ".join(names) if self.out.isatty() else "\n".join(names))

    def do_cd(self, words: list[str]) -> None:
        """cd [PATH]                  go to a folder"""
        if self.home is None:
            self.home = self.files.cwd
        self.files.chdir(words[0] if words else "/")

    def do_pwd(self, words: list[str]) -> None:
        """pwd                        which folder this is"""
        self.say(shown(self.files.cwd))

    def do_cat(self, words: list[str]) -> None:
        """cat FILE...                what is in files"""
        for path in self._names(words, "cat FILE..."):
            self._show(self.files.board.get(self.files.relative(path)))

    def do_head(self, words: list[str]) -> None:
        """head [-n LINES] FILE...    their first lines (10)"""
        count = 10
        if words[:1] == ["-n"]:
            count, words = _number(words[1:2]), words[2:]
        for path in self._names(words, "head [-n LINES] FILE..."):
            self._show(self.files.remote.head(path, count))

    def _show(self, data: bytes) -> None:
        """What is in a file: as it is into a file or a pipe here, without control characters on a terminal."""
        if self.out.isatty():
            self.out.write(shown(data.decode("utf-8", "replace").replace("\r\n", "\n"), LINES))
            self.out.flush()
        else:
            self._write(data)

    def _write(self, data: bytes) -> None:
        if buffer := getattr(self.out, "buffer", None):
            self.out.flush()
            buffer.write(data)
            buffer.flush()
        else:
            self.out.write(data.decode("utf-8", "replace"))

    def do_cp(self, words: list[str]) -> None:
        """cp SOURCE... TO            copy on the board"""
        for source, to in self._pairs(words, "cp SOURCE... TO"):
            self.files.remote.copy(source, to)

    def do_mv(self, words: list[str]) -> None:
        """mv SOURCE... TO            rename or move on the board"""
        for source, to in self._pairs(words, "mv SOURCE... TO"):
            self.files.remote.rename(self.files.relative(source), self.files.relative(to))

    def do_rm(self, words: list[str]) -> None:
        """rm [-r] PATH...            delete; -r folders too"""
        flags, paths = self._options(words, "r")
        for path in self._names(paths, "rm [-r] PATH..."):
            if path.strip("/") in ("", ".", ".."):
                raise UsageError(f"rm {path}: name what is in it.")
            self.files.remote.remove(path.rstrip("/"), "r" in flags)

    def do_mkdir(self, words: list[str]) -> None:
        """mkdir [-p] PATH...         make folders"""
        flags, paths = self._options(words, "p")
        if not paths:
            raise UsageError("mkdir [-p] PATH...")
        for path in paths:
            self.files.remote.mkdir(path.rstrip("/"), "p" in flags)

    def do_rmdir(self, words: list[str]) -> None:
        """rmdir PATH...              delete empty folders"""
        for path in self._names(words, "rmdir PATH..."):
            self.files.remote.rmdir(path.rstrip("/"))

    def do_df(self, words: list[str]) -> None:
        """df                         room on the file system"""
        total, free = self.files.remote.df(self.files.cwd)
        self.say(f"{_human(total - free)} of {_human(total)} used, {_human(free)} free")

    def do_du(self, words: list[str]) -> None:
        """du [PATH]                  bytes in a folder and below"""
        for path in self.expand(words) or [""]:
            file = None if not path or self.files.remote.is_dir(path) else self.files.remote.stat(path)
            entries = [file] if file else self.files.remote.walk(path, deep=True)
            self.say(f"{sum(e.size for e in entries):>10} {shown(path or self.files.cwd)}")

    def do_tree(self, words: list[str]) -> None:
        """tree [PATH]                a folder and all below it"""
        for path in words or [""]:
            entries = self.files.remote.walk(path, deep=True)
            depth = len(PurePosixPath(path).parts)
            for e in entries:
                self.say("  " * (len(PurePosixPath(e.path).parts) - depth - 1) + shown(e.name) + "/" * e.is_dir)

    def do_sha256sum(self, words: list[str]) -> None:
        """sha256sum FILE...          computed on the board"""
        for path in self._names(words, "sha256sum FILE..."):
            self.say(f"{self.files.remote.sha256(path)}  {shown(path)}")

    def do_put(self, words: list[str]) -> None:
        """put [-r] LOCAL... [FOLDER] files to the board, with -r folders, too
        put LOCAL :NAME            under another name"""
        flags, words = self._options(words, "r")
        if not words:
            raise UsageError("put [-r] LOCAL... [FOLDER]")
        transfer.put_all(self.files, transfer.put_plan(words, "r" in flags), self.say, self._bar)

    def _bar(self, name: str, size: int | None) -> AbstractContextManager[Progress]:
        return (progress if self.bars else no_bar)(name, size)

    def do_get(self, words: list[str]) -> None:
        """get FILE... [LOCAL]        files from the board"""
        to = Path()
        if len(words) > 1 and words[-1][-1:] == "/" and not Path(words[-1]).is_dir():
            raise UsageError(f"{words[-1]} is no folder here; make it first.")
        if len(words) > 1 and (Path(words[-1]).is_dir() or len(words) == 2 and not self.files.remote.stat(words[-1])):
            *words, last = words
            to = Path(last)
        taken: dict[Path, str] = {}
        for path in self.expand(words):
            local, folder = to, None
            if to.is_dir():
                local = to / component(path.rstrip("/").rpartition("/")[2])
                folder = to if path not in words else None  # a name that the board gave stays in this folder
            if taken.setdefault(local, path) != path:
                raise UsageError(f"{taken[local]} and {path} would both be {local}; the first one is there.")
            with self._bar(path, None) as advance, replacing(local, folder) as f:
                self.files.get(path, f, advance)
            self.say(f"{shown(path)} -> {shown(str(local))}")

    def do_run(self, words: list[str]) -> int:
        """run FILE | run :FILE       a program of this machine, or :of the board"""
        if len(words) != 1:
            raise UsageError("run FILE, or run :FILE for one that is on the board.")
        if words[0].startswith(":"):
            code = f"exec(open({words[0][1:]!r}).read(),{{'__name__':'__main__'}})".encode()
        else:
            code = transfer.read_program(words[0])
        return self._run(code)

    def do_exec(self, words: list[str]) -> int:
        """exec CODE                  code on the board"""
        return self._run(" ".join(words))

    def _run(self, code: str | bytes) -> int:
        """Code on the board, which may change its folder; its exit code."""
        with transfer.Lines(self._write) as lines:
            result = self.files.board.exec(code, output=lines)
        self.files.forget_cwd()
        if result.error:
            print(shown(result.error, LINES), end="", file=self.errors)
            return 1
        return 0

    def do_sync(self, words: list[str]) -> None:
        """sync [--mpy] [--delete] [--dry-run] FOLDER [TO]
        make TO like FOLDER (here): sends what differs by hash; --mpy compiles .py;
        --delete deletes there what is not here; .wssignore in FOLDER is left out
        sync --from-board [--dry-run] FOLDER TO
        bring FOLDER (of the board) to TO (here)"""
        how = "sync [--mpy] [--delete] [--dry-run] FOLDER [TO], or sync --from-board [--dry-run] FOLDER TO"
        flags, paths = self._options(words, "n --delete --dry-run --mpy --from-board")
        dry, back = bool(flags & {"n", "--dry-run"}), "--from-board" in flags
        if not 1 + back <= len(paths) <= 2:
            raise UsageError(how)
        if back and flags & {"--delete", "--mpy"}:
            raise UsageError("--delete and --mpy are for what goes to a board; a board deletes nothing here.")
        local = expanded(paths[back])
        if not local.is_dir():
            raise KeyFileError(f"{local} is no folder{' here; make it first' if back else '; `put` copies files'}.")
        if back:
            plan = sync.from_board(self.files, paths[0], local)
        else:
            there = paths[1] if len(paths) > 1 else ""
            plan = sync.to_board(self.files, local, there, delete="--delete" in flags, mpy="--mpy" in flags)
        if dry:
            for step in plan.steps:
                self.say(step.words(dry))
        else:
            sync.carry_out(self.files, plan, lambda step: self.say(step.words()), self._bar, local)
        self.say(plan.summary())

    def do_repl(self, words: list[str]) -> int:
        """repl                       the board's REPL (Ctrl-s); Ctrl-s or Ctrl-] comes back"""
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            raise UsageError("The REPL needs a terminal; `run` and `exec` do not.")
        from .repl import interact

        code = interact(self.files.board, leave=b"\x13\x1d")
        self.files.forget_cwd()
        return code

    def do_exit(self, words: list[str]) -> None:
        """exit                       leave (Ctrl-x)"""
        raise EOFError


COMMANDS = {name.removeprefix("do_"): name for name in vars(Commands) if name.startswith("do_")}


def _number(words: list[str]) -> int:
    if not words or not words[0].isdigit():
        raise UsageError("-n wants a number.")
    return int(words[0])


def _human(n: float) -> str:
    for unit in ("B", "KB", "MB"):
        if n < 10_000:
            return f"{n:.0f} {unit}"
        n /= 1024
    return f"{n:.0f} GB"
