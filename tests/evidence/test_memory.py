"""Each allocation of a session fails, one session for each: it works all the same, says so, or ends with a named cause;
and the next one is as if nothing had been."""

import collections
import random
import re
import ssl
import time

import pytest
from control import Control
from evidence_common import LONG, open_files, resident
from peers import CLOSE, Ended, Peer, encode

STATE = """
import gc, wss_repl
def state():
    gc.collect()
    s = wss_repl._server
    found = gc.mem_alloc(), s.refusals, s.last_refusal, len(s.sessions) - 1
    s.refusals, s.last_refusal = {}, None
    return found
"""
ENOMEM = 12
LOST = "lost, with its descriptor, inside the firmware's accept()"
KEPT = 4000  # bytes of heap more than before, at most
CONTENT = bytes(range(256)) * 12


def session(board, keys, context, peers) -> str:
    """What a scripted session came to: "whole", "told: ..." or "ended ..." with where. Raises TimeoutError."""
    at = "the handshake"
    try:
        with Peer(board.address, keys.host, context=context, timeout=6) as peer:
            peers.append(peer)
            head = peer.upgrade(path=b"/takeover")
            assert head.startswith(b"HTTP/1.1 101 "), head
            at = "the login"
            assert peer.frame()[1] == b"Password: "
            peer.text("secret\r")
            got = peer.until(b">>> ")
            assert got == b"\r\nWebREPL connected\r\n>>> ", got
            at = "the command"
            got = peer.command("print(12 * 12)")
            told = set()
            if got != b"144\r\n":
                assert re.search(rb"MemoryError: [^\r]*\r\n$", got), got
                told.add("MemoryError at the prompt")
            at = "the put"
            code = peer.put(b"f", CONTENT)
            assert code in (0, ENOMEM), code
            if code:
                told.add("code 12 for the put")
                assert peer.put(b"f", CONTENT) == 0
            at = "the get"
            got = peer.get(b"f")
            if got != CONTENT:
                assert got == ENOMEM, got
                told.add("code 12 for the get")
            at = "its end"
            part(peer)
    except (Ended, ConnectionError, ssl.SSLError):
        return f"ended in {at}"
    return "told: " + " and ".join(sorted(told)) if told else "whole"


def descriptors(board, most=0) -> int:
    """Those that are open once the latest connection is gone."""
    deadline = time.monotonic() + 2
    while (n := open_files(board)) > most and time.monotonic() < deadline:
        time.sleep(0.005)
    return n


def part(peer):
    """Hang up as one should: nothing is counted as a refusal."""
    peer.send(encode(CLOSE, b"\x03\xe8"))
    while peer.frame()[0] != CLOSE:
        pass


KINDS = {"micropython": (False, 0), "in-a-row": (False, 9), "mbedtls": (True, 0)}


@pytest.mark.parametrize("kind", KINDS)
def test_every_allocation_fails(target, provisioned, keys, tmp_path, row, kind):
    of_c, more = KINDS[kind]
    control = Control(tmp_path / "control")
    control["of_c"] = of_c
    context = keys.host.context()
    seen = collections.Counter()
    bugs = []
    peers = collections.deque(maxlen=1)
    with target.board(provisioned, boot=STATE, env=control.env()) as board:
        total = 0
        for _ in range(3):
            start = control["allocations"]
            assert session(board, keys, context, peers) == "whole"
            total = max(total, control["allocations"] - start)

        def after(limit=1 << 30):
            """(heap, causes) as the next session finds them. A conservative collector may keep something for once."""
            causes = set()
            for _ in range(4):
                with Peer(board.address, keys.host, context=context) as peer:
                    peer.login(path=b"/takeover")
                    # What was typed in a session that ended may still be with the REPL
                    peer.text("print('~' + '~')\r")
                    peer.until(b"~~\r\n>>> ")
                    heap, refused, last, pending = peer.value("state()")
                    part(peer)
                causes |= set(refused) | ({last} if last else set())
                if not pending and heap < limit:
                    break
            assert not pending, f"{pending} connections stay"
            assert heap < limit, f"heap {limit - KEPT}, then {heap}"
            return heap, causes

        heap = after()[0]
        files = descriptors(board)
        memory = resident(board)
        numbers = list(range(1, total + 20))  # where a loop has waited longer there are more
        if of_c:  # a handshake takes ninety thousand; the first are not like the others
            numbers = [*range(1, 100), *sorted(random.Random(6).sample(range(100, total), 1000))]
        if LONG and more:
            numbers = random.Random(7).sample(numbers, 500)
        if not LONG:
            numbers = random.Random(8).sample(numbers, 40)
        for n in numbers:
            printed = len(board.console.log)
            failed = control["failed"]
            control["fail_more"] = more
            control["fail_at"] = n
            try:
                try:
                    what = session(board, keys, context, peers)
                except TimeoutError:
                    if peers[-1].tls.version():
                        raise
                    # The object for a connection that was accepted could not be made: there is nobody to close it
                    what = LOST
                    assert descriptors(board, files) == files + 1, "no answer, and no descriptor is lost"
                    files += 1
                control["fail_at"] = control["fail_more"] = 0
                if control["failed"] == failed:
                    seen["not reached"] += 1
                    continue
                _, causes = after(heap + KEPT)
                now = descriptors(board, files)
                assert now == files, f"descriptors {files}, then {now}"
                if what.startswith("ended"):
                    assert causes, f"{what}, and no cause is known"
                    what += " (%s)" % ", ".join(sorted(causes))
                raised = re.findall(rb"^(\w+(?:Error|Exception|Interrupt))\b", board.console.log[printed:], re.M)
                assert set(raised) <= {b"MemoryError"}, raised
            except (TimeoutError, AssertionError, Ended, OSError) as e:
                said = board.console.log[printed:].decode(errors="replace")
                bugs.append(f"allocation {n} of {total}: {e!r}\n{said[-3000:]}")
                if len(bugs) == 20:
                    break
                continue
            seen[what] += 1
        if len(numbers) > 1000:
            assert resident(board) < memory + (1 << 20), f"resident memory {memory:,}, then {resident(board):,} bytes"
    assert not bugs, "\n\n".join(bugs)
    assert seen["whole"] < len(numbers) and seen[LOST] <= 12 + 6 * more, seen
    row(
        "Faults",
        f"MemoryError at each of {len(numbers):,} allocations of a session with login, command, put and get "
        f"({f'of {total:,} that mbedTLS makes' if of_c else 'all that MicroPython makes'}"
        f"{f', and at the {more} behind it' if more else ''}), {target.bits} bits",
        "the next session is served, heap and descriptors as before; sessions: "
        + ", ".join(f"{k} {v}" for k, v in seen.most_common()),
    )


FAULTS = {  # of a peer that has logged in
    "reserved bit": b"\xf1\x80\x00\x00\x00\x00",
    "half a gigabyte and more": b"\x82\xff" + b"\xff" * 8 + b"\x00" * 4,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_allocation_of_a_refusal_fails(target, provisioned, keys, tmp_path, fault):
    """Even when there is no memory to say why, the session is over, and its place free."""
    control = Control(tmp_path / "control")
    control["of_c"] = False
    context = keys.host.context()
    with target.board(provisioned, boot=STATE, env=control.env()) as board:
        for n in range(1, 120):
            with Peer(board.address, keys.host, context=context) as peer:
                peer.login(path=b"/takeover")
                printed = len(board.console.log)
                failed = control["failed"]
                control["fail_more"] = 9
                control["fail_at"] = n
                try:
                    peer.send(FAULTS[fault])
                    while peer.frame()[0] != CLOSE:
                        pass
                except (Ended, ConnectionError, ssl.SSLError):
                    pass
                control["fail_at"] = control["fail_more"] = 0
                if control["failed"] == failed:
                    break
            with Peer(board.address, keys.host, context=context) as peer:
                peer.login()
                peer.text("print('~' + '~')\r")
                peer.until(b"~~\r\n>>> ")
                part(peer)
            raised = re.findall(rb"^(\w+(?:Error|Exception|Interrupt))\b", board.console.log[printed:], re.M)
            assert not raised, (n, board.console.log[printed:].decode(errors="replace"))
        assert n > 5
