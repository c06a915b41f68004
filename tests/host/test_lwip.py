"""The board on the desk whose sockets are lwIP's, as on a Pico W: that it is what it says, and what must hold on it.

`pytest --target lwip` runs any test on it. In a run without that, one test here starts another pytest for a short cut,
because the board needs a network namespace (tests/netns.py).
"""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from lwip_link import Link
from peers import PROMPT, Ended, Peer

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tools/dev"))

import firmware  # noqa: E402

lwip = [pytest.mark.targets("lwip"), pytest.mark.needs("lwip")]

# Not the storm: of 1,000 interrupted programs one had its last line cut before the traceback (open; make evidence).
SHORT_CUT = (
    "tests/host/test_lwip.py", "tests/board_suite", "tests/evidence/test_lwip_link.py", "-k",
    "not 20_logins and not reset and not storm and not no_write_waits or 3-60",
)  # fmt: skip


def test_a_short_cut_on_it():
    """What CI runs of it."""
    if "WSS_TEST_NETNS" in os.environ:
        pytest.skip("this run is on it already")
    try:
        firmware.lwip_firmware()
    except firmware.NoLwip as e:
        pytest.skip(str(e))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--target", "lwip", *SHORT_CUT],
        cwd=ROOT, capture_output=True, text=True, timeout=1200,
    )  # fmt: skip
    last = done.stdout.rstrip().splitlines()[-1] if done.stdout else done.stderr
    if done.returncode == 0 and " passed" not in last:
        pytest.skip(done.stdout[-1000:].split("SKIPPED", 1)[-1])
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


class Lwip:
    pytestmark = lwip


class TestTheBoard(Lwip):
    def test_its_sockets_are_modlwips(self, board):
        board.run("import socket, sys, _thread, network")
        assert board.run("socket.socket()").startswith("<socket state=0 timeout=-1 incoming="), "extmod/modlwip.c's"
        assert board.run("network.WLAN(network.STA_IF).ifconfig()[0]") == repr(board.address[0])
        board.run("from wss import port")
        assert board.run("port.has_socket_callback, port.has_gil") == "(True, False)"

    def test_its_clock_starts_in_2021(self, target, provisioned, monkeypatch):
        monkeypatch.setattr(type(target), "boot", "import time\nprint('boot', time.gmtime()[:3])\n")
        with target.board(provisioned) as board:
            assert b"boot (2021, 1, 1)" in board.console.log

    def test_tls_lives_in_the_python_heap(self, board, keys):
        board.run("import gc")
        used = "(gc.collect(), gc.mem_alloc())[1]"
        before = int(board.run(used))
        with Peer(board.address, keys.host) as peer:
            peer.login()
            assert int(board.run(used)) - before > 20_000, "mbedTLS's buffers alone are 16 KB and 4 KB"

    def test_no_room_for_tls_is_told_as_that(self, board, keys):
        """Not as a lost connection. Who frees memory is let in."""
        board.run("import gc; kept = []")
        board.run(r"exec('while gc.collect() or gc.mem_free() > 30_000:\n kept.append(bytearray(2000))')")
        with pytest.raises((Ended, ConnectionError)), Peer(board.address, keys.host) as peer:
            peer.login()
        assert board.run("wss_repl.status()['refused']") == "{'out of memory': 1}"
        board.run("kept.clear(); gc.collect()")
        with Peer(board.address, keys.host) as peer:
            assert peer.login().command("1+1") == b"2\r\n"

    def full(self, board):
        """Beside the session that is open there is no room for the TLS of a second one."""
        board.run("import gc; kept = []")
        board.run(r"exec('while gc.collect() or gc.mem_free() > 20_000:\n kept.append(bytearray(500))')")

    def test_a_session_whose_peer_vanished_makes_room(self, board, keys):
        """It was kept until the next reset, since who wants to take over needs TLS first."""
        with Peer(board.address, keys.host) as ghost:
            ghost.login()  # and reads no more: it answers no PING
            self.full(board)
            refused, end = 0, time.monotonic() + 60
            while True:
                with Peer(board.address, keys.host) as peer:
                    try:
                        peer.login()
                        break
                    except (Ended, ConnectionError):
                        refused += 1
                        assert time.monotonic() < end, board.run("wss_repl.status()")
            assert eval(board.run("wss_repl.status()['refused']")) == {"out of memory": refused, "silent": 1}
            assert refused

    def test_a_session_whose_peer_lives_goes_on_without_room(self, board, keys):
        with Peer(board.address, keys.host) as first:
            first.login()
            self.full(board)
            with pytest.raises((Ended, ConnectionError)), Peer(board.address, keys.host) as peer:
                peer.login()
            assert board.run("wss_repl._server.session.asked") == "True"
            first.text("6 * 7777\r")  # and reads, so that the PING is answered, but this would do, too
            first.until(b"46662\r\n")
            assert board.run("wss_repl._server.session.asked") == "False"

    def test_the_timer_is_known_as_ours_and_stops(self, board):
        """RP2 prints a period in microseconds: one that was not known as ours ran on after stop(), for ever."""
        board.run("from wss import port")
        board.run("s = wss_repl._server")
        assert board.run("port.is_ours(s.timer)") == "True"
        board.run("wss_repl.stop()")
        board.run("s._cause = None")
        board.run("import time; time.sleep_ms(200)")
        assert board.run("s._cause") == "", "a timer still makes steps"

    def test_a_socket_of_a_program(self, board):
        """100 KB through a program's own sockets and back, and the end of it."""
        port = 7000
        for line in (
            "import socket",
            "s = socket.socket()",
            f"s.bind(socket.getaddrinfo('0.0.0.0', {port})[0][-1])",
            "s.listen(1)",
            r"exec('def echo():\n c = s.accept()[0]\n while 1:\n  x = c.recv(1000)\n  if not x: break\n  c.sendall(x)\n"
            r" c.close()\n print(\'end of it\')')",
        ):
            assert "Traceback" not in board.run(line)
        board.console.write(b"echo()\r")
        from socket import SHUT_WR, create_connection

        data = bytes(range(256)) * 400
        with create_connection((board.address[0], port), 20) as sock:

            def send():
                sock.sendall(data)
                sock.shutdown(SHUT_WR)

            sender = threading.Thread(target=send)
            sender.start()
            got = b""
            while piece := sock.recv(65536):
                got += piece
            sender.join()
        assert got == data
        board.console.read_until(b"end of it\r\n")


@pytest.fixture
def link(tmp_path):
    return Link(tmp_path / "link")


def taking_over(board, keys):
    """A second TLS session beside the first one may find no memory until that has ended, at its deadline."""
    end = time.monotonic() + 60
    while True:
        peer = Peer(board.address, keys.host, timeout=60)
        try:
            return peer.login(path=b"/takeover", prompt=None)
        except (Ended, ConnectionError):
            peer.close()
            if time.monotonic() > end:
                raise


class TestAClientThatStopsReading(Lwip):
    """TCP's memory is full then, and modlwip.c waits in a write for up to ten seconds."""

    @pytest.mark.parametrize("line", ["'x'", "60 * 'x'", "500 * 'x'"])
    @pytest.mark.parametrize("pause", [0, 3])
    def test_no_write_waits(self, target, provisioned, keys, link, line, pause):
        """Neither those of its session, which ends at the deadline, nor those of the next."""
        with target.board(provisioned, env=link.env) as board:
            stalled = Peer(board.address, keys.host, rcvbuf=2048).login()
            stalled.text(f"import time\rwhile True: print({line}); time.sleep_ms({pause})\r\r")
            stalled.until(b"xx" if line != "'x'" else b"x\r\nx")
            with taking_over(board, keys) as peer:
                peer.text("\x03")
                peer.until(b"KeyboardInterrupt", 60)
                peer.until(PROMPT)
                assert peer.command("1+1") == b"2\r\n"
            stalled.close()
        assert link["packets"] > 20
        assert link["no_memory"] == 0
