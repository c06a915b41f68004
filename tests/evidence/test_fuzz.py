"""The parsers, files and credentials against made-up input, on MicroPython itself (device/fuzz.py)."""

import os
import random

import pytest
from evidence_common import HERE, LONG, run
from targets import ROOT

TARGETS = ["upgrade", "frames", "login", "backoff", "files", "pem", "credentials", "fields", "listed"]
INPUTS = 1_000_000 if LONG else 3_000
SECONDS = int(os.environ.get("EVIDENCE_SECONDS", 60)) if LONG else 1


@pytest.mark.parametrize("name", TARGETS)
def test_made_up_input(target, name, row):
    corpus = HERE / "corpus" / f"{name}.txt"
    # The short cut looks at the corpus and some new ones each day; a number names the same input everywhere
    first = 0
    lines = run(target.bits, "fuzz.py", name, first, INPUTS, corpus, SECONDS)
    bugs = [line for line in lines if line.startswith("BUG ")]
    assert not bugs, "\n".join(bugs)
    ran, ms, longest, most, kept = map(int, lines[-1].removeprefix("DONE ").split())
    assert ran > 100
    assert kept < 32768, f"{kept} bytes of heap are not given back"
    row("Fuzzing", f"{name}, {target.bits} bits", f"{ran:,} inputs in {ms / 1000:.0f} s: no bug; longest {longest} ms; "
        f"at most {most:,} bytes allocated by one; {kept:+,} bytes of heap afterwards")  # fmt: skip
    if os.environ.get("EVIDENCE_SAVE"):
        with corpus.open("a") as f:
            f.writelines(line.removeprefix("NEW ") + "\n" for line in lines if line.startswith("NEW "))


PLANTED = {
    "frames": ("frames.py", "size > 125", "size > 126"),
    "upgrade": ("upgrade.py", "not 0 < len(key)", "not 0 <= len(key)"),
    "login": ("login.py", "diff = len(a) ^ len(b)", "diff = 0"),
    "backoff": ("login.py", "not -_WORST <= since(now, s[2]) <= _FORGET", "since(now, s[2]) > _FORGET"),
    "files": ("files.py", "        if name:\n", "        if 0:\n"),
    "pem": ("pem.py", "except ValueError:", "except KeyError:"),
    "fields": ("trust.py", "except IndexError:", "except KeyError:"),
    "listed": ("trust.py", 'words == ["pinned"]', 'words[0] == "pinned"'),
}


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
