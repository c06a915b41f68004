"""Every command that talks to a board, against servers of every kind that are none, or a stolen one. The commands are
those of the parser itself, so that a new one is among them; one that takes a new kind of argument has to be told here
what to give. SWEEP=long tries all with all (tests/evidence), else each meets some."""

import argparse
import contextlib
import os
import resource
import shutil
import signal
import socket
import struct
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from desk import PASSWORD, WSSCTL
from peers import Identity
from targets import UID
from test_hostile import ESC, Server, close_reason, for_ever, frame, login, raw, text
from test_update_firmware import image
from wssctl.boards.registry import Registry
from wssctl.cli import build_parser
from wssctl.errors import WssctlError
from wssctl.keys import ca, trustlist
from wssctl.keys.store import Store
from wssctl.wire.client import Client
from wssctl.wire.link import Credentials

LONG = os.environ.get("SWEEP") == "long"
_MEMORY = 250 << 20  # bytes: with all that some commands import
_UNTIL_CTRL_C = ("bridge", "proxy")  # which end when somebody ends them

# What is given for an argument, by its metavar
GIVEN = {
    "BOARD": ["board"], "NAME": ["board"], "CODE": ["print(1)"], "PATH": ["evil", "here"], "FILE": ["firmware.app-bin"],
    "HOST": ["ab" * 32],
}  # fmt: skip
COMMANDS = {"mpremote": ["fs", "ls"], "shell": ["ls"]}


def commands():
    """{words: the arguments that go behind them} of each command that waits for a board over the network."""
    found = {}

    def walk(parser, words):
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for name, below in action.choices.items():
                    walk(below, [*words, name])
                return
        positional = [a for a in parser._actions if not a.option_strings]
        waits = any("--timeout" in a.option_strings for a in parser._actions)
        if waits and not any(a.metavar == "PORT" for a in positional):  # that is a cable
            given = []
            for a in positional:
                given += COMMANDS[words[-1]] if a.nargs == argparse.REMAINDER else GIVEN[a.metavar]
            found[" ".join(words)] = given + (["--all"] if words == ["boards", "renew"] else [])

    walk(build_parser(), [])
    return found


# Servers: `before(sock)` speaks instead of TLS, `behave(stream, upgrade)` inside of it


class Plain(Server):
    def serve(self, sock):
        with contextlib.suppress(OSError), sock:
            self.heard = True
            self.behave(sock, None)


def silent(s, _):
    while s.recv(65536):
        pass


def floods(s, _):
    for_ever(s, b"A" * 65_000)


def http(s, _):
    s.recv(4096)
    s.sendall(b"HTTP/1.1 400 Bad\r\nContent-Type: text/html\r\n\r\n<html>" + ESC.encode())


def hangs_up(s, _):
    s.close()


def handshake_without_end(s, _):
    s.recv(4096)
    s.sendall(b"\x16\x03\x03\x40\x00\x0b\xff\xff\xff" + bytes(16380))  # a Certificate of 16 MB
    for_ever(s, b"\x16\x03\x03\x40\x00" + bytes(16384))


def drips_records(s, _):
    s.recv(4096)
    for_ever(s, b"\x16\x03\x03\x00\x01\x02", 0.1)


def hangs_up_in_the_upgrade(s, up):
    s.sendall(up[:30])
    s.close()


def hangs_up_at_the_password(s, up):
    s.sendall(up + text(b"Password: "))
    s.recv(4096)
    s.close()


def hangs_up_when_asked(s, up):
    login(s, up)
    s.recv(4096)
    s.close()


def silent_when_asked(s, up):
    login(s, up)
    silent(s, up)


def prints_for_ever(s, up):
    login(s, up)
    for_ever(s, text(f"{ESC}tick\r\n".encode()), 0.02)


def prints_without_a_pause(s, up):
    login(s, up)
    for_ever(s, text(b"A" * 65_000))


def four_gigabytes(s, up):
    login(s, up)
    s.recv(4096)
    s.sendall(bytes([0x81, 127]) + struct.pack(">Q", 4 << 30))
    for_ever(s, b"A" * 65_000)


def four_gigabytes_of_a_file(s, up):
    login(s, up)
    s.recv(4096)
    s.sendall(frame(2, b"WB\0\0"))
    s.sendall(bytes([0x82, 127]) + struct.pack(">Q", 4 << 30))
    for_ever(s, b"A" * 65_000)


def answers_without_end(s, up):
    raw(s, up)
    for_ever(s, text(b"<:0 1 - 61:>" * 4000))


OF_TCP = [silent, floods, http, hangs_up, handshake_without_end, drips_records]
OF_TLS = [
    silent, floods, close_reason, hangs_up_in_the_upgrade, hangs_up_at_the_password, hangs_up_when_asked,
    silent_when_asked, prints_for_ever, prints_without_a_pause, four_gigabytes, four_gigabytes_of_a_file,
    answers_without_end,
]  # fmt: skip
CERTIFICATES = ["foreign", "huge", "of another board"]
SERVERS = [*((Plain, b) for b in OF_TCP), *((Server, b) for b in OF_TLS), *((Server, c) for c in CERTIFICATES)]


def certificates(keys, folder):
    """Identities of servers that are not the board: of another CA, one with a certificate of 90 KB, another board."""
    key = serialization.load_pem_private_key(keys.device_as_host.key.read_bytes(), None)
    now, name = datetime.now(UTC), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"{ESC}board")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 7, now - timedelta(1), now + timedelta(9))
    names = x509.SubjectAlternativeName([x509.DNSName(f"a{i}." + "b" * 60 + ".example") for i in range(1200)])
    huge = builder.add_extension(names, False).sign(key, hashes.SHA256())
    (folder / "huge.pem").write_bytes(huge.public_bytes(ca.PEM))
    other = keys.ca.device("240ac4ffffff", names=["other"], addresses=["127.0.0.1"])
    pem = serialization.load_der_private_key(other.key_der, None).private_bytes(
        ca.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "other.key").write_bytes(pem)
    (folder / "other.pem").write_bytes(other.cert_pem)
    plain = serialization.load_pem_private_key(keys.foreign.key.read_bytes(), keys.passphrase.encode())
    (folder / "foreign.key").write_bytes(
        plain.private_bytes(ca.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return {
        "foreign": Identity(keys.ca_file, keys.foreign.cert, folder / "foreign.key"),
        "huge": Identity(keys.ca_file, folder / "huge.pem", keys.device_as_host.key),
        "of another board": Identity(keys.ca_file, folder / "other.pem", folder / "other.key"),
    }


@pytest.fixture(scope="module")
def sweep(keys, tmp_path_factory):
    """{(command, server): the process that ended}. They mostly wait, so many wait at once."""
    folder = tmp_path_factory.mktemp("sweep")
    base = folder / "keys"
    store = Store(base)
    host_key, host_cert = store.host_files("726f6f74")
    store.write({
        store.ca_cert: keys.ca.cert_pem, store.ca_key: keys.ca.key_pem(keys.passphrase),
        host_key: keys.host.key.read_bytes(), host_cert: keys.host.cert.read_bytes(),
        store.device_files(UID)["cert_pem"]: keys.device_as_host.cert.read_bytes(),
    })  # fmt: skip
    with store.record.change() as db:  # so that something waits for the board, which every command brings along
        e = trustlist.Entry("revoked", "cd" * 32)
        trustlist.learn(db, "", {e.key: e})
    others = certificates(keys, folder)

    def run(case):
        i, (words, given), (kind, behave) = case
        here = folder / f"run{i}"
        shutil.copytree(base, here / "keys")
        (here / "evil").write_bytes(b"x")
        (here / "firmware.app-bin").write_bytes(image("1.2.3"))
        identity = others.get(behave)
        with kind(keys, (lambda s, up: login(s, up)) if identity else behave, identity) as server:
            port = int(server.url.rpartition(":")[2])
            Registry(Store(here / "keys")).update("board", seen=False, host="127.0.0.1", port=port, uid=UID)
            env = {k: v for k, v in os.environ.items() if not k.startswith("WSSCTL")} | {
                "WSSCTL_KEYS": str(here / "keys"), "WSSCTL_PASSPHRASE": keys.passphrase, "WSSCTL_PASSWORD": PASSWORD,
                "PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring",
            }  # fmt: skip
            process = subprocess.Popen(
                [*WSSCTL, *words.split(), "--timeout", "1.5", *given], cwd=here, env=env, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY)),
            )  # fmt: skip
            said = b""
            if words in _UNTIL_CTRL_C:
                said = process.stdout.readline()
                if not said.startswith(b"wssctl: "):  # else it ends by itself
                    process.send_signal(signal.SIGINT)
            try:
                said += process.communicate(timeout=300)[0]
                code = process.returncode
            except subprocess.TimeoutExpired:  # it waits for ever
                process.kill()
                process.wait()
                code = None
        return (words, kind.__name__, getattr(behave, "__name__", behave)), (code, said.decode())

    every = list(commands().items())
    step = 1 if LONG else len(SERVERS)
    cases = [(c, s) for i, c in enumerate(every) for j, s in enumerate(SERVERS) if (i + j) % step == 0]
    if not LONG:  # and each server is met by somebody
        cases += [(every[0], s) for s in SERVERS if s not in [s for _, s in cases]]
    with ThreadPoolExecutor(6) as pool:
        return dict(pool.map(run, [(i, *case) for i, case in enumerate(cases)]))


def test_the_commands_are_those_of_the_parser():
    found = commands()
    assert {"exec", "repl", "status", "update", "firmware", "log", "shell", "mpremote", "put", "get"} < set(found)
    assert {"host revoke", "host pin", "ca rotate", "boards renew", "boards apply", "password"} < set(found)


def test_every_command_ends_with_a_sentence_whatever_a_server_does(sweep):
    assert {words for words, *_ in sweep} == set(commands())
    assert {(kind, behave) for _, kind, behave in sweep} == {
        (kind.__name__, getattr(b, "__name__", b)) for kind, b in SERVERS
    }
    wrong = {}
    for case, (code, said) in sweep.items():
        raw_escape = ("\x1b" in said or "\x07" in said) and case[0] != "repl"
        no_sentence = code is not None and case[0] not in _UNTIL_CTRL_C and (not 0 < code <= 130 or not said.strip())
        if raw_escape or no_sentence or code is None or "Traceback" in said or "MemoryError" in said:
            wrong[case] = code, said[-1500:]
    assert not wrong, "\n".join(f"{case}: {what}" for case, what in wrong.items())


def test_a_server_that_hangs_up_at_each_byte(keys):
    """Of the handshake, the upgrade and the login: an error of ours each time, and none of Python's."""
    step = 1 if LONG else 211
    credentials = Credentials(keys.ca_file, keys.host.cert, keys.host.key, keys.host.passphrase)
    sent, asked = 0, False

    def answers_nothing(s, up):
        nonlocal asked
        login(s, up)
        asked = s.recv(4096)[:1] == b"\x81"  # what it is to run, and no CLOSE
        s.close()

    def relay(listener, port, most):
        nonlocal sent
        with contextlib.suppress(OSError):
            near = listener.accept()[0]
            with near, socket.create_connection(("127.0.0.1", port)) as far:

                def up():
                    with contextlib.suppress(OSError):
                        while data := near.recv(4096):
                            far.sendall(data)
                        far.shutdown(socket.SHUT_WR)

                threading.Thread(target=up, daemon=True).start()
                while sent < most and (data := far.recv(min(4096, most - sent))):
                    near.sendall(data)
                    sent += len(data)
                for sock in (near, far):  # a close() alone waits for the thread that reads
                    with contextlib.suppress(OSError):
                        sock.shutdown(socket.SHUT_RDWR)

    with Server(keys, answers_nothing) as server:
        port = int(server.url.rpartition(":")[2])
        at = early = 0
        while not asked:  # the whole of a session, at last
            sent = 0
            with socket.create_server(("127.0.0.1", 0)) as listener:
                worker = threading.Thread(target=relay, args=(listener, port, at))
                worker.start()
                with pytest.raises(WssctlError) as found:
                    url = "wss://127.0.0.1:%d" % listener.getsockname()[1]
                    with Client.connect(url, credentials, PASSWORD, timeout=60) as board:
                        board.exec("1")
                assert str(found.value)
                listener.close()
                worker.join(600)
            if sent == at:
                at += step
            elif not asked:  # cut by nobody: a machine so busy that somebody's time was over
                early += 1
                assert early < 5, f"{found.value}, after {sent} bytes of {at}"
