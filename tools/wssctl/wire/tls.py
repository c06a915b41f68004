"""TLS with both certificates: the context made of key files, the connection, and what went wrong as a sentence."""

import contextlib
import select
import socket
import ssl
import threading
from datetime import UTC, datetime
from pathlib import Path

from ..errors import HandshakeCut, KeyFileError, TrustError, Unreachable, UsageError
from .link import Credentials, Deadline, Target

# AES-GCM where the firmware has it, CCM8 for boards that have the seed's suite alone (TLS 1.3 suites are always on).
# OpenSSL 3.2 and later drops CCM8 again at its default security level.
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE-ECDSA-AES128-CCM:ECDHE-ECDSA-AES256-CCM:ECDHE-ECDSA-AES128-CCM8"

# A board that lost power answers nothing, and TCP alone would notice after minutes: probe after 3 s of silence and give
# up after 3 + 3 * 2 s. The board's TCP stack answers these even while its program is busy.
_KEEPALIVE = (("TCP_KEEPIDLE", 3), ("TCP_KEEPALIVE", 3), ("TCP_KEEPINTVL", 2), ("TCP_KEEPCNT", 3))
_CRL = "ROOT_CA_crl.pem"
_MOST_SHARED = 4  # contexts: a rotation of the ROOT CA goes between three
_shared: dict[object, ssl.SSLContext] = {}
_sharing = threading.Lock()
_SERVER_HELLO = 4.0  # s; a board on Wi-Fi sends its own within 1.5


def context(files: Credentials) -> ssl.SSLContext:
    """Raises KeyFileError: a missing or damaged file, a wrong passphrase."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # CERT_REQUIRED and check_hostname come with it
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    for path in (files.ca, files.cert, files.key):
        if not path.exists():
            raise KeyFileError(f"There is no {path}; make it with `wssctl ca init` and `wssctl host init`.")
    try:
        context.load_verify_locations(cafile=files.ca)
        if (crl := files.ca.with_name(_CRL)).exists():  # `wssctl boards revoke` makes it
            if b"CERTIFICATE-----" in crl.read_bytes():  # which OpenSSL would trust in as a ROOT CA
                raise KeyFileError(
                    f"{crl} has a certificate in it, which a revocation list has not: delete it, and get it anew from "
                    "where `wssctl boards revoke` made it."
                )
            context.load_verify_locations(cafile=crl)
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    except (ssl.SSLError, OSError) as e:
        raise KeyFileError(
            f"Cannot use {files.ca} as the ROOT CA ({_reason(e)}); restore it from a backup."
        ) from None
    try:
        context.load_cert_chain(files.cert, files.key, password=files.passphrase or _no_passphrase)
    except ssl.SSLError as e:
        if e.reason in ("KEY_VALUES_MISMATCH",):
            text = (
                f"{files.key.name} is not the key of {files.cert.name}; make both anew with `wssctl host "
                "init --force`."
            )
        elif e.reason in ("BAD_DECRYPT", "BAD_PASSWORD_READ", None) or "DECRYPT" in str(e.reason):
            text = f"Wrong passphrase for {files.key.name} (or the file is damaged); try again."
        else:
            text = (
                f"Cannot use {files.cert.name} with {files.key.name} ({_reason(e)}); make them anew with "
                "`wssctl host init --force`."
            )
        raise KeyFileError(text) from None
    except (OSError, ValueError) as e:
        raise KeyFileError(f"Cannot use {files.key} ({_reason(e)}).") from None
    return context


def shared_context(files: Credentials) -> ssl.SSLContext:
    """The one that these credentials had before in this process, while the files are the same ones; else as context().
    To decrypt the HOST key takes more than all else that a login computes here."""
    with _sharing:  # who comes second, waits for the first one's: a passphrase is asked for once
        key = files, *map(_state, (files.ca, files.cert, files.key, files.ca.with_name(_CRL)))
        if key not in _shared:
            made = context(files)
            if len(_shared) >= _MOST_SHARED:
                _shared.clear()
            _shared[key] = made
        return _shared[key]


def _state(path: Path) -> tuple[int, int, int] | None:
    """What differs between a file and the one that takes its place."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _no_passphrase() -> str:
    raise KeyFileError("The HOST key needs its passphrase: give --passphrase-file or set WSSCTL_PASSPHRASE.")


def connect(
    target: Target,
    context: ssl.SSLContext,
    name: str,
    credentials: Credentials | None,
    deadline: Deadline,
    timeout: float,
) -> ssl.SSLSocket:
    """TCP and TLS. A board whose TCP stack (lwIP) still holds the last connection from the same port of ours in
    TIME_WAIT takes the new one and never answers: without a ServerHello in time, once more from another port."""
    for last in (False, True):
        plain = tcp_connect(target, timeout, deadline)
        sock: socket.socket = plain
        try:
            sock = tls = context.wrap_socket(plain, server_hostname=name, do_handshake_on_connect=False)
            tls.setblocking(False)
            with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
                tls.do_handshake()  # sends the ClientHello; a quick peer may have answered all by now
                return tls
            left = deadline.left or 0.0
            patience = left if last else min(left, _SERVER_HELLO)
            if not select.select([tls], [], [], patience)[0]:
                if last or deadline.expired:
                    raise TimeoutError
                tls.close()
                continue
            tls.settimeout(max(0.1, deadline.left or 0.0))
            tls.do_handshake()
            return tls
        except (OSError, ValueError) as e:
            sock.close()
            raise problem(e, target, name, credentials) from None
        except BaseException:
            sock.close()
            raise
    raise AssertionError("the second round returns or raises")


def tcp_connect(target: Target, timeout: float, deadline: Deadline | None = None) -> socket.socket:
    """A TCP connection to it within `timeout` seconds, or what is left of them until the deadline. Raises Unreachable,
    UsageError."""
    where = f"{target.host} port {target.port}"
    try:
        left = timeout if deadline is None else deadline.left
        sock = socket.create_connection((target.host, target.port), left or 0.1)
    except socket.gaierror:
        raise Unreachable(
            f"There is no host named {target.host!r} here; check the name, or use the board's IP address."
        ) from None
    except ConnectionRefusedError:
        raise Unreachable(
            f"{where} refuses connections; start the server on the board with `import wss_repl; wss_repl.start()`."
        ) from None
    except TimeoutError:
        raise Unreachable(
            f"{where} did not answer within {timeout:g} s; is the board on and in this network?"
        ) from None
    except UnicodeError:
        raise UsageError(f"{target.host!r} is not a host name.") from None
    except OSError as e:
        raise Unreachable(f"Cannot reach {where} ({_reason(e)}); check the network and the address.") from None
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE:
        if (option := getattr(socket, name, None)) is not None:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
    return sock


def _reason(e: BaseException) -> str:
    if isinstance(e, ssl.SSLError) and e.reason:
        return e.reason.replace("_", " ").lower()
    return (getattr(e, "strerror", None) or str(e) or type(e).__name__).removesuffix(".")


# OpenSSL's X509_V_ERR_* (x509_vfy.h), as SSLCertVerificationError.verify_code.
_NOT_YET_VALID, _EXPIRED, _REVOKED, _PURPOSE, _HOST_MISMATCH, _IP_MISMATCH = 9, 10, 23, 26, 62, 64

# What the board's TLS alert (RFC 8446 6.2) says about *our* certificate, by the tail of OpenSSL's reason.
_ALERTS = {
    "UNKNOWN_CA": "its CA is not the board's; sign it with the board's ROOT CA, or give the board yours",
    "CERTIFICATE_EXPIRED": "it has expired; make a new one with `wssctl host init --force`",
    "CERTIFICATE_REVOKED": "it is on the board's list of revoked certificates",
    "CERTIFICATE_REQUIRED": "none was sent",
    "CERTIFICATE_UNKNOWN": "to the board it is not valid yet; most likely the board's clock is wrong",
    "BAD_CERTIFICATE": "it cannot be verified there",
    "UNSUPPORTED_CERTIFICATE": "it is not for hosts: use a HOST certificate, not a device's",
    "ACCESS_DENIED": "it is valid but not allowed on this board",
}


def problem(
    e: BaseException, target: Target, name: str, credentials: Credentials | None
) -> TrustError | Unreachable:
    if isinstance(e, ssl.SSLCertVerificationError):
        ca = credentials.ca if credentials else "the ROOT CA"
        code = e.verify_code
        if code in (_HOST_MISMATCH, _IP_MISMATCH):
            text = (
                f"The board's certificate is valid, but not for {name}: it may be another board, which "
                "has its address now: `wssctl boards find NETWORK` looks for it. If it is the right one, `wssctl setup "
                "PORT` on its cable, with --name or --ip, adds that, or say with --server-name which name it has."
            )
        elif code == _EXPIRED:
            text = (
                f"The certificate of {target.host} (or the ROOT CA's) has expired by this computer's clock "
                f"({datetime.now(UTC):%Y-%m-%d}); if that is right, `wssctl keys status` shows which, and `wssctl "
                "setup PORT` on the board's cable renews its."
            )
        elif code == _NOT_YET_VALID:
            text = (
                f"The certificate of {target.host} is not valid yet by this computer's clock "
                f"({datetime.now(UTC):%Y-%m-%d}); check that."
            )
        elif code == _PURPOSE:
            text = (
                f"{target.host} shows a certificate that is not for devices (extended key usage serverAuth); "
                "do not type a password there."
            )
        elif code == _REVOKED:
            text = (
                f"The certificate of {target.host} has been revoked; `wssctl setup PORT --new-keys` gives the board "
                "another, if it is yours again."
            )
        else:
            text = (
                f"{target.host} shows a certificate that {ca} did not sign; it is not your board, or its keys "
                f"are from another CA ({e.verify_message})."
            )
        return TrustError(text)
    reason = (getattr(e, "reason", None) or "") if isinstance(e, ssl.SSLError) else ""
    if "ALERT" in reason:
        tail = reason.split("ALERT_", 1)[-1].removeprefix("SSLV3_").removeprefix("TLSV1_")
        if tail in _ALERTS:
            why = _why_out_of_date(tail, credentials) or _ALERTS[tail]
            return TrustError(f"The board refuses this HOST certificate: {why}.")
        if tail == "PROTOCOL_VERSION":
            return TrustError(f"{target.host} and this computer share no TLS version; 1.2 or later is needed.")
        if tail == "HANDSHAKE_FAILURE":
            return TrustError(
                f"{target.host} ends the TLS handshake: no shared cipher suite, or no certificate it accepts."
            )
        return TrustError(f'{target.host} ends TLS with the alert "{tail.replace("_", " ").lower()}".')
    if reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"):
        return TrustError(
            f"{target.host} port {target.port} does not speak TLS; is the port right? (Plain "
            "WebREPL needs ws:// typed out.)"
        )
    if isinstance(e, TimeoutError):
        return Unreachable(
            f"{target.host} port {target.port} accepts connections but does not start TLS in time. Try "
            "again; if it goes on, a program there has taken all memory, or holds the CPU and has taken the timer that "
            "start() names: reset the board, and give start(timer=...) one that the program leaves alone."
        )
    if isinstance(e, (ConnectionError, ssl.SSLEOFError)) or reason == "UNEXPECTED_EOF_WHILE_READING":
        return HandshakeCut(
            f"{target.host} closed the connection during the TLS handshake; it may not accept this HOST certificate, "
            "lack its own (`wss_repl.status()` there tells), or speak plain WebREPL (ws:// typed out)."
        )
    return TrustError(f"TLS with {target.host} failed: {_reason(e)}.")


def _why_out_of_date(alert: str, credentials: Credentials | None) -> str | None:
    """Why a board finds our certificate out of date, by its dates and this computer's clock; None when that is what it
    says."""
    if alert not in ("CERTIFICATE_EXPIRED", "CERTIFICATE_UNKNOWN") or credentials is None:
        return None
    from ..keys.ca import report

    try:
        ours = report(credentials.cert.read_bytes(), "host")
    except (OSError, KeyFileError):
        return None
    now = datetime.now(UTC)
    dates = f"it is valid from {ours.not_before:%Y-%m-%d} to {ours.not_after:%Y-%m-%d}"
    here = f"this computer's clock shows {now:%Y-%m-%d}"
    if alert == "CERTIFICATE_EXPIRED":
        off = "ahead" if now < ours.not_after else ""
    else:
        off = "behind" if now >= ours.not_before else ""
        if not off:
            return f"{dates}, and {here}; check that"
    if not off:
        return None
    there = "has expired" if off == "ahead" else "is not valid yet"
    return (
        f"to the board it {there}, but {dates}, and {here}. So the board's clock is {off}: `wssctl setup PORT` on its "
        "cable sets it (if it is not this computer's that is wrong)"
    )
