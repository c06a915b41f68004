"""Each example runs as it is in examples/ but for its port, Wi-Fi's name, and how long it waits for that.

The stand-in has no Wi-Fi: network, ntptime and rp2 are in tests/board_api, which says what they do.
"""

import contextlib
import shutil
import time
from datetime import UTC, datetime

import pytest
from board import Board
from peers import PROMPT, Peer
from ports import free_port
from targets import ROOT

YEAR_2000 = int(datetime(2000, 1, 1, tzinfo=UTC).timestamp())


@contextlib.contextmanager
def running(directory, name, place, ntp=True, wifi="home", until=b"wss_repl: listening", lacks=(), looks=10):
    port = free_port()
    text = (ROOT / "examples" / name).read_text()
    assert text.count("wss_repl.start(ssl=True)") == 1
    text = text.replace("start(ssl=True)", f"start(port={port}, ssl=True)").replace('("name",', f'("{wifi}",')
    text = text.replace("range(150)", f"range({looks})").replace("range(200)", f"range({looks})")
    (directory / place).write_text(text)
    (directory / "webrepl_cfg.py").write_text("PASS = 'secret'\n")
    now = datetime.now(UTC)
    (directory / "ntp.txt").write_text(" ".join(map(str, now.timetuple()[:6])) if ntp else "none")
    shutil.copytree(ROOT / "tests" / "board_api", directory / "lib", ignore=shutil.ignore_patterns(*lacks))
    # the firmware's clock counts from this machine's: a board that was just given power
    clock = YEAR_2000 - int(time.time())
    with Board(directory, 32, env={"BOARD_CLOCK": str(clock)} if place == "boot.py" else {}) as board:
        said = board.read_until(until, 60).decode()
        yield board, ("127.0.0.1", port), said


@pytest.mark.parametrize("name", ["esp32_boot.py", "pico_w_boot.py"])
def test_boot(provisioned, keys, name):
    with running(provisioned, name, "boot.py") as (_, address, said), Peer(address, keys.host) as peer:
        assert "wlan connect home password" in said and ("country DE" in said) == name.startswith("pico")
        assert peer.login().value("__import__('time').gmtime()[:3]") == datetime.now(UTC).timetuple()[:3]


@pytest.mark.parametrize("name", ["esp32_boot.py", "pico_w_boot.py"])
def test_boot_without_ntp(provisioned, keys, name):
    """The clock is then the board's certificate's first day, which the host's, made at the same time, is valid on."""
    with running(provisioned, name, "boot.py", ntp=False) as (_, address, said), Peer(address, keys.host) as peer:
        assert "boot: no time from NTP: [Errno 110] ETIMEDOUT" in said
        assert peer.login().command("1+1") == b"2\r\n"


@pytest.mark.parametrize("name", ["esp32_boot.py", "pico_w_boot.py"])
def test_boot_without_wifi_listens_all_the_same(provisioned, keys, name):
    with running(provisioned, name, "boot.py", wifi="out of reach") as (board, address, said):
        assert "boot: not in Wi-Fi out of reach" in said
        with Peer(address, keys.host) as peer:
            peer.login()


@pytest.mark.parametrize("name", ["esp32_boot.py", "pico_w_boot.py"])
def test_boot_listens_when_a_ctrl_c_ends_the_wait_for_wifi(provisioned, keys, name):
    """pico_w_boot.py's wait ends by itself when there is no such network: the stand-in says that it still looks."""
    with running(
        provisioned, name, "boot.py", wifi="still looked for", until=b"wlan connect still", looks=1 << 20
    ) as (board, address, _):
        board.write(b"\x03")
        said = board.read_until(b">>> ", 60)
        assert b"wss_repl: listening" in said and b"KeyboardInterrupt" in said
        with Peer(address, keys.host) as peer:
            peer.login()


def test_boot_while_the_station_still_connects_waits_for_it(provisioned, keys):
    """As after a soft reset in that moment: connect() raises then."""
    with running(provisioned, "esp32_boot.py", "boot.py", wifi="joined already") as (_, address, said):
        assert "Wifi Internal State Error" in said and "not in Wi-Fi" not in said
        with Peer(address, keys.host) as peer:  # the clock was set: it went on as in Wi-Fi
            assert peer.login().value("__import__('time').gmtime()[:3]") == datetime.now(UTC).timetuple()[:3]


@pytest.mark.parametrize("name", ["esp32_boot.py", "pico_w_boot.py"])
@pytest.mark.parametrize("how", ["joined already", "no driver"])
def test_boot_listens_whatever_wifi_does(provisioned, keys, name, how):
    lacks = ["network.py"] if how == "no driver" else []
    with running(provisioned, name, "boot.py", wifi=how, lacks=lacks) as (_, address, said):
        assert name.startswith("esp32") and how == "joined already" or "boot: no Wi-Fi: " in said
        with Peer(address, keys.host) as peer:
            peer.login()


@pytest.mark.parametrize("name", ["esp32_boot.py", "pico_w_boot.py"])
def test_boot_without_keys_ends_at_a_prompt(tmp_path, name):
    directory = tmp_path / "empty"
    directory.mkdir()
    with running(directory, name, "boot.py", until=b">>> ") as (_, _, said):
        assert "boot: no secure REPL: no private key: put SSL_key" in said


def interrupt(peer):
    peer.text("\x03")
    peer.until(PROMPT, 60)


def test_asyncio(provisioned, keys):
    with running(provisioned, "asyncio_main.py", "main.py") as (_, address, _), Peer(address, keys.host) as peer:
        peer.login(prompt=None)
        peer.until(b"ticks ", 60)  # the program's output, while it runs
        assert peer.put(b"x", b"y" * 3000) == 0 and peer.get(b"x") == b"y" * 3000
        before = int(peer.until(b"\r\n", 60).split()[-1])
        assert int(peer.until(b"00\r\n", 60).split()[-1]) > before
        interrupt(peer)
        stopped = peer.value("ticks")
        assert peer.value("ticks") == stopped
        peer.text("main()\r")
        peer.until(b"ticks ", 60)
        interrupt(peer)
        assert peer.value("ticks") > stopped
