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
        timeout=180,
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
from wss.port import text_frames, unmask
AT = 64
def frames(text, found):
    out = bytearray(AT) + text
    made = text_frames(out, AT, len(out))
    end = made & 4095
    assert (made >> 12 & 4095) == len(out), (text, made)
    assert made >> 24 == 8 | found, (text, made >> 24)
    got = []
    i = 0
    while i < end:
        assert out[i] == 0x81, (text, out[:end])
        got.append(bytes(out[i + 2 : i + 2 + out[i + 1]]))
        i += 2 + out[i + 1]
    assert b"".join(got) == text, (text, got)
    return got
assert frames(b"", 0) == []
assert frames(b"a", 0) == [b"a"]
assert frames(b"one\\r\\ntwo\\r\\n", 0) == [b"one", b"\\r\\n", b"two", b"\\r\\n"]
assert frames(b"\\r\\n\\r\\n", 0) == [b"\\r\\n", b"\\r\\n"]
assert frames(b"50 %\\rof", 0) == [b"50 %\\rof"]
assert frames(b"x" * 125 + b"\\r\\n", 0) == [b"x" * 125, b"\\r\\n"]
assert frames(b"x" * 126, 0) == [b"x" * 125, b"x"]
assert frames(b"x" * 124 + b"\\xc3\\xa4", 1) == [b"x" * 124, b"\\xc3\\xa4"]
assert frames(b"x" * 122 + b"\\xf0\\x9f\\x98\\x80y", 1) == [b"x" * 122, b"\\xf0\\x9f\\x98\\x80y"]
assert frames(b"\\x80" * 300, 1)
assert frames(b"4\\r\\n>>> ", 4) == [b"4", b"\\r\\n", b">>> "]
assert frames(b"no end>>> ", 4) == [b"no end", b">>> "]
assert frames(b"\\r\\n>>> print(1)\\r\\n... ", 4) == [b"\\r\\n", b">>> ", b"print(1)", b"\\r\\n", b"... "]
assert frames(b"\\r\\n>>> text", 4) == [b"\\r\\n", b">>> ", b"text"]
assert frames(b"=== ", 4) == [b"=== "]
assert frames(b">>>  ", 4) == [b">>> ", b" "]
assert frames(b">>> 1\\r\\n1", 0) == [b">>> ", b"1", b"\\r\\n", b"1"]
assert frames(b">>>", 0) == [b">>>"]
assert frames(b"raw REPL; CTRL-B to exit\\r\\n>", 2) == [b"raw REPL; CTRL-B to exit", b"\\r\\n", b">"]
assert frames(b"paste mode; Ctrl-C to cancel, Ctrl-D to finish\\r\\n=== ", 6)[0][-7:] == b" finish"
for i in range(256):
    frames(b"ab" + bytes((i,)) + b"cd", i > 127)
out = bytearray(6) + b"a\\r\\nb\\r\\n"  # three frames have room for their headers
assert text_frames(out, 6, 12) == 8 << 24 | 10 << 12 | 10
assert out == b"\\x81\\x01a\\x81\\x02\\r\\n\\x81\\x01b\\r\\n", out
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
    native = lib / "wss" / "native.py"
    text = native.read_text()
    assert text.count("@micropython.viper") == 2
    native.write_text(text.replace("@micropython.viper", "@micropython.vinyl"))
    assert run(binary, UNMASK, lib) == "bytecode\n"


def test_set_ssl(tmp_path):
    """upydev's `set_wss`; its own module then reads SSL.ssl and SSL.auth."""
    program = f"import os;os.chdir('{tmp_path}'); sys.path.append('')\nimport wss_repl\nwss_repl.set_ssl(True, False)\n"
    out = run([str(firmware.firmware(64))], program + "from ssl_config import SSL\nprint(SSL.ssl, SSL.auth)")
    assert out == "True False\n"
