import shutil
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from peers import Identity, Peer
from targets import UID, Unix
from wssctl.ca import Authority


def pytest_addoption(parser):
    parser.addoption("--target", default="unix,unix32", help="comma-separated: unix, unix32, mip (tests/targets.py)")


def pytest_generate_tests(metafunc):
    if "target" in metafunc.fixturenames:
        names = metafunc.config.getoption("--target").split(",")
        metafunc.parametrize("target", [Unix(n) for n in names], ids=names, scope="session")


class Keys:
    """Everything a test needs to be let in or turned away, made once a run."""

    passphrase = "correct horse"

    def __init__(self, directory: Path):
        self.directory = directory
        now = datetime.now(UTC)
        self.ca = Authority.create("Test ROOT CA")
        foreign = Authority.create("Another ROOT CA")
        self.ca_file = self._file("ROOT_CA_cert.pem", self.ca.cert_pem)
        self.host = self._host("HOST_%s@726f6f74.pem", self.ca)
        self.second = self._host("second_%s.pem", self.ca)
        self.foreign = self._host("foreign_%s.pem", foreign)
        self.expired = self._host("expired_%s.pem", self.ca, not_before=now - timedelta(days=30), days=10)
        self.early = self._host("early_%s.pem", self.ca, not_before=now + timedelta(days=5), days=10)
        self.nobody = Identity(self.ca_file)
        self.board = directory / "board"  # what goes on the board
        self.board.mkdir()
        device = self.ca.device(UID, names=["localhost", "board"], addresses=["127.0.0.1"], ports=[8833])
        (self.board / "ROOT_CA_cert.pem").write_bytes(self.ca.cert_pem)
        (self.board / f"SSL_key{UID}.der").write_bytes(device.key_der)
        (self.board / f"SSL_certificate{UID}.der").write_bytes(device.cert_der)
        from cryptography.hazmat.primitives import serialization

        key = serialization.load_der_private_key(device.key_der, None)
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self.device_as_host = Identity(
            self.ca_file, self._file("device_cert.pem", device.cert_pem), self._file("device_key.pem", pem)
        )

    def _file(self, name: str, data: bytes) -> Path:
        (self.directory / name).write_bytes(data)
        return self.directory / name

    def _host(self, name, authority, **validity) -> Identity:
        key, cert = authority.host("tester", self.passphrase, **validity)
        return Identity(self.ca_file, self._file(name % "cert", cert), self._file(name % "key", key), self.passphrase)


@pytest.fixture(scope="session")
def keys(tmp_path_factory) -> Keys:
    return Keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def provisioned(tmp_path, keys) -> Path:
    """A directory with a board's key, certificate and CA: its file system."""
    directory = tmp_path / "board"
    shutil.copytree(keys.board, directory)
    return directory


@pytest.fixture
def board(target, provisioned):
    """A running board, fresh for each test."""
    with target.board(provisioned) as running:
        yield running


@pytest.fixture
def connect(board, keys):
    """connect(...) opens a Peer with the host's certificate; all are closed at the end."""
    peers = []

    def open_peer(identity=keys.host, **kwargs) -> Peer:
        peers.append(Peer(board.address, identity, **kwargs))
        return peers[-1]

    yield open_peer
    for peer in peers:
        peer.close()
