#!/usr/bin/env python3
"""evidence.py [JOB...]

The evidence as one table: runs tests/evidence in its long cut, two things at a time, and writes
build/evidence/evidence.md. Exit status 1 when a test failed; the table says so too.

JOB...: runs these again, by the names that it prints; the rows of the others are those of the latest run, which must
have been of the same code. --publish puts the latest table into docs/evidence.md, between its marks, and runs nothing.

EVIDENCE_SECONDS: seconds of fuzzing for a target, at most (300). EVIDENCE_SOAK: seconds of logins, at most (600).
EVIDENCE_RATE: bytes/s of the slow reader (10,000).
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import ssl
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import firmware

ROOT = Path(__file__).resolve().parent.parent.parent
OUT = ROOT / "build" / "evidence"
PAGE = ROOT / "docs/evidence.md"
MARKS = "<!-- evidence: tools/dev/evidence.py writes from here -->\n", "<!-- evidence: to here -->\n"

TESTS = "tests/evidence/test_"
REST = ["faults", "rfc6455", "tls_records"]
REQUESTS = "tests/host/test_keys_enrol.py"
UPDATES = ["tests/host/test_update.py", "tests/host/test_update_firmware.py"]
# (name, what to run on, pytest's arguments): two of them at a time, the longest first
JOBS = [
    ("fuzz", "unix", [TESTS + "fuzz.py"]),
    ("load", "unix32", [TESTS + "load.py"]),
    ("fuzz", "unix32", [TESTS + "fuzz.py", "-k", "not that_the_host_reads"]),
    ("memory", "unix32", [TESTS + "memory.py"]),
    ("memory", "unix", [TESTS + "memory.py"]),
    ("rest", "unix32", [TESTS + name + ".py" for name in REST]),
    ("rest", "unix", [TESTS + name + ".py" for name in [*REST, "scanners"]]),
    ("load", "unix", [TESTS + "load.py"]),
    ("storm", "unix32", [TESTS + "ctrl_c.py"]),
    ("storm", "unix", [TESTS + "ctrl_c.py"]),
    ("updates", "unix32", [TESTS + "update_faults.py"]),
    ("updates", "unix", [TESTS + "update_faults.py", TESTS + "update_many.py", *UPDATES]),
    ("requests", "unix32", [REQUESTS]),
    ("requests", "unix", [REQUESTS]),
    ("kills", "unix", [TESTS + "killed.py", "-k", "random"]),
    ("sequences", "unix", [TESTS + "killed.py", "-k", "sequences"]),
    ("servers", "unix", [TESTS + "killed.py", "-k", "server"]),
    ("kept", "unix", [TESTS + "kept.py"]),
    ("ansible", "unix", [TESTS + "ansible_fleet.py"]),
]  # fmt: skip
# These wait more than they work, and run beside the others from the start
SLOW = [("slow", "unix", [TESTS + "backpressure.py", TESTS + "day.py"])]
SLOW += [("slow", "unix32", SLOW[0][2]), ("lwip", "lwip", [TESTS + "lwip_link.py"])]

NOT_COVERED = [
    "real boards, and any TCP stack but Linux's: the figures are those of the unix port that stands in for an ESP32",
    "coverage as a guide for the fuzzer: it keeps inputs by their outcome (reply, code, kind of error). MicroPython's "
    "sys.settrace costs most of the speed, and the parsers are a few hundred lines that the generators reach anyway",
    "a million inputs where the table has fewer (32 bits get a third, sanitizers a twentieth): how many ran, and how "
    "fast, is in each row",
    "mbedTLS's 90,000 allocations of a handshake: each of the first hundred fails, and a thousand of the others",
    "MemoryError while keys are made or replaced on the board (its heap is its own, over a cable; the old keys stay "
    "until all of the new ones are compared)",
    "power cuts inside FAT's rename that are followed by writes of others; use littlefs, as boards do by default",
    "new firmware on a real ESP32: its partitions and a bootloader that honours the marks are stand-ins here",
    "the radio: loss, reordering and delay of packets (the day's network cuts are silence)",
    "TLS 1.3, which the stand-in's mbedTLS configuration, like ESP32's, does not have",
]


def git(*arguments: str) -> str:
    return subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True, check=False).stdout.strip()


def versions() -> list[str]:
    code = "import sys, tls; print(sys.version, '|', tls.MBEDTLS_VERSION)"
    found = []
    for bits in (64, 32):
        told = subprocess.run([firmware.firmware(bits), "-c", code], capture_output=True, text=True, check=True).stdout
        python, mbedtls = told.strip().split(" | ")
        found.append(f"{bits} bits: {python.split('; ')[-1]}, {mbedtls}")
    names = ("wsproto", "tlslite-ng", "cryptography", "pytest")
    packages = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in names)
    found.append(f"host: Python {platform.python_version()}, {ssl.OPENSSL_VERSION}, {packages}")
    return found


def merged(rows: list[list[str]]) -> dict[str, list[tuple[str, str]]]:
    """Section: (case, result), where both sizes did alike in one row."""
    found: dict[str, dict[str, dict[str, list[str]]]] = {}
    for section, case, result in rows:
        case, _, bits = case.rpartition(", ") if case.endswith(" bits") else (case, "", "")
        found.setdefault(section, {}).setdefault(case, {}).setdefault(result, []).append(bits.removesuffix(" bits"))
    return {
        section: [
            (case + (f" ({' and '.join(sorted(set(bits), reverse=True))} bits)" if bits[0] else ""), result)
            for case, results in cases.items()
            for result, bits in results.items()
        ]
        for section, cases in sorted(found.items())
    }


def code() -> str:
    """What was run, whatever happened to the documents meanwhile."""
    return git("rev-parse", "HEAD:lib", "HEAD:tests").replace("\n", "-")


def latest(name: str) -> tuple[str, bool | None, list[list[str]]]:
    """As run(), of what ran before; None for passed when it did not, or with other code."""
    result = OUT / f"{name}.result"
    told = result.read_text().split() if result.exists() else [""]
    if told[0] != code():
        return name, None, []
    rows = OUT / f"{name}.jsonl"
    found = [json.loads(line) for line in rows.read_text().splitlines()] if rows.exists() else []
    return name, told[1] == "1", found


def run(job: tuple[str, str, list[str]]) -> tuple[str, bool, list[list[str]]]:
    """(name of the log, whether all passed, rows) of a job."""
    name, target, arguments = job
    name = f"{name}-{target}"
    rows = OUT / f"{name}.jsonl"
    rows.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "0"]
    command += ["--target", target, *arguments]
    env = os.environ | {"EVIDENCE": "long", "LONG": "1", "EVIDENCE_ROWS": str(rows)}
    start = time.monotonic()
    with (OUT / f"{name}.log").open("wb") as log:
        passed = not subprocess.run(command, cwd=ROOT, stdout=log, stderr=log, env=env).returncode
    found = [json.loads(line) for line in rows.read_text().splitlines()] if rows.exists() else []
    if arguments == [REQUESTS] and passed:
        bits = 32 if "32" in target else 64
        case = f"500 keys and requests made by the board, {bits} bits"
        found.append(["Keys", case, "OpenSSL verifies each; all differ"])
        rows.write_text(json.dumps(found[-1]) + "\n")
    (OUT / f"{name}.result").write_text(f"{code()} {int(passed)}")
    print(f"{name}: {'passed' if passed else 'FAILED'}, {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    return name, passed, found


def cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def publish() -> int:
    table = (OUT / "evidence.md").read_text().partition("\n")[2]
    before, mark, rest = PAGE.read_text().partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not mark or not end:
        print(f"evidence: {PAGE.name} has lost its marks: {MARKS}", file=sys.stderr)
        return 1
    PAGE.write_text(before + mark + table.replace("\n## ", "\n### ") + end + after)
    return 0


def main() -> int:
    if sys.argv[1:] == ["--publish"]:
        return publish()
    OUT.mkdir(parents=True, exist_ok=True)
    told = versions()  # builds what is missing, before many want it
    for bits in (64, 32):
        firmware.firmware(bits, sanitize=True)
    commit = git("rev-parse", "--short=12", "HEAD") + (" with changes" if git("status", "--porcelain", "lib") else "")
    start = time.monotonic()
    again = sys.argv[1:]
    with ThreadPoolExecutor(2) as two, ThreadPoolExecutor(len(SLOW)) as beside:
        done = []
        for pool, jobs in ((beside, SLOW), (two, JOBS)):
            for job in jobs:
                name = f"{job[0]}-{job[1]}"
                done.append(pool.submit(run, job) if not again or name in again else pool.submit(latest, name))
        results = [future.result() for future in done]
    load = os.getloadavg()[2]
    failed = [name for name, passed, _ in results if passed is False]
    missing = [name for name, passed, _ in results if passed is None]
    rows = [row for _, _, found in results for row in found]
    took = "put together from jobs run apart" if again else f"{(time.monotonic() - start) / 60:.0f} minutes"
    lines = [
        "# Evidence",
        "",
        f"Commit {commit}, {time.strftime('%Y-%m-%d')}, {took}, "
        f"on {os.cpu_count()} processors (load average {load:.1f} at the end). "
        "`make evidence` makes this page.",
        "",
        *[f"- {line}" for line in told],
        "",
    ]
    for name in failed:
        log = (OUT / f"{name}.log").read_text()
        tests = re.findall(r"^_+ (test_\S+) _+$", log, re.M)
        lines += [f"**Failed on {name.split('-')[1]}: {', '.join(tests) or name}. Its rows are missing here.**", ""]
    if missing:
        lines += [f"Not run with this code: {', '.join(missing)}.", ""]
    for section, cases in merged(rows).items():
        lines += [f"## {section}", "", "| tried | result |", "|---|---|"]
        lines += ["| %s | %s |" % (cell(case), cell(result)) for case, result in cases]
        lines.append("")
    lines += ["## Not covered", "", *[f"- {line}" for line in NOT_COVERED], ""]
    (OUT / "evidence.md").write_text("\n".join(lines))
    print(OUT.relative_to(ROOT) / "evidence.md")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
