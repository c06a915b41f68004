"""Work on many boards: who is begun when, what is tried again, and what a person or a program is told of it.

The boards here are TCP listeners and the work is a function, because it is the engine that is looked at; the commands
that use it are tried on boards in test_shell.py and test_status.py.
"""

import contextlib
import io
import json
import os
import select
import signal
import socket
import threading
import time

import pytest
from wssctl.boards.engine import Engine, Outcome, tell, worst
from wssctl.boards.registry import Board
from wssctl.errors import BoardError, ConnectionLost, Unreachable


@pytest.fixture
def listener():
    """A port that accepts connections, by the system alone."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield server.getsockname()[1]


@pytest.fixture
def silent():
    """A port whose queue is full, so that a connection gets no answer, as from a board that is off."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        unanswered = 0
        while unanswered < 2:
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())
            unanswered += not select.select([], [filler], [], 0.5)[1]
        yield server.getsockname()[1]


def boards(port, *names):
    return [Board(name, host="127.0.0.1", port=port) for name in names]


def codes(outcomes):
    return {o.board: o.code for o in outcomes}


def test_as_many_as_asked_are_at_work_together(listener):
    """Each waits until three are there: with fewer at a time it would wait for ever."""
    together, most, lock, now = threading.Barrier(3), [0], threading.Lock(), [0]

    def work(board):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        together.wait(60)
        with lock:
            now[0] -= 1
        return board.name.upper()

    done = list(Engine(jobs=3).outcomes(boards(listener, *"abcdef"), work))
    assert {o.board: o.words for o in done} == {n: n.upper() for n in "abcdef"} and most == [3]


def test_boards_that_are_off_take_nobodys_place(listener, silent):
    """With one place, and boards that do not answer in front, the others are done before these are given up."""
    off = boards(silent, *(f"off{i}" for i in range(20)))
    done = list(Engine(jobs=1, connect=3).outcomes([*off, *boards(listener, "a", "b")], lambda board: "done"))
    assert {o.board for o in done[:2]} == {"a", "b"}
    assert all(o.code == Unreachable.exit_code and "did not answer within 3 s" in o.words for o in done[2:])
    assert len(done) == 22


def test_one_that_never_ends_is_given_up(listener):
    release = threading.Event()

    def work(board):
        if board.name == "stuck":
            release.wait(60)
        return "done"

    try:
        done = list(Engine(jobs=1, deadline=1).outcomes(boards(listener, "stuck", "a"), work))
    finally:
        release.set()
    assert codes(done) == {"stuck": 3, "a": 0}
    assert "given up" in next(o.words for o in done if o.board == "stuck")


@pytest.mark.parametrize(("again", "tries", "code"), [((ConnectionLost,), 2, 0), ((), 1, 6)])
def test_what_may_be_tried_again_is(listener, again, tries, code):
    count = []

    def work(board):
        count.append(board)
        if len(count) == 1:
            raise ConnectionLost("It broke.")
        return "done"

    done = list(Engine(again=again).outcomes(boards(listener, "a"), work))
    assert codes(done) == {"a": code} and len(count) == tries


def test_the_canary_stops_the_rest(listener):
    begun = []

    def work(board):
        begun.append(board.name)
        raise BoardError("It does not come back.")

    done = list(Engine(canary=True).outcomes(boards(listener, "a", "b", "c"), work))
    assert begun == ["a"] and codes(done) == {"a": 1, "b": 1, "c": 1}
    assert "because a failed" in done[1].words
    done = list(Engine(canary=True).outcomes(boards(listener, "a", "b", "c"), lambda board: "done"))
    assert codes(done) == {"a": 0, "b": 0, "c": 0} and done[0].board == "a"


def test_an_odd_board_stops_those_not_begun(listener):
    def work(board):
        if board.name != "odd":
            raise Unreachable("It is off.")
        raise BoardError("It is odd.")

    engine = Engine(jobs=1, halt=(BoardError,))
    done = list(engine.outcomes(boards(listener, *"abcdefgh", "odd", *"ijklmnop"), work))
    stopped = [o for o in done if "because odd failed" in o.words]
    begun = [o for o in done if o not in stopped]
    assert len(done) == 17 and begun[-1].board == "odd" and all(o.code == 3 for o in begun[:-1])
    assert all(o.code == BoardError.exit_code for o in stopped)
    assert stopped or len(begun) == 17  # whose connections came last


def test_ctrl_c_lets_what_is_under_way_end_and_begins_nothing_more(listener, capsys):
    def work(board):
        os.kill(os.getpid(), signal.SIGINT)
        return "done"

    done = list(Engine(jobs=1).outcomes(boards(listener, "a", "b"), work))
    first = next(o for o in done if o.words == "done")
    (other,) = (o for o in done if o is not first)
    assert first.code == 0 and other.code == 130 and "not begun" in other.words
    assert "Ctrl-C again" in capsys.readouterr().err


def test_a_second_ctrl_c_gives_up(listener, monkeypatch):
    heard, release = threading.Event(), threading.Event()
    monkeypatch.setattr("wssctl.boards.engine.say", lambda text: heard.set())

    def work(board):
        os.kill(os.getpid(), signal.SIGINT)
        heard.wait(60)
        os.kill(os.getpid(), signal.SIGINT)
        release.wait(60)

    try:
        done = list(Engine().outcomes(boards(listener, "a"), work))
    finally:
        release.set()
    assert codes(done) == {"a": 130} and "given up" in done[0].words


def test_who_reads_no_more_costs_no_board_its_half_done_work(listener, monkeypatch):
    """`wssctl boards renew --json | head -1`: what is at work ends, nothing more is begun."""
    reader_gone, begun, done = threading.Event(), [], []

    class Closed(io.StringIO):
        def write(self, text):
            reader_gone.set()
            raise BrokenPipeError

    def work(board):
        begun.append(board.name)
        if begun[0] == board.name:
            reader_gone.wait(60)
            time.sleep(0.3)  # for whoever does not wait for it to have gone
            done.append(board.name)

    monkeypatch.setattr("sys.stdout", Closed())
    with pytest.raises(BrokenPipeError):
        tell(Engine(jobs=2).outcomes(boards(listener, "a", "b", "c", "d"), work), 4, as_json=True)
    assert len(begun) == 2 and done == begun[:1]


def test_a_surprise_is_that_boards_alone(listener):
    done = list(Engine().outcomes(boards(listener, "a", "b"), lambda board: 1 / 0 if board.name == "a" else "done"))
    assert codes(done) == {"a": 1, "b": 0} and worst(done) == 1


def test_json_is_an_object_a_board(capsys):
    rows = [Outcome("a", 0, "said", 1.5, {"free": 7}), Outcome("b", 3, "off")]
    assert tell((r for r in rows), 2, as_json=True) == rows
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == {"board": "a", "ok": True, "code": 0, "seconds": 1.5, "output": "said", "free": 7}
    assert second["ok"] is False and second["code"] == 3
