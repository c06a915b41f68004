"""The private certificate authority: makes ROOT CA, HOST, device and update keys and certificates. In: names. Out:
bytes. Nothing here touches a file; store.py does.

Profile (RFC 5280 4.2, the CA/B baseline where it applies): ECDSA P-256 with SHA-256, 128-bit random serials, subject
and authority key identifiers, critical key usage and basic constraints, and one extended key usage a leaf: clientAuth
for hosts, serverAuth for devices, codeSigning for updates, so that a key taken from a board opens no other board, and
a host's signs no update.
"""

import ipaddress
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID as EKU
from cryptography.x509.oid import NameOID

from ..errors import KeyFileError, UsageError

CA_DAYS = 3650
LEAF_DAYS = 824  # with BACKDATE 825, the most that Apple's and testssl.sh's rules allow
WSS_PORT = 8833

# Boards often run on local time, up to 12 hours behind UTC, and host clocks drift: a fresh certificate must be valid
# there.
BACKDATE = timedelta(days=1)

PEM, DER = serialization.Encoding.PEM, serialization.Encoding.DER


@dataclass(frozen=True)
class DeviceFiles:
    """What a board needs: its key as SEC1 DER (unencrypted, the board has nobody to ask) and its certificate."""

    key_der: bytes
    cert_der: bytes
    cert_pem: bytes


class Authority:
    """A ROOT CA with its private key in memory."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, cert: x509.Certificate):
        self._key, self._cert = key, cert

    @classmethod
    def create(cls, name: str, *, days: int = CA_DAYS, not_before: datetime | None = None) -> "Authority":
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(name)
        builder = _builder(subject, subject, key.public_key(), key.public_key(), *_validity(days, not_before))
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        return cls(key, builder.sign(key, hashes.SHA256()))

    @classmethod
    def load(cls, cert_pem: bytes, key_pem: bytes, passphrase: str) -> "Authority":
        """Raises KeyFileError for a wrong passphrase, damaged PEM, or a key that is not this certificate's."""
        key = load_key(key_pem, passphrase, "ROOT CA key")
        cert = load_cert(cert_pem, "ROOT CA certificate")
        if cert.public_key() != key.public_key():
            raise KeyFileError("The ROOT CA key and certificate do not belong together; restore both from one backup.")
        return cls(key, cert)

    @property
    def cert_pem(self) -> bytes:
        return self._cert.public_bytes(PEM)

    def key_pem(self, passphrase: str) -> bytes:
        return encrypted_pem(self._key, passphrase)

    def host(
        self, user: str, passphrase: str, *, days: int = LEAF_DAYS, not_before: datetime | None = None
    ) -> tuple[bytes, bytes]:
        """(encrypted key PEM, certificate PEM) for a person at a machine, e.g. user "ana@desk"."""
        key = ec.generate_private_key(ec.SECP256R1())
        # Its own subject: with the CA's name, as upydev makes them, OpenSSL takes a HOST for self-signed and refuses
        # it.
        cert = self._leaf(_name(f"HOST {user}"), key.public_key(), EKU.CLIENT_AUTH, None, days, not_before)
        return encrypted_pem(key, passphrase), cert.public_bytes(PEM)

    def update_key(
        self, user: str, passphrase: str, *, days: int = LEAF_DAYS, not_before: datetime | None = None
    ) -> tuple[bytes, bytes]:
        """(encrypted key PEM, certificate PEM) of a key that signs updates. It serves no host and no device."""
        key = ec.generate_private_key(ec.SECP256R1())
        cert = self._leaf(_name(f"UPDATES {user}"[:64]), key.public_key(), EKU.CODE_SIGNING, None, days, not_before)
        return encrypted_pem(key, passphrase), cert.public_bytes(PEM)

    def device(
        self,
        uid: str,
        *,
        names: Iterable[str] = (),
        addresses: Iterable[str] = (),
        ports: Iterable[int] = (WSS_PORT,),
        days: int = LEAF_DAYS,
        not_before: datetime | None = None,
    ) -> DeviceFiles:
        """Key and certificate of the board whose machine.unique_id() in hex is `uid`. Raises UsageError for bad
        names."""
        key = ec.generate_private_key(ec.SECP256R1())
        cert = self.sign_device(
            key.public_key(), uid, names=names, addresses=addresses, ports=ports, days=days, not_before=not_before
        )
        key_der = key.private_bytes(DER, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())
        return DeviceFiles(key_der, cert.public_bytes(DER), cert.public_bytes(PEM))

    def sign_device(
        self,
        public_key: CertificatePublicKeyTypes,
        uid: str,
        *,
        names: Iterable[str] = (),
        addresses: Iterable[str] = (),
        ports: Iterable[int] = (WSS_PORT,),
        days: int = LEAF_DAYS,
        not_before: datetime | None = None,
    ) -> x509.Certificate:
        """A device certificate for a public key made elsewhere, such as on the board itself. Raises KeyFileError for a
        key of another kind."""
        if not isinstance(public_key, ec.EllipticCurvePublicKey):
            raise KeyFileError("The key to be certified is not an EC key; make one with `wssctl enrol`.")
        names = list(names)
        alternatives = device_names(names or [uid], addresses, ports)
        subject = _name(names[0] if names else uid, uid)
        return self._leaf(subject, public_key, EKU.SERVER_AUTH, alternatives, days, not_before)

    def sign(self, data: bytes) -> bytes:
        """An ECDSA signature with SHA-256 (DER)."""
        return self._key.sign(data, ec.ECDSA(hashes.SHA256()))

    def verify(self, signature: bytes, data: bytes) -> None:
        """Raises cryptography's InvalidSignature."""
        self._key.public_key().verify(signature, data, ec.ECDSA(hashes.SHA256()))

    def crl(self, serials: Iterable[int], before: bytes | None = None) -> bytes:
        """A revocation list (PEM) with `serials` beside those of the list `before`, valid as long as the CA is."""
        now = datetime.now(UTC).replace(microsecond=0)
        builder = x509.CertificateRevocationListBuilder().issuer_name(self._cert.subject)
        builder = builder.last_update(now - BACKDATE).next_update(self._cert.not_valid_after_utc)
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
        )
        builder = builder.add_extension(x509.CRLNumber(int(now.timestamp())), critical=False)
        revoked = {r.serial_number: r for r in x509.load_pem_x509_crl(before)} if before else {}
        for serial in serials:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now)
            revoked.setdefault(serial, entry.build())
        for each in revoked.values():
            builder = builder.add_revoked_certificate(each)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(PEM)

    def _leaf(
        self,
        subject: x509.Name,
        public_key: ec.EllipticCurvePublicKey,
        purpose: x509.ObjectIdentifier,
        alternatives: x509.SubjectAlternativeName | None,
        days: int,
        not_before: datetime | None,
    ) -> x509.Certificate:
        start, end = _validity(days, not_before)
        end = min(end, self._cert.not_valid_after_utc)  # a leaf that outlives its CA only looks valid
        if end <= start:
            raise KeyFileError(
                f"The ROOT CA certificate expired on {end:%Y-%m-%d}; make a new one with `wssctl ca init --force`."
            )
        builder = _builder(subject, self._cert.subject, public_key, self._key.public_key(), start, end)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage(digital_signature=True), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        if alternatives is not None:
            builder = builder.add_extension(alternatives, critical=False)
        return builder.sign(self._key, hashes.SHA256())


def device_names(
    names: Iterable[str], addresses: Iterable[str], ports: Iterable[int] = (WSS_PORT,)
) -> x509.SubjectAlternativeName:
    """DNS and IP entries a verifier matches (a bare name also as its mDNS `.local`), and for each of them the literal
    `DNS:wss://<target>:<port>` that upydev checks in their place. Raises UsageError for what is no name or address."""
    hosts: list[str] = []
    for name in names:
        if not _is_host_name(name):
            raise UsageError(f"{name!r} is not a host name: use letters, digits, '-', '_' and dots, 63 a part at most.")
        hosts.append(name)
        if "." not in name and name != "localhost":
            hosts.append(name + ".local")
    try:
        parsed = [ipaddress.ip_address(a) for a in addresses]
    except ValueError as e:
        raise UsageError(f"{e}; give --ip an address such as 192.168.1.20, and names with --name.") from None
    targets = [*hosts, *map(str, parsed)]
    entries: list[x509.GeneralName] = [x509.DNSName(h) for h in hosts]
    entries += [x509.IPAddress(a) for a in parsed]
    # upydev takes no IPv6 address
    entries += [x509.DNSName(f"wss://{t}:{port}") for t in targets if ":" not in t for port in ports]
    return x509.SubjectAlternativeName(list(dict.fromkeys(entries)))


def load_key(pem: bytes, passphrase: str | None, what: str) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, passphrase.encode() if passphrase else None)
    except TypeError:  # cryptography's word for: encrypted but no passphrase given, or the other way round
        if passphrase is None:
            raise KeyFileError(f"The {what} needs its passphrase.") from None
        return load_key(pem, None, what)
    except ValueError as e:
        if b"ENCRYPTED" in pem:
            raise KeyFileError(f"Wrong passphrase for the {what} (or the file is damaged); try again.") from None
        raise KeyFileError(f"The {what} is not a readable PEM key ({cause(e)}); restore it from a backup.") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise KeyFileError(f"The {what} is not an elliptic-curve key.")
    return key


def load_cert(data: bytes, what: str) -> x509.Certificate:
    """A certificate, PEM or DER, all parts of which can be read. Raises KeyFileError."""
    try:
        # DER: an ASN.1 SEQUENCE starts with 0x30
        load = x509.load_der_x509_certificate if data.startswith(b"0") else x509.load_pem_x509_certificate
        cert = load(data)
        # These are read when they are asked for, and raise only then
        _ = cert.subject, cert.issuer, cert.extensions, cert.public_key()
        return cert
    except (ValueError, TypeError, x509.InvalidVersion, x509.DuplicateExtension, UnsupportedAlgorithm) as e:
        text = f"The {what} is not a readable certificate ({cause(e)}); restore it or make a new one."
        raise KeyFileError(text) from None


def certificates_alone(pem: bytes, what: str) -> bytes:
    """A file's certificates and nothing else: OpenSSL trusts in kinds of PEM blocks, too, that nobody looks at here
    (PEM_X509_INFO_read_bio: TRUSTED CERTIFICATE). Raises KeyFileError."""
    load_cert(pem, what)  # raises what is to be said of it
    try:
        return b"".join(c.public_bytes(PEM) for c in x509.load_pem_x509_certificates(pem))
    except ValueError as e:
        raise KeyFileError(f"The {what} is not readable ({cause(e)}); restore it or make a new one.") from None


def cause(e: Exception) -> str:
    """What cryptography says, without its link to a page that explains it."""
    return str(e).split(". See http")[0].rstrip(".")


def encrypted_pem(key: ec.EllipticCurvePrivateKey, passphrase: str) -> bytes:
    """PKCS #8 under PBES2 (AES-256, PBKDF2 with SHA-256). The traditional format hashes the passphrase once with
    MD5."""
    return key.private_bytes(
        PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(passphrase.encode())
    )


@dataclass(frozen=True)
class Report:
    """What `status` shows of a certificate."""

    subject: str
    serial: str
    not_before: datetime
    not_after: datetime
    names: list[str]
    signed_by_ca: bool | None
    lacks: list[str]

    def days_left(self, now: datetime | None = None) -> int:
        return (self.not_after - (now or datetime.now(UTC))).days


def report(cert_bytes: bytes, role: str, ca_pem: bytes | None = None) -> Report:
    """`role` is "ca", "host", "device" or "update". `lacks` names, in words, what a strict verifier will miss."""
    cert = load_cert(cert_bytes, f"{role} certificate")
    signed = None
    if ca_pem is not None:
        try:
            cert.verify_directly_issued_by(load_cert(ca_pem, "ROOT CA certificate"))
            signed = True
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
            signed = False
    found = {e.oid: e.value for e in cert.extensions}
    alternatives = found.get(x509.SubjectAlternativeName.oid)
    names = [str(n.value) for n in alternatives] if alternatives else []
    wanted = {
        x509.SubjectKeyIdentifier.oid: "a subject key identifier",
        x509.AuthorityKeyIdentifier.oid: "an authority key identifier",
        x509.KeyUsage.oid: "a key usage",
        x509.BasicConstraints.oid: "basic constraints",
    }
    lacks = [text for oid, text in wanted.items() if oid not in found]
    if role != "ca":
        purpose, text = {
            "host": (EKU.CLIENT_AUTH, "clientAuth"),
            "device": (EKU.SERVER_AUTH, "serverAuth"),
            "update": (EKU.CODE_SIGNING, "codeSigning"),
        }[role]
        if purpose not in found.get(x509.ExtendedKeyUsage.oid, ()):
            lacks.append(f"the extended key usage {text}")
        if cert.subject == cert.issuer:
            lacks.append("a subject of its own (it has its CA's)")
    if role == "device" and not [n for n in names if "://" not in n]:
        lacks.append("a host name or IP address that a verifier can match")
    return Report(
        cert.subject.rfc4514_string(),
        f"{cert.serial_number:x}",
        cert.not_valid_before_utc,
        cert.not_valid_after_utc,
        names,
        signed,
        lacks,
    )


def _name(common_name: str, uid: str | None = None) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "MicroPython")]
    try:
        parts.append(x509.NameAttribute(NameOID.COMMON_NAME, common_name))
        if uid is not None:
            parts.append(x509.NameAttribute(NameOID.USER_ID, uid))
    except ValueError as e:  # X.520: a common name has 1 to 64 characters
        raise UsageError(f"{common_name!r} does not fit a certificate's subject ({e}); use a shorter name.") from None
    return x509.Name(parts)


def _validity(days: int, not_before: datetime | None) -> tuple[datetime, datetime]:
    if days < 1:
        raise UsageError(f"A validity of {days} days is none; give --days 1 or more.")
    now = datetime.now(UTC).replace(microsecond=0)
    start = not_before or now - BACKDATE
    try:
        end = (not_before or now) + timedelta(days=days)
    except OverflowError:
        end = datetime.max.replace(tzinfo=UTC, microsecond=0)
    # RFC 5280 4.1.2.5: the last date a certificate can express
    return start, min(end, datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC))


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    issuer_key: ec.EllipticCurvePublicKey,
    start: datetime,
    end: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder(subject_name=subject, issuer_name=issuer, public_key=public_key)
        # RFC 5280 4.1.2.2 wants it positive: the set top bit gives 128 bits to every serial
        .serial_number(secrets.randbits(128) | 1 << 128)
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )


def _usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _is_host_name(name: str) -> bool:
    parts = name.removesuffix(".").split(".")
    ok = all(0 < len(p) <= 63 and p.isascii() and p.replace("-", "").replace("_", "").isalnum() for p in parts)
    return ok and len(name) <= 253 and not name.replace(".", "").isdigit()


def load_request(data: bytes) -> x509.CertificateSigningRequest:
    """A PKCS #10 request, PEM or DER, of a P-256 key, with a good signature. Raises ValueError."""
    try:
        csr = x509.load_der_x509_csr(data) if data[:1] == b"0" else x509.load_pem_x509_csr(data)
        key = csr.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise ValueError("its key is not a P-256 key")
        good = csr.is_signature_valid
    except (UnsupportedAlgorithm, x509.InvalidVersion, TypeError) as e:
        raise ValueError(f"it is of no kind known here ({e})") from None
    except InvalidSignature:
        good = False
    if not good:
        raise ValueError("its signature is wrong")
    return csr
