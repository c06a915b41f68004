"""wssctl on any system: what needs neither a board nor POSIX. CI runs this file on macOS and Windows as it is.

On POSIX everything is done a second time by a Python that lacks for wssctl what Windows lacks. No conftest.py here, and
no fixture of it: that imports the board on the desk.
"""

import os
import subprocess
import sys

import pytest

# What Windows has not, as wssctl sees it (the libraries that it uses have their own ways there)
WITHOUT_POSIX = """
import builtins, os, signal, socket, sys
import platformdirs.unix  # takes os.getuid from this system, since that is not Windows

ABSENT = {"fcntl", "grp", "pty", "pwd", "resource", "termios", "tty"}
real = builtins.__import__

def absent(name, globals=None, locals=None, fromlist=(), level=0):
    if name in ABSENT and str((globals or {}).get("__name__")).split(".")[0] == "wssctl":
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return real(name, globals, locals, fromlist, level)

builtins.__import__ = absent
for module, names in (
    (os, "fchmod fchown fork geteuid getuid setsid getpgid killpg O_NOFOLLOW O_CLOEXEC O_NOCTTY O_NONBLOCK"),
    (signal, "SIGHUP SIGPIPE SIGKILL SIGTSTP SIGWINCH SIGALRM setitimer alarm pthread_sigmask"),
    (socket, "AF_UNIX"),
):
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
"""
WAYS = ["as it is", "without POSIX"] if os.name == "posix" else ["as it is"]


@pytest.fixture(params=WAYS)
def wssctl(request, tmp_path):
    """Runs `wssctl WORDS` (or Python, after -c) with an empty key folder; gives its output."""
    env = {n: v for n, v in os.environ.items() if not n.startswith("WSSCTL")}
    env |= {"WSSCTL_KEYS": str(tmp_path / "keys"), "WSSCTL_PASSPHRASE": "correct horse", "COLUMNS": "100"}
    env["WSSCTL_PASSWORD"] = "sesame 23"
    env |= {"PYTHONIOENCODING": "utf-8", "PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring"}
    if request.param == "without POSIX":
        (tmp_path / "first").mkdir()
        (tmp_path / "first/sitecustomize.py").write_text(WITHOUT_POSIX)
        env |= {"PYTHONPATH": str(tmp_path / "first"), "USERNAME": "ana"}

    def run(*words, status=0):
        words = words if words[0] == "-c" else ("-m", "wssctl", *words)
        done = subprocess.run(
            [sys.executable, *words],
            env=env, cwd=tmp_path, capture_output=True, text=True, encoding="utf-8", timeout=180,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == status and "Traceback" not in done.stderr, done.stdout + done.stderr
        return done.stdout + done.stderr

    run.posix = request.param == "as it is" and os.name == "posix"
    return run


IMPORT_ALL = """
import importlib, pkgutil, wssctl
for module in pkgutil.walk_packages(wssctl.__path__, "wssctl."):
    if not module.name.startswith(("wssctl.bundle", "wssctl.onboard", "wssctl.__main__")):
        importlib.import_module(module.name)
        print(module.name)
"""


def test_every_module_imports(wssctl):
    names = wssctl("-c", IMPORT_ALL).split()
    assert {"wssctl.tools.keep", "wssctl.tools.bridge", "wssctl.wire.kept", "wssctl.cable.setup"} <= set(names)


def test_what_windows_lacks_is_lacking(wssctl):
    """The hook of this test works: without it, it would pass for nothing."""
    code = "exec('import fcntl', {'__name__': 'wssctl.x'})\nimport os\nos.geteuid\nprint('POSIX')"
    try:
        assert wssctl.posix == ("POSIX" in wssctl("-c", code))
    except AssertionError as e:
        assert not wssctl.posix and "fcntl" in str(e)


def test_help_of_every_command(wssctl):
    text = wssctl("--help")
    assert "repl" in text and "setup" in text
    wssctl("keep", "--help")
    assert wssctl("--version").startswith("wssctl ")


def test_keys_of_a_board_made_here(wssctl, tmp_path):
    assert "ROOT_CA_cert.pem" in wssctl("ca", "init")
    wssctl("host", "init")
    wssctl("keys", "init", "30aea4b0a2d0", "--name", "room1", "--ip", "192.168.1.20", "--out", ".")
    assert (tmp_path / "SSL_key30aea4b0a2d0.der").stat().st_size == 121
    wssctl("boards", "add", "room1", "192.168.1.20")
    assert "room1" in wssctl("boards", "list")
    assert "192.168.1.20" in wssctl("keys", "status")
    wssctl("ca", "export", "ca.pem")
    assert "PRIVATE KEY" in (tmp_path / "ca.pem").read_text()


def test_refusals_have_their_exit_codes(wssctl):
    assert "wssctl ca init" in wssctl("exec", "nobody", "1", status=7)
    wssctl("ca", "init")
    wssctl("host", "init")
    wssctl("boards", "add", "room1", "127.0.0.1:9")  # port 9, where nobody listens
    assert "127.0.0.1" in wssctl("exec", "room1", "1", status=3)
