"""`wssctl setup`, `wssctl remove`, `wssctl enrol`: a board on a cable gets what it needs for wss, or loses it again."""

import argparse
import hashlib
import ipaddress
import re
import time
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives import serialization

from ..boards import foreign, modules, trust
from ..boards.registry import Board, Registry, check_name
from ..boards.update import LOADER, UPDATE_FILES, UPDATE_FOLDERS
from ..errors import BoardError, ConnectionLost, HandshakeCut, KeyFileError, Unreachable, UsageError
from ..keys import ask, ca, hosts
from ..keys import commands as keys
from ..keys.remembered import remember, remembered
from ..keys.store import Store, check_uid, write_files
from ..text import brief, say, steps
from ..wire.client import Client
from ..wire.link import Credentials, Target
from . import credentials, startup
from .port import NEW, UNFINISHED, About, Cable, refuse_network

_REMOVE_FOLDERS = """
import os
def gone(p):
    for f in os.ilistdir(p):
        gone(p + "/" + f[0]) if f[1] & 0x4000 else os.remove(p + "/" + f[0])
    os.rmdir(p)
for n in %r:
    try:
        gone("/" + n)
    except OSError as e:
        if e.errno != 2:
            raise
"""
_SPACE = 8192  # bytes that must stay free on the board: littlefs moves whole blocks
_BOOT = 20  # seconds that the user's lines in boot.py have to join the network: the server is there before them


def setup(args: argparse.Namespace) -> int:
    refuse_network(args.port, args.over_network)
    _check_names(args)
    store = Store(args.keys)
    registry = Registry(store)
    with Cable(args.port) as board:
        about, known, name = _identify(board, args, registry)
        uid = about["uid"]
        say(f"{brief(about['machine']) or 'A board'}, id {uid}, as {name}")
        files, old = _missing_bundle(board, about)
        room = sum(map(len, files.values())) + _SPACE
        if about["free"] < room:
            raise BoardError(
                f"The board has {about['free']} bytes free and {room} are needed; delete files there. "
                "Nothing was changed."
            )
        passphrase = _passphrase(args, store)
        password = _password(args)
        authority = _authority(args, store, passphrase)
        _host(args, store, authority, passphrase)
        if files or old:
            _install(board, files, old, about)
        # a board without the network module does not know its own, and one that is out of reach comes back
        addresses = _addresses(args, about, registry.addresses(known))
        others = credentials.is_others(board, about, authority.cert_pem)
        credentials.install(args, store, board, authority, about, [name, *args.name[1:]], addresses)
        cert = store.read(store.device_files(uid)["cert_pem"])
        credentials.send_trust(store, board, name, others, cert)
        startup.configure(board, about, args, name, password, bool(files or old))
        startup.set_clock(board, about)
        report = board.restart(b"wss_repl:")
        if "wss_repl: listening" not in report:
            said = [brief(line) for line in report.splitlines() if line.startswith("wss_repl") or "Error" in line]
            raise BoardError(
                f"The board is set up, but its server did not start ({said[-1] if said else 'boot.py said nothing'}); "
                "look at boot.py."
            )
        say("boot.py ran, the server listens")
    host = args.ip[0] if args.ip else addresses[0] if addresses else f"{name}.local"
    entry = registry.update(name, uid=uid, host=host, port=args.wss_port, groups=args.group, cert=cert)
    if remembered(store, f"password:{name}") not in (None, password):
        remember(store, f"password:{name}", password)
    if not addresses:
        raise Unreachable(
            "The board is set up but in no network: connect it in its boot.py (network.WLAN) and run this again; if it "
            "is in one, give --ip ADDRESS."
        )
    _login(args, store, entry, passphrase, password)
    say(f"Connected over wss as a host the board knows. From now on: wssctl repl {name}")
    return 0


def enrol(args: argparse.Namespace) -> int:
    refuse_network(args.port, args.over_network)
    _check_names(args)
    store = Store(args.keys)
    registry = Registry(store)
    with Cable(args.port) as board:
        about, known, name = _identify(board, args, registry)
        uid, names = about["uid"], [name, *args.name[1:]]
        addresses = _addresses(args, about, registry.addresses(known))
        authority = keys.load_authority(args, store)
        others = credentials.is_others(board, about, authority.cert_pem)
        credentials.confirm_foreign(args, board, about, authority)
        credentials.enrol(args, store, board, authority, uid, names, addresses)
        cert = store.read(store.device_files(uid)["cert_pem"])
        credentials.send_trust(store, board, names[0], others, cert)
    host = addresses[0] if addresses else f"{names[0]}.local"
    registry.update(names[0], uid=uid, host=host, port=args.wss_port, cert=cert)
    print(f"The certificate is on {names[0]}. It counts from the next start of wss_repl, or after a reset.")
    return 0


def csr(args: argparse.Namespace) -> int:
    """For a CA on another machine: `keys sign` there, `keys install` here."""
    with Cable(args.port) as board:
        uid = _about(board, args)["uid"]
        pem = credentials.make_request(board, uid).public_bytes(serialization.Encoding.PEM)
    path = Path(args.out or f"SSL_request{uid}.pem")
    write_files({path: pem}, force=True)
    print(f"Wrote {path}. The new key waits on the board until `wssctl keys install` brings its certificate.")
    return 0


def install(args: argparse.Namespace) -> int:
    """A certificate that was signed elsewhere, and the CA, onto the board whose key it is for."""
    store = Store(args.keys)
    with Cable(args.port) as board:
        about = _about(board, args)
        uid = about["uid"]
        path = Path(args.cert) if args.cert else store.device_files(uid)["cert_pem"]
        cert = ca.load_cert(store.read(path), "device certificate")
        ca_pem = store.read(store.find_ca_cert())
        if not ca.report(store.read(path), "device", ca_pem).signed_by_ca:
            raise KeyFileError(f"{path} is not signed by the ROOT CA in {store.folder}.")
        point = credentials.point(cert)
        key = f"SSL_key{uid}.der"
        waits, fits = (credentials.holds_point(board, name, point) for name in (key + NEW, key))
        if not waits and not fits:
            raise BoardError(f"{path} is not for a key on this board ({uid}). Nothing was changed.")
        files = credentials.board_files(uid, cert.public_bytes(serialization.Encoding.DER), ca_pem)
        if not waits:
            board.remove([key + NEW])
        board.stage(files)
        name, others = Registry(store).name_of(uid) or "", credentials.is_others(board, about, ca_pem)
        credentials.send_trust(store, board, name, others, cert.public_bytes(ca.PEM))
        board.commit(([key] if waits else []) + list(files))
    print(f"The certificate is on the board {uid}. It counts from the next start of wss_repl, or after a reset.")
    return 0


def remove(args: argparse.Namespace) -> int:
    with Cable(args.port) as board:
        about = _whole(board, args)
        uid = about["uid"]
        boot = (board.read("boot.py") or b"").decode("utf-8", "surrogateescape")
        block = startup.BLOCK.search(boot)
        added = set(re.findall(r"\w+", block[0].split("\n", 1)[0].partition(":")[2])) if block else set()
        if block:  # first, so that the server does not look for what goes next
            rest = startup.BLOCK.sub("", boot)
            if "boot" in added and not rest.strip():
                board.remove(["boot.py"])
            else:
                board.replace({"boot.py": rest.encode("utf-8", "surrogateescape")})
        gone = [UNFINISHED, f"SSL_key{uid}.der", f"SSL_certificate{uid}.der", "ROOT_CA_cert.pem"]
        gone += [trust.FILE, startup.CLOCK]
        board.remove([f for n in gone for f in (n + ".new", n)] + ["boot.py.new", "webrepl_cfg.py.new"])
        if "webrepl_cfg.before.py" in about["files"]:
            board.exec("import os\nos.rename('webrepl_cfg.before.py', 'webrepl_cfg.py')")
        elif block:
            board.remove(["webrepl_cfg.py"])
        _drop_updates(board, about)
        if "lib" in added:
            root = _lib_folder(about)
            board.remove([f"{root}/{n}" for name in modules.sources() for n in (name, modules.other(name))])
            board.exec(f"import os\ntry:\n os.rmdir('{root}/wss')\nexcept OSError:\n pass")
        board.restart(b">>> ", timeout=5)
    say(f"The board {uid} has no keys, password or wss_repl start of ours any more; its key files here are kept.")
    if not block:
        say("(Its boot.py had no block of `wssctl setup`; what else starts a server there is as it was.)")
    return 0


def _check_names(args: argparse.Namespace) -> None:
    """Before anything is made. The first is also what the board is called here."""
    ca.device_names(args.name, args.ip)
    for name in args.name[:1] + [g.removeprefix("@") for g in getattr(args, "group", [])]:
        check_name(name)


def _addresses(args: argparse.Namespace, about: About, before: list[str]) -> list[str]:
    """Those that its certificate is for: what was given, else the one that it is connected to. A board can claim any,
    and with a certificate for another's it could pass as that one."""
    claimed = []
    for text in map(str, about["addresses"]):
        try:
            claimed.append(str(ipaddress.ip_address(text)))
        except ValueError:
            say(f"NOTE: the board says that it has the address {brief(text)}, which is none")
    chosen = list(args.ip) or claimed[:1] or before
    if args.all_addresses:
        return list(dict.fromkeys([*chosen, *claimed]))
    if others := [address for address in claimed if address not in chosen]:
        say(f"NOTE: the board says that it also has {', '.join(others)}; --all-addresses puts that in its certificate")
    return chosen


# What the board is


def _identify(board: Cable, args: argparse.Namespace, registry: Registry) -> tuple[About, str | None, str]:
    """(what the board is, the name it had here, the name it is to have); the port it listens at goes into args."""
    about = _about(board, args)
    known = registry.name_of(about["uid"])
    name = args.name[0] if args.name else known or f"board-{about['uid'][-6:]}"
    registry.refuse_taken(name, about["uid"])
    args.wss_port = args.wss_port or registry.port(known)
    return about, known, name


def _about(board: Cable, args: argparse.Namespace) -> About:
    foreign.refuse(board.foreign(), "then run this again. Nothing was changed.")
    about = _whole(board, args)
    if not about["uid"] or about["python"] != "micropython":
        raise BoardError("This board has no machine.unique_id(), which its key files are named after: not supported.")
    check_uid(about["uid"])
    if not about["bundle"] and "needs" in about["why"]:
        raise BoardError(f"{brief(about['why'])}; take a current firmware. Nothing was changed.")
    return about


def _whole(board: Cable, args: argparse.Namespace) -> About:
    """What an earlier command was cut off in is finished, on the board that --uid names and on no other."""
    about = board.about()
    if args.uid and args.uid.lower() != about["uid"]:
        raise BoardError(f"This is board {about['uid']}, not {args.uid}; is it the right port? Nothing was changed.")
    if board.finish():
        say("Finished what an earlier command was cut off in: its files were whole, and are in their places now")
        about = board.about()
    return about


def _lib_folder(about: About) -> str:
    return next((p for p in about["path"] if p.endswith("/lib") and not p.startswith("/rom")), "/lib").lstrip("/")


def _missing_bundle(board: Cable, about: About) -> tuple[dict[str, bytes], list[str]]:
    """What has to be installed, by its place on the board, and what to delete then: nothing where it is frozen in."""
    root = _lib_folder(about)
    names = [n for name in modules.sources() for n in (name, modules.other(name))]
    there = board.digests([f"{root}/{n}" for n in names])
    if about["bundle"] and not {f"{root}/wss_repl.py", f"{root}/wss_repl.mpy"} & set(there):
        return {}, []
    try:
        wanted = modules.compiled(about["mpy"])
    except modules.NoCompiler as e:
        wanted = modules.sources()
        say(f"NOTE: the modules go as sources ({e}); an ESP32 without PSRAM has no memory to compile them.")
    files = {f"{root}/{n}": data for n, data in wanted.items()}
    missing = {n: data for n, data in files.items() if there.get(n) != hashlib.sha256(data).hexdigest()}
    return missing, [n for n in map(modules.other, files) if n in there]


def _install(board: Cable, files: dict[str, bytes], old: list[str], about: About) -> None:
    root = _lib_folder(about)
    board.folder(root)
    board.folder(f"{root}/wss")
    with steps("Installing wss_repl", len(files)) as step:
        board.replace(files, step)
    board.remove(old)
    _drop_updates(board, about)


def _drop_updates(board: Cable, about: About) -> None:
    """What `wssctl update` has put in front: the bundle that came by cable counts from here on."""
    if set(UPDATE_FILES) & set(about["files"]):
        board.remove([LOADER, modules.LOADER_BYTECODE, *UPDATE_FILES])
        board.exec(_REMOVE_FOLDERS % (UPDATE_FOLDERS,))


# Keys


def _passphrase(args: argparse.Namespace, store: Store) -> str:
    text = "Passphrase of the ROOT CA key" if store.ca_key.exists() else "Passphrase for your new keys"
    passphrase = ask.secret(
        text, args.ca_passphrase_file or args.passphrase_file, "WSSCTL_CA_PASSPHRASE", "WSSCTL_PASSPHRASE",
        option="--passphrase-file",
    )  # fmt: skip
    if not store.ca_key.exists() and len(passphrase) < ask.MIN_PASSPHRASE:
        raise UsageError(
            f"{len(passphrase)} characters are too few, take {ask.MIN_PASSPHRASE} or more. Nothing was changed."
        )
    return passphrase


def _password(args: argparse.Namespace) -> str:
    password = ask.secret(
        "Password for the board's REPL", args.password_file, "WSSCTL_PASSWORD", option="--password-file"
    )
    return ask.check_password(password)


def _authority(args: argparse.Namespace, store: Store, passphrase: str) -> ca.Authority:
    if store.ca_cert.exists() and store.ca_key.exists():
        return ca.Authority.load(store.read(store.ca_cert), store.read(store.ca_key), passphrase)
    if store.ca_cert.exists():
        raise KeyFileError(f"There is no {store.ca_key.name} in {store.folder}, so nothing can be signed; restore it.")
    authority = ca.Authority.create(f"ROOT CA {keys.user_at_host()}"[:64])
    store.write({store.ca_key: authority.key_pem(passphrase), store.ca_cert: authority.cert_pem})
    say(f"Made a ROOT CA in {store.folder}. Keep a copy of it, and the passphrase, elsewhere.")
    return authority


def _host(args: argparse.Namespace, store: Store, authority: ca.Authority, passphrase: str) -> None:
    key, cert = store.host_files()
    if cert.exists() and key.exists():
        return
    if store.hosts():
        return  # find_host() chooses, or says why not
    key_pem, cert_pem = authority.host(keys.user_at_host()[:59], passphrase)
    store.write({key: key_pem, cert: cert_pem}, force=cert.exists() != key.exists())
    hosts.issued(store, cert_pem)
    say(f"Made this machine's HOST key, {cert.name}")


# The proof


def _login(args: argparse.Namespace, store: Store, entry: Board, passphrase: str, password: str) -> None:
    key, cert = store.find_host()
    answer: str | Callable[[], str] = ask.deferred(
        f"Passphrase for key '{key.name}'", args.passphrase_file, "WSSCTL_PASSPHRASE", option="--passphrase-file"
    )
    try:
        ca.load_key(store.read(key), passphrase, "HOST key")
        answer = passphrase
    except KeyFileError:
        pass  # an older HOST key with another passphrase
    target = Target(True, entry.host, entry.port, "/takeover")
    deadline = time.monotonic() + _BOOT + args.timeout
    while True:
        try:
            with Client.connect(
                target, Credentials(store.find_ca_cert(), cert, key, answer), password, timeout=args.timeout
            ) as client:
                foreign.refuse(foreign.find(client), "then reset the board.")
                say(f"{client.tls_line}")
                return
        except (Unreachable, ConnectionLost, HandshakeCut):  # it is booting
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
