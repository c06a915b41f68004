"""`wssctl shell`: the files of a board as a shell has them, and one command on many boards at once."""

import contextlib
import fnmatch
import glob
import hashlib
import io
import os
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from ..boards.dialler import Dialler
from ..boards.engine import Engine, Outcome
from ..boards.many import named, on_each
from ..errors import BoardError, ConnectionLost, KeyFileError, NoAnswer, UsageError, WssctlError
from ..keys.record import make_folder
from ..keys.store import Store
from ..text import shown
from ..wire.client import MAX_NAME
from ..wire.remote import Remote, component
from . import transfer

_RECONNECT = 30.0
_LINES = "\n\t"  # what several lines of ours have in them
_KEYS = """\
Ctrl-s  to the board's REPL; Ctrl-s or Ctrl-] comes back
Ctrl-k  these keys
Ctrl-x  leave, as `exit` and Ctrl-D
Ctrl-c  give up the line, or stop what runs on the board
Tab     complete a command or a file; Up, Down and Ctrl-r go through what was typed before"""


def shell(args) -> int:
    words = [args.url, *args.command] if args.all else args.command
    boards = named(args)
    if boards is not None:
        if not words:
            raise UsageError("Several boards need a command, for instance `wssctl shell @kitchen sync src`.")
        return on_each(args, boards, lambda dial: _quietly(dial, words), Engine())
    with contextlib.closing(Shell(Dialler(args), keys=args.keys)) as one:
        if words:
            return one.line(shlex.join(words) if len(words) > 1 else words[0])
        if not sys.stdin.isatty():
            return one.script(sys.stdin)
        return one.loop()


def _quietly(dial: Dialler, words: list[str]) -> Outcome:
    """One command on one of many boards: what it would print is kept for the table."""
    out = io.StringIO()
    with contextlib.closing(Shell(dial, out, out, bars=False, patient=False)) as session:
        code = session.line(shlex.join(words) if len(words) > 1 else words[0])
    return Outcome("", code, out.getvalue().strip())


class Shell:
    """A session. `line()` runs what somebody typed and returns an exit code."""

    def __init__(
        self, dial: Dialler, out=None, errors=None, *, keys=None, bars: bool = True, patient: bool = True
    ):
        self._dial = dial
        self._out, self._errors = out or sys.stdout, errors or sys.stderr
        self._bars, self._patient = bars, patient
        self._keys = keys
        self.name = dial.board.name if dial.board else dial.target.host
        self.board = dial()
        self.remote = Remote(self.board)
        self._cwd: str | None = None
        self._home: str | None = None  # where it was before the first cd

    def close(self) -> None:
        if self._home is not None:  # programs on the board find it in the folder it was in
            with contextlib.suppress(BoardError, ConnectionLost):
                self.remote.chdir(self._home)
        self.board.close()

    @property
    def cwd(self) -> str:
        if self._cwd is None:
            self._cwd = self.remote.cwd()
        return self._cwd

    def say(self, *words) -> None:
        """A line; what a board named in it does nothing to a terminal."""
        print(shown(" ".join(map(str, words)), _LINES), file=self._out, flush=True)

    # Running lines

    def loop(self) -> int:
        import logging

        from prompt_toolkit import PromptSession
        from prompt_toolkit.history import FileHistory
        from prompt_toolkit.key_binding import KeyBindings

        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        keys = KeyBindings()
        for key, typed in (("c-s", "repl"), ("c-k", "keys"), ("c-x", "exit")):
            # eager: Ctrl-x is also the first key of others, for which it would wait a second
            keys.add(key, eager=True)(lambda event, typed=typed: event.app.exit(result=typed))
        if self.board.link.tls:
            self.say(f"WebSecREPL with {self.board.link.tls[0]} connected")
        self.say(self.board.tls_line)
        self.say(self.remote.system())
        self.say("`help` lists the commands, Ctrl-k the keys.\n")
        history = private(Store(self._keys).folder / "shell_history")
        session = PromptSession(
            history=FileHistory(str(history)),
            key_bindings=keys,
            completer=_completer(self),
            complete_while_typing=False,
        )
        with _no_flow_control():
            return self._prompt(session)

    def _prompt(self, session) -> int:
        code = 0
        while True:
            try:
                line = session.prompt(f"{self.name}:{shown(self.cwd)}$ ")
                if line.strip() in ("exit", "quit"):
                    return code
                code = self.line(line)
            except KeyboardInterrupt:
                continue
            except EOFError:
                return code
            except ConnectionLost as e:
                self._again(e)

    def script(self, lines) -> int:
        """Until the first line that fails."""
        for line in lines:
            if code := self.line(line):
                return code
        return 0

    def line(self, line: str) -> int:
        try:
            words = shlex.split(line, comments=True)
        except ValueError as e:
            return self._failed(UsageError(f"{e}: {line.strip()}"))
        if not words:
            return 0
        name, *rest = words
        command = _COMMANDS.get(name)
        if command is None:
            return self._failed(UsageError(f"There is no command {name!r}; `help` lists them."))
        while True:
            try:
                return getattr(self, command)(rest) or 0
            except NoAnswer as e:  # of a board that is there
                if not self._patient:
                    raise
                return self._failed(e)
            except ConnectionLost as e:
                if not self._patient:
                    raise
                self._again(e)
                if name != "sync":  # which goes on where it was cut
                    return e.exit_code
            except (BoardError, UsageError, KeyFileError) as e:
                return self._failed(e)

    def _failed(self, e: WssctlError) -> int:
        print(f"wssctl: {e}", file=self._errors, flush=True)
        return e.exit_code

    def _again(self, cause: ConnectionLost) -> None:
        """Connects anew, in the folder it was in; raises the cause when that fails."""
        print(f"wssctl: {cause} Connecting again, for {_RECONNECT:g} s...", file=self._errors, flush=True)
        self.board.close()
        deadline = time.monotonic() + _RECONNECT
        while True:
            try:
                self.board = self._dial(timeout=min(self._dial.timeout, max(1.0, deadline - time.monotonic())))
                break
            except WssctlError:
                if time.monotonic() >= deadline:
                    raise cause from None
                time.sleep(0.3)
        self.remote = Remote(self.board)
        folder, self._cwd = self._cwd, None
        if folder:
            with contextlib.suppress(BoardError):
                self._cwd = self.remote.chdir(folder)
        print("wssctl: connected again.", file=self._errors, flush=True)

    # Names

    def near(self, path: str) -> str:
        """A path as the file protocol takes it: from the current folder if it can, because a name has 64 bytes."""
        if path.startswith("/"):
            base = self.cwd.rstrip("/") + "/"
            path = path.removeprefix(base) or "."
        return path

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
                for e in self.remote.walk(folder)
                if fnmatch.fnmatchcase(e.name, pattern) and hidden == e.name.startswith(".")
            ]
            if not names:
                raise BoardError(f"There is no {word} on the board.")
            found += names
        return found

    def _options(self, words: list[str], allowed: str = "") -> tuple[set[str], list[str]]:
        flags: set[str] = set()
        rest: list[str] = []
        for word in words:
            if word in ("--delete", "--dry-run") and word in allowed.split():
                flags.add(word)
            elif word.startswith("-") and len(word) > 1 and all(c in allowed.split()[0] for c in word[1:]):
                flags |= set(word[1:])
            elif word.startswith("-") and len(word) > 1:
                raise UsageError(f"There is no option {word}; `help` shows what there is.")
            else:
                rest.append(word)
        return flags, rest

    def _two(self, words: list[str], how: str) -> tuple[list[str], str]:
        if len(words) < 2:
            raise UsageError(how)
        return words[:-1], words[-1]

    def _into(self, source: str, to: str) -> str:
        return f"{to.rstrip('/')}/{PurePosixPath(source).name}" if self.remote.is_dir(to) else to

    # The commands; their docstrings are the help

    def do_help(self, words):
        """help                       this list"""
        for command in dict.fromkeys(_COMMANDS.values()):
            self.say(getattr(self, command).__doc__)
        self.say("\n" + _KEYS)

    def do_keys(self, words):
        """keys                       the keys (Ctrl-k)"""
        self.say(_KEYS)

    def do_ls(self, words):
        """ls [-l] [PATH...]          files, folders end in /"""
        flags, paths = self._options(words, "l")
        for path in self.expand(paths) or [""]:
            if path and not self.remote.is_dir(path):
                entry = self.remote.stat(path)
                if entry is None:
                    raise BoardError(f"There is no {path} on the board.")
                entries = [entry]
            else:
                entries = self.remote.walk(path)
            names = [
                shown(e.path if entries == [e] and e.path == path else e.name) + "/" * e.is_dir for e in entries
            ]
            if "l" in flags:
                for name, e in zip(names, entries, strict=True):
                    self.say(f"{e.size if not e.is_dir else '-':>10} {name}")
            elif names:
                self.say("  ".join(names) if self._out.isatty() else "\n".join(names))

    def do_cd(self, words):
        """cd [PATH]                  go to a folder"""
        if self._home is None:
            self._home = self.cwd
        self._cwd = self.remote.chdir(words[0] if words else "/")

    def do_pwd(self, words):
        """pwd                        which folder this is"""
        self.say(shown(self.cwd))

    def do_cat(self, words):
        """cat FILE...                what is in files"""
        for path in self.expand(words):
            self._show(self.board.get(self.near(path)))

    def do_head(self, words):
        """head [-n LINES] FILE...    their first lines (10)"""
        count = 10
        if words[:1] == ["-n"]:
            count, words = _number(words[1:2]), words[2:]
        for path in self.expand(words):
            self._show(self.remote.head(path, count))

    def _show(self, data: bytes) -> None:
        """What is in a file: as it is into a file or a pipe here, without control characters on a terminal."""
        if self._out.isatty():
            self._out.write(shown(data.decode("utf-8", "replace").replace("\r\n", "\n"), _LINES))
            self._out.flush()
        else:
            self._write(data)

    def _write(self, data: bytes) -> None:
        if buffer := getattr(self._out, "buffer", None):
            self._out.flush()
            buffer.write(data)
            buffer.flush()
        else:
            self._out.write(data.decode("utf-8", "replace"))

    def do_cp(self, words):
        """cp SOURCE... TO            copy on the board"""
        sources, to = self._two(self.expand(words), "cp SOURCE... TO")
        for source in sources:
            self.remote.copy(source, self._into(source, to))

    def do_mv(self, words):
        """mv SOURCE... TO            rename or move on the board"""
        sources, to = self._two(self.expand(words), "mv SOURCE... TO")
        for source in sources:
            self.remote.rename(self.near(source), self.near(self._into(source, to)))

    def do_rm(self, words):
        """rm [-r] PATH...            delete; -r folders too"""
        flags, paths = self._options(words, "r")
        if not paths:
            raise UsageError("rm [-r] PATH...")
        for path in self.expand(paths):
            if path.strip("/") in ("", ".", ".."):
                raise UsageError(f"rm {path}: name what is in it.")
            self.remote.remove(path.rstrip("/"), "r" in flags)

    def do_mkdir(self, words):
        """mkdir [-p] PATH...         make folders"""
        flags, paths = self._options(words, "p")
        for path in paths:
            self.remote.mkdir(path.rstrip("/"), "p" in flags)

    def do_rmdir(self, words):
        """rmdir PATH...              delete empty folders"""
        for path in self.expand(words):
            self.remote.rmdir(path.rstrip("/"))

    def do_df(self, words):
        """df                         room on the file system"""
        total, free = self.remote.df(self.cwd)
        self.say(f"{_human(total - free)} of {_human(total)} used, {_human(free)} free")

    def do_du(self, words):
        """du [PATH]                  bytes in a folder and below"""
        for path in self.expand(words) or [""]:
            entries = self.remote.walk(path, deep=True)
            self.say(f"{sum(e.size for e in entries):>10} {shown(path or self.cwd)}")

    def do_tree(self, words):
        """tree [PATH]                a folder and all below it"""
        for path in words or [""]:
            entries = self.remote.walk(path, deep=True)
            depth = len(PurePosixPath(path).parts)
            for e in entries:
                self.say("  " * (len(PurePosixPath(e.path).parts) - depth - 1) + shown(e.name) + "/" * e.is_dir)

    def do_sha256sum(self, words):
        """sha256sum FILE...          computed on the board"""
        for path in self.expand(words):
            self.say(f"{self.remote.sha256(path)}  {shown(path)}")

    def do_put(self, words):
        """put LOCAL... [FOLDER]      files to the board; a folder needs `sync`
        put LOCAL :NAME            under another name"""
        # By the file protocol alone, so that a program on the board goes on. So nothing asks the board what is a
        # folder there: a last word that is no file here is one, or the board says that there is none.
        to = ""
        if len(words) > 1 and (words[-1].startswith(":") or not Path(words[-1]).expanduser().is_file()):
            *words, to = words
        sources = [Path(p) for w in words for p in (sorted(glob.glob(os.path.expanduser(w))) or [w])]
        if not sources:
            raise UsageError("put LOCAL... [FOLDER]")
        transfer.must_be_files(sources)
        name = transfer.board_name(to.removeprefix(":"))
        renamed = to.startswith(":") and len(sources) == 1 and name not in ("", ".") and not name.endswith("/")
        folder = "" if name in ("", ".") else name.rstrip("/") + "/"
        for source in sources:
            target = name if renamed else transfer.board_name(folder + source.name)
            try:
                self._put(source, target)
            except BoardError as e:
                if not folder or renamed:
                    raise
                raise BoardError(
                    f"{str(e).rstrip('.')}; is {name} a folder there? (`mkdir` makes one; another name for a file is "
                    f"written :{name}.)"
                ) from None
            self.say(f"{shown(str(source))} -> {shown(target)}")

    def _put(self, local: Path, name: str) -> None:
        try:
            with local.open("rb") as f, self._bar(name, local.stat().st_size) as advance:
                self._within(name, lambda short: self.board.put(f, short, progress=advance))
        except OSError as e:
            raise KeyFileError(f"Cannot read {local} ({e.strerror}).") from None

    def _within(self, name: str, action: Callable[[str], object]) -> None:
        """`action` with a name that fits the protocol: a long one from inside its folder."""
        near = self.near(name)
        if len(near.encode()) + 5 <= MAX_NAME or "/" not in near:  # .part
            action(near)
            return
        folder, back = near.rpartition("/")[0], self.cwd
        self.remote.chdir(folder)
        try:
            action(near.rpartition("/")[2])
        finally:
            self.remote.chdir(back)

    def _bar(self, name: str, size: int | None):
        return transfer.progress(name, size) if self._bars else contextlib.nullcontext(None)

    def do_get(self, words):
        """get FILE... [LOCAL]        files from the board"""
        to = Path()
        if len(words) > 1 and (Path(words[-1]).is_dir() or len(words) == 2 and not self.remote.stat(words[-1])):
            *words, last = words
            to = Path(last)
        for path in self.expand(words):
            local, folder = to, None
            if to.is_dir():
                local = to / component(path.rstrip("/").rpartition("/")[2])
                folder = to if path not in words else None  # a name that the board gave stays in this folder
            with self._bar(path, None) as advance, transfer.replacing(local, folder) as f:
                self._within(path, lambda short, f=f, advance=advance: self.board.get(short, f, progress=advance))
            self.say(f"{shown(path)} -> {shown(str(local))}")

    def do_run(self, words):
        """run FILE | run :FILE       a program of this machine, or :of the board"""
        if len(words) != 1:
            raise UsageError("run FILE, or run :FILE for one that is on the board.")
        if words[0].startswith(":"):
            code = f"exec(open({words[0][1:]!r}).read(),{{'__name__':'__main__'}})".encode()
        else:
            code = transfer.read_program(words[0])
        result = self.board.exec(code, output=lambda data: self._write(data.replace(b"\r", b"")))
        self._cwd = None
        if result.error:
            print(shown(result.error, _LINES), end="", file=self._errors)
            return 1

    def do_exec(self, words):
        """exec CODE                  code on the board"""
        result = self.board.exec(" ".join(words), output=lambda data: self._write(data.replace(b"\r", b"")))
        self._cwd = None
        if result.error:
            print(shown(result.error, _LINES), end="", file=self._errors)
            return 1

    def do_sync(self, words):
        """sync [--delete] [--dry-run] FOLDER [TO]
        make TO (here) like FOLDER: sends what differs by hash; --delete also deletes"""
        flags, paths = self._options(words, "n --delete --dry-run")
        dry = bool(flags & {"n", "--dry-run"})
        if not 1 <= len(paths) <= 2:
            raise UsageError("sync [--delete] [--dry-run] FOLDER [TO]")
        local, to = Path(paths[0]).expanduser(), (paths[1] if len(paths) > 1 else "").rstrip("/")
        if not local.is_dir():
            raise KeyFileError(f"{local} is no folder; `put` copies files.")
        prefix = f"{to}/" if to else "/" if len(paths) > 1 else ""
        here = {p.relative_to(local).as_posix(): p for p in sorted(local.rglob("*")) if not _hidden(p, local)}
        exists = not prefix or self.remote.is_dir(prefix)
        there = {
            e.path.removeprefix(prefix): e
            for e in (self.remote.walk(prefix.rstrip("/") or prefix, True, True) if exists else [])
        }
        if not exists and not dry:
            self.remote.mkdir(to, parents=True)
        sent = same = 0
        for name, path in here.items():
            other = there.get(name)
            if other and other.is_dir != path.is_dir():
                raise BoardError(f"{prefix}{name} is a {'folder' if other.is_dir else 'file'} on the board; remove it.")
            if path.is_dir():
                if not other and not dry:
                    self.remote.mkdir(prefix + name)
            elif other and other.size == path.stat().st_size and other.sha256 == _sha256(path):
                same += 1
            else:
                if not dry:
                    self._put(path, prefix + name)
                self.say(f"{'would send' if dry else 'sent'} {shown(prefix + name)}")
                sent += 1
        gone = 0
        if "--delete" in flags:
            for name in sorted((n for n in there if n not in here), key=lambda n: -n.count("/")):
                if not dry:
                    entry = there[name]
                    (self.remote.rmdir if entry.is_dir else self.remote.remove)(prefix + name)
                self.say(f"{'would delete' if dry else 'deleted'} {shown(prefix + name)}")
                gone += 1
        self.say(f"{sent} sent, {same} the same" + (f", {gone} deleted" if gone else ""))

    def do_repl(self, words):
        """repl                       the board's REPL (Ctrl-s); Ctrl-s or Ctrl-] comes back"""
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            raise UsageError("The REPL needs a terminal; `run` and `exec` do not.")
        from .repl import interact

        code = interact(self.board, leave=b"\x13\x1d")
        self._cwd = None
        return code

    def do_exit(self, words):
        """exit                       leave (Ctrl-x)"""
        raise EOFError


_COMMANDS = {name.removeprefix("do_"): name for name in vars(Shell) if name.startswith("do_")}


def _completer(shell: Shell):
    from prompt_toolkit.completion import Completer, Completion

    class Names(Completer):
        """Commands first, then files: this machine's where a command reads them, else the board's."""

        def get_completions(self, document, event):
            words = document.text_before_cursor.lstrip().split(" ")
            word = words[-1]
            if len(words) == 1:
                names = [n + " " for n in _COMMANDS]
            elif words[0] == "put" or (words[0] in ("run", "sync") and not word.startswith(":")):
                names = [p + "/" * os.path.isdir(p) for p in glob.glob(glob.escape(word) + "*")]
            else:
                folder = word.removeprefix(":").rpartition("/")
                try:
                    entries = shell.remote.walk((folder[0] or folder[1]) if folder[1] else "")
                except WssctlError:
                    return
                names = [":" * word.startswith(":") + e.path + "/" * e.is_dir for e in entries]
            for name in sorted(names):
                if name.startswith(word):
                    yield Completion(name, -len(word), display=shown(name))

    return Names()


def private(path: Path) -> Path:
    """Makes a file of this user's own, 0600 whatever the umask, if there is none; one that is there becomes so."""
    make_folder(path.parent)
    fd = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0), 0o600)
    with os.fdopen(fd, "ab"):
        if hasattr(os, "fchmod"):
            os.fchmod(fd, 0o600)
    return path


@contextlib.contextmanager
def _no_flow_control():
    """Between two prompts Ctrl-s would stop the terminal."""
    try:
        import termios
    except ImportError:  # Windows
        yield
        return
    saved = termios.tcgetattr(0)
    changed = [saved[0] & ~termios.IXON, *saved[1:]]
    termios.tcsetattr(0, termios.TCSADRAIN, changed)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, saved)


def _hidden(path: Path, below: Path) -> bool:
    return any(p.startswith(".") or p == "__pycache__" for p in path.relative_to(below).parts)


def _sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _number(words: list[str]) -> int:
    if not words or not words[0].isdigit():
        raise UsageError("-n wants a number.")
    return int(words[0])


def _human(n: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if n < 10_000 or unit == "GB":
            return f"{n:.0f} {unit}"
        n /= 1024
