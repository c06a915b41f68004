"""`wssctl proxy`: what gets through is what the client and the board say, and whoever must not get in does not.
(webrepl_cli's heirs and belay go through it in tests/interop/test_webrepl.py.)"""

import contextlib
import os
import re
import resource
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest
from desk import PASSWORD, WSSCTL, Desk
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from wssctl.errors import UsageError
from wssctl.tools import proxy

PAGE = "http://micropython.org"


@pytest.fixture(scope="module")
def desk(keys, tmp_path_factory):
    with Desk.new(keys, tmp_path_factory.mktemp("desk"), "unix32") as running:
        yield running


@contextlib.contextmanager
def proxied(desk, *options):
    """The port of a `wssctl proxy`, which ends well on Ctrl-C."""
    process = subprocess.Popen(
        [*WSSCTL, "proxy", desk.url, *options], env=desk.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        line = process.stdout.readline()
        found = re.search(r" is at ws://127\.0\.0\.1:(\d+)$", line)
        assert found, (line, process.stderr.read() if not line else "")
        process.port = int(found[1])
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, process.stderr.read()


@pytest.fixture(scope="module")
def running(desk):
    with proxied(desk, "--origin", PAGE.upper() + "/") as process:
        yield process


def until(ws, wanted):
    said = ""
    while not said.endswith(wanted):
        said += ws.recv(timeout=30)
    return said


def ask(desk, port, head, rest=b""):
    """What comes back to a request."""
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.settimeout(30)
        sock.sendall(head.replace("\n", "\r\n").encode() + b"\r\n" + rest)
        said = b""
        with contextlib.suppress(ConnectionError):
            while more := sock.recv(4096):
                said += more
    return said.decode()


UPGRADE = """GET / HTTP/1.1
Host: {host}
Upgrade: websocket
Connection: Upgrade
Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEA==
Sec-WebSocket-Version: 13
"""


@pytest.mark.parametrize("options", [{}, {"origin": PAGE}], ids=["a program", "the page that was asked for"])
def test_a_session(desk, running, options):
    """The board asks for its password; text is text and binary is binary, both ways (WebREPL's version request)."""
    with connect(f"ws://127.0.0.1:{running.port}", **options) as ws:
        until(ws, "Password: ")
        ws.send(PASSWORD + "\r")
        until(ws, ">>> ")
        ws.send("print(6*7)\r")
        assert "42\r\n" in until(ws, ">>> ")
        ws.send(b"WA\x03" + bytes(79))
        assert isinstance(ws.recv(timeout=30), bytes)


def test_a_wrong_password_is_the_boards_to_refuse(desk, running):
    with connect(f"ws://127.0.0.1:{running.port}") as ws:
        until(ws, "Password: ")
        ws.send("wrong\r")
        with pytest.raises(ConnectionClosed):
            until(ws, ">>> ")


@pytest.mark.parametrize(
    "more, status",
    [
        ("Origin: http://evil.example\nUser-Agent: Mozilla/5.0\n", 403),
        ("Origin: http://evil.example\n", 403),
        ("Origin: null\nUser-Agent: Mozilla/5.0\n", 403),
        ("Origin: https://micropython.org\nUser-Agent: Mozilla/5.0\n", 403),  # another scheme is another page
        ("Origin: http://micropython.org.evil.example\nUser-Agent: Mozilla/5.0\n", 403),
        ("Origin: http://micropython.org\nOrigin: http://evil.example\n", 403),
        ("Origin : http://evil.example\n", 400),
        ("X: y\n Origin: http://evil.example\n", 400),
        # a page that was served from this address before, by another program
        ("Origin: http://127.0.0.1:{port}\nUser-Agent: Mozilla/5.0\n", 403),
    ],
)
def test_a_page_that_was_not_asked_for_is_refused(desk, running, more, status):
    before = desk.board.log.count(b"Password")
    said = ask(desk, running.port, UPGRADE.format(host=f"127.0.0.1:{running.port}") + more.format(port=running.port))
    assert said.startswith(f"HTTP/1.1 {status} ") and "Switching" not in said, said
    assert desk.board.log.count(b"Password") == before


def test_a_name_that_was_rebound_to_this_address_is_refused(desk, running):
    more = f"Origin: {PAGE}\nUser-Agent: Mozilla/5.0\n"
    assert ask(desk, running.port, UPGRADE.format(host="evil.example") + more).startswith("HTTP/1.1 403 ")


@pytest.mark.parametrize(
    "head, status",
    [
        ("GET / HTTP/1.1\nHost: 127.0.0.1\n", 426),
        ("POST / HTTP/1.1\nContent-Length: 0\n", 405),
        ("\x16\x03\x01\n", 405),
        ("GET /" + "a" * 9000 + " HTTP/1.1\n", 431),
    ],
)
def test_what_is_no_websocket_request_goes_no_further(desk, running, head, status):
    assert ask(desk, running.port, head).startswith(f"HTTP/1.1 {status} ")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs a second user")
def test_another_user_is_refused(desk, running):
    request = UPGRADE.format(host="127.0.0.1").replace("\n", "\r\n") + "\r\n"
    code = (
        f"import socket\ns = socket.create_connection(('127.0.0.1', {running.port})); s.settimeout(30)\n"
        f"s.sendall({request.encode()!r}); print(s.recv(4096))"
    )
    done = subprocess.run(["/usr/bin/env", "python3", "-c", code], user=65534, capture_output=True, text=True)
    assert "403 Forbidden" in done.stdout and "another user" in done.stdout, done.stdout + done.stderr


def test_who_is_refused_and_goes_on_sending_is_left(running):
    """Of another user, for instance: nobody else would be accepted."""
    ours, theirs = socket.socketpair()
    with theirs:
        flood = threading.Thread(target=_send_until_closed, args=(theirs,), daemon=True)
        flood.start()
        refusing = threading.Thread(target=proxy._end, args=(ours, proxy._Refused("403 Forbidden", "no")), daemon=True)
        refusing.start()
        refusing.join(60)
        assert not refusing.is_alive()


def _send_until_closed(sock):
    with contextlib.suppress(OSError):
        while True:
            sock.send(b"x")


def test_it_listens_on_the_loopback_interface_alone(running):
    with open("/proc/net/tcp") as table:
        rows = [line.split() for line in table.readlines()[1:]]
    mine = [r[1] for r in rows if r[3] == "0A" and r[1].endswith(f":{running.port:04X}")]
    assert mine == [f"0100007F:{running.port:04X}"]
    with open("/proc/net/tcp6") as table:
        assert not [line for line in table if f":{running.port:04X} " in line.split()[1] + " " and " 0A " in line]


def test_one_session_is_the_boards_rule(desk, running):
    """A second client is told by the board who is in, and gets in with /takeover."""
    with connect(f"ws://127.0.0.1:{running.port}") as first:
        until(first, "Password: ")
        first.send(PASSWORD + "\r")
        until(first, ">>> ")
        with proxied(desk, "--takeover") as other, connect(f"ws://127.0.0.1:{other.port}") as second:
            until(second, "Password: ")
            second.send(PASSWORD + "\r")
            until(second, ">>> ")
            with pytest.raises(ConnectionClosed):
                until(first, "never")


def test_a_board_that_is_off_is_said_to_client_and_operator(desk):
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        free = nobody.getsockname()[1]
    gone = type("Gone", (), {"url": f"wss://127.0.0.1:{free}", "env": desk.env})
    with proxied(gone) as process:
        with pytest.raises(InvalidStatus) as refused:
            connect(f"ws://127.0.0.1:{process.port}")
        assert refused.value.response.status_code == 502
        assert b"refuses connections" in refused.value.response.body
        assert "refuses connections" in process.stderr.readline() + process.stderr.readline()


def asleep(pid):
    """Whether a process waits for something (proc_pid_stat(5))."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits of another process are Linux's")
def test_out_of_descriptors_it_tells_and_goes_on(desk):
    with proxied(desk) as process:
        assert "Ctrl-C ends it" in process.stderr.readline()
        while not asleep(process.pid):  # in accept()
            time.sleep(0.01)
        open_now = {int(name) for name in os.listdir(f"/proc/{process.pid}/fd")}
        free = next(n for n in range(len(open_now) + 1) if n not in open_now)
        soft, hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (free, hard))
        told = "no connection can be taken (Too many open files)"
        # The accept() that waits has its descriptor already, but there is none to look up whose the connection is
        with socket.create_connection(("127.0.0.1", process.port)) as sock:
            assert told in process.stderr.readline()
            sock.settimeout(30)
            assert sock.recv(1) == b""
        assert told in process.stderr.readline()  # the next accept() has none
        with socket.create_connection(("127.0.0.1", process.port)) as sock:
            sock.sendall(b"PUT / HTTP/1.1\r\n\r\n")
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (soft, hard))
            sock.settimeout(30)
            assert sock.recv(12) == b"HTTP/1.1 405"


def test_what_makes_no_sense_is_refused_at_once(desk, running):
    def said(*words):
        done = desk.run(*WSSCTL, "proxy", *words)
        assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
        return done.stderr

    assert "plain ws already" in said("ws://127.0.0.1")
    assert "--local-port" in said(desk.url, "--local-port", str(running.port))
    assert "no origin" in said(desk.url, "--origin", "micropython.org")


def test_the_request_that_the_board_gets():
    head = UPGRADE.format(host="127.0.0.1:5").strip().replace("\n", "\r\n").encode()
    page = head + b"\r\nOrigin: http://micropython.org\r\nSec-WebSocket-Protocol: a, b"
    got = proxy.checked_request(page, 5, {PAGE}, "/takeover")
    assert got.startswith(b"GET /takeover HTTP/1.1\r\n") and got.endswith(b"\r\n\r\n") and b"Origin" not in got
    assert b"\r\nSec-WebSocket-Protocol: a, b\r\n" in got
    got = proxy.checked_request(head + b"\r\nOrigin: http://localhost:5", 5, set())  # as websocket-client sends it
    assert got == head + b"\r\n\r\n"
    with pytest.raises(UsageError):
        proxy._origin("http://micropython.org/webrepl")
