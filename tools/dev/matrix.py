#!/usr/bin/env python3
"""Run the device-facing tests on every MicroPython that can be had, and make one table of it.

These are both versions in Debian's source packages (firmware.SUITE, and the first of firmware.NEWER_SUITES that has a
newer one) and each checkout in MPY_DIR=a:b:c, each built for 64 and for 32 bits (with a 160 KB heap). The exit code is
0 if all of them were built and no test failed. A Debian suite that cannot be fetched is named, and does not count;
having nothing to run on does. Logs and the table go to build/matrix.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import firmware

ROOT = firmware.ROOT
OUT = ROOT / "build" / "matrix"
PAGE = ROOT / "docs" / "boards.md"
MARKS = ("<!-- `make matrix-publish` -->\n", "<!-- end of the matrix -->\n")

# What runs on the board or is decided there: the stand-in itself, start and stop, sessions, refusals, input and output
# without loss, memory and stack, and ussl. Left out are the tests of host tools against a board (registry, setup,
# bridge, clients of others): they say nothing of a firmware that these do not, and take most of the suite's time.
TESTS = (
    "tests/board_suite", "tests/device",
    *(f"tests/host/test_{name}.py" for name in (
        "board", "chdir", "deep", "held", "helper", "lossless", "missing", "refusals", "session", "status",
    )),
)  # fmt: skip
# For CI, which has run all tests on the older one: what every board has to pass, and that the stand-in is one.
SHORT = ("tests/board_suite", "tests/host/test_board.py")


@dataclass
class Row:
    """What became of one MicroPython, per bits (64, 32) in counts of passed, failed and skipped."""

    name: str
    source: str
    counts: dict[int, Counter[str]] = field(default_factory=lambda: {64: Counter(), 32: Counter()})
    seconds: float = 0
    failed: list[str] = field(default_factory=list)  # test ids
    skipped: Counter[str] = field(default_factory=Counter)  # by reason
    broken: str = ""  # why there are no counts

    @property
    def ok(self) -> bool:
        return not self.broken and not self.failed and all(count["passed"] for count in self.counts.values())


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def bits_of(test: str) -> int:
    """Which of the two firmwares a test ran on: its id begins or ends with it, or it is the 64-bit one."""
    name = r"(unix|pty)?32(-(mpy|py))?"
    return 32 if re.search(rf"\[{name}[\]-]|-{name}\]", test) else 64


def read_report(row: Row, report: Path) -> None:
    """Take over the results of a run from pytest's --junitxml."""
    for case in ElementTree.parse(report).iter("testcase"):
        test = f"{case.get('classname', '').rpartition('.')[2]}.py::{case.get('name')}"
        kinds = {child.tag: child for child in case}
        count = row.counts[bits_of(test)]
        if "failure" in kinds or "error" in kinds:
            count["failed"] += 1
            row.failed.append(test)
        elif "skipped" in kinds:
            count["skipped"] += 1
            row.skipped[kinds["skipped"].get("message", "")] += 1
        else:
            count["passed"] += 1


def run(source: str, tree: Path | None, tests: list[str], jobs: int) -> Row:
    """Build from a source tree (None: Debian's own) and run the tests on it, with the output in a log file."""
    start = time.monotonic()
    row = Row("?", source)
    try:
        for bits in (64, 32):
            firmware.firmware(bits, tree)
        src = firmware.source(tree)
        row.name = firmware.version_name(src.path)
    except firmware.FirmwareError as error:
        row.broken = str(error)
        say(f"matrix: {source}: {error}")
        return row
    say(f"matrix: MicroPython {row.name} ({source})")
    name = re.sub(r"\W+", "-", f"{row.name} {source}")
    log, report = OUT / f"{name}.log", OUT / f"{name}.xml"
    report.unlink(missing_ok=True)
    # What `make matrix MPY_DIR=...` was told is in MAKEFLAGS, too, for each make that a test starts.
    left_out = ("MPY_DIR", "MICROPYTHON", "MAKEFLAGS", "MAKEOVERRIDES", "MFLAGS")
    env = {name: value for name, value in os.environ.items() if name not in left_out}
    if tree:
        env["MPY_DIR"] = str(tree)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", str(jobs), "--dist", "loadfile",
               "--target", "unix,unix32", f"--junitxml={report}", *tests]  # fmt: skip
    with log.open("wb") as out:
        code = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env).returncode
    if report.exists():
        read_report(row, report)
    if code not in (0, 1) or not report.exists():
        row.broken = f"pytest ended with exit code {code}: see {log}"
    row.seconds = time.monotonic() - start
    for test in row.failed:
        say(f"matrix:   failed: {test}")
    say(f"matrix:   {'passed' if row.ok else row.broken or 'FAILED'}, {row.seconds:.0f} s")
    return row


def sources(checkouts: list[str]) -> list[tuple[str, Path | None]]:
    """(what it is, source tree) of all that there is to run on. Raises FirmwareError if Debian's cannot be had."""
    found: list[tuple[str, Path | None]] = []
    try:
        firmware.source("")
        found.append((f"Debian {firmware.SUITE}", None))
        tree = firmware.newer_debian_source()
        found.append((f"Debian {tree.parent.name}", tree))
    except firmware.FirmwareError as error:
        say(f"matrix: not run: {error}")
    return found + [("checkout", Path(path).resolve()) for path in checkouts]


def table(rows: list[Row]) -> list[str]:
    lines = ["| MicroPython | source | bits | passed | failed | skipped |", "|---|---|--:|--:|--:|--:|"]
    for row in sorted(rows, key=lambda row: [int(n) for n in re.findall(r"\d+", row.name)]):
        if row.broken:
            lines.append(f"| {row.name} | {row.source} | | {row.broken.replace('|', '/')} | | |")
            continue
        for bits, count in row.counts.items():
            numbers = " | ".join(str(count[kind]) for kind in ("passed", "failed", "skipped"))
            lines.append(f"| {row.name} | {row.source} | {bits} | {numbers} |")
    return lines


def page(rows: list[Row], tests: list[str]) -> str:
    """The table as it goes into the documentation: what ran, where, when and at which commit."""

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", ROOT, *words], capture_output=True, text=True, check=False).stdout.strip()

    commit = git("rev-parse", "--short=12", "HEAD") + (
        " with changes" if git("status", "--porcelain", "lib", "tests", "tools") else ""
    )
    lines = [f"{time.strftime('%Y-%m-%d')}, commit {commit}, the board on the desk, built from each of these.", ""]
    lines += table(rows)
    reasons: Counter[str] = sum((row.skipped for row in rows), Counter())
    if reasons:
        lines += ["", "Skipped, over all rows: " + "; ".join(f"{n} {why}" for why, n in reasons.most_common()) + "."]
    if list(tests) != list(TESTS):
        lines += ["", f"Of the tests only {' '.join(tests)}."]
    return "\n".join(lines) + "\n"


def publish() -> int:
    before, mark, rest = PAGE.read_text().partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not mark or not end:
        say(f"matrix: {PAGE.name} has lost its marks: {MARKS}")
        return 1
    PAGE.write_text(before + mark + (OUT / "matrix.md").read_text() + end + after)
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], epilog="MPY_DIR=a:b:c adds checkouts.")
    parser.add_argument("--publish", action="store_true", help=f"put the latest table into {PAGE.relative_to(ROOT)}")
    parser.add_argument("--short", action="store_true", help="Debian's newer version alone, and few tests (for CI)")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("tests", nargs="*", help="other tests than all that concern a device, or pytest's options")
    arguments, options = parser.parse_known_args(argv)
    if arguments.publish:
        return publish()
    OUT.mkdir(parents=True, exist_ok=True)
    checkouts = [path for path in os.environ.pop("MPY_DIR", "").split(os.pathsep) if path]
    tests = (arguments.tests or list(SHORT if arguments.short else TESTS)) + options
    try:
        found = sources(checkouts)
    except OSError as error:
        say(f"matrix: {error.filename or 'a file'}: {error.strerror}")
        return 1
    if arguments.short:
        found = [(name, tree) for name, tree in found if tree]
    if not found:
        say("matrix: there is no MicroPython to run on: set MPY_DIR=checkout")
        return 0 if arguments.short else 1  # CI does not fail because of Debian's archive: it is said, and that is all
    rows = [run(name, tree, tests, arguments.jobs) for name, tree in found]
    (OUT / "matrix.md").write_text(page(rows, tests))
    print("\n".join(table(rows)))
    return 0 if all(row.ok for row in rows) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
