"""What the evidence shares: which cut runs, and scripts on MicroPython without a board around them."""

import os
import subprocess
import threading
from pathlib import Path

import firmware
from targets import ROOT

HERE = Path(__file__).parent
LONG = os.environ.get("EVIDENCE") == "long"
SILENCE = 20  # seconds without a sign of life: it hangs (an input over a second is told by itself)


def run(bits, script, *arguments, heap="2M", env=None):
    """Lines that a device script prints; fails when it falls silent or ends badly."""
    command = [firmware.firmware(bits), "-X", f"heapsize={heap}", HERE / "device" / script, *arguments]
    env = {**os.environ, "MICROPYPATH": str(ROOT / "lib"), **(env or {})}
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
