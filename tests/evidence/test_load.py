"""Many that misbehave, and many that come and go, with somebody working meanwhile: nothing is lost, nothing is kept."""

import contextlib
import os
import random
import socket
import ssl
import threading
import time

from evidence_common import LONG, open_files
from peers import BINARY, CLOSE, PING, REQUEST, TEXT, Ended, Peer, encode

# The program a board would run: it counts, and keeps its longest pause.
COUNTER = """
import time, gc
worst = 0
def count(timer):
    global last, worst
    now = time.ticks_ms()
    worst = max(worst, time.ticks_diff(now, last))
    last = now
def state():
    gc.collect()
    return gc.mem_alloc()
"""




def hello(context) -> bytes:
    into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(into, out, server_hostname="127.0.0.1").do_handshake()
    return out.read()


def misbehave(board, keys, contexts, rng):
    """One connection of the kinds that the other tests know."""
    kind = rng.randrange(12)
    address = board.address
    with contextlib.suppress(OSError, ssl.SSLError, Ended, AssertionError):
        if kind < 5:
            start = hello(contexts["host"])
            raw = [
                b"",
                rng.randbytes(rng.randrange(1, 3000)),
                start[: rng.randrange(len(start))],
                REQUEST % b"/",
                start + rng.randbytes(200),
            ][kind]
            with socket.create_connection(address, 3) as s:
                s.sendall(raw)
                if rng.random() < 0.5:
                    s.settimeout(0.2)
                    s.recv(1000)
                elif rng.random() < 0.5:  # a reset instead of an end
                    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            return
        who = {5: "nobody", 6: "foreign", 7: "expired"}.get(kind, "host")
        with Peer(address, getattr(keys, who), timeout=1, context=contexts[who]) as peer:
            if kind < 9:
                peer.upgrade(
                    request=rng.choice([b"POST / HTTP/1.1\r\n\r\n", b"\0" * 50, b"GET /" + b"x" * 3000, REQUEST % b"/"])
                )
                peer.recv()
            else:
                peer.upgrade()
                bad = [
                    encode(TEXT, b"x" * 200),
                    encode(PING, b"p") * 50 + encode(CLOSE, b"\0"),
                    encode(BINARY, rng.randbytes(100)),
                    rng.randbytes(60),
                ]
                peer.send(rng.choice(bad))
                if rng.random() < 0.5:
                    peer.recv()


def test_hostile_load_with_a_session_open(target, provisioned, keys, row):
    total = 10_000 if LONG else 300
    rng = random.Random(50)
    boot = COUNTER + "from machine import Timer\nlast = time.ticks_ms()\nTimer(0).init(period=10, callback=count)\n"
    contexts = {who: getattr(keys, who).context() for who in ("host", "nobody", "foreign", "expired")}
    with target.board(provisioned, boot=boot) as board, Peer(board.address, keys.host, timeout=20) as worker:
        worker.login()
        worker.command("state()")
        before = int(worker.value("state()")), open_files(board)
        worker.command("worst = 0")
        left = list(range(total))
        lock = threading.Lock()

        def attack(seed):
            own = random.Random(seed)
            while True:
                with lock:
                    if not left:
                        return
                    left.pop()
                misbehave(board, keys, contexts, own)

        threads = [threading.Thread(target=attack, args=(rng.random(),), daemon=True) for _ in range(50)]
        start = time.monotonic()
        for t in threads:
            t.start()
        commands = size = 0
        slowest = 0.0
        while any(t.is_alive() for t in threads):
            n = rng.randrange(10_000_000)
            began = time.monotonic()
            assert worker.command(f"print('<' + str({n} * 3) * 50 + '>')", 20) == b"<%s>\r\n" % (b"%d" % (n * 3) * 50)
            slowest = max(slowest, time.monotonic() - began)
            commands += 1
            size += 50 * len(str(n * 3))
            if commands % 10 == 0:
                data = rng.randbytes(5000)
                assert worker.put(b"f", data) == 0 and worker.get(b"f") == data
                size += 2 * len(data)
        took = time.monotonic() - start
        worst = worker.value("worst")
        for _ in range(17):  # the last ones' last words, and whoever has until its deadline of 10 or 15 s
            time.sleep(1)
            after = int(worker.value("state()")), open_files(board)
            if after[1] <= before[1]:
                break
        refusals = worker.value("sum(__import__('wss_repl').status()['refused'].values())")
        assert after[1] <= before[1], f"descriptors: {before[1]}, then {after[1]}"
        assert after[0] < before[0] + 8192, f"heap: {before[0]}, then {after[0]}"
    row(
        "Load",
        f"{total:,} connections that misbehave, 50 at once, a session open, {target.bits} bits",
        f"{took:.0f} s; no byte lost in {commands:,} commands and {size:,} bytes (slowest {slowest * 1000:.0f} ms); "
        f"{refusals:,} refusals counted; longest pause of a program {worst} ms; heap {after[0] - before[0]:+,} bytes, "
        f"descriptors {after[1] - before[1]:+}",
    )


def test_logins_one_after_the_other(target, provisioned, keys, row):
    total = 10_000 if LONG else 60
    seconds = int(os.environ.get("EVIDENCE_SOAK", 600)) if LONG else 60
    context = keys.host.context()
    heaps = []
    with target.board(provisioned, boot=COUNTER) as board:
        start = time.monotonic()
        done = 0
        files = None
        while done < total and time.monotonic() - start < seconds:
            with Peer(board.address, keys.host, context=context) as peer:
                peer.login(path=b"/takeover")
                if done % 7 == 3:  # cut off, with output on its way
                    peer.text("[print(i) for i in range(20)]\r")
                elif done % 7 == 5:
                    peer.text("\x04")  # a soft reset would close everything; at this prompt it is one
                    board.wait()
                else:
                    assert peer.command("print(%d)" % done) == b"%d\r\n" % done
                    if done % 10 == 0:
                        peer.command("1")
                        heaps.append(int(peer.value("state()")))
                        files = files or open_files(board)
                        assert open_files(board) <= files + 2
            done += 1
        took = time.monotonic() - start
    assert done >= min(total, 40)
    third = len(heaps) // 3
    early, late = max(heaps[: third + 1]), max(heaps[-third - 1 :])
    assert late < early + 4096, heaps
    row(
        "Soak",
        f"{done:,} mutual-TLS logins with a command each, cuts and soft resets among them, {target.bits} bits",
        f"{took:.0f} s; heap at most {early:,} bytes in the first third, {late:,} in the last",
    )
