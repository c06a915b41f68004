"""start(): whatever it is given and finds on the flash, a server that runs goes on, and a right clock stays right."""

import json
import re
import socket
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.name import _ASN1Type
from peers import Identity

pytestmark = pytest.mark.needs("quick")

GARBAGE = [
    b"99999999999999999999 1 1 0 0 0\n",
    b"2147483648 1 1 0 0 0\n",
    b"3000000000 1 1 1 1 1\n",
    b"2027 13 45 99 99 99\n",
    b"2027 0 0 0 0 0\n",
    b"-1 -1 -1 -1 -1 -1\n",
    b"2099 1 1 0 0 0\n",
    b"\xff\xfe\x00",
    b"",
    b"x" * 5000,
]


@pytest.mark.parametrize("text", [*GARBAGE, None], ids=str)
def test_nothing_that_is_stored_stops_it_or_moves_a_clock_that_may_be_right(target, provisioned, text):
    """trust-07. None: a folder of that name."""
    if text is None:
        (provisioned / "wss_time.txt").mkdir()
    else:
        (provisioned / "wss_time.txt").write_bytes(text)
    with target.board(provisioned) as board:
        shown = eval(board.run("import time; print(time.gmtime()[:6])"))
        assert abs(datetime(*shown, tzinfo=UTC) - datetime.now(UTC)) < timedelta(minutes=2)
        assert b"wss_repl: listening" in board.console.log and b"Traceback" not in board.console.log


def test_a_day_ahead_that_is_stored_moves_no_clock_within_the_certificate(target, provisioned):
    ahead = datetime.now(UTC) + timedelta(days=300)
    (provisioned / "wss_time.txt").write_text(f"{ahead:%Y %m %d} 0 0 0\n")
    with target.board(provisioned) as board:
        shown = eval(board.run("import time; print(time.gmtime()[:6])"))
        assert abs(datetime(*shown, tzinfo=UTC) - datetime.now(UTC)) < timedelta(minutes=2)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("password=''", "password must have"),
        ("password='x' * 65", "password must have"),
        ("port=99999", "1 to 65535"),
        ("port=-1", "1 to 65535"),
        ("timer=99", ""),
        ("host='no such host'", "address of this board"),
        ("host='no such host', port=PORT", "address of this board"),
        ("key='boot.py'", "boot.py"),
        ("ca=b'junk'", "CA"),
        ("log=1", "log"),
        ("log='4096'", "log"),
        ("write_timeout=0", "write_timeout"),
        ("write_timeout='2000'", "write_timeout"),
        ("write_timeout=1 << 40", "write_timeout"),
        ("port='8833'", "1 to 65535"),
        ("port=8833.5", "1 to 65535"),
        ("password=1234", "password must"),
        ("password='a\\nb'", "password must have"),
        ("password=''.join(['x'])*65", "password must have"),
        ("key=7", ""),
        ("key=b''", "private key"),
        ("cert=b'\\x30\\x82\\xff\\xff'", "certificate"),
        ("cert='ROOT_CA_cert.pem'", "are no pair"),
        ("cert='/'", "/"),
        ("key='none.der', port=PORT", "none.der"),
        ("ca='none.pem', port=PORT", "none.pem"),
        ("host=5", "address of this board"),
        ("host='8.8.8.8'", "address of this board"),
        ("host='8.8.8.8', port=PORT", "address of this board"),
        ("timer='x'", "timer"),
        ("nonsense=1", "nonsense"),
    ],
)
def test_a_wrong_start_leaves_the_server_and_its_session_alone(connect, board, words, says):
    peer = connect().login()
    words = words.replace("PORT", str(board.address[1]))
    words = words if "password" in words else words + ", password='secret'"
    code = f"import wss_repl\ntry: wss_repl.start({words})\nexcept Exception as e: print('refused:', e)"
    said = peer.command(f"exec({code!r})").decode()
    assert "refused:" in said and says in said
    assert peer.command("1+1") == b"2\r\n"
    assert connect().login(path=b"/takeover").command("1+1") == b"2\r\n"


def test_a_timer_that_cannot_be_set_leaves_one_that_can_be_started_again(board):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    code = (
        "import wss_repl\nwss_repl.stop()\nclass T:\n PERIODIC=1\n def init(self, **_): raise OSError(12)\n"
        f"try: wss_repl.start({port}, 'secret', timer=T())\nexcept OSError as e: print('refused:', e)\n"
        f"wss_repl.start({port}, 'secret')"
    )
    said = board.run(f"exec({code!r})")
    assert "refused:" in said and "listening" in said and "Traceback" not in said, said


def test_status_tells_which_host_is_in_and_counts_logins(connect, board, keys):
    cert = x509.load_pem_x509_certificate(keys.host.cert.read_bytes())
    name = cert.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value
    for _ in range(2):
        connect().login(path=b"/takeover")
    said = board.run("import wss_repl; s = wss_repl.status(); print(s['host'], s['logins'])")
    assert name in said and f"{cert.serial_number:x}" in said and re.search(rf"'{re.escape(name)}': 2", said), said


def test_a_thousand_entries_are_read(connect, board, keys):
    lines = [f"revoked {i:064x} #1 HOST user{i:04}@a-laptop-somewhere" for i in range(1, 1001)]
    (board.directory / "wss_trust.txt").write_text("\n".join([*lines, "end", ""]))
    assert connect().login(path=b"/takeover").command("1+1") == b"2\r\n"


def named(keys, folder, name: x509.Name):
    """A host certificate of the right CA, with whatever name."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    issuer = x509.load_pem_x509_certificate(keys.ca.cert_pem).subject
    builder = x509.CertificateBuilder(issuer, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(1)).not_valid_after(now + timedelta(9))
    (folder / "cert.pem").write_bytes(builder.sign(keys.ca._key, hashes.SHA256()).public_bytes(Encoding.PEM))
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return Identity(keys.ca_file, folder / "cert.pem", folder / "key.pem")


def common(text, kind=_ASN1Type.UTF8String):
    return x509.NameAttribute(x509.NameOID.COMMON_NAME, text, kind, _validate=False)


@pytest.mark.filterwarnings("ignore:Attribute's length")
def test_whatever_a_host_is_called_is_kept_short_and_plain(connect, board, keys, tmp_path):
    """Of a certificate that the CA signed for somebody who could choose."""
    names = [
        [common("x" * 5000)],
        [common("\x1b]0;owned\x07\x1b[2J\r\n\0end")],
        [common("\u202eevil\u2066 ä€😀")],
        [common("wide \x1b", _ASN1Type.BMPString)],
        [common("a\xff\x9b1m", _ASN1Type.T61String)],
        [common("one"), common("two")],
        [common("' }; {\\")],
        [x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "no name")],
        [common("")],
        [],
    ]
    for attributes in names:
        host = named(keys, tmp_path, x509.Name(attributes))
        peer = connect(host).login(path=b"/takeover")
        assert peer.command("6*7") == b"42\r\n"
        code = "import json, wss_repl; s = wss_repl.status(); print(json.dumps([s['host'], list(s['logins'])]))"
        (name, serial), logins = json.loads(board.run(code))
        cert = x509.load_pem_x509_certificate(host.cert.read_bytes())
        assert serial == f"{cert.serial_number:x}" and name in logins, "who was there can be found"
        assert all(len(n) <= 40 and n.isascii() and n.isprintable() for n in logins), logins
        peer.close()
