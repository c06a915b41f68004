"""What the tests of real clients share: secrets, what upydev asks of OpenSSL, wssctl, clients that may not be had."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import venvs

PASSWORD = "secret"
PASSPHRASE = "passphrase1"  # upydev splits PASSWORD:PASSPHRASE at the colon and its own command line at spaces
USER = "ana"  # upydev names the HOST files by $USER

# OpenSSL 3.2 and later takes CCM8 at security level 0 only, and upydev asks for nothing else in TLS 1.2. Pythons that
# take OpenSSL's default ciphers (Debian's) read this file; others can't run upydev there.
OPENSSL_CONF = "openssl_conf = a\n[a]\nssl_conf = b\n[b]\nsystem_default = c\n[c]\nCipherString = DEFAULT:@SECLEVEL=0\n"

# Does this Python's OpenSSL offer the suite (0xC0AE, RFC 7251) when it is asked to, as upydev asks?
OFFERS_CCM8 = """
import ssl
context, out = ssl.create_default_context(), ssl.MemoryBIO()
context.set_ciphers("ECDHE-ECDSA-AES128-CCM8")
try:
    context.wrap_bio(ssl.MemoryBIO(), out, server_hostname="board").do_handshake()
except ssl.SSLWantReadError:
    pass
raise SystemExit(b"\\xc0\\xae" not in out.read())
"""


def wssctl(folder: Path, *arguments) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "wssctl", *map(str, arguments)],
        env=os.environ | {"WSSCTL_KEYS": str(folder), "WSSCTL_PASSPHRASE": PASSPHRASE, "USER": USER},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def installed(make, *arguments):
    """What make() of venvs.py gives. Skips the test where that cannot be had."""
    try:
        return make(*arguments)
    except venvs.NoClient as e:
        if os.environ.get("CI"):
            raise  # what tests are for; a machine without a registry may go without
        pytest.skip(str(e))
