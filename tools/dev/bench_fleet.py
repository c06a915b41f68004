#!/usr/bin/env python3
"""Many boards: how long commands take on 1 to 300 of them, what the tool needs, and what boards that fail cost others.

Each board is a process of the stand-in firmware with files, keys and a password of its own. Between it and wssctl is a
way that takes a second for a login, as a board's own computing does: the first bytes of every connection wait for it.
Boards that fail are made on that way: one that is off takes no TCP connection, one that is silent takes it and says
nothing, one that is cut loses it in the middle of a file. A board that nobody has talked to for some seconds is
stopped (SIGSTOP), because an idle one takes half a percent of a processor, and 300 of them more than a small machine.

    bench_fleet.py --boards 300 --counts 1,10,100,300      # build/bench_fleet.json
    bench_fleet.py --publish                               # into docs/fleet.md
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from asyncio import StreamReader, StreamWriter
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tools"), str(Path(__file__).parent)]

from board import Board  # noqa: E402
from wssctl.boards.registry import Registry  # noqa: E402
from wssctl.keys import ca, hosts  # noqa: E402
from wssctl.keys.store import Store  # noqa: E402

PASSPHRASE, PASSWORD = "passphrase1", "sesame23"  # upydev splits at spaces and at the colon between them
JOBS = 32  # as the engine's own
BOUND = 1.3  # times (boards / JOBS) times the time of one
MEMORY = 150  # MB
OUT = ROOT / "build/bench_fleet.json"
PAGE = ROOT / "docs/fleet.md"
FILE = 20_000  # bytes that are put
CUT = 9_000  # bytes of a client, after which its connection is cut: in the file, behind the login
_STARTED_AT_A_TIME = 4
_AWAKE = 4.0  # seconds behind a connection in which a board runs on, for a restart


# The way


async def _way(spec: list[dict[str, Any]], login: float) -> None:
    """Serves until stdin ends. spec: at, to (addresses), and kind: "", off, silent or cut."""
    loop = asyncio.get_running_loop()

    async def pass_on(
        reader: StreamReader, writer: StreamWriter, first: float, limit: int | None, ends: list[StreamWriter]
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                if first:
                    await asyncio.sleep(first)
                    first = 0.0
                if limit is not None:
                    limit -= len(data)
                    if limit < 0:
                        break
                writer.write(data)
                await writer.drain()
        for end in ends if limit is not None and limit < 0 else [writer]:
            end.close()

    open_now: dict[int, int] = dict.fromkeys((one["pid"] for one in spec), 0)

    def leave(pid: int) -> None:
        open_now[pid] -= 1
        loop.call_later(_AWAKE, sleep, pid)

    def sleep(pid: int) -> None:
        if not open_now[pid]:
            os.kill(pid, signal.SIGSTOP)

    def serve(one: dict[str, Any]) -> Callable[[StreamReader, StreamWriter], Awaitable[None]]:
        pid = one["pid"]

        async def connected(reader: StreamReader, writer: StreamWriter) -> None:
            open_now[pid] += 1
            try:
                await converse(reader, writer)
            finally:
                leave(pid)

        async def converse(reader: StreamReader, writer: StreamWriter) -> None:
            data = await reader.read(1)  # one that looks whether the board is on says nothing
            if not data or one["kind"] == "silent":
                while data:
                    data = await reader.read(1 << 16)
                writer.close()
                return
            os.kill(pid, signal.SIGCONT)
            with contextlib.suppress(OSError):
                far_reader, far = await asyncio.open_connection(one["to"], ca.WSS_PORT)
                await asyncio.sleep(login)
                far.write(data)
                limit = CUT if one["kind"] == "cut" else None
                ends = [writer, far]
                await asyncio.gather(
                    pass_on(reader, far, 0.0, limit, ends), pass_on(far_reader, writer, 0.0, None, ends)
                )
            writer.close()

        return connected

    kept: list[Any] = []
    for pid in open_now:
        os.kill(pid, signal.SIGSTOP)
    for one in spec:
        if one["kind"] == "off":
            kept.append(_deaf(one["at"]))
        else:
            kept.append(await asyncio.start_server(serve(one), one["at"], ca.WSS_PORT, backlog=512))
    print("ready", flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    os._exit(0)


def _deaf(address: str) -> list[socket.socket]:
    """An address whose queue is full: a connection gets no answer, as from a board that is off."""
    server = socket.create_server((address, ca.WSS_PORT), backlog=0)
    kept, unanswered = [server], 0
    while unanswered < 2:
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(server.getsockname())
        unanswered += not select.select([], [filler], [], 0.2)[1]
        kept.append(filler)
    return kept


# The boards


class Site:
    """A folder of keys and running boards b000, b001, ...; groups n1, n10, ... have the first so many of them."""

    def __init__(
        self, folder: Path, boards: int, counts: list[int], login: float = 1.0, pty: int = 0, net: int | None = None
    ):
        # Addresses of their own in 127/8, which Linux has without asking, so that no port is somebody else's
        self.net = 20 + os.getpid() % 200 if net is None else net
        self.folder, self.login, self.timeout = folder, login, max(10, 6 * login)
        self.keys = folder / "keys"
        self.ways: list[dict[str, str]] = []
        self.boards: dict[str, Board] = {}
        self.store = Store(str(self.keys))
        self.authority = ca.Authority.create("ROOT CA of the bench")
        key, cert = self.authority.host("ana", PASSPHRASE)
        store_files = {self.store.ca_key: self.authority.key_pem(PASSPHRASE)}
        store_files |= {self.store.ca_cert: self.authority.cert_pem}
        host_key, host_cert = self.store.host_files("616e61")
        self.store.write(store_files | {host_key: key, host_cert: cert})
        hosts.issued(self.store, cert)
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("WSSCTL")} | {"USER": "ana"}
        self.env |= {"PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring", "WSSCTL_KEYS": str(self.keys)}
        self.env |= {"WSSCTL_PASSPHRASE": PASSPHRASE, "WSSCTL_PASSWORD": PASSWORD}
        registry = Registry(self.store)
        for i in range(boards):
            self._make(registry, i, [f"n{n}" for n in counts if i < n])
        self._start(pty)

    def _make(self, registry: Registry, i: int, groups: list[str]) -> None:
        name, uid = f"b{i:03}", f"b0{i:010x}"
        outer, inner = (f"127.{self.net}.{i // 250 + more}.{i % 250 + 1}" for more in (0, 100))
        made = self.authority.device(uid, names=[name], addresses=[outer], ports=[ca.WSS_PORT])
        files = self.store.device_files(uid)
        self.store.write({files["cert_pem"]: made.cert_pem, files["cert_der"]: made.cert_der})
        place = self.folder / name
        place.mkdir()
        (place / f"SSL_key{uid}.der").write_bytes(made.key_der)
        (place / f"SSL_certificate{uid}.der").write_bytes(made.cert_der)
        (place / "ROOT_CA_cert.pem").write_bytes(self.authority.cert_pem)
        (place / "webrepl_cfg.py").write_text(f"PASS = {PASSWORD!r}\n")
        (place / "boot.py").write_text(f"import wss_repl\nwss_repl.start(host={inner!r})\n")
        registry.update(name, host=outer, uid=uid, cert=made.cert_pem, groups=groups, seen=False)
        self.ways.append({"name": name, "at": outer, "to": inner, "kind": ""})

    def _start(self, pty: int) -> None:
        waiting = list(self.ways)
        lock = threading.Lock()

        def start() -> None:
            while True:
                with lock:
                    if not waiting:
                        return
                    way = waiting.pop(0)
                index = int(way["name"][1:])
                # As an idle ESP32 looks at its sockets: 300 boards that did so each millisecond would take this machine
                env = {"BOARD_UID": f"b0{index:010x}", "BOARD_SOCKET_MS": "80"}
                board = Board(self.folder / way["name"], 64, env=env, pty=index < pty)
                board.read_until(b"wss_repl: listening", 120)
                self.boards[way["name"]] = board
                os.kill(board.pid, signal.SIGSTOP)

        threads = [threading.Thread(target=start) for _ in range(_STARTED_AT_A_TIME)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if len(self.boards) < len(self.ways):
            raise SystemExit(f"{len(self.ways) - len(self.boards)} boards did not start")

    @contextlib.contextmanager
    def way(self, **kinds: list[str]) -> Iterator[None]:
        """The way to the boards; kinds: the names of those that are off, silent or cut."""
        spec = [
            w | {"pid": self.boards[w["name"]].pid, "kind": next((k for k, n in kinds.items() if w["name"] in n), "")}
            for w in self.ways
        ]
        process = subprocess.Popen(
            [sys.executable, __file__, "--way", json.dumps({"login": self.login})],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdin and process.stdout
        try:
            process.stdin.write(json.dumps(spec) + "\n")
            process.stdin.flush()
            if process.stdout.readline() != "ready\n":
                raise SystemExit("the way to the boards did not come up")
            yield
        finally:
            process.kill()
            process.wait()

    def run(self, *words: object, timeout: float = 900) -> dict[str, Any]:
        """wssctl with these words: seconds, MB at most, exit code, and an object for each board with `at`, the second
        in which it was told."""
        start = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "wssctl", *map(str, words)], env=self.env, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert process.stdout and process.stderr
        errors: list[str] = []
        reader = threading.Thread(target=lambda said: errors.append(said.read()), args=(process.stderr,))
        reader.start()
        timer = threading.Timer(timeout, process.kill)
        timer.daemon = True  # whoever ends this with Ctrl-C does not wait for it
        timer.start()
        most = [0.0]
        watcher = threading.Thread(target=_watch, args=(process.pid, most), daemon=True)
        watcher.start()
        rows = []
        for line in process.stdout:
            if line.startswith("{"):
                rows.append(json.loads(line) | {"at": time.monotonic() - start})
        reader.join()
        _, status, used = os.wait4(process.pid, 0)
        timer.cancel()
        code = os.waitstatus_to_exitcode(status)
        process.returncode = code
        return {
            "seconds": time.monotonic() - start, "mb": most[0], "cpu": used.ru_utime + used.ru_stime,
            "code": code, "rows": rows, "said": errors[0],
        }  # fmt: skip

    def cpu(self) -> float:
        """Seconds of processor that the boards have taken."""
        total = 0
        for board in self.boards.values():
            words = Path(f"/proc/{board.pid}/stat").read_text().rpartition(")")[2].split()
            total += int(words[11]) + int(words[12])
        return total / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        for board in self.boards.values():
            os.kill(board.pid, signal.SIGCONT)
            board.close()

    def __enter__(self) -> Site:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _busy() -> float:
    """Seconds of processor that all of this machine's programs have taken."""
    words = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    return (sum(map(int, words)) - int(words[3]) - int(words[4])) / os.sysconf("SC_CLK_TCK")


def _watch(pid: int, most: list[float]) -> None:
    """The peak of a process's memory in MB. Its ru_maxrss begins with what its parent had when it forked."""
    with contextlib.suppress(OSError):
        while True:
            found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
            if found:
                most[0] = int(found[1]) / 1024
            elif most[0]:
                return  # it has ended
            time.sleep(0.05)


def commands(folder: Path) -> dict[str, list[str]]:
    """By name; GROUP is put in."""
    source = folder / "source"
    if not source.exists():
        source.mkdir()
        (source / "data.bin").write_bytes(os.urandom(FILE))
        for i in range(5):
            (source / f"m{i}.py").write_text(f"VALUE = {i}\n" * 50)
        (folder / "down").mkdir()
    return {
        "status": ["status", "GROUP"],
        "exec": ["exec", "GROUP", "print(6*7)"],
        "put": ["put", "GROUP", str(source / "data.bin")],
        "get": ["get", "GROUP", "data.bin", str(folder / "down")],
        "sync": ["shell", "--json", "--timeout", "TIMEOUT", "GROUP", "sync", str(source), "app"],
        "revoke": ["host", "revoke", "bea.pem", "GROUP"],
        "pin": ["host", "pin", "ana", "GROUP"],
        "renew": ["boards", "renew", "--all", "GROUP"],
        "password": ["password", "GROUP", "--new-password-file", str(folder / "password")],
        "update": ["update", "GROUP", "--overlay", "--force"],
        "rotate": ["ca", "rotate"],  # of all boards: the last one
    }


def measure(site: Site, counts: list[int], which: list[str], found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Adds a row for each to `found`, which is whole as far as it got when somebody ends this."""
    (site.folder / "password").write_text(PASSWORD + "\n")
    known = commands(site.folder)
    for name in which:  # those at the end change passwords, certificates and lists
        words, one = known[name], None
        for n in counts:
            if name == "rotate" and n < len(site.boards):  # it is of all boards that there are
                if n == 1:
                    place = site.folder / "alone"
                    place.mkdir()
                    with Site(place, 1, [1], site.login, net=site.net + 1) as alone:
                        one = measure(alone, [1], ["rotate"], found)[-1]["seconds"]
                continue
            line = [{"GROUP": f"@n{n}", "TIMEOUT": str(site.timeout)}.get(w, w) for w in words]
            if name == "revoke":  # a host for each time, so that there is something to do
                bea = site.folder / f"bea{n}.pem"
                bea.write_bytes(site.authority.host(f"bea{n}", PASSPHRASE)[1])
                line[2] = str(bea)
            if "--json" not in line:
                line += ["--json", "--timeout", str(site.timeout)]
            with site.way():
                before, busy = site.cpu(), _busy()
                done = site.run(*line)
                done["boards_cpu"] = site.cpu() - before
                done["others"] = (_busy() - busy - done["boards_cpu"] - done["cpu"]) / done["seconds"]
            good = {r["board"] for r in done["rows"] if r["ok"]}
            if done["code"] or len(good) != n:
                bad = [r for r in done["rows"] if not r["ok"]]
                print(f"{name} on {n}: {len(good)} well, exit code {done['code']}: {bad[:3]} {done['said'][-300:]}")
            one = one or done["seconds"]
            bound = BOUND * max(1, n / JOBS) * one
            row = {k: round(done[k], 2) for k in ("seconds", "mb", "cpu", "boards_cpu", "others")}
            row |= {"command": name, "boards": n, "well": len(good), "bound": round(bound, 2)}
            print(json.dumps(row), flush=True)
            found.append(row)
    return found


def failing(site: Site, boards: int, off: int, cut: int, silent: int) -> dict[str, Any]:
    """`put` of a file to all, with none that fails and then with these; what is on the boards is looked at."""
    names = sorted(site.boards)[:boards]
    step = max(1, boards // (off + cut + silent))
    bad = names[::step][: off + cut + silent]
    kinds = {"off": bad[:off], "cut": bad[off : off + cut], "silent": bad[off + cut :]}
    source = site.folder / "payload.bin"
    times, wrong = {}, []
    for turn in ("well", "failing"):
        source.write_bytes(os.urandom(FILE))
        before = source.read_bytes() if turn == "failing" else b""
        there = {n: site.folder / n / "payload.bin" for n in names}
        old = {n: p.read_bytes() if p.exists() else None for n, p in there.items()}
        with site.way(**(kinds if turn == "failing" else {})):
            done = site.run("put", f"@n{boards}", source, "--json", "--timeout", site.timeout)
        rows = {r["board"]: r for r in done["rows"]}
        well = [n for n in names if turn == "well" or n not in bad]
        times[turn] = max(rows[n]["at"] for n in well if n in rows)
        times[turn + "_mb"] = done["mb"]
        wrong += [n for n in well if n not in rows or not rows[n]["ok"]]
        if turn == "failing":
            times["all"], times["code"] = done["seconds"], done["code"]
            for kind, code in (("off", 3), ("cut", 6), ("silent", None)):
                for n in kinds[kind]:
                    row = rows.get(n)
                    if row is None or row["ok"] or (code and row["code"] != code):
                        wrong.append(f"{n} is {kind} and was told as {row}")
                    if (there[n].read_bytes() if there[n].exists() else None) != old[n]:
                        wrong.append(f"{n} is {kind} and has another file")
            wrong += [n for n in well if not there[n].exists() or there[n].read_bytes() != before]
    return {k: round(v, 2) for k, v in times.items()} | {"off": off, "cut": cut, "silent": silent, "wrong": wrong}


# Beside others


def beside(site: Site, n: int, upydev: Path | None) -> dict[str, Any]:
    """`print(6*7)` on n boards by wssctl, by stock mpremote in a loop (through wssctl, and on cables, where there is
    nothing to log in to), and by upydev's group mode. upydev: the folder of its commands."""
    found: dict[str, Any] = {"boards": n}
    names = sorted(site.boards)[:n]
    code = "print(6*7)"

    def timed(what: str, run: Callable[[], int]) -> None:
        start = time.monotonic()
        well = run()
        found[what] = {"seconds": round(time.monotonic() - start, 1), "well": well}
        print(json.dumps({what: found[what]}), flush=True)

    def loop(command: Callable[[str], list[str]]) -> int:
        runs = (subprocess.run(command(x), env=site.env, capture_output=True, text=True, timeout=300) for x in names)
        return sum(done.stdout.strip() == "42" for done in runs)

    mpremote = [str(Path(sys.executable).with_name("mpremote")), "connect"]

    def at_once() -> int:
        return sum(row.get("output") == "42" for row in site.run("exec", f"@n{n}", code, "--json")["rows"])

    with site.way():
        timed("wssctl", at_once)
        own = [sys.executable, "-m", "wssctl", "mpremote"]
        timed("mpremote in a loop, through wssctl", lambda: loop(lambda x: [*own, x, "resume", "exec", code]))
        if upydev:
            for option in ("-G", "-GP"):
                timed(f"upydev {option}", partial(_upydev, site, names, upydev, option, code))
    for name in names:
        os.kill(site.boards[name].pid, signal.SIGCONT)
    cable = lambda x: [*mpremote, str(site.boards[x].tty), "resume", "exec", code]  # noqa: E731
    timed("mpremote in a loop, on cables", lambda: loop(cable))
    return found


def _upydev(site: Site, names: list[str], bin: Path, option: str, code: str) -> int:
    """It looks for keys in its own package's folder: a copy of that, with ours in it, goes in front of it."""
    place = site.folder / "upydev"
    if not place.exists():
        package = next((bin.parent / "lib").glob("python*/site-packages")) / "upydev"
        shutil.copytree(package, place / "upydev")
        for key in site.keys.glob("*.*em"):
            shutil.copy(key, place / "upydev")
        ways = {w["name"]: f"{w['at']}:{ca.WSS_PORT}" for w in site.ways}
        group = {n: [ways[n], f"{PASSWORD}:{PASSPHRASE}"] for n in names}
        (place / "desk.config").write_text(json.dumps(group))
        # It wants a device of its own configured beside the group
        one = {"addr": ways[names[0]], "passwd": group[names[0]][1], "name": names[0]}
        (place / "upydev_.config").write_text(json.dumps(one))
    env = site.env | {"PYTHONPATH": str(place), "PATH": f"{bin}:{os.environ['PATH']}", "HOME": str(place)}
    done = subprocess.run(
        [bin / "upydev", code, option, "desk"], cwd=place, env=env, capture_output=True, text=True, timeout=900,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    well = sum(line.strip() == "42" for line in done.stdout.splitlines())
    if well < len(names):
        print(f"upydev {option}: {well} of {len(names)}: {(done.stdout + done.stderr)[-500:]}")
    return well


# The page


def table(found: dict[str, Any]) -> str:
    counts = sorted({r["boards"] for r in found["commands"]})
    names = list(dict.fromkeys(r["command"] for r in found["commands"]))
    cells = {(r["command"], r["boards"]): r for r in found["commands"]}
    n = counts[-1]
    heads = [*map(str, counts), f"bound at {n}", "MB", "wssctl's ms", "the board's ms"]
    lines = ["| seconds on | " + " | ".join(heads) + " |"]
    lines.append("|---|" + "---|" * len(heads))
    for name in names:
        row = [cells.get((name, n)) for n in counts]
        last = row[-1]
        times = " | ".join("" if r is None else f"{r['seconds']:.1f}" for r in row)
        first = next((r for r in row if r), None)
        more = ["", "", "", ""]
        if last and first:
            more = [f"{last['bound']:.1f}", f"{last['mb']:.0f}", "", f"{1000 * last['boards_cpu'] / n:.0f}"]
            if first is not last:
                more[2] = f"{1000 * (last['cpu'] - first['cpu']) / (n - first['boards']):.0f}"
        lines.append(f"| {name} | {times} | {' | '.join(more)} |")
    if b := found.get("beside"):
        lines += ["", f"| `print(6*7)` on {b['boards']} boards | s | answered |", "|---|---|---|"]
        lines += [f"| {k} | {v['seconds']} | {v['well']} |" for k, v in b.items() if k != "boards"]
    if f := found.get("failing"):
        lines += [
            "",
            f"`put` with {f['off']} boards off, {f['cut']} cut in the middle of the file and {f['silent']} that never "
            f"answer: the others were done after {f['failing']:.1f} s, and after {f['well']:.1f} s when none failed; "
            f"all was told after {f['all']:.1f} s, exit code {f['code']:.0f}, told wrongly: {len(f['wrong'])}.",
        ]
    return "\n".join(lines)


def publish() -> None:
    found = json.loads(OUT.read_text())
    text = PAGE.read_text()
    new = f"<!-- bench_fleet -->\n{table(found)}\n<!-- end -->"
    PAGE.write_text(re.sub(r"<!-- bench_fleet -->.*?<!-- end -->", lambda _: new, text, flags=re.S))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boards", type=int, default=300)
    parser.add_argument("--counts", default="1,10,100,300", help="how many boards a command is measured on")
    parser.add_argument("--commands", default="status,exec,put,get,sync,revoke,pin,renew,password,update,rotate")
    parser.add_argument("--login", type=float, default=1.0, help="seconds that a login is delayed by")
    parser.add_argument("--beside", type=int, default=0, metavar="N", help="N boards by others, too")
    where = lambda text: Path(text).absolute()  # noqa: E731
    parser.add_argument("--upydev", type=where, metavar="DIR", help="the folder of upydev's commands")
    parser.add_argument("--no-failing", action="store_true", help="without boards that are off, cut or silent")
    parser.add_argument("--publish", action="store_true", help="put the last result into docs/fleet.md")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        asyncio.run(_way(json.loads(sys.stdin.readline()), json.loads(args.way)["login"]))
        return 0
    if args.publish:
        publish()
        return 0
    counts = [n for n in map(int, args.counts.split(",")) if n <= args.boards]
    folder = Path(tempfile.mkdtemp(prefix="wssctl-fleet-"))
    found: dict[str, Any] = {"login": args.login, "cores": os.cpu_count(), "load": os.getloadavg()[0]}
    try:
        start = time.monotonic()
        with Site(folder, args.boards, [*counts, args.beside], args.login, args.beside) as site:
            print(f"{args.boards} boards run after {time.monotonic() - start:.0f} s", flush=True)
            if args.beside:
                found["beside"] = beside(site, args.beside, args.upydev)
            n = counts[-1]
            if n >= 10 and not args.no_failing:
                found["failing"] = failing(site, n, off=n // 10, cut=max(1, n // 30), silent=max(1, n // 60))
                print(json.dumps(found["failing"]), flush=True)
            found["commands"] = []
            measure(site, counts, args.commands.split(","), found["commands"])
    finally:
        OUT.parent.mkdir(exist_ok=True)
        OUT.write_text(json.dumps(found, indent=1))
        shutil.rmtree(folder, ignore_errors=True)
    if found.get("commands"):
        print(table(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
