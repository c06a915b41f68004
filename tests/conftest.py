import re
import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import netns
import port_target
import targets
from peers import Identity, Peer
from port_target import PortError, is_port
from targets import UID
from wssctl.keys.ca import Authority

DEFAULT = ["unix", "unix32"]
EVERY_BOARD = ["unix32", "pty", "pty32-mpy", "pty32-py"]  # all ways to get the bundle, and mpremote's path
PORTS = pytest.StashKey()


def pytest_addoption(parser):
    parser.addoption("--target", help="comma-separated: unix, unix32, mip ... or an mpremote port (tests/targets.py)")


def pytest_configure(config):
    # In the background of a script (`make test &`, nohup) Ctrl-C is ignored, by children too; tests send it to them
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if "lwip" in chosen(config):
        targets.make("lwip")  # before there is no network to fetch its source from
        netns.enter()
    config.addinivalue_line("markers", "every_board: what each board has to pass")
    config.addinivalue_line("markers", "targets(names): what it runs on without --target, instead of unix and unix32")
    config.addinivalue_line("markers", "needs(capability): skipped where the target lacks it (port_target.REASONS)")


def chosen(config) -> list[str]:
    return config.getoption("--target").split(",") if config.getoption("--target") else []


def pytest_generate_tests(metafunc):
    names = chosen(metafunc.config)
    if "target" in metafunc.fixturenames:
        every = metafunc.definition.get_closest_marker("every_board")
        named = metafunc.definition.get_closest_marker("targets")
        names = names or (EVERY_BOARD if every else named.args if named else DEFAULT)
        metafunc.parametrize("target", names, indirect=True, ids=names, scope="session")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    if config.getoption("dist") == "loadfile":
        from order import Pieces

        config.option.loadscopereorder = False  # as they were collected
        return Pieces(config, log)


@pytest.hookimpl(trylast=True)  # fixtures of a session have put them into an order of their own before
def pytest_collection_modifyitems(config, items):
    """On a board run the tests that run on it, and no others. Side by side, begin with what takes longest."""
    if hasattr(config, "workerinput"):
        from order import place

        items.sort(key=lambda item: place(item.nodeid))
    if not any(map(is_port, chosen(config))):
        return
    device = config.rootpath / "tests" / "device"
    keep = [i for i in items if "target" in i.fixturenames or device in i.path.parents]
    config.hook.pytest_deselected(items=[i for i in items if i not in keep])
    items[:] = keep


@pytest.fixture(scope="session")
def ports(request, keys):
    """The boards at ports (port_target.Ports)."""
    ports = request.config.stash[PORTS] = port_target.Ports(keys)
    try:
        yield ports
    finally:
        try:
            ports.close()
        except PortError as e:
            pytest.exit(str(e), 2)


def _port(request, name):
    try:
        return request.getfixturevalue("ports")[name]
    except PortError as e:
        pytest.exit(str(e), 2)


@pytest.fixture(scope="session")
def target(request):
    """What the tests run on, by its name."""
    if request.param == "lwip" and (why := netns.reason()):
        pytest.skip(why)
    return _port(request, request.param) if is_port(request.param) else targets.make(request.param)


@pytest.fixture(autouse=True)
def _capabilities(request):
    if "target" in request.fixturenames:
        target = request.getfixturevalue("target")
        for marker in request.node.iter_markers("needs"):
            for capability in marker.args:
                if capability not in target.capabilities:
                    pytest.skip(port_target.REASONS[capability])


def pytest_sessionfinish(session, exitstatus):
    """How it ended, for .ci/run: what was interrupted names failures, too, but not what it has not come to."""
    if not hasattr(session.config, "workerinput") and (cache := getattr(session.config, "cache", None)):
        cache.set("exitstatus", int(exitstatus))


def pytest_terminal_summary(terminalreporter, config):
    """Which boards, and what was skipped on them."""
    if not (ports := config.stash.get(PORTS, None)):
        return
    commit = _git("describe", "--always", "--dirty", "--abbrev=12")
    for name, port in ports.items():
        terminalreporter.section(f"board at {name}")
        for line in port.report():
            terminalreporter.line(line)
        counts, reasons = {}, {}
        for kind in ("passed", "failed", "error", "skipped", "xfailed", "xpassed"):
            for report in terminalreporter.stats.get(kind, ()):
                if re.search(rf"\[(.*-)?{re.escape(name)}[\]-](?!mpy|py)", report.nodeid):
                    counts[kind] = counts.get(kind, 0) + 1
                    if kind == "skipped":
                        reason = str(report.longrepr[2]).removeprefix("Skipped: ")
                        reasons[reason] = reasons.get(reason, 0) + 1
        terminalreporter.line(
            f"commit {commit}, {datetime.now(UTC):%Y-%m-%d}: "
            + ", ".join(f"{counts.get(k, 0)} {k}" for k in ("passed", "skipped", "failed", "error"))
            + (f", {counts['xfailed']} known to fail" if "xfailed" in counts else "")
        )
        for reason, n in sorted(reasons.items(), key=lambda r: -r[1]):
            terminalreporter.line(f"  {n} skipped: {reason}")


def _git(*words) -> str:
    try:
        done = subprocess.run(["git", *words], capture_output=True, text=True, cwd=Path(__file__).parent)
        return done.stdout.strip() or "unknown"
    except OSError:
        return "unknown"


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
        names = ["localhost", "board", "kitchen", "garden", "room9"]  # what tests call it in `wssctl boards add`
        device = self.ca.device(UID, names=names, addresses=["127.0.0.1"], ports=[8833])
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
