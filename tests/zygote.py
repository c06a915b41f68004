"""wssctl as a process of its own, but with its modules loaded before. The suite starts wssctl some two thousand times,
and most of what one costs is a Python that starts and imports. So for each process of tests one Python has done that,
and waits: each command is a fork of it, with its own folder, environment and streams (as Android's zygote does).

What a fork can not show, it is not asked: variables of Python and of the locale, an option of Python, other streams
than a pipe. run() starts Python for these."""

import array
import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterable, Mapping
from typing import Any

WSSCTL = [sys.executable, "-m", "wssctl"]
_LOADED = """
ssl sqlite3 cryptography.x509 cryptography.hazmat.primitives.serialization.pkcs12 serial wssctl.cli
wssctl.boards.commands wssctl.boards.engine wssctl.boards.fleet wssctl.boards.rotate wssctl.boards.update
wssctl.keys.commands wssctl.tools.shell wssctl.wire.client
"""
_MOST = 150_000  # bytes of a request: words and environment
_OF_PYTHON = ("PYTHON", "LC_", "LANG")
_FREE = {"PYTHON_KEYRING_BACKEND"}  # which is not Python's but keyring's
_KNOWN = {"env", "cwd", "input", "stdin", "capture_output", "text", "timeout", "start_new_session"}


def run(words: Iterable[object], **options: Any) -> "subprocess.CompletedProcess[Any]":
    """subprocess.run(words, capture_output=True, ...), sooner when words are WSSCTL and what follows."""
    argv = [str(word) for word in words]
    env = options.get("env") or os.environ
    if (
        sys.platform != "linux"  # which has sockets that keep messages apart
        or argv[:3] != WSSCTL
        or options.keys() - _KNOWN
        or not options.get("capture_output")
        or (options.get("input") is None and options.get("stdin") is not subprocess.DEVNULL)
        or any(os.environ.get(n) != v for n, v in env.items() if n.startswith(_OF_PYTHON) and n not in _FREE)
    ):
        return subprocess.run(argv, **options)
    return _forked(
        argv, env, options.get("cwd") or os.getcwd(), options.get("input") or b"", bool(options.get("text")),
        options.get("timeout"), bool(options.get("start_new_session")),
    )  # fmt: skip


def _forked(
    argv: list[str], env: Mapping[str, str], cwd: object, given: str | bytes, text: bool, timeout: float | None,
    session: bool,
) -> "subprocess.CompletedProcess[Any]":  # fmt: skip
    request = json.dumps([argv[3:], dict(env), str(cwd), session]).encode()
    assert len(request) < _MOST
    with contextlib.ExitStack() as stack:
        out, err = (stack.enter_context(tempfile.TemporaryFile()) for _ in "12")
        stdin, feed = os.pipe()
        ended, tell = os.pipe()
        stack.callback(os.close, ended)
        try:
            socket.send_fds(_zygote(), [request], [stdin, out.fileno(), err.fileno(), tell])
        finally:
            os.close(stdin)
            os.close(tell)
        data = given.encode() if isinstance(given, str) else given
        threading.Thread(target=_feed, args=(feed, data), daemon=True).start()
        code = _ended(ended, timeout)
        seen: list[Any] = []
        for file in (out, err):
            file.seek(0)
            said = file.read()
            seen.append(said.decode().replace("\r\n", "\n").replace("\r", "\n") if text else said)
    if code is None:
        raise subprocess.TimeoutExpired(argv, timeout or 0, *seen)
    return subprocess.CompletedProcess(argv, code, *seen)


def _feed(fd: int, data: bytes) -> None:
    with contextlib.suppress(BrokenPipeError), open(fd, "wb", 0) as pipe:
        while data:
            data = data[pipe.write(data) :]


def _ended(fd: int, timeout: float | None) -> int | None:
    """The exit status of the command that tells of itself on fd; None when it had to be killed."""
    said = array.array("i")
    deadline = time.monotonic() + timeout if timeout else None
    killed = False
    while len(said) < 2:
        left = max(0, deadline - time.monotonic()) if deadline and not killed else None
        if select.select([fd], [], [], left)[0]:
            data = os.read(fd, said.itemsize)
            assert data, "the zygote's fork ended without a word"
            said.frombytes(data)
        elif said:
            os.kill(said[0], signal.SIGKILL)
            killed = True
    return None if killed else os.waitstatus_to_exitcode(said[1])


@functools.cache
def _zygote() -> socket.socket:
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with its:
        words = [sys.executable, __file__, str(its.fileno())]
        # Streams that are pipes, as a command's are: Python looks at them once, when it starts
        subprocess.Popen(words, stdin=-1, stdout=-1, stderr=-1, pass_fds=[its.fileno()], start_new_session=True)
    return ours


# In the zygote -------------------------------------------------------------------------------------------


def _serve(sock: socket.socket) -> None:
    for name in _LOADED.split():
        importlib.import_module(name)
    gc.freeze()  # what is here now, no fork has to look through
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        request, fds, _, _ = socket.recv_fds(sock, _MOST, 4)
        if not request:
            return  # the tests have ended
        if not os.fork():
            sock.close()
            _watch(*json.loads(request), *fds)
        for fd in fds:
            os.close(fd)


def _watch(
    words: list[str], env: dict[str, str], cwd: str, session: bool, stdin: int, out: int, err: int, tell: int
) -> None:
    """The command as a child, because only its parent learns how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if not pid:
        if session:
            os.setsid()
        for to, fd in enumerate((stdin, out, err)):
            os.dup2(fd, to)
        for fd in (stdin, out, err, tell):
            os.close(fd)
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(env)
        sys.path[0] = cwd  # as with -m
        sys.argv[1:] = words
        _to_its_end()
    for fd in (stdin, out, err):
        os.close(fd)
    os.write(tell, array.array("i", [pid]))
    os.write(tell, array.array("i", [os.waitpid(pid, 0)[1]]))
    os._exit(0)


def _to_its_end() -> None:
    """What `python -m wssctl` does, and what Python does behind it."""
    code = 1
    try:
        try:
            sys.exit(importlib.import_module("wssctl.cli").main())
        except SystemExit as e:
            code = e.code if isinstance(e.code, int) else 1 if e.code else 0
        threading._shutdown()  # type: ignore[attr-defined]  # waits for threads
        atexit._run_exitfuncs()
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
