"""`wssctl status`: what one board or many say of themselves, with one login each and no program interrupted."""

import argparse
import json
import math
from datetime import UTC, datetime, timedelta
from typing import Any

from ..boards import foreign
from ..boards.dialler import Dialler
from ..boards.engine import AGAIN, Engine, Outcome
from ..boards.many import named, on_each
from ..errors import SessionInUse
from ..keys import ca
from ..text import say, shown

_COLUMNS = ("firmware", "bundle", "up", "heap", "flash", "certificate", "clock", "last refusal")
_TICKS = 1 << 30  # ms after which a board's ticks begin anew (py/mpconfig.h, MICROPY_PY_TIME_TICKS_PERIOD at 32 bits)


def status(args: argparse.Namespace) -> int:
    boards = named(args)
    if boards is None:
        return _one(args)
    return on_each(args, boards, ask, Engine(deadline=args.timeout * 4, again=AGAIN), _COLUMNS)


def _one(args: argparse.Namespace) -> int:
    outcome = ask(Dialler(args))
    if args.json:
        outcome.board = args.url
        print(outcome.as_json())
        return outcome.code
    for title, value in outcome.data.items():
        if not isinstance(value, (dict, list)):
            print(f"{title:<13} {shown(str(value))}")
    return outcome.code


def ask(dial: Dialler) -> Outcome:
    """The answers of one board. Raises what connecting raises, BoardError where it can't tell."""
    try:
        with dial() as client:
            said, der = client.about(), client.link.certificate
            suite = client.tls_line
            other = foreign.find(client)
    except SessionInUse as e:
        # somebody else's session is an answer, too
        return Outcome("", e.exit_code, str(e), data={"reachable": True, "in use": str(e)})
    if other:
        say(f"NOTE: on {dial.board.name if dial.board else dial.target.host} {foreign.words(other)}, then reset it.")
    found = {"foreign wss_repl": other} if other else {}
    return Outcome("", 0, "", data={"reachable": True} | _words(said, der) | {"tls": suite} | found | {"said": said})


def _words(said: dict[str, Any], der: bytes | None) -> dict[str, Any]:
    """A board's answers, which may be anything, as words for people."""
    words: dict[str, Any] = {}
    status = said.get("status")
    report: dict[str, Any] = status if isinstance(status, dict) else {}
    firmware = said.get("firmware")
    if isinstance(firmware, list):
        words["firmware"] = " ".join(str(w) for w in firmware[1:] if w)
    words["bundle"] = f"{said.get('bundle') or '?'}{' frozen' if said.get('frozen') else ''}"
    words["up"] = _uptime(said.get("running"))
    for title in ("heap", "flash"):
        pair: Any = said.get(title)
        if _numbers(pair, 2):
            words[title] = f"{_size(pair[0])} free"
    if der:
        until = ca.load_cert(der, "board's certificate").not_valid_after_utc
        words["certificate"] = f"until {until:%Y-%m-%d}, {(until - datetime.now(UTC)).days} days"
    words["clock"] = _clock(said.get("clock"))
    keys = ("client", "update", "last_refusal", "lacks", "host")
    between = {"client": ":", "host": ", serial "}  # of the two that are pairs
    for title, key in zip(("client", "last update", "last refusal", "lacks", "host"), keys, strict=True):
        if value := report.get(key):
            words[title] = between.get(key, ", ").join(map(str, value)) if isinstance(value, list) else str(value)
    if isinstance(refused := report.get("refused"), dict) and refused:
        words["refused"] = ", ".join(f"{cause} {n}" for cause, n in refused.items())
    return {title: value if isinstance(value, str) else json.dumps(value) for title, value in words.items()}


def _numbers(value: object, n: int) -> bool:
    numbers = value[:n] if isinstance(value, list) else []
    return len(numbers) == n and all(isinstance(v, int) and abs(v) < 1 << 63 for v in numbers)


def _uptime(running: Any) -> str:
    """From seconds by the clock and ms by the ticks. A clock that was set meanwhile shows other seconds than the ticks,
    which begin anew: then only the ticks count."""
    if isinstance(running, list):  # where a clock has fractions, as a unix port's
        running = [int(n) if isinstance(n, float) and math.isfinite(n) else n for n in running]
    if not _numbers(running, 2):
        return "?"
    seconds, ms = running
    by_ticks = ms % _TICKS
    rounds = round((seconds * 1000 - by_ticks) / _TICKS)
    whole = by_ticks + max(0, rounds) * _TICKS
    if abs(whole - seconds * 1000) > 60_000:  # the clock was set: by how much, nobody knows
        return f"{_span(by_ticks // 1000)}, or 12 days more than once"
    return _span(whole // 1000)


def _span(seconds: int) -> str:
    days, rest = divmod(seconds, 86400)
    hours, rest = divmod(rest, 3600)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"


def _clock(shown: Any) -> str:
    if not _numbers(shown, 6):
        return "?"
    try:
        there = datetime(*shown[:6]).replace(tzinfo=UTC)
    except (ValueError, OverflowError):  # the latter for numbers that are no C int
        return "?"
    off = there - datetime.now(UTC).replace(microsecond=0)
    if abs(off) <= timedelta(seconds=2):
        return "right"
    return f"{_span(int(abs(off).total_seconds()))} {'ahead' if off > timedelta() else 'behind'}"


def _size(n: int) -> str:
    return f"{n} B" if n < 10240 else f"{n // 1024} KB" if n < 10 << 20 else f"{n >> 20} MB"
