"""Where a board says that it listens, and IPv6."""

import os
import socket
import subprocess

import pytest
from desk import WSSCTL
from peers import Peer
from targets import UID

# Interfaces as MicroPython's ports have them. Only ESP32's LAN() gives the one that is there; elsewhere it begins anew.
NETWORK = """
import sys
class Interface:
    def __init__(self, address, *six, active=True):
        self.address = address
        self.six = six
        self.is_active = active
    def active(self):
        return self.is_active
    def ifconfig(self):
        return (self.address, "255.255.255.0", "192.0.2.1", "192.0.2.1")
    def ipconfig(self, what):
        if not self.six:
            raise ValueError("unexpected key")
        return [(a, 48, 100, 100) for a in self.six]
class network:
    STA_IF = 0
    AP_IF = 1
    def WLAN(i):
        return Interface("0.0.0.0" if i == 0 else "192.168.4.1", active=False)
    def LAN():
        raise TypeError("'mdc' argument required")
sys.modules["network"] = network
"""
FOUND = {
    "nothing": ("", ["0.0.0.0"], ["[::]"]),
    "no network module": ("del sys.modules['network']", ["0.0.0.0"], ["[::]"]),
    "Wi-Fi": (
        "network.WLAN = lambda i: Interface(('192.0.2.7', '192.168.4.1')[i], 'fe80::1')",
        ["192.0.2.7", "192.168.4.1"],
        ["192.0.2.7", "[fe80::1]", "192.168.4.1", "[fe80::1]"],
    ),
    "Wi-Fi that is not joined": ("network.WLAN = lambda i: Interface('0.0.0.0')", ["0.0.0.0"], ["[::]"]),
    "a LAN of boot.py": ("lan = Interface('192.0.2.8', '2001:db8::8')", ["192.0.2.8"], ["192.0.2.8", "[2001:db8::8]"]),
    "PPP of boot.py": ("ppp = Interface('192.0.2.9')", ["192.0.2.9"], ["192.0.2.9"]),
    "a firmware without Wi-Fi": (
        "del network.WLAN; lan = same = Interface('192.0.2.8')",
        ["192.0.2.8"],
        ["192.0.2.8"],
    ),
    "begun twice elsewhere": ("network.LAN = lambda: print('begun anew')", ["0.0.0.0"], ["[::]"]),
}


@pytest.mark.parametrize("what", FOUND)
@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_every_interface_is_named(target, provisioned, what, host):
    code, four, six = FOUND[what]
    boot = NETWORK + code
    with target.board(provisioned, boot=boot, options=f", host={host!r}", ready="\n", prompt=False) as board:
        said = board.console.read_until(b">>> ", 60).decode()
        said = board.console.log.decode()
        want = ", ".join(f"wss://{a}:{board.port}" for a in (four if host == "0.0.0.0" else six))
        assert f"wss_repl: listening on {want} with Timer" in said, said
        assert "begun anew" not in said


def test_ethernet_on_esp32_is_asked_for(target, provisioned):
    """LAN() gives the one there is (ports/esp32/network_lan.c), wherever the program keeps it."""
    boot = NETWORK + (
        "import wss.probe\nclass esp32:\n    platform = 'esp32'\n    modules = sys.modules\nwss.probe.sys = esp32\n"
        "_lan = [Interface('192.0.2.8')]\nnetwork.LAN = lambda: _lan[0]\n"
    )
    with target.board(provisioned, boot=boot) as board:
        assert f"listening on wss://192.0.2.8:{board.port} with Timer" in board.console.log.decode()


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as s:
            s.bind(("::1", 0))
        return True
    except OSError:
        return False


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize("host", ["::1", "::"])
def test_ipv6(target, provisioned, keys, host):
    device = keys.ca.device(UID, names=["localhost"], addresses=["::1", "127.0.0.1"], ports=[8833])
    (provisioned / f"SSL_key{UID}.der").write_bytes(device.key_der)
    (provisioned / f"SSL_certificate{UID}.der").write_bytes(device.cert_der)
    env = os.environ | {
        "WSSCTL_KEYS": str(keys.directory),
        "WSSCTL_PASSPHRASE": keys.passphrase,
        "WSSCTL_PASSWORD": "secret",
    }
    with target.board(provisioned, options=f", host={host!r}") as board:
        assert f"listening on wss://[{host}]:{board.port} with Timer".encode() in board.console.log
        code = "import wss_repl; print(wss_repl.status()['client'][0])"
        done = subprocess.run(
            [*WSSCTL, "exec", f"wss://[::1]:{board.port}", code], env=env, capture_output=True, timeout=180
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout == b"::1\n"
        if host == "::":  # IPv4, too
            with Peer(board.address, keys.host) as peer:
                peer.login()
                assert peer.value("__import__('wss_repl').status()['client'][0]").endswith("127.0.0.1")


@pytest.mark.parametrize("host", ["no such host", "300.1.2.3", "::zz", "192.0.2.1"])
def test_a_host_that_is_no_address_of_the_board_is_refused(target, provisioned, host):
    call = (
        f"try: wss_repl.start(password='secret', host={host!r})\n"
        "except ValueError as e: print('refused:', e, wss_repl.status()['listening'])"
    )
    ready = f"refused: host is an address of this board, and the firmware knows none like {host} []"
    with target.board(provisioned, call=call, ready=ready):
        pass
