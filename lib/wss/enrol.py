# A private key born on the board, and a request for its certificate. Loaded for this only; needs nothing of the bundle.
# In: randomness, the board's id.  Out: SEC1 private key and PKCS #10 request, both DER.  Next: wssctl signs it.
# Also what checks a signature of others: for signed.py.
#
# P-256 (FIPS 186-4 D.1.2.3) in Jacobian coordinates over MicroPython's big integers. Their time depends on their
# values, so whoever can measure the board while it makes the key learns something; it is made once, over a cable.
import os
from binascii import a2b_base64
from hashlib import sha256

_P = 0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF
N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_G = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
    1,
)

_table = None


def _silent(done):
    pass


def _double(p):
    # dbl-2001-b for a = -3 (hyperelliptic.org EFD); None is the point at infinity
    if not p:
        return None
    x, y, z = p
    d = z * z % _P
    g = y * y % _P
    b = x * g % _P
    a = 3 * (x - d) * (x + d) % _P
    x = (a * a - 8 * b) % _P
    return x, (a * (4 * b - x) - 8 * g * g) % _P, 2 * y * z % _P


def _add(p, q):
    # add-1998-cmo-2
    if not p or not q:
        return p or q
    x1, y1, z1 = p
    x2, y2, z2 = q
    a = z1 * z1 % _P
    b = z2 * z2 % _P
    u = x1 * b % _P
    s = y1 * b * z2 % _P
    h = (x2 * a - u) % _P
    r = (y2 * a * z1 - s) % _P
    if not h:
        return None if r else _double(p)
    hh = h * h % _P
    hhh = h * hh % _P
    v = u * hh % _P
    x = (r * r - hhh - 2 * v) % _P
    return x, (r * (v - x) - s * hhh) % _P, z1 * z2 * h % _P


def _inverse(a, m):
    # extended Euclid: pow(a, -1, m) is not in MicroPython, and a power costs 256 squarings
    u, v = a % m, m
    x, y = 1, 0
    while u > 1:
        q = v // u
        u, v = v - q * u, u
        x, y = y - q * x, x
    return x % m


def multiply(k, progress=_silent):
    """(x, y) of k times the base point, 0 < k < N, by a comb of four rows (Lim and Lee 1994).

    progress(steps) is called every 64 steps: three times the first time, then once.
    """
    global _table
    if not _table:
        _table = [None, _G]
        row = _G
        for i in range(1, 4):
            for _ in range(64):
                row = _double(row)
            progress(64)
            for p in _table[:]:
                _table.append(_add(p, row))
    q = None
    for i in range(63, -1, -1):
        q = _double(q)
        q = _add(
            q,
            _table[
                (k >> i & 1) | (k >> i + 64 & 1) << 1 | (k >> i + 128 & 1) << 2 | (k >> i + 192 & 1) << 3
            ],
        )  # fmt: skip
    progress(64)
    x, y, z = q
    z = _inverse(z, _P)
    zz = z * z % _P
    return x * zz % _P, y * zz * z % _P


def _hmac(key, data):
    key = key + bytes(64 - len(key))
    inner = sha256(bytes([b ^ 0x36 for b in key]) + data).digest()
    return sha256(bytes([b ^ 0x5C for b in key]) + inner).digest()


def nonces(d, digest):
    """RFC 6979 section 3.2: the k to sign a SHA-256 digest with, one after the other until one will do."""
    seed = d.to_bytes(32, "big") + (int.from_bytes(digest, "big") % N).to_bytes(32, "big")
    v = b"\1" * 32
    key = bytes(32)
    for i in range(2):
        key = _hmac(key, v + bytes([i]) + seed)
        v = _hmac(key, v)
    while True:
        v = _hmac(key, v)
        k = int.from_bytes(v, "big")
        if 0 < k < N:
            yield k
        key = _hmac(key, v + b"\0")
        v = _hmac(key, v)


def sign(d, message, progress=_silent):
    """ECDSA with SHA-256 of message under the private key d: (r, s)."""
    digest = sha256(message).digest()
    e = int.from_bytes(digest, "big")
    for k in nonces(d, digest):
        r = multiply(k, progress)[0] % N
        s = _inverse(k, N) * (e + r * d) % N
        if r and s:
            return r, s


def verify(x, y, digest, r, s):
    """Whether r, s is an ECDSA signature of a SHA-256 digest (bytes) under the public key (x, y), a point of the curve
    (FIPS 186-4 6.4.2)."""
    if not (0 < r < N and 0 < s < N):
        return False
    w = _inverse(s, N)
    u = int.from_bytes(digest, "big") * w % N
    v = r * w % N
    q = x, y, 1
    terms = None, _G, q, _add(_G, q)
    p = None
    for i in range(255, -1, -1):  # both multiples at once (Strauss 1964): half of the doublings
        p = _double(p)
        p = _add(p, terms[(u >> i & 1) | (v >> i & 1) << 1])
    if not p:
        return False
    z = _inverse(p[2], _P)
    return (p[0] * z * z % _P) % N == r


def der(tag, *parts):
    """A DER value (X.690): tag, the length of parts, parts."""
    body = b"".join(parts)
    n = len(body)
    return bytes([tag, n] if n < 128 else [tag, 0x81, n] if n < 256 else [tag, 0x82, n >> 8, n & 255]) + body


def _integer(i):
    b = i.to_bytes(33, "big").lstrip(b"\0")
    return der(2, b"\0" + b if not b or b[0] & 128 else b)


_CURVE = b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07"  # prime256v1
_EC_KEY = b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01"  # id-ecPublicKey
_ECDSA = b"\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02"  # ecdsa-with-SHA256
_CN = b"\x06\x03\x55\x04\x03"


def private_key(d, point):
    """SEC1 ECPrivateKey (RFC 5915)."""
    return der(0x30, _integer(1), der(4, d.to_bytes(32, "big")), der(0xA0, _CURVE), der(0xA1, der(3, b"\0", point)))


def request(d, point, name, progress=_silent):
    """PKCS #10 CertificationRequest (RFC 2986) for a public key (65 bytes, uncompressed), common name `name`."""
    subject = der(0x30, der(0x31, der(0x30, _CN, der(12, name.encode()))))
    info = der(0x30, _integer(0), subject, der(0x30, der(0x30, _EC_KEY, _CURVE), der(3, b"\0", point)), der(0xA0))
    r, s = sign(d, info, progress)
    return der(0x30, info, der(0x30, _ECDSA), der(3, b"\0", der(0x30, _integer(r), _integer(s))))


def make(name, seed=b"", progress=_silent):
    """(private key, request) in DER: a new key and the request for its certificate.

    seed: 32 random bytes from elsewhere. They are mixed in, because a board whose radio is off may have little
    randomness of its own (ESP-IDF, Random Number Generation).
    """
    try:
        import mbedtls
        import x509

        key = mbedtls.ec_gen_key("secp256r1")[0]  # mpy-mbedtls, which upydev uses; its gen_csr takes and gives PEM
        return [a2b_base64(pem.split(b"-----")[2]) for pem in (key, x509.gen_csr("CN=" + name, key, False))]
    except (ImportError, AttributeError):
        pass
    noise = os.urandom(64) + seed
    # 512 bits modulo N - 1: FIPS 186-4 B.4.1
    d = int.from_bytes(sha256(b"\0" + noise).digest() + sha256(b"\1" + noise).digest(), "big") % (N - 1) + 1
    x, y = multiply(d, progress)
    point = b"\4" + x.to_bytes(32, "big") + y.to_bytes(32, "big")
    return private_key(d, point), request(d, point, name, progress)
