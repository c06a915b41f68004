"""The parsers, files and credentials against made-up input, on MicroPython itself (device/fuzz.py)."""

import contextlib
import os
import random
import ssl
import time

import firmware
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from evidence_common import HERE, LONG, run
from peers import Ended, Peer
from targets import ROOT
from wssctl.errors import KeyFileError
from wssctl.keys import ca

TARGETS = ["upgrade", "frames", "login", "backoff", "files", "pem", "credentials", "fields", "listed", "enrol"]
INPUTS = 1_000_000 if LONG else 2_000
# files.py has a file system behind it. 32 bits see a third of the inputs: what differs there is few lines of C.
SECONDS = int(os.environ.get("EVIDENCE_SECONDS", 300)) if LONG else 1
SLOW = {"files": 2}


def fuzzed(target, name, seconds, inputs, build=None):
    """(what to put in the table, lines) of a run without a bug."""
    corpus = HERE / "corpus" / f"{name}.txt"
    # A number names the same input everywhere; the corpus comes first
    lines = run(target.bits, "fuzz.py", name, 0, inputs, corpus, seconds, binary=build)
    bugs = [line for line in lines if not line.startswith(("NEW ", "AT ", "DONE "))]
    assert not bugs, "\n".join(bugs)
    ran, ms, longest, most, kept = map(int, lines[-1].removeprefix("DONE ").split())
    assert ran > 100
    assert kept < 32768, f"{kept} bytes of heap are not given back"
    return (
        f"{ran:,} inputs in {ms / 1000:.0f} s ({ran * 1000 // max(ms, 1):,}/s): no bug; longest {longest} ms; "
        f"at most {most:,} bytes allocated by one; {kept:+,} bytes of heap afterwards"
    ), lines


@pytest.mark.parametrize("name", TARGETS)
def test_made_up_input(target, name, row):
    share = 3 if LONG and target.bits == 32 else 1
    text, lines = fuzzed(target, name, SECONDS * SLOW.get(name, 1) // share, INPUTS // share)
    row("Fuzzing", f"{name}, {target.bits} bits", text)
    if os.environ.get("EVIDENCE_SAVE"):
        with (HERE / "corpus" / f"{name}.txt").open("a") as f:
            f.writelines(line.removeprefix("NEW ") + "\n" for line in lines if line.startswith("NEW "))


@pytest.mark.skipif(not LONG, reason="builds firmware with sanitizers, a minute each: make evidence")
@pytest.mark.parametrize("name", TARGETS)
def test_made_up_input_with_sanitizers(target, name, row):
    """Address and undefined behaviour sanitizers and assertions: what they say ends up among the lines."""
    build = firmware.firmware(target.bits, sanitize=True)
    text, _ = fuzzed(target, name, SECONDS // 9 + 1, INPUTS // 20, build)
    row("Fuzzing with sanitizers and assertions", f"{name}, {target.bits} bits", text)


@pytest.mark.skipif(not LONG, reason="builds firmware with sanitizers, a minute each: make evidence")
def test_sessions_with_sanitizers(target, provisioned, keys, row):
    """Refused, cut off, taken over, with files and a soft reset, on the firmware with sanitizers and assertions."""
    data = random.Random(1).randbytes(20000)
    build = firmware.firmware(target.bits, sanitize=True)
    with target.board(provisioned, binary=build, heap="2M") as board:
        for i in range(20):
            for who in (keys.foreign, keys.nobody):
                with contextlib.suppress(OSError, Ended, ssl.SSLError), Peer(board.address, who) as peer:
                    peer.login()
            with contextlib.suppress(OSError, Ended), Peer(board.address, keys.host) as peer:
                peer.upgrade()
                peer.send(random.Random(i).randbytes(300))
                peer.recv()
            with Peer(board.address, keys.host, timeout=20) as left, Peer(board.address, keys.host, timeout=20) as peer:
                left.login(path=b"/takeover")
                peer.login(path=b"/takeover")
                assert peer.put(b"f", data) == 0 and peer.get(b"f") == data
                peer.text("[print(i) for i in range(500)]\r")
                peer.until(b"499\r\n")
                if i % 5 == 4:
                    peer.text("\x04")
                    board.wait()
        said = board.console.log
    for word in (b"runtime error", b"AddressSanitizer", b"Assertion", b"LeakSanitizer"):
        assert word not in said, said[-3000:].decode(errors="replace")
    row(
        "Fuzzing with sanitizers and assertions",
        f"20 sessions with files, output, takeover and soft resets, 60 refused connections, {target.bits} bits",
        "nothing found",
    )


FORMS = (Encoding.DER, Encoding.PEM)


def mutated(rng, data: bytes, others) -> bytes:
    data = bytearray(data)
    for _ in range(rng.randrange(1, 4)):
        i, what = rng.randrange(len(data) + 1), rng.randrange(6)
        if what == 0 and i < len(data):
            data[i] ^= 1 << rng.randrange(8)
        elif what == 1 and i < len(data):
            data[i] = rng.choice((0, 1, 2, 3, 6, 0x30, 0x31, 0x7F, 0x80, 0x81, 0x82, 0xA0, 0xFF))
        elif what == 2:
            del data[i : i + rng.randrange(1, 20)]
        elif what == 3:
            data[i:i] = data[i : i + rng.randrange(1, 40)]
        elif what == 4:
            data[i:i] = rng.randbytes(rng.randrange(1, 10))
        else:
            other = rng.choice(others)
            data[i:] = other[rng.randrange(len(other)) :]
    return bytes(data)


@pytest.mark.filterwarnings("ignore")
def test_requests_and_certificates_that_the_host_reads(keys, row):
    """What comes from a board, at wssctl: a request or a certificate is taken, or there is one sentence."""
    rng = random.Random(10)
    key = ec.generate_private_key(ec.SECP256R1())
    other = ec.generate_private_key(ec.SECP384R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "b")])
    )
    seeds = [builder.sign(k, hashes.SHA256()).public_bytes(e) for k in (key, other) for e in FORMS]
    certs = [keys.ca.cert_pem, keys.host.cert.read_bytes(), *(p.read_bytes() for p in keys.board.glob("*cert*"))]
    for what, first, read in (
        ("requests", seeds, ca.load_request),
        ("certificates", certs, lambda data: ca.report(data, "device", keys.ca.cert_pem)),
    ):
        ran = taken = 0
        longest = 0.0
        start = time.monotonic()
        while ran < INPUTS and time.monotonic() - start < SECONDS / 2:
            data = mutated(rng, rng.choice(first), first)
            at = time.monotonic()
            try:
                read(data)
                taken += 1
            except (ValueError, KeyFileError) as e:
                assert isinstance(e, KeyFileError) or what == "requests", e
            longest = max(longest, time.monotonic() - at)
            ran += 1
        assert longest < 1
        took = time.monotonic() - start
        row(
            "Fuzzing",
            f"{what} that wssctl reads, host",
            f"{ran:,} inputs in {took:.0f} s ({ran / took:,.0f}/s): {taken:,} taken, the others refused by name; "
            f"longest {longest * 1000:.0f} ms",
        )


PLANTED = {
    "frames": ("frames.py", "h[1] & 127 > 125", "h[1] & 127 > 126"),
    "upgrade": ("upgrade.py", "not 0 < len(key)", "not 0 <= len(key)"),
    "login": ("login.py", "diff = len(a) ^ len(b)", "diff = 0"),
    "backoff": ("login.py", "if not -_DELAY_MAX <= ticks_diff(now, f[2]) <=", "if not ticks_diff(now, f[2]) <="),
    "files": ("files.py", "        if name:\n", "        if 0:\n"),
    "pem": ("pem.py", "except ValueError:", "except KeyError:"),
    "fields": ("trust.py", "except IndexError:", "except KeyError:"),
    "enrol": ("enrol.py", "not b or b[0] & 128", "not b"),
    "listed": ("trust.py", 'words == ["pinned"]', 'words[0] == "pinned"'),
}


def test_what_is_to_be_planted_has_its_place():
    """In the suite, too: the modules change."""
    for file, right, _ in PLANTED.values():
        assert (ROOT / "lib" / "wss" / file).read_text().count(right) == 1, (file, right)


@pytest.mark.skipif(not LONG, reason="about the fuzzer, not the bundle: make evidence")
@pytest.mark.parametrize("name", PLANTED)
def test_the_fuzzer_finds_what_is_there_to_find(target, tmp_path, name, row):
    """A bug put into a copy of a module: a fuzzer that finds nothing may be looking at nothing."""
    file, right, wrong = PLANTED[name]
    (tmp_path / "wss").mkdir()
    for module in (ROOT / "lib" / "wss").glob("*.py"):
        text = module.read_text()
        if module.name == file:
            assert right in text, (file, right)
            text = text.replace(right, wrong)
        (tmp_path / "wss" / module.name).write_text(text)
    corpus = HERE / "corpus" / f"{name}.txt"
    lines = run(target.bits, "fuzz.py", name, 0, 200_000, corpus, 20, env={"MICROPYPATH": str(tmp_path)})
    found = [line for line in lines if line.startswith("BUG ")]
    assert found, f"{wrong} in {file} was not found: {lines[-1]}"
    row("Fuzzing", f"a bug planted in {file}, {target.bits} bits", f"found by input {int(found[0].split()[1]):,}")


def test_valid_streams_as_wsproto_reads_them(target, tmp_path, row):
    """Random messages, fragments, control frames: written by wsproto as a client, read by ours and by wsproto."""
    from wsproto import frame_protocol as fp

    rng = random.Random(6455)
    number = 3000 if LONG else 150
    lines = []
    for _ in range(number):
        client = fp.FrameProtocol(client=True, extensions=[])
        sent = b""
        want = []
        for _ in range(rng.randrange(1, 6)):
            kind = rng.randrange(6)
            if kind == 0:
                data = rng.randbytes(rng.randrange(126))
                sent += client.ping(data)
                want.append((9, data))
            elif kind == 1:
                data = rng.randbytes(rng.randrange(126))
                sent += client.pong(data)
                want.append((10, data))
            else:
                text = kind < 4
                parts = rng.randrange(1, 4)
                for i in range(parts):
                    size = rng.choice([0, 1, 5, 125, 126, 127, 300, 2048, rng.randrange(3000)])
                    data = bytes(rng.randrange(32, 127) for _ in range(size))
                    sent += client.send_data(data.decode() if text else data, fin=i == parts - 1)
                    want.append((1 if text else 2, data))
                    if rng.random() < 0.2:
                        sent += client.ping(b"between")
                        want.append((9, b"between"))
        code = rng.choice([None, 1000, 1001, 3000, 4999])
        if code:
            sent += client.close(code, "bye")
            want.append((8, code.to_bytes(2, "big") + b"bye"))
        server = fp.FrameProtocol(client=False, extensions=[])
        server.receive_bytes(sent)
        read = [f.payload for f in server.received_frames() if f.opcode < 8]
        read = b"".join(p.encode() if isinstance(p, str) else bytes(p) for p in read)
        assert read == b"".join(data for op, data in want if op < 8)
        lines.append(sent.hex() + " " + " ".join(f"{op}:{data.hex()}" for op, data in want))
    (tmp_path / "streams").write_text("\n".join(lines) + "\n")
    out = run(target.bits, "streams.py", tmp_path / "streams")
    assert out[-1] == f"same {number}", out[-3:]
    row("Fuzzing", f"valid streams against wsproto, {target.bits} bits", f"{number:,} streams, all read alike")
