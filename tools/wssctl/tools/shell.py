"""`wssctl shell`: the files of a board as a shell has them, and one command on many boards at once."""

import argparse
import contextlib
import glob
import io
import os
import shlex
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from ..boards.dialler import BOOT, Dialler
from ..boards.engine import Engine, Outcome
from ..boards.many import named, on_each
from ..errors import BoardError, ConnectionLost, KeyFileError, NoAnswer, UsageError, WssctlError
from ..keys.record import make_folder
from ..keys.store import Store
from ..text import shown
from .files import Files
from .shell_commands import COMMANDS, Commands

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import Completer


def shell(args: argparse.Namespace) -> int:
    if args.all:
        args.command, args.url = [args.url, *args.command], "@all"
    words = args.command
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
    said = io.BytesIO()  # a board cuts characters where its buffers end
    out = io.TextIOWrapper(said, "utf-8", "replace", "\n", write_through=True)
    with contextlib.closing(Shell(dial, out, out, bars=False, patient=False)) as session:
        code = session.line(shlex.join(words) if len(words) > 1 else words[0])
    return Outcome("", code, said.getvalue().decode("utf-8", "replace").strip())


class Shell(Commands):
    """A session. `line()` runs what somebody typed and returns an exit code."""

    def __init__(
        self,
        dial: Dialler,
        out: TextIO | None = None,
        errors: TextIO | None = None,
        *,
        keys: str | None = None,
        bars: bool = True,
        patient: bool = True,
    ):
        super().__init__(out or sys.stdout, errors or sys.stderr, bars)
        self._dial, self._patient = dial, patient
        self._keys = keys
        self.name = dial.board.name if dial.board else dial.target.host
        self.files = Files(dial())

    def close(self) -> None:
        if self.home is not None:  # programs on the board find it in the folder it was in
            with contextlib.suppress(BoardError, ConnectionLost):
                self.files.remote.chdir(self.home)
        self.files.board.close()

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
        if self.files.board.link.tls:
            self.say(f"WebSecREPL with {self.files.board.link.tls[0]} connected")
        self.say(self.files.board.tls_line)
        self.say(self.files.remote.system())
        self.say("`help` lists the commands, Ctrl-k the keys.\n")
        history = private(Store(self._keys).folder / "shell_history")
        session: PromptSession[str] = PromptSession(
            history=FileHistory(str(history)),
            key_bindings=keys,
            completer=_completer(self),
            complete_while_typing=False,
        )
        with _no_flow_control():
            return self._prompt(session)

    def _prompt(self, session: "PromptSession[str]") -> int:
        code = 0
        while True:
            try:
                line = session.prompt(f"{self.name}:{shown(self.files.cwd)}$ ")
                if line.strip() in ("exit", "quit"):
                    return code
                code = self.line(line)
            except KeyboardInterrupt:
                continue
            except EOFError:
                return code
            except ConnectionLost as e:
                self._again(e)

    def script(self, lines: Iterable[str]) -> int:
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
        command = COMMANDS.get(name)
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
        print(f"wssctl: {e}", file=self.errors, flush=True)
        return e.exit_code

    def _again(self, cause: ConnectionLost) -> None:
        """Connects anew, in the folder it was in; raises the cause when that fails."""
        print(f"wssctl: {cause} Connecting again, for {BOOT:g} s...", file=self.errors, flush=True)
        self.files.board.close()
        deadline = time.monotonic() + BOOT
        while True:
            try:
                board = self._dial(timeout=min(self._dial.timeout, max(1.0, deadline - time.monotonic())))
                break
            except WssctlError:
                if time.monotonic() >= deadline:
                    raise cause from None
                time.sleep(0.3)
        folder, self.files = self.files.known, Files(board)
        if folder:
            with contextlib.suppress(BoardError):
                self.files.chdir(folder)
        print("wssctl: connected again.", file=self.errors, flush=True)


def _completer(shell: Shell) -> "Completer":
    from prompt_toolkit.completion import CompleteEvent, Completer, Completion
    from prompt_toolkit.document import Document

    class Names(Completer):
        """Commands first, then files: this machine's where a command reads them, else the board's."""

        def get_completions(self, document: Document, event: CompleteEvent) -> Iterator[Completion]:
            words = document.text_before_cursor.lstrip().split(" ")
            word = words[-1]
            if len(words) == 1:
                names = [n + " " for n in COMMANDS]
            elif words[0] == "put" or (words[0] in ("run", "sync") and not word.startswith(":")):
                names = [p + "/" * os.path.isdir(p) for p in glob.glob(glob.escape(word) + "*")]
            else:
                folder = word.removeprefix(":").rpartition("/")
                try:
                    entries = shell.files.remote.walk((folder[0] or folder[1]) if folder[1] else "")
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
def _no_flow_control() -> Iterator[None]:
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
