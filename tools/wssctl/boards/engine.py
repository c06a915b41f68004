"""One engine for work on many boards: who is worked on when, what may be tried again, and what is told of it.

The work is an ordinary function that talks to one board and blocks, so each board at work has a thread. A board that
is off has no place among those at work: a TCP connection is tried first, on the side, and only who accepts it gets in
line. Results come one by one, as boards end.
"""

import contextlib
import json
import queue
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import BoardError, ConnectionLost, HandshakeCut, Unreachable, WssctlError
from ..text import say, shown
from ..wire.client import PAUSE
from ..wire.link import Target
from ..wire.tls import tcp_connect
from .registry import Board

JOBS = 32  # boards at work at a time: most of that time they compute, and we wait
_PROBES = 128  # TCP connections tried at a time, of which those to boards that are off take all of their time-out

# Of work that changes nothing: it may be done again
AGAIN = (Unreachable, HandshakeCut, ConnectionLost)


@dataclass
class Outcome:
    """How it went on one board: an exit code (errors.py), words for a person, seconds, and what a machine wants."""

    board: str
    code: int
    words: str
    seconds: float = 0.0
    data: dict[str, Any] = field(default_factory=dict)
    halts: bool = False  # no other board is to be begun after this

    def as_json(self) -> str:
        row = {"board": self.board, "ok": self.code == 0, "code": self.code, "seconds": round(self.seconds, 3)}
        return json.dumps(row | ({"output": self.words} if self.words else {}) | self.data)


Work = Callable[[Board], Outcome | str | None]


@dataclass
class Engine:
    """How many boards are worked on.

    jobs: at a time. deadline: seconds that the work on one board may take; None for as long as it likes. connect:
    seconds in which a board has to accept a TCP connection. again: errors after which the work is done once more.
    canary: the first board has to end well before the others are begun. halt: errors after which no other is begun,
    unless they pass.
    """

    jobs: int = JOBS
    deadline: float | None = None
    connect: float = 10.0
    again: tuple[type[WssctlError], ...] = ()
    canary: bool = False
    halt: tuple[type[WssctlError], ...] = ()

    def outcomes(self, boards: Sequence[Board], work: Work) -> Generator[Outcome, None, None]:
        """An Outcome for each board, as they end. KeyboardInterrupt: no other board is begun, and those at work are
        waited for, because what is half done on a board is worse than late; a second one gives them up, too. The same
        when nobody takes the outcomes any more (close())."""
        run = _Run(self, boards, work)
        with _on_ctrl_c(run.interrupted):
            try:
                while not run.over():
                    yield from run.step()
            except GeneratorExit:
                run.finish()


@contextlib.contextmanager
def _on_ctrl_c(call: Callable[[], None]) -> Iterator[None]:
    """A handler, not KeyboardInterrupt, which could rise between the taking of a result and its telling."""
    if threading.current_thread() is not threading.main_thread():  # signals go to that one alone
        yield
        return
    before = signal.signal(signal.SIGINT, lambda signum, frame: call())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class _Run:
    def __init__(self, engine: Engine, boards: Sequence[Board], work: Work):
        self.engine = engine
        self.work = work
        first = 1 if engine.canary else len(boards)
        self.unseen = deque(boards[:first])  # no TCP connection tried yet
        self.held = list(boards[first:])  # until the canary has ended well
        self.probing: set[str] = set()
        self.ready: deque[Board] = deque()
        self.at_work: dict[str, float] = {}  # since when
        self.ended: deque[Outcome] = deque()  # known, not yet told
        self.events: queue.SimpleQueue[tuple[bool, Board, Outcome | None]] = queue.SimpleQueue()
        self.stopping = False
        self.verdict = 0, ""  # of boards that were not begun
        self.ctrl_c = 0  # times it was pressed
        self.heard = 0  # times that was acted on

    def over(self) -> bool:
        return not (self.unseen or self.held or self.probing or self.ready or self.at_work or self.ended)

    def step(self) -> Iterator[Outcome]:
        """Begins what may begin, waits for an event, and tells what has ended."""
        while self.unseen and len(self.probing) < _PROBES:
            board = self.unseen.popleft()
            self.probing.add(board.name)
            self._thread(self._probe, board)
        while self.ready and len(self.at_work) < self.engine.jobs:
            board = self.ready.popleft()
            self.at_work[board.name] = time.monotonic()
            self._thread(self._do, board)
        if not self.ended:
            self._take()
        if self.heard < self.ctrl_c:
            self._hear()
        while self.ended:
            yield self.ended.popleft()

    def _hear(self) -> None:
        if self.heard:
            for name in (*self.at_work, *self.probing):
                self.ended.append(Outcome(name, 130, "given up by Ctrl-C; it may or may not have been done"))
            self.at_work.clear()
            self.probing.clear()
        else:
            self.stop(130, "not begun, because of Ctrl-C")
            say(f"Waiting for {', '.join(sorted(self.at_work)) or 'nobody'}; Ctrl-C again gives up.")
        self.heard += 1

    def _take(self) -> None:
        try:
            # Not for ever: a wait without an end can't be interrupted by Ctrl-C on Windows, and deadlines pass
            probed, board, outcome = self.events.get(timeout=0.2)
        except queue.Empty:
            pass
        else:
            if probed:
                if board.name not in self.probing:  # given up
                    return
                self.probing.discard(board.name)
                if outcome:
                    self._end(outcome)
                elif self.stopping:
                    self._end(Outcome(board.name, *self.verdict))
                else:
                    self.ready.append(board)
            elif outcome and board.name in self.at_work:  # else it was given up before
                outcome.seconds = time.monotonic() - self.at_work.pop(board.name)
                self._end(outcome)
        now = time.monotonic()
        limit = self.engine.deadline
        for name, since in list(self.at_work.items()):
            if limit is not None and now - since > limit:
                del self.at_work[name]
                words = f"not done in {limit:g} s and given up; it may still be done there"
                self._end(Outcome(name, Unreachable.exit_code, words, now - since))

    def _end(self, outcome: Outcome) -> None:
        self.ended.append(outcome)
        if outcome.code and (self.held or outcome.halts) and not self.stopping:
            self.stop(outcome.code, f"not begun, because {outcome.board} failed")
        self.unseen.extend(self.held)
        self.held.clear()

    def stop(self, code: int, words: str) -> None:
        """Begin no other board."""
        self.stopping, self.verdict = True, (code, words)
        for waiting in (self.held, self.unseen, self.ready):
            self.ended.extend(Outcome(board.name, code, words) for board in waiting)
            waiting.clear()

    def finish(self) -> None:
        """Begins nothing, tells nothing, and waits for those at work, until Ctrl-C."""
        self.stop(0, "")
        before = self.ctrl_c  # the one that let those at work end is not the one that gives them up
        while self.at_work and self.ctrl_c == before:
            self._take()

    def interrupted(self) -> None:
        self.ctrl_c += 1

    def _thread(self, function: Callable[[Board], None], board: Board) -> None:
        threading.Thread(target=function, args=(board,), daemon=True, name=f"wssctl {board.name}").start()

    def _probe(self, board: Board) -> None:
        start, outcome = time.monotonic(), None
        if board.host:
            try:
                tcp_connect(Target(True, board.host, board.port), self.engine.connect).close()
            except WssctlError as e:
                outcome = Outcome(board.name, e.exit_code, str(e), time.monotonic() - start)
        self.events.put((True, board, outcome))

    def _do(self, board: Board) -> None:
        again = self.engine.again
        while True:
            try:
                done = self.work(board)
                outcome = done if isinstance(done, Outcome) else Outcome(board.name, 0, done or "")
            except WssctlError as e:
                if isinstance(e, again):
                    again = ()
                    time.sleep(PAUSE)
                    continue
                halts = isinstance(e, self.engine.halt) and not e.passes
                outcome = Outcome(board.name, e.exit_code, str(e), halts=halts)
            except Exception as e:  # one board's surprise must not take the others' results along
                outcome = Outcome(board.name, BoardError.exit_code, f"{type(e).__name__}: {e}; please report this")
            self.events.put((False, board, outcome))
            return


def tell(
    outcomes: Generator[Outcome, None, None], total: int, *, as_json: bool = False, columns: Sequence[str] = ("output",)
) -> list[Outcome]:
    """Shows them as they come, and a table of all at the end; with as_json an object a line instead. Returns them."""
    done: list[Outcome] = []
    if as_json:
        with contextlib.closing(outcomes):  # also when nobody reads them any more (`| head`)
            for outcome in outcomes:
                print(outcome.as_json(), flush=True)
                done.append(outcome)
        return done
    from rich.console import Console

    screen = Console(stderr=True)
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.closing(outcomes))
        live = None
        if screen.is_terminal and total > 1:
            from rich.live import Live

            live = stack.enter_context(Live(console=screen, transient=True, refresh_per_second=4))
        for outcome in outcomes:
            done.append(outcome)
            if live:
                live.update(_progress(done, total))
    Console(width=None if sys.stdout.isatty() else 160).print(_table(done, columns))
    return done


def worst(outcomes: Iterable[Outcome]) -> int:
    """The exit code of all: the highest."""
    return max((o.code for o in outcomes), default=0)


def _progress(done: list[Outcome], total: int) -> Any:
    from rich.console import Group
    from rich.text import Text

    failed = [o for o in done if o.code]
    head = f"{len(done)} of {total} boards, {len(failed)} failed"
    return Group(Text(head), *(Text(shown(f"{o.board}: {o.words.partition(chr(10))[0]}")) for o in failed[-8:]))


def _table(done: list[Outcome], columns: Sequence[str]) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("board", "result", "s", *columns):
        table.add_column(title, overflow="fold", justify="right" if title == "s" else "left")
    for o in sorted(done, key=lambda o: o.board):
        cells = [o.words] if columns == ("output",) or o.code else [str(o.data.get(c, "")) for c in columns]
        result = "ok" if o.code == 0 else f"failed ({o.code})"
        words = (Text(shown(c.strip(), "\n\t")) for c in cells)
        table.add_row(Text(shown(o.board)), result, f"{o.seconds:.1f}", *words)
    return table
