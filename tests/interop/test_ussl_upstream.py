"""MicroPython's own tests of ssl and tls, out of its source package, with ussl in the place of both.

Only the module name, the port and the public server they talk to are changed, and the expected output is theirs.
"""

import re
import shutil
import subprocess
import sys

import pytest
from ports import free_port
from ussl_support import Peer, server_context, upstream

pytest_plugins = "ussl_fixtures"

TESTS = upstream("tests")

# Its subject is SSLSocket.ioctl(), which only MicroPython's coverage build has: it skips itself on every firmware that
# anyone uses. ussl's ioctl() answers C code, which wants a negative number where that test wants an exception.
LEFT_OUT = {"ssl_ioctl"}

# Where the firmware's text says what is wrong, ussl says behind it what to do.
HELP = re.compile(r" \(.*: pass server_hostname\)$")

# micropython-lib's unittest, as far as ssl_noleak needs it.
UNITTEST = """
class TestCase:
    pass

def main():
    import __main__
    for name in dir(__main__):
        case = getattr(__main__, name)
        if isinstance(case, type) and issubclass(case, TestCase):
            for test in dir(case):
                if test.startswith("test"):
                    getattr(case(), test)()
"""


def files(folder: str, *patterns: str) -> list[str]:
    found = [f.stem for pattern in patterns for f in sorted((TESTS / folder).glob(pattern + ".py"))]
    return [name for name in found if name not in LEFT_OUT]


# micropython-lib's ssl over the firmware's tls, as far as these tests go: what they run on without ussl.
NATIVE = """
import tls
from tls import *

def _data(x):
    if isinstance(x, str):
        with open(x, "rb") as f:
            return f.read()
    return x

class SSLContext:
    def __init__(self, protocol):
        self._context = tls.SSLContext(protocol)
        self._context.verify_mode = CERT_NONE
    @property
    def verify_mode(self):
        return self._context.verify_mode
    @verify_mode.setter
    def verify_mode(self, value):
        self._context.verify_mode = value
    def load_cert_chain(self, certfile, keyfile):
        self._context.load_cert_chain(_data(certfile), _data(keyfile))
    def load_verify_locations(self, cafile=None, cadata=None):
        self._context.load_verify_locations(_data(cafile) if cafile else cadata)
    def wrap_socket(self, sock, **kwargs):
        return self._context.wrap_socket(sock, **kwargs)

def wrap_socket(sock, server_side=False, key=None, cert=None, cert_reqs=CERT_NONE, cadata=None, server_hostname=None,
        do_handshake=True):
    context = SSLContext(PROTOCOL_TLS_SERVER if server_side else PROTOCOL_TLS_CLIENT)
    if cert or key:
        context._context.load_cert_chain(cert, key)
    if cadata:
        context.load_verify_locations(cadata=cadata)
    context.verify_mode = cert_reqs
    return context.wrap_socket(sock, server_side=server_side, do_handshake_on_connect=do_handshake,
        server_hostname=server_hostname)
"""


def told(lines: list[str]) -> list[str]:
    """What a test printed, without where in which file an exception came from and what it is called."""
    return [line.replace("SSLError:", "OSError:") for line in lines if not line.startswith(("Traceback", "  File"))]


def compare(run, folder: str, name: str, directory, want: list[str]):
    """run(text) gives what a test with this text prints. With ussl that must be what is expected; on firmware that
    prints something else without ussl, it must be that."""
    text = (TESTS / folder / f"{name}.py").read_text()
    got = [HELP.sub("", line) for line in run(re.sub(r"\b(ssl|tls)\b(?=[.\s,])", "ussl", text))]
    if got == want:
        return
    (directory / "ssl.py").write_text(NATIVE)
    native = run(text)
    assert native != want, "\n".join(got)
    if any("no attribute 'ioctl'" in line for line in native):
        pytest.skip("it calls SSLSocket.ioctl(), which this firmware does not have")
    assert told(got) == told(native)


def expected(folder: str, name: str, directory) -> list[str]:
    if name == "ssl_noleak":
        return [str(n) for n in range(128)] * 2
    path = TESTS / folder / f"{name}.py.exp"
    if path.exists():
        return path.read_text().splitlines()
    out = subprocess.run([sys.executable, TESTS / folder / f"{name}.py"], capture_output=True, text=True, cwd=directory)
    assert not out.returncode, out.stderr
    return out.stdout.splitlines()


@pytest.mark.parametrize("name", files("extmod", "ssl_*", "tls_*"))
def test_extmod(mpy, tmp_path, name):
    (tmp_path / "unittest.py").write_text(UNITTEST)
    compare(
        lambda text: mpy.start(text, tmp_path).output(), "extmod", name, tmp_path, expected("extmod", name, tmp_path)
    )


@pytest.mark.parametrize("name", files("net_hosted", "ssl_*"))
def test_net_hosted(mpy, tmp_path, name, pki):
    context = server_context(pki.chained, chain=pki.chain_file)

    with Peer(lambda connection: context.wrap_socket(connection, server_side=True)) as peer:

        def run(text):
            text = text.replace('"micropython.org", 443', f'"127.0.0.1", {peer.port}')
            return mpy.start(text, tmp_path).output()

        compare(run, "net_hosted", name, tmp_path, expected("net_hosted", name, tmp_path))


# run-multitests.py looks whether there is output, then whether the program has ended: what was printed in between is
# lost. So a program ends here when all that it printed has been read.
READ_FIRST = """
import fcntl, os, select, signal, subprocess, sys, termios

program = subprocess.Popen(command + sys.argv[1:], env={**os.environ, **env})
signal.signal(signal.SIGTERM, lambda *_: program.terminate())
code = program.wait()
reader = select.poll()
reader.register(1, 0)
while not reader.poll(10) and int.from_bytes(fcntl.ioctl(1, termios.FIONREAD, bytes(4)), sys.byteorder):
    pass
sys.exit(code)
"""


@pytest.mark.parametrize("name", files("multi_net", "ssl*", "asyncio_tls*", "tls*"))
def test_multi_net(mpy, tmp_path, name):
    if mpy.name == "stock" and name == "tls_dtls_server_client":
        pytest.skip("Debian's DTLS server wants cookies that its MicroPython can't give, without ussl too")
    for der in (TESTS / "multi_net").glob("*.der"):
        shutil.copy(der, tmp_path)
    (tmp_path / f"{name}.py.exp").touch()
    start = tmp_path / "start"
    env = {"MICROPYPATH": f"{mpy.lib}:.frozen:{tmp_path}"}
    start.write_text(
        f"#!{sys.executable} -SE\ncommand = {[str(word) for word in mpy.command]}\nenv = {env}\n{READ_FIRST}"
    )
    start.chmod(0o755)

    def run(text):
        assert "PORT = 8000" in text
        (tmp_path / f"{name}.py").write_text(text.replace("PORT = 8000", f"PORT = {free_port()}"))
        run = [sys.executable, TESTS / "run-multitests.py", "-i", f"exec:{start}", "-i", f"exec:{start}"]
        out = subprocess.run([*run, "-s", tmp_path / f"{name}.py"], capture_output=True, text=True, timeout=180).stdout
        assert "\n1 tests performed" in out, out
        return undrained(out.split("### TEST ###\n")[1].split("### TRUTH ###")[0].splitlines())

    # asyncio's handshake happens in write() and drain(), which one sees its end is a matter of who is scheduled when:
    # if the server has answered before write() looks, write() raises the error and the test never says "drain"
    def undrained(lines):
        return [line for line in lines if line != "drain"]

    compare(run, "multi_net", name, tmp_path, undrained(expected("multi_net", name, tmp_path)))
