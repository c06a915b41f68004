"""`wssctl ca`, `wssctl host`, `wssctl keys`: make key files and say how they are."""

import argparse
import platform
from datetime import UTC, datetime
from pathlib import Path

from ..errors import KeyFileError, UsageError
from ..text import say, shown
from . import ask, ca, hosts
from .store import Store, check_uid, host_id, user_name, write_files

EXPIRY_WARNING_DAYS = 30


def ca_init(args: argparse.Namespace) -> int:
    store = Store(args.keys)
    refuse_present(args, store.ca_key, store.ca_cert)
    passphrase = ask.new_secret(
        "Passphrase for the new ROOT CA key",
        args.ca_passphrase_file or args.passphrase_file,
        "WSSCTL_CA_PASSPHRASE",
        "WSSCTL_PASSPHRASE",
        option="--passphrase-file",
    )
    authority = ca.Authority.create(args.name or f"ROOT CA {user_at_host()}"[:64], days=days(args, ca.CA_DAYS))
    store.write({store.ca_key: authority.key_pem(passphrase), store.ca_cert: authority.cert_pem}, args.force)
    print(f"Made {store.ca_cert} and its key. Keep a copy of both, and the passphrase, away from this machine.")
    return 0


def board_init(args: argparse.Namespace) -> int:
    store = Store(args.keys)
    uid = check_uid(args.uid.lower())
    files = store.device_files(uid)
    outside = {role: Path(args.out) / path.name for role, path in files.items()} if args.out else {}
    board_ca = Path(args.out) / "ROOT_CA_cert.pem" if args.out else None
    if args.out and not Path(args.out).is_dir():
        raise UsageError(f"--out {args.out} is not a folder; create it first, or mount the board there.")
    refuse_present(args, *files.values(), *(outside[r] for r in ("key_der", "cert_der") if outside))
    authority = load_authority(args, store)
    made = authority.device(
        uid, names=args.name, addresses=args.ip, ports=args.wss_port or [ca.WSS_PORT], days=days(args, ca.LEAF_DAYS)
    )
    store.write({path: getattr(made, role) for role, path in files.items()}, args.force)
    if board_ca:
        # ROOT_CA_cert.pem is no secret and the same for every device, so an equal one there is not in the way
        copies = {outside["key_der"]: made.key_der, outside["cert_der"]: made.cert_der}
        if not (board_ca.exists() and board_ca.read_bytes() == authority.cert_pem):
            copies[board_ca] = authority.cert_pem
        write_files(copies, args.force)
        print(f"Made and copied to {args.out}: ROOT_CA_cert.pem, {files['key_der'].name}, {files['cert_der'].name}.")
    else:
        print(f"Made {files['key_der'].name} and {files['cert_der'].name} in {store.folder}.")
        print("Copy both, and ROOT_CA_cert.pem, to the board's root folder over its cable.")
    _say_names(args, made.cert_pem)
    return 0


def _say_names(args: argparse.Namespace, cert_pem: bytes) -> None:
    report = ca.report(cert_pem, "device")
    print(f"Valid until {report.not_after:%Y-%m-%d} for {shown(', '.join(n for n in report.names if '://' not in n))}.")
    if not args.name and not args.ip:
        print("Without --name or --ip it is valid for these names only; add those you will type.")


def ca_export(args: argparse.Namespace) -> int:
    """Key (encrypted) and certificate in one PEM file, for another machine or a safe place."""
    store = Store(args.keys)
    authority = load_authority(args, store)  # who can't sign with it shall not carry it away
    passphrase = _for_export(args, ca_passphrase(args))
    data = authority.key_pem(passphrase) + store.read(store.ca_cert) + hosts.packed(store, authority)
    write_files({Path(args.file): data}, args.force)
    print(f"Wrote {args.file}, the key in it encrypted. There: `wssctl ca import FILE`, then `wssctl host init`.")
    return 0


def _for_export(args: argparse.Namespace, passphrase: str) -> str:
    """What a copy of a key is encrypted under: the new one if one is given, else the key's own; no weaker than any."""
    if args.new_passphrase_file:
        return ask.new_secret("The new passphrase", args.new_passphrase_file, option="--new-passphrase-file")
    if len(passphrase) < ask.MIN_PASSPHRASE:
        raise UsageError(
            f"The key's own passphrase has {len(passphrase)} characters, too few for a copy that leaves this machine: "
            "give one with --new-passphrase-file."
        )
    return passphrase


def ca_import(args: argparse.Namespace) -> int:
    store = Store(args.keys)
    refuse_present(args, store.ca_key, store.ca_cert)
    data = store.read(Path(args.file))
    key_pem, mark, certs = data.partition(b"-----BEGIN CERTIFICATE-----")
    certs = certs.partition(hosts.BEGIN)[0]
    if not mark or b"ENCRYPTED" not in key_pem:
        raise KeyFileError(f"{args.file} is no ROOT CA written by `wssctl ca export`.")
    certs = ca.certificates_alone(mark + certs, "ROOT CA certificate")
    authority = ca.Authority.load(certs, key_pem, ca_passphrase(args))
    if args.new_passphrase_file:
        key_pem = authority.key_pem(_for_export(args, ""))
    # First: with the key alone one could set up boards that let in who is revoked
    if packed := hosts.unpack(data, authority, certs):
        hosts.take_in(store, packed)
    elif not args.force:
        raise KeyFileError(
            f"{args.file} does not tell who has a certificate and who is revoked, which `wssctl ca export` writes: it "
            "was cut off on its way. Export it once more; --force takes the ROOT CA alone. Nothing was imported."
        )
    else:
        say(f"NOTE: {args.file} does not tell who has a certificate and who is revoked: revoke here whoever is.")
        certs = authority.cert_pem  # nobody says that others belong to it
    store.write({store.ca_key: key_pem, store.ca_cert: certs}, args.force)
    print(f"The ROOT CA is in {store.folder}; `wssctl host init` makes this machine's own key.")
    return 0


def host_export(args: argparse.Namespace) -> int:
    """For browsers and other clients: PKCS #12 with key, certificate and CA, or PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.serialization import pkcs12

    store = Store(args.keys)
    key_path, cert_path = store.host_files(host_id(args.user)) if args.user else store.find_host()
    passphrase = ask.secret(
        f"Passphrase for key '{key_path.name}'", args.passphrase_file, "WSSCTL_PASSPHRASE", option="--passphrase-file"
    )
    key = ca.load_key(store.read(key_path), passphrase, "HOST key")
    cert = ca.load_cert(store.read(cert_path), "HOST certificate")
    authorities = x509.load_pem_x509_certificates(store.read(store.find_ca_cert()))
    new = _for_export(args, passphrase)
    if args.p12:
        lock = serialization.BestAvailableEncryption(new.encode())
        data = pkcs12.serialize_key_and_certificates(cert_path.stem.encode(), key, cert, authorities, lock)
    else:
        data = ca.encrypted_pem(key, new) + store.read(cert_path) + store.read(store.ca_cert)
    write_files({Path(args.file): data}, args.force)
    print(f"Wrote {args.file}, under {'the new' if args.new_passphrase_file else 'the same'} passphrase.")
    return 0


def board_sign(args: argparse.Namespace) -> int:
    """A certificate for a request that was made elsewhere."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.x509.oid import NameOID

    store = Store(args.keys)
    try:
        request = ca.load_request(store.read(Path(args.request)))
    except ValueError as e:
        raise KeyFileError(f"{args.request} is no certificate request that can be signed ({ca.cause(e)}).") from None
    names = [str(a.value) for a in request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    uid = check_uid((args.uid or (names[0] if names else "")).lower())
    files = store.device_files(uid)
    refuse_present(args, files["cert_pem"])
    authority = load_authority(args, store)
    cert = authority.sign_device(
        request.public_key(), uid, names=args.name, addresses=args.ip, ports=args.wss_port or [ca.WSS_PORT],
        days=days(args, ca.LEAF_DAYS),
    )  # fmt: skip
    pem, der = (cert.public_bytes(e) for e in (serialization.Encoding.PEM, serialization.Encoding.DER))
    store.write({files["cert_pem"]: pem, files["cert_der"]: der}, args.force)
    print(f"Signed {files['cert_der'].name}; `wssctl keys install PORT` or `keys export` brings it to the board.")
    _say_names(args, pem)
    return 0


def board_export(args: argparse.Namespace) -> int:
    store = Store(args.keys)
    files = store.device_files(check_uid(args.uid.lower()))
    if not files["cert_der"].exists():
        raise KeyFileError(f"There is no {files['cert_der'].name} in {store.folder}; `wssctl keys status` lists all.")
    if not Path(args.folder).is_dir():
        raise UsageError(f"{args.folder} is not a folder; create it first, or mount the board there.")
    board_ca = Path(args.folder) / "ROOT_CA_cert.pem"
    copies = {Path(args.folder) / p.name: store.read(p) for r, p in files.items() if r != "cert_pem" and p.exists()}
    pem = store.read(store.find_ca_cert())
    if not (board_ca.exists() and board_ca.read_bytes() == pem):
        copies[board_ca] = pem
    write_files(copies, args.force)
    print(f"Wrote {', '.join(p.name for p in copies)} to {args.folder}.")
    if not files["key_der"].exists():
        print("The private key is not among them: it was made on the board and is only there.")
    return 0


def ca_status(args: argparse.Namespace) -> int:
    store = Store(args.keys)
    print(f"Keys in {store.folder}")
    ok = _show(store.ca_cert.name, store.read(store.find_ca_cert()), "ca", None)
    if not store.ca_key.exists():
        print("  its key is not here: this machine cannot sign")
    if store.update_cert.exists():
        ok &= _show(store.update_cert.name, store.read(store.update_cert), "update", store.read(store.ca_cert))
    with store.record.view() as db:
        rotating = db.execute("SELECT 1 FROM state WHERE what = 'rotation'").fetchone()
    if rotating:
        print("  a rotation is under way: `wssctl ca rotate` goes on with it")
    return 0 if ok else 1


def host_status(args: argparse.Namespace) -> int:
    store = Store(args.keys)
    ca_pem = store.read(store.find_ca_cert())
    if not store.hosts():
        store.find_host()  # says what to do
    print(f"Keys in {store.folder}")
    ok = True
    for identity in store.hosts():
        key, cert = store.host_files(identity)
        ok &= _show(cert.name + (" (yours)" if identity == host_id() else ""), store.read(cert), "host", ca_pem)
        if not key.exists():
            print(f"  its key {key.name} is missing")
            ok = False
    return 0 if ok else 1


def board_status(args: argparse.Namespace) -> int:
    store = Store(args.keys)
    ca_pem = store.read(store.find_ca_cert())
    uids = [check_uid(args.uid.lower())] if args.uid else store.devices()
    if not uids:
        raise KeyFileError(f"There is no device certificate in {store.folder}; make one with `wssctl keys init UID`.")
    print(f"Keys in {store.folder}")
    ok = True
    for uid in uids:
        path = store.device_files(uid)["cert_pem"]
        if not path.exists():
            raise KeyFileError(f"There is no {path.name} in {store.folder}; make it with `wssctl keys init {uid}`.")
        ok &= _show(path.name, store.read(path), "device", ca_pem)
    return 0 if ok else 1


def load_authority(args: argparse.Namespace, store: Store) -> ca.Authority:
    cert_pem = store.read(store.find_ca_cert())
    if not store.ca_key.exists():
        raise KeyFileError(
            f"There is no {store.ca_key.name} in {store.folder}, so nothing can be signed here; restore it."
        )
    return ca.Authority.load(cert_pem, store.read(store.ca_key), ca_passphrase(args))


def ca_passphrase(args: argparse.Namespace) -> str:
    """Asked for once a command."""
    known: str | None = getattr(args, "ca_passphrase", None)
    if known is None:
        known = args.ca_passphrase = ask.secret(
            "Passphrase of the ROOT CA key",
            args.ca_passphrase_file or args.passphrase_file,
            "WSSCTL_CA_PASSPHRASE",
            "WSSCTL_PASSPHRASE",
            option="--ca-passphrase-file",
        )
    return known


def refuse_present(args: argparse.Namespace, *paths: Path) -> None:
    """Before any question is asked; the store looks again when it writes."""
    present = [p for p in paths if p.exists()]
    if present and not args.force:
        raise KeyFileError(f"{present[0]} exists already and is left alone; --force makes a new one.")


def _show(name: str, data: bytes, role: str, ca_pem: bytes | None) -> bool:
    report = ca.report(data, role, ca_pem)
    now = datetime.now(UTC)
    ok = True
    if now < report.not_before:
        state, ok = (
            (f"NOT VALID before {report.not_before:%Y-%m-%d %H:%M} UTC (or this computer's clock is wrong)"),
            False,
        )
    elif now > report.not_after:
        state, ok = f"EXPIRED on {report.not_after:%Y-%m-%d}", False
    else:
        days = report.days_left(now)
        state = f"valid until {report.not_after:%Y-%m-%d}, {days} days left"
        if days < EXPIRY_WARNING_DAYS:
            state += ": renew it soon"
    print(f"{name}: {state}")
    print(f"  {shown(report.subject)}  serial {report.serial}")
    if role == "device" and report.names:
        print(f"  for {shown(', '.join(report.names))}")
    if report.signed_by_ca is False:
        print("  NOT SIGNED by this ROOT CA")
        ok = False
    if report.lacks:
        print(f"  lacks {'; '.join(report.lacks)}")
    return ok


def days(args: argparse.Namespace, default: int) -> int:
    return default if args.days is None else args.days


def until(cert_pem: bytes, role: str) -> str:
    return f"{ca.report(cert_pem, role).not_after:%Y-%m-%d}"


def user_at_host(user: str | None = None) -> str:
    return f"{user or user_name()}@{platform.node() or 'host'}"
