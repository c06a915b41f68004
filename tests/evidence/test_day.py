"""A day of a board's life: time passes between what people do, by numbers that the test adds to the board's ticks and
clock (tests/board/board_control.c), so that its deadlines, its wrapping ticks and its clock see all of it."""

import random
import time

from control import Control
from evidence_common import LONG, open_files, resident
from peers import CLOSE, Ended, Peer, encode

STATE = """
import gc, wss_repl
def state():
    gc.collect()
    return gc.mem_alloc()
"""
WRAP = {32: 1 << 30, 64: 1 << 62}  # ms: MICROPY_PY_TIME_TICKS_PERIOD, half the range of a small integer


def test_a_day(target, provisioned, keys, tmp_path, row):
    hours = 24 if LONG else 1
    total = hours * 3600 * 1000  # ms
    rng = random.Random(24)
    control = Control(tmp_path / "control")
    # The ticks wrap in the middle of the day
    began = control["ticks_ms"] = WRAP[target.bits] - int(time.monotonic() * 1000) - total // 2
    context = keys.host.context()
    did = {"commands": 0, "puts": 0, "cuts": 0, "takeovers": 0, "soft resets": 0, "silent ones": 0, "deadlines": 0}
    heaps, memory, files = [], [], set()

    def passes(ms):
        control["ticks_ms"] += ms
        control["clock_s"] += ms // 1000
        time.sleep(0.15)  # a few of the timer's steps

    peer = None
    with target.board(provisioned, boot=STATE, env=control.env()) as board:
        start = time.monotonic()
        while control["ticks_ms"] - began < total:
            what = rng.randrange(10)
            if peer is None or what == 0:  # the former one is gone without a word, or is still there
                did["takeovers"] += peer is not None
                former, peer = peer, Peer(board.address, keys.host, context=context)
                peer.login(path=b"/takeover")
                if former:
                    former.close()
            elif what == 1:  # the network is cut: no end is sent for as long as the board can see
                peer.text("print('cut')\r")
                passes(rng.randrange(120_000))
                did["cuts"] += 1
                former, peer = peer, Peer(board.address, keys.host, context=context)
                peer.login()  # nobody answers for it: its place is free after a second and a half
                former.close()
            elif what == 2:
                peer.text("\x04")
                try:
                    while True:
                        peer.frame()
                except (Ended, OSError):
                    pass
                board.wait()
                peer.close()
                peer = None
                did["soft resets"] += 1
            elif what == 3:  # somebody connects, and says nothing or not enough
                with Peer(board.address, keys.host, context=context, timeout=3) as silent:
                    if rng.random() < 0.5:
                        silent.upgrade()
                    passes(70_000)
                    try:
                        while True:
                            silent.recv()
                    except (Ended, OSError):
                        did["deadlines"] += 1
                did["silent ones"] += 1
            elif what == 4:
                data = rng.randbytes(2000)
                assert peer.put(b"f", data) == 0 and peer.get(b"f") == data
                did["puts"] += 1
            elif what == 5:
                peer.send(encode(CLOSE, b"\x03\xe8"))
                while peer.frame()[0] != CLOSE:
                    pass
                peer.close()
                peer = None
            else:
                assert peer.command("6*7") == b"42\r\n"
                did["commands"] += 1
                if what == 6:
                    heaps.append(int(peer.value("state()")))
                    memory.append(resident(board))
                    files.add(open_files(board))
            passes(rng.randrange(300_000))
        took = time.monotonic() - start
        at = time.time() + control["clock_s"]
        if peer is None:
            peer = Peer(board.address, keys.host, context=context).login(path=b"/takeover")
        clock = peer.value("__import__('time').time()")
        assert abs(clock - at) < 10, (clock, at)
        peer.close()
    assert did["deadlines"] == did["silent ones"], did
    half = len(heaps) // 2
    early, late = max(heaps[: half + 1]), max(heaps[half:])
    assert late < early + 4096, heaps
    assert max(files) - min(files) <= 1, files
    row(
        "Soak",
        f"{hours} hours of simulated time, in which the ticks wrap, {target.bits} bits",
        ", ".join(f"{v} {k}" for k, v in did.items())
        + f" in {took:.0f} s; heap at most {early:,} bytes in the first half, {late:,} in the other; descriptors "
        f"{min(files)} to {max(files)}; resident memory {max(memory) - memory[0]:+,} bytes",
    )
