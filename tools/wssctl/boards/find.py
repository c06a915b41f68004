"""`wssctl boards find`: boards that have another address today, by the certificates that are shown on the network."""

import argparse
import contextlib
import ipaddress
import socket
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.x509.oid import NameOID

from ..errors import KeyFileError, UsageError
from ..keys import ca
from ..keys.store import Store
from ..wire import glance
from .registry import Board, Registry

_AT_ONCE = 128
_MOST = 4096  # addresses in one search
_WAIT = 3.0  # seconds: an ESP32 shows its certificate within half a second of a ClientHello, but may be busy


def find(args: argparse.Namespace) -> int:
    store = Store(args.keys)
    registry = Registry(store)
    boards = registry.select([])
    if not boards:
        raise UsageError("There are no boards to find; `wssctl setup` or `wssctl boards add` adds one.")
    authorities = x509.load_pem_x509_certificates(store.read(store.find_ca_cert()))
    ports = sorted({b.port for b in boards})
    places = [(b.name + ".local", b.port) for b in boards] + [(b.host, b.port) for b in boards if b.host]
    places += [(address, port) for address in _addresses(args.network, boards) for port in ports]
    found: dict[str, tuple[str, int]] = {}
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for place, der in zip(places, pool.map(_certificate, places), strict=True):
            if der and (board := whose(der, authorities, boards)) and board.name not in found:
                found[board.name] = place
    for board in boards:
        if board.name not in found:
            print(f"{board.name}: not found")
            continue
        host, port = found[board.name]
        if host == board.name + ".local":  # by name it is found again next time; the number is what to show
            with contextlib.suppress(OSError):
                host = socket.gethostbyname(host)
        if (host, port) == (board.host, board.port):
            print(f"{board.name}: {host}, as before")
        else:
            registry.update(board.name, seen=False, host=host, port=port)
            print(f"{board.name}: {host}, was {board.host or 'nowhere'}")
    return 0 if len(found) == len(boards) else 3


def whose(der: bytes, authorities: Iterable[x509.Certificate], boards: Iterable[Board]) -> Board | None:
    """The board that a certificate of one of these CAs was made for: by its id, else by its name."""
    try:
        cert = ca.load_cert(der, "certificate")
        for authority in authorities:
            with contextlib.suppress(ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
                cert.verify_directly_issued_by(authority)
                break
        else:
            return None
        ids = [str(a.value).lower() for a in cert.subject.get_attributes_for_oid(NameOID.USER_ID)]
        names = ca.report(der, "device").names
    except KeyFileError:
        return None
    boards = list(boards)
    by_id = next((b for b in boards if b.uid and b.uid in ids), None)
    return by_id or next((b for b in boards if not b.uid and b.name in names), None)


def _certificate(place: tuple[str, int]) -> bytes | None:
    return glance.certificate(*place, timeout=_WAIT)


def _addresses(network: str | None, boards: Iterable[Board]) -> list[str]:
    """All of a network's addresses; of none, those of the /24 networks in which the boards were."""
    try:
        if network:
            networks = [ipaddress.ip_network(network, strict=False)]
        else:
            networks = []
            for board in boards:
                with contextlib.suppress(ValueError):
                    networks.append(ipaddress.ip_network(f"{ipaddress.IPv4Address(board.host)}/24", strict=False))
    except ValueError as e:
        raise UsageError(f"{e}; give a network such as 192.168.1.0/24.") from None
    size = sum(n.num_addresses for n in set(networks))
    if size > _MOST:
        raise UsageError(f"{size} addresses are too many to look at, {_MOST} are the most; give a smaller network.")
    return [str(a) for n in dict.fromkeys(networks) for a in n.hosts()]
