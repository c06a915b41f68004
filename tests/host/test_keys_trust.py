"""Who is turned away although the CA signed him, and what a board does about its clock. Over real logins."""

import hashlib
import os
import ssl
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from peers import Ended, Identity, Peer

FILE = b"wss_trust.txt"


def fingerprint(identity) -> str:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(identity.cert.read_text())).hexdigest()


def serial(identity) -> str:
    return "%x" % x509.load_pem_x509_certificate(identity.cert.read_bytes()).serial_number


def refused(connect, identity, alert="access denied"):
    with pytest.raises((ssl.SSLError, Ended, ConnectionError)) as e:
        connect(identity).upgrade()
    assert alert in str(e.value).lower()


def last(board):
    return board.run("print(wss_repl.status()['last_refusal'])")


@pytest.mark.parametrize("which", [fingerprint, serial])
def test_a_revoked_host_is_refused_from_the_next_login_on(board, connect, keys, which):
    first = connect(keys.second).login()
    assert first.put(FILE, b"# lost laptop\nrevoked %s # ana\nend\n" % which(keys.second).encode()) == 0
    assert first.command("print(6*7)") == b"42\r\n"  # a session that runs goes on
    first.close()
    refused(connect, keys.second)
    assert "is revoked in wss_trust.txt" in last(board) and serial(keys.second) in last(board)
    assert board.run("print(wss_repl.status()['refused'])") == "{'revoked': 1}"
    other = connect().login()
    assert other.put(FILE, b"end\n") == 0
    other.close()
    connect(keys.second).login()


def test_pinned_mode_lets_in_the_listed_hosts_alone(board, connect, keys):
    (board.directory / FILE.decode()).write_text("pinned %s\nend" % fingerprint(keys.host))
    connect().login().close()
    refused(connect, keys.second)
    assert "is not pinned in wss_trust.txt" in last(board)
    # revoked wins, and an empty pinned list lets nobody in
    for text in (f"pinned {serial(keys.host)}\nrevoked {fingerprint(keys.host)}\nend\n", "pinned\nend\n"):
        (board.directory / FILE.decode()).write_text(text)
        refused(connect, keys.host)


@pytest.mark.parametrize(
    "text, why",
    [
        ("revoked 12\n", "is cut off"),
        ("", "is cut off"),
        ("revoked 12\nrevoked xyz\nend\n", "malformed in line 2"),
        ("revoked\nend\n", "malformed in line 1"),
        ("allow 12\nend\n", "malformed in line 1"),
        ("revoked " + "1" * 65 + "\nend\n", "malformed in line 1"),
        ("# filler\n" * 30000 + "end\n", "over 204800 bytes"),
        ("revoked 12\nend\nrevoked 34\n", "text behind its end"),
        ("# " + "x" * 200 + "\nend\n", "malformed in line 1"),
        (b"revoked 12\n\xff\xfe\nend\n", "malformed in line 2"),
    ],
)
def test_a_damaged_list_lets_nobody_in_and_the_board_runs_on(board, connect, text, why):
    list_file = board.directory / FILE.decode()
    list_file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises((ssl.SSLError, Ended, ConnectionError)):
        connect().upgrade()
    assert why in last(board) and "\n" not in last(board)
    list_file.unlink()
    connect().login()


def test_a_damaged_list_at_start_means_that_nothing_listens(target, provisioned):
    (provisioned / FILE.decode()).write_text("revoked nonsense\nend\n")
    with target.board(provisioned, ready="send it again, or remove it") as board, pytest.raises(ConnectionRefusedError):
        Peer(board.address, None)


def test_a_board_that_boots_in_2000_takes_its_own_certificates_first_day(target, provisioned, keys):
    back_to_2000 = int(datetime(2000, 1, 1, tzinfo=UTC).timestamp() - datetime.now(UTC).timestamp())
    with target.board(provisioned, env={"BOARD_CLOCK": str(back_to_2000)}) as board:
        first = x509.load_pem_x509_certificate(keys.directory.joinpath("device_cert.pem").read_bytes())
        assert board.run("import time; print(time.gmtime()[:3])") == str(first.not_valid_before_utc.timetuple()[:3])
        peer = Peer(board.address, keys.host)
        peer.login()
        peer.close()
    # the login was noted: later certificates are good after the next loss of power too
    (provisioned / "wss_time.txt").write_text("%d 12 31 0 0 0\n" % datetime.now(UTC).year)
    with target.board(provisioned, env={"BOARD_CLOCK": str(back_to_2000)}) as board:
        assert board.run("import time; print(time.gmtime()[:3])") == "(%d, 12, 31)" % datetime.now(UTC).year


@pytest.mark.needs("directory")
@pytest.mark.parametrize("text", ["", "2026", "x y z", "1 2 3 4 5 6", "99"])
def test_a_damaged_stored_time_is_not_used(target, provisioned, keys, text):
    (provisioned / "wss_time.txt").write_text(text)
    with target.board(provisioned) as board:
        Peer(board.address, keys.host).login().close()
    assert (provisioned / "wss_time.txt").read_text().split()[0] == str(datetime.now(UTC).year)


def test_a_login_is_noted_once_a_day(board, connect):
    connect().login().close()
    note = board.directory / "wss_time.txt"
    before = note.read_text()
    assert [int(x) for x in before.split()[:3]] == list(datetime.now(UTC).timetuple()[:3])
    os.utime(note, (1, 1))
    connect().login().close()
    assert note.stat().st_mtime == 1


def test_without_a_clock_to_set_the_board_warns_and_listens(target, provisioned):
    boot = "import sys, machine\nclass M: pass\nm = M(); m.unique_id = machine.unique_id\nsys.modules['machine'] = m"
    env = {"BOARD_CLOCK": "-500000000"}
    with target.board(provisioned, boot=boot, env=env, options=", timer=False") as board:
        assert b"and it can't be set" in board.console.log


@pytest.mark.parametrize("which", ["expired", "early"])
def test_the_board_says_which_certificate_is_not_valid_when(board, connect, keys, which):
    identity = getattr(keys, which)
    refused(connect, identity, alert="expired" if which == "expired" else "certificate")
    cert = x509.load_pem_x509_certificate(identity.cert.read_bytes())
    when = "expired" if which == "expired" else "from the future"
    assert last(board).startswith(
        f"host certificate {cert.serial_number:x} is {when}: "
        f"it is valid from {cert.not_valid_before_utc:%Y-%m-%d %H:%M} UTC to "
        f"{cert.not_valid_after_utc:%Y-%m-%d %H:%M} UTC, and here it is {datetime.now(UTC):%Y-%m-%d}"
    )
    assert board.run("print(wss_repl.status()['refused'])") == "{'%s': 1}" % when


def test_an_expired_certificate_of_the_board_is_named_at_start(target, provisioned):
    with target.board(provisioned, env={"BOARD_CLOCK": str(1000 * 86400)}) as board:
        assert b"warning: the board's certificate expired on" in board.console.log


def test_noise_in_place_of_a_certificate_does_not_stop_the_parser(board):
    """Cut and flipped certificates raise ValueError, nothing else."""
    code = (
        "import os\nfrom wss.trust import fields\n"
        "from wss.credentials import read, places\nfrom wss import port\n"
        "der = bytearray(read(None, places(port.uid())[1], '')[0][0])\nbad = 0\n"
        "for i in range(200):\n"
        "  for x in (bytes(der[:i]), bytes(der[:i] + bytes([der[i] ^ 0x85]) + der[i + 1:])):\n"
        "    try: fields(memoryview(x))\n"
        "    except ValueError: bad += 1\n"
        "print('bad', bad > 100)\n"
    )
    (board.directory / "noise.py").write_text(code)
    assert "bad True" in board.run("import noise", timeout=30)


class Chain:
    """A ROOT CA that a company runs, and a host whose certificate an intermediate one has signed (RFC 5280 6)."""

    def __init__(self, folder: Path, depth: int):
        self.folder = folder
        self.certs: list[x509.Certificate] = []  # the root first, the host last
        key = None
        for i in range(depth + 2):
            below = ec.generate_private_key(ec.SECP256R1())
            self.certs.append(self._signed(f"level {i}", below, i > depth, key or below))
            key = below
        self.ca = folder / "root.pem"
        self.ca.write_bytes(self._pem(0))
        (folder / "chain.pem").write_bytes(b"".join(self._pem(i) for i in range(depth + 1, 0, -1)))
        form = serialization.PrivateFormat.PKCS8
        pem = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
        (folder / "chain_key.pem").write_bytes(pem)
        self.host = Identity(None, folder / "chain.pem", folder / "chain_key.pem")

    def _signed(self, name, key, is_host, signer) -> x509.Certificate:
        now = datetime.now(UTC)
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        issuer = self.certs[-1].subject if self.certs else subject
        builder = x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(1)).not_valid_after(now + timedelta(9))
        builder = builder.add_extension(x509.BasicConstraints(not is_host, None), critical=True)
        return builder.sign(signer, hashes.SHA256())

    def _pem(self, i: int) -> bytes:
        return self.certs[i].public_bytes(serialization.Encoding.PEM)

    def numbers(self, i: int) -> tuple[str, str]:
        return "%x" % self.certs[i].serial_number, self.certs[i].fingerprint(hashes.SHA256()).hex()


@pytest.mark.parametrize("depth", [1, 5])
def test_who_revokes_an_intermediate_revokes_all_below_it(target, provisioned, keys, tmp_path, depth):
    chain = Chain(tmp_path, depth)
    with (provisioned / "ROOT_CA_cert.pem").open("ab") as f:
        f.write(chain.ca.read_bytes())  # both CAs may sign hosts of this board
    host = replace(chain.host, ca=keys.host.ca)
    with target.board(provisioned) as board:
        Peer(board.address, host).login().close()
        for level in range(depth + 2):  # the root, each one between, and the host's own
            number = chain.numbers(level)[level % 2].upper()
            (board.directory / FILE.decode()).write_text(f"revoked {number} # level {level}\nend\n")
            with pytest.raises((ssl.SSLError, Ended, ConnectionError)) as e:
                Peer(board.address, host).login()
            assert "access denied" in str(e.value).lower() and "is revoked" in last(board)
        Peer(board.address, keys.host).login().close()  # who is not below it
        # A pin is for the host itself: whoever signs below the one that is pinned gets in for nobody
        (board.directory / FILE.decode()).write_text(f"pinned {chain.numbers(1)[1]}\nend\n")
        with pytest.raises((ssl.SSLError, Ended, ConnectionError)):
            Peer(board.address, host).login()
        assert "is not pinned" in last(board)
        (board.directory / FILE.decode()).write_text(f"pinned {chain.numbers(-1)[1]}\nend\n")
        Peer(board.address, host).login().close()


def test_a_chain_that_is_too_long_to_be_looked_at_is_refused(target, provisioned, keys, tmp_path):
    """mbedTLS builds one of ten at most (MBEDTLS_X509_MAX_INTERMEDIATE_CA)."""
    chain = Chain(tmp_path, 9)
    with (provisioned / "ROOT_CA_cert.pem").open("ab") as f:
        f.write(chain.ca.read_bytes())
    with target.board(provisioned) as board:
        with pytest.raises((ssl.SSLError, Ended, ConnectionError)):
            Peer(board.address, replace(chain.host, ca=keys.host.ca)).login()
        Peer(board.address, keys.host).login().close()
