"""A board's key, certificate and CA, and its list of whom it turns away, over the cable."""

import argparse
import secrets

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from ..boards import modules, trust
from ..boards.registry import WARNING_DAYS
from ..errors import BoardError, KeyFileError
from ..keys import ask, ca, trustlist
from ..keys.store import Store
from ..text import say, steps
from .port import NEW, About, Cable


def install(
    args: argparse.Namespace, store: Store, board: Cable, authority: ca.Authority, about: About, names: list[str],
    addresses: list[str],
) -> None:
    uid = about["uid"]
    if not args.new_keys and _fit(store, board, authority, uid, names, addresses):
        board.remove([n + NEW for n in reversed(board_files(uid, b"", b"", b""))])  # of an attempt that was cut off
        say("The board's keys are in order and stay")
        return
    confirm_foreign(args, board, about, authority)
    if not args.host_made:
        enrol(args, store, board, authority, uid, names, addresses)
        return
    made = authority.device(uid, names=names, addresses=addresses, ports=[args.wss_port])
    files = store.device_files(uid)
    board.stage(board_files(uid, made.cert_der, authority.cert_pem, made.key_der))
    store.write({path: getattr(made, role) for role, path in files.items()}, force=True)
    board.commit(list(board_files(uid, b"", b"", b"")))
    say("Sent CA, certificate and key over the cable")


def board_files(uid: str, cert_der: bytes, ca_pem: bytes, key_der: bytes | None = None) -> dict[str, bytes]:
    """In the order that lib/wss/credentials.py can finish after a loss of power: the key first."""
    files = {} if key_der is None else {f"SSL_key{uid}.der": key_der}
    return files | {f"SSL_certificate{uid}.der": cert_der, "ROOT_CA_cert.pem": ca_pem}


def _fit(
    store: Store, board: Cable, authority: ca.Authority, uid: str, names: list[str], addresses: list[str]
) -> bool:
    """Whether the board holds the certificate that is in the store, it suits, and the board's key belongs to it."""
    path = store.device_files(uid)["cert_pem"]
    if not path.exists() or not board.holds("ROOT_CA_cert.pem", authority.cert_pem):
        return False
    cert = ca.load_cert(store.read(path), "device certificate")
    if not board.holds(f"SSL_certificate{uid}.der", cert.public_bytes(serialization.Encoding.DER)):
        return False
    report = ca.report(store.read(path), "device", authority.cert_pem)
    wanted = {*names, *addresses}
    if not report.signed_by_ca or report.days_left() < WARNING_DAYS or not wanted <= set(report.names):
        return False
    # the SEC1 key ends with its public point: it is enough to look at that
    return holds_point(board, f"SSL_key{uid}.der", point(cert))


def point(cert: x509.Certificate) -> bytes:
    return cert.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)


def holds_point(board: Cable, name: str, point: bytes) -> bool:
    try:
        return board.exec(f"print(open({name!r}, 'rb').read()[-65:] == {point!r})").strip() == "True"
    except BoardError:
        return False


def is_others(board: Cable, about: About, ca_pem: bytes) -> bool:
    if "ROOT_CA_cert.pem" not in about["files"]:
        return False
    there = (board.read("ROOT_CA_cert.pem") or b"").strip()
    return bool(there) and ca_pem.strip() not in there and there not in ca_pem


def confirm_foreign(args: argparse.Namespace, board: Cable, about: About, authority: ca.Authority) -> None:
    """A board with keys of another CA is somebody's board."""
    if args.yes or not is_others(board, about, authority.cert_pem):
        return
    if not ask.yes("The board trusts another ROOT CA than yours. Replace its keys?", option="--yes"):
        raise BoardError("The board belongs to another ROOT CA and was left alone.")


def make_request(board: Cable, uid: str) -> x509.CertificateSigningRequest:
    """The board makes its key, which waits there as SSL_key<uid>.der.new, and a request for its certificate."""
    source = modules.sources()["wss/enrol.py"].decode()
    # the module itself goes over where the board has no bundle: wssctl enrol comes before any installation, too
    code = f"try:\n from wss.enrol import make\nexcept ImportError:\n exec({modules.without_comments(source)!r})\n"
    code += (
        "import gc, sys, time\nfrom binascii import hexlify\ngc.collect()\nt = time.ticks_ms()\n"
        f"key, csr = make({uid!r}, {secrets.token_bytes(32)!r}, lambda n: sys.stdout.write('.'))\n"
        "t = time.ticks_diff(time.ticks_ms(), t)\n"
        f"with open('SSL_key{uid}.der.new', 'wb') as f: f.write(key)\n"
        "print('!', t, hexlify(csr).decode())\nkey = csr = None\n"
    )
    said = bytearray()
    with steps("The board makes its key", 5) as step:

        def output(data: bytes) -> None:
            said.extend(data)
            if data == b".":
                step("")

        board.exec(code, output)
    try:
        taken, csr_hex = said.partition(b"!")[2].decode().split()
        ms, request = int(taken[:9]), ca.load_request(bytes.fromhex(csr_hex))
    except (ValueError, IndexError):
        raise BoardError("The board sent no readable certificate request; reset it and try again.") from None
    say(f"The board made its own key in {ms / 1000:.1f} s; it never leaves the board")
    return request


def enrol(
    args: argparse.Namespace, store: Store, board: Cable, authority: ca.Authority, uid: str, names: list[str],
    addresses: list[str],
) -> None:
    """Only the request and the certificate pass the cable."""
    request = make_request(board, uid)
    cert = authority.sign_device(request.public_key(), uid, names=names, addresses=addresses, ports=[args.wss_port])
    der = cert.public_bytes(serialization.Encoding.DER)
    files = store.device_files(uid)
    board.stage(board_files(uid, der, authority.cert_pem))
    store.write({files["cert_der"]: der, files["cert_pem"]: cert.public_bytes(serialization.Encoding.PEM)}, force=True)
    files["key_der"].unlink(missing_ok=True)  # of a key that the board no longer has
    board.commit(list(board_files(uid, b"", b"", b"")))


def send_trust(store: Store, board: Cable, name: str, others: bool, cert: bytes) -> None:
    """Who is revoked is turned away from the board's first day on; what its list has besides stays, unless it is of
    another ROOT CA: then it is about certificates that nobody shows here, and could pin them."""
    there = board.read("/" + trust.FILE)
    try:
        theirs = trustlist.parse(there) if there and not others else {}
    except KeyFileError as e:
        assert there
        theirs = trustlist.parse(there, damaged=True)
        say(f"NOTE: {e} It is replaced; {len(theirs)} entries could be read and stay.")
    der = ca.load_cert(cert, "device certificate").public_bytes(ca.DER)
    theirs = trust.believed(store, theirs, name, der)
    with store.record.view() as db:
        mine = trustlist.entries(db, name)
    merged = trustlist.merge(theirs, mine)
    try:
        text = trustlist.render(merged.values())
    except KeyFileError as e:
        text, merged, theirs = trustlist.render(mine.values()), mine, {}
        say(f"NOTE: with what the board's list has, too, {e} The board gets what is known here, and nothing else.")
    if merged:
        if text != there:
            board.replace({"/" + trust.FILE: text})
            say(f"Sent the trust list, {len(merged)} entries")
        trust.note_held(store.record, name, merged, theirs, der)
    elif there is not None:
        board.remove(["/" + trust.FILE])
