"""Keys and requests made on the board: P-256 against NIST's and RFC 6979's numbers, the requests against OpenSSL."""

import os
import random
import subprocess
from pathlib import Path

import pytest
from board import Board
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

VECTORS = Path(__file__).with_name("p256_vectors.txt")
MANY = 500 if os.environ.get("LONG") else 20


def run(target, directory, program: str, timeout=60) -> str:
    """A program on a bare board; what it printed."""
    (directory / "program.py").write_text(program)
    with Board(directory, target.bits) as board:
        board.read_until(b">>> ", 60)
        board.write(b"import program\r")
        board.read_until(b"import program\r\n")
        out = board.read_until(b">>> ", timeout)[:-4].decode().replace("\r\n", "\n")
    assert "Traceback" not in out, out
    return out


def test_p256_and_rfc_6979_agree_with_published_numbers(target, tmp_path):
    (tmp_path / "v.txt").write_bytes(VECTORS.read_bytes())
    program = """
from binascii import unhexlify
from hashlib import sha256
from wss import enrol
for line in open("v.txt"):
    kind, *v = line.split()
    if kind == "key":
        d, x, y = [int(i, 16) for i in v]
        print(kind, enrol.multiply(d) == (x, y))
    elif kind in ("sig", "rfc"):
        m = unhexlify(v[0])
        d, k, r, s = [int(i, 16) for i in v[1:]]
        e = sha256(m).digest()
        ours = enrol.multiply(k)[0] % enrol.N
        good = ours == r and enrol._inverse(k, enrol.N) * (int.from_bytes(e, "big") + r * d) % enrol.N == s
        if kind == "rfc":
            good = good and next(enrol.nonces(d, e)) == k and enrol.sign(d, m) == (r, s)
        print(kind, good)
"""
    assert run(target, tmp_path, program).split("\n")[:-1] == ["key True"] * 10 + ["sig True"] * 15 + ["rfc True"] * 2


def test_multiples_agree_with_openssl_at_the_edges(target, tmp_path):
    n = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    rows = [1 << 64 * i for i in range(4)]
    edges = [1, 2, 3, 15, 16, n - 1, n - 2, n // 2, *rows, sum(rows), 2**255, 2**64 - 1, 2**128 - 1]
    edges += [random.randrange(1, n) for _ in range(10)]
    (tmp_path / "k.txt").write_text("".join("%x\n" % k for k in edges))
    program = 'from wss import enrol\nfor k in open("k.txt"): print("%x %x" % enrol.multiply(int(k, 16)))\n'
    for k, line in zip(edges, run(target, tmp_path, program).splitlines(), strict=True):
        numbers = ec.derive_private_key(k, ec.SECP256R1()).public_key().public_numbers()
        assert line == f"{numbers.x:x} {numbers.y:x}", hex(k)


def test_requests_and_keys_verify_with_openssl(target, tmp_path):
    program = f"""
from binascii import hexlify
from wss import enrol
for i in range({MANY}):
    key, csr = enrol.make("board%d" % i, bytes([i & 255]) * 32)
    print(hexlify(key).decode(), hexlify(csr).decode())
"""
    seen = set()
    lines = run(target, tmp_path, program, 30 + MANY).splitlines()
    assert len(lines) == MANY
    for i, line in enumerate(lines):
        key_der, csr_der = map(bytes.fromhex, line.split())
        key = serialization.load_der_private_key(key_der, None)
        csr = x509.load_der_x509_csr(csr_der)
        assert csr.is_signature_valid and csr.public_key() == key.public_key()
        assert csr.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == f"board{i}"
        seen.add(key.private_numbers().private_value)
    assert len(seen) == MANY
    for name, args in (("csr", ("req", "-verify", "-noout")), ("key", ("ec", "-check", "-noout"))):
        (tmp_path / name).write_bytes(csr_der if name == "csr" else key_der)
        command = ["openssl", *args, "-inform", "DER", "-in", str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0 and ("verify OK" in done.stderr or "Key valid" in done.stderr + done.stdout)


def test_what_the_host_adds_counts_where_the_boards_own_randomness_is_poor(target, tmp_path):
    """With the same noise from the board, another seed gives another key, and none of the seed's bytes are in it."""
    program = """
from wss import enrol
class os:
    urandom = bytes
enrol.os = os
a, b, c = [enrol.make("x", s)[0] for s in (b"1" * 32, b"2" * 32, b"1" * 32)]
print(a != b, a == c, b"11111111" in a)
"""
    assert run(target, tmp_path, program) == "True True False\n"


def test_progress_is_told_in_small_steps(target, tmp_path):
    program = "from wss import enrol\nsteps = []\nenrol.make('x', b'', steps.append)\nprint(len(steps), sum(steps))\n"
    assert run(target, tmp_path, program) == "5 320\n"


@pytest.mark.parametrize("n", [0, 127, 128, 255, 256, 300])
def test_der_lengths(target, tmp_path, n):
    program = f"from binascii import hexlify\nfrom wss import enrol\nprint(hexlify(enrol.der(4, bytes({n})))[:8])\n"
    length = {0: b"0400", 127: b"047f", 128: b"048180", 255: b"0481ff", 256: b"04820100", 300: b"0482012c"}[n]
    assert run(target, tmp_path, program).strip().startswith(repr(length)[:-1])
