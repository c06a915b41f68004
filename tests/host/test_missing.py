"""Firmware that can't do it is told so when wss_repl is imported, in one sentence."""

import shutil
import subprocess

import firmware
import pytest
import stock
from targets import ROOT


def run(binary, program, lib=ROOT / "lib") -> str:
    done = subprocess.run(
        [*binary, "-c", "import sys; sys.path[:] = ['%s']\n%s" % (lib, program)],
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


UNMASK = """
from wss.port import look, unmask
for n in (0, 1, 125, 126, 300):
    frame = b"\\x81" + (bytes((n,)) if n < 126 else bytes((126, n >> 8, n & 255))) + b"x" * n
    for before in (b"", b"\\x81\\x02ab"):
        record = bytearray(before + frame + b"\\x81\\x00")
        assert not look(record, len(record)), record
        for i in range(len(before) + len(frame) - n, len(before) + len(frame)):
            record[i] = 0x80
            assert look(record, len(record)) == 1, (n, i)
            record[i] = 0x7F
whole = bytes(range(256))
for n in range(70):
    for at in range(4):
        wanted = bytearray(whole)
        for i in range(n):
            wanted[at + i] ^= b"\\x01\\x82\\xff\\x04"[i & 3]
        given = bytearray(whole)
        unmask(memoryview(given)[at : at + n], b"\\x01\\x82\\xff\\x04", n)
        assert given == wanted, (n, at)
print("machine code" if not hasattr(unmask, "__name__") else "bytecode")
"""


@pytest.mark.parametrize("bits", [64, 32])
def test_no_machine_code(bits, tmp_path):
    """Firmware without a native emitter refuses the decorator, as any does one that it does not know."""
    binary = [str(firmware.firmware(bits))]
    assert run(binary, UNMASK) == "machine code\n"
    lib = tmp_path / "lib"
    shutil.copytree(ROOT / "lib", lib)
    port = lib / "wss" / "port.py"
    text = port.read_text()
    assert text.count("@micropython.viper") == 2
    port.write_text(text.replace("@micropython.viper", "@micropython.vinyl"))
    assert run(binary, UNMASK, lib) == "bytecode\n"


def test_set_ssl(tmp_path):
    """upydev's `set_wss`; its own module then reads SSL.ssl and SSL.auth."""
    program = f"import os;os.chdir('{tmp_path}'); sys.path.append('')\nimport wss_repl\nwss_repl.set_ssl(True, False)\n"
    out = run([str(firmware.firmware(64))], program + "from ssl_config import SSL\nprint(SSL.ssl, SSL.auth)")
    assert out == "True False\n"
