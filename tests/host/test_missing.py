"""Firmware that can't do it is told so when wss_repl is imported, in one sentence."""

import subprocess

import firmware
import stock
from targets import ROOT


def run(binary, program) -> str:
    done = subprocess.run(
        [*binary, "-c", "import sys; sys.path[:] = ['%s']\n%s" % (ROOT / "lib", program)],
        capture_output=True,
        text=True,
        timeout=30,
    )
    return done.stdout + done.stderr


IMPORT = "try:\n import wss_repl\nexcept ImportError as e: print('said:', e)\n"


def test_no_dupterm():
    """Debian's own micropython has neither os.dupterm nor anything frozen."""
    said = run(stock.stock(), IMPORT)
    assert said == "said: wss_repl needs os.dupterm, which this firmware was built without\n"


def test_no_tls_that_verifies():
    """ESP8266's axTLS can't ask a client for a certificate: its tls module has no CERT_REQUIRED."""
    program = "class axtls: CERT_NONE = 0\nsys.modules['tls'] = axtls\n" + IMPORT
    out = run([str(firmware.firmware(64))], program)
    assert out.startswith("said: wss_repl needs the tls module with mbedTLS"), out


def test_import_has_no_side_effect():
    """No file, socket or print: nothing happens before start()."""
    program = "import os, sys\nbefore = set(os.listdir('.'))\nimport wss_repl, wss_helper\nprint(wss_repl.status(), "
    out = run([str(firmware.firmware(64))], program + "set(os.listdir('.')) - before)")
    assert out.strip().endswith("set()") and out.count("\n") == 1, out
