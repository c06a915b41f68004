#!/usr/bin/env python3
"""The evidence as one table: runs tests/evidence in its long cut, at 64 and 32 bits side by side, and writes
build/evidence/evidence.md. Exit status 1 when a test failed; the table says so too.

EVIDENCE_SECONDS: seconds of fuzzing for each target and size (75). EVIDENCE_SOAK: seconds of logins (240).
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import ssl
import subprocess
import sys
import time
from pathlib import Path

import firmware

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "build" / "evidence"
NOT_COVERED = [
    "real boards, and any TCP stack but Linux's: the figures are those of the unix port that stands in for an ESP32",
    "builds with address sanitizer and with asserts; coverage-guided fuzzing (inputs are structure-aware, not guided)",
    "the same number of inputs for every target: how many ran is in the table, a million takes some of them minutes",
    "CSR making on the board (enrol.py takes nothing from the network; its own tests check it against vectors)",
    "MemoryError at every single allocation: heaps with little room are tried instead, in steps of 500 bytes, and none "
    "with less than 4,000 bytes of room",
    "power cuts while keys are being replaced (tests/host/test_keys_enrol.py has its renames)",
    "24 hours of simulated time; the soak ends after 10,000 logins or 240 s, whichever comes first",
    "10 MB of output to a slow reader (tests/host/test_lossless.py and test_held.py try smaller ones)",
    "sslyze and testssl.sh",
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
        found.append(f"{bits} bits: MicroPython {python.split('; ')[-1]}, {mbedtls}")
    packages = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in ("wsproto", "tlslite-ng", "pytest"))
    found.append(f"host: Python {platform.python_version()}, {ssl.OPENSSL_VERSION}, {packages}")
    return found


def merged(rows: list[list[str]]) -> dict[str, list[tuple[str, str]]]:
    """Section: (case, result), where both sizes did alike in one row."""
    found: dict[str, dict[str, dict[str, list[str]]]] = {}
    for section, case, result in rows:
        case, _, bits = case.rpartition(", ")
        found.setdefault(section, {}).setdefault(case, {}).setdefault(result, []).append(bits.removesuffix(" bits"))
    return {
        section: [
            (f"{case} ({' and '.join(sorted(set(bits), reverse=True))} bits)", result)
            for case, results in cases.items()
            for result, bits in results.items()
        ]
        for section, cases in sorted(found.items())
    }


def main() -> int:
    OUT.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("EVIDENCE_SECONDS", "75")
    told = versions()  # builds what is missing, before two processes want it
    commit = git("rev-parse", "--short=12", "HEAD") + (" with changes" if git("status", "--porcelain", "lib") else "")
    start = time.monotonic()
    running = []
    for target in ("unix", "unix32"):
        rows = OUT / f"{target}.jsonl"
        rows.unlink(missing_ok=True)
        log = (OUT / f"{target}.log").open("wb")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/evidence", "--target", target]
        env = os.environ | {"EVIDENCE": "long", "EVIDENCE_ROWS": str(rows)}
        running.append((target, rows, subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=env)))
    failed = []
    rows = []
    for target, file, process in running:
        if process.wait():
            failed.append(target)
        if file.exists():
            rows += [json.loads(line) for line in file.read_text().splitlines()]
    lines = [
        "# Evidence",
        "",
        f"Commit {commit}, {time.strftime('%Y-%m-%d')}, {(time.monotonic() - start) / 60:.0f} minutes on "
        f"{os.cpu_count()} processors. `make evidence` makes this page.",
        "",
        *[f"- {line}" for line in told],
        "",
    ]
    for target in failed:
        lines += [f"**A test failed on {target}: see {target}.log. What it would have said is missing here.**", ""]
    for section, cases in merged(rows).items():
        lines += [f"## {section}", "", "| tried | result |", "|---|---|"]
        lines += ["| %s | %s |" % (case.replace("|", "\\|"), result.replace("|", "\\|")) for case, result in cases]
        lines.append("")
    lines += ["## Not covered", "", *[f"- {line}" for line in NOT_COVERED], ""]
    (OUT / "evidence.md").write_text("\n".join(lines))
    print(OUT.relative_to(ROOT) / "evidence.md")
    for target in failed:
        print(f"evidence: a test failed on {target}: {(OUT / target).relative_to(ROOT)}.log", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
