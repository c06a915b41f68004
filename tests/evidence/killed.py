"""Processes that change one record at once and are killed at random (test_record.py and tests/evidence)."""

import contextlib
import random
import signal
import subprocess
import sys
from pathlib import Path

from wssctl.keys.store import Store

# Each counts in a row, a secret, a list entry and a pair of files of its own, and says so when it is done. SQLite hands
# its lock to whoever asks next, so on a busy machine one of eight that never pause may hear that the record is busy: it
# tries again, as people do.
WORKER = """
import sys
from wssctl.boards.registry import Registry
from wssctl.errors import KeyFileError
from wssctl.keys import trustlist
from wssctl.keys.remembered import remember
from wssctl.keys.store import Store
folder, me, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
store = Store(folder)
pair = store.host_files(me)

def listed(n):
    with store.record.change() as db:
        have = trustlist.entries(db, "")
        entry = trustlist.changed(have, "revoked", me * 8, str(n), undo=n % 2 == 0)
        trustlist.learn(db, "", {entry.key: entry})

steps = [
    lambda n: Registry(store).update("b" + me, seen=False, host=str(n)),
    lambda n: remember(store, "password:" + me, str(n)),
    listed,
    lambda n: store.write({path: b"%d" % n for path in pair}, force=True),
]
while True:
    n += 1
    for step in steps:
        for left in reversed(range(10)):
            try:
                step(n)
                break
            except KeyFileError as e:
                if not left or "has been busy" not in str(e):
                    raise
    print(n, flush=True)
"""


def torture(folder: Path, kills: int, seed: int, workers: int = 8) -> None:
    """Kills `kills` times one of the workers at a random moment and starts it again. Raises AssertionError when
    something that was done is lost or torn."""
    chance = random.Random(seed)
    names = [f"{i:02x}" for i in range(1, workers + 1)]
    done = dict.fromkeys(names, 0)
    Store(folder).write({p: b"0" for name in names for p in Store(folder).host_files(name)})
    running: dict[str, subprocess.Popen[str]] = {}
    try:
        for _ in range(kills):
            for name in names:
                if name not in running:
                    words = [sys.executable, "-c", WORKER, str(folder), name, str(done[name])]
                    running[name] = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
            name = chance.choice(names)
            process = running.pop(name)
            assert process.stdout
            said = process.stdout.readline()  # it has begun the next round, and is somewhere in it
            assert said, f"worker {name} ended by itself, and its stderr says why"
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(chance.random() * 0.02)
            process.send_signal(signal.SIGKILL)
            said += process.communicate()[0]
            check(folder, name, done, said)
    finally:
        for process in running.values():
            process.kill()
            process.wait()
    Store(folder).record.write_files({f"HOST_key@{names[0]}.pem": b"0"}, force=True)
    left = sorted(p.name for p in folder.iterdir() if p.name.startswith("."))
    assert not left, f"files of those who were killed are left: {left}"


def check(folder: Path, name: str, done: dict[str, int], said: str) -> None:
    from wssctl.boards.registry import Registry
    from wssctl.keys.remembered import remembered

    store = Store(folder)
    told = max([done[name], *map(int, said.split())])
    key, cert = (int(p.read_bytes()) for p in store.host_files(name))
    assert key == cert, "a pair of two generations"
    counts = [int(Registry(store).load()["b" + name].host), int(remembered(store, "password:" + name) or 0), key]
    assert all(told <= n <= told + 1 for n in counts), (told, counts)  # a round may be done in part
    with store.record.view() as db:
        assert db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        assert db.execute("SELECT count(*) FROM boards").fetchone()[0] <= len(done)
    done[name] = max(counts)
