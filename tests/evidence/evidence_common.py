"""What the evidence shares: which cut runs, and scripts on MicroPython without a board around them."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import firmware
from targets import ROOT

HERE = Path(__file__).parent
LONG = os.environ.get("EVIDENCE") == "long"
SILENCE = 60  # seconds without a sign of life: it hangs (an input over a second is told by itself)


def run_more_of(test, select, **env):
    """The long cut of a test in tests/host, which an environment variable makes long."""
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", f"tests/host/{test}", "-k", select]
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=os.environ | env, capture_output=True, text=True, timeout=3000
    )
    assert done.returncode == 0, done.stdout[-3000:]


def run(bits, script, *arguments, heap="2M", env=None, binary=None):
    """Lines that a device script prints; fails when it falls silent or ends badly."""
    command = [binary or firmware.firmware(bits), "-X", f"heapsize={heap}", HERE / "device" / script, *arguments]
    env = {**os.environ, "MICROPYPATH": str(ROOT / "lib"), "ASAN_OPTIONS": "detect_leaks=0", **(env or {})}
    with subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env
    ) as process:
        timer = None
        lines = []
        try:
            while True:
                timer = threading.Timer(SILENCE, process.kill)
                timer.start()
                line = process.stdout.readline()
                timer.cancel()
                if not line:
                    break
                lines.append(line.decode(errors="replace").rstrip("\n"))
        finally:
            timer.cancel()
            process.kill()
    assert process.wait() == 0, (process.returncode, lines[-30:])
    return lines


def open_files(board) -> int:
    return len(os.listdir(f"/proc/{board.console.pid}/fd"))


def resident(board) -> int:
    """Bytes of memory that the board's process has."""
    return int(Path(f"/proc/{board.console.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
