#!/usr/bin/env python3
"""What a kept connection saves: ten commands in a row with `wssctl exec --keep` and without, and beside it the same ten
with OpenSSH's ssh, with and without ControlMaster, through the same network: a round trip of 20 ms, and a login that
computes for a second, as on an ESP32.

Our board is the stand-in on this desk, theirs an sshd of this machine's (Debian: apt-get install openssh-server).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from board import Board
from network import Network
from ports import free_port

ROOT = Path(__file__).resolve().parent.parent.parent
OUT = ROOT / "build" / "bench"
UID = "30aea4b0a2d0"
TRIP, LOGIN = 0.02, 1.0  # s
WSSCTL = [sys.executable, "-m", "wssctl"]
Command = Callable[[bool], list[str]]  # with a kept connection or without


class BenchError(Exception):
    """It cannot be measured; the message is one sentence and says what to do."""


def run(words: list[str], env: dict[str, str], wanted: str = "42\n") -> float:
    """Seconds that a command takes, which has to print this."""
    start = time.perf_counter()
    done = subprocess.run(words, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    took = time.perf_counter() - start
    if done.returncode or done.stdout != wanted:
        raise BenchError(f"{' '.join(words[:4])} ...: {done.stderr.strip() or done.stdout!r}")
    return took


@contextlib.contextmanager
def ours(folder: Path, env: dict[str, str]) -> Iterator[int]:
    """The port of a board with our server; its keys are where `env` says."""
    files = folder / "board"
    files.mkdir()
    names = ("--name", "localhost", "--ip", "127.0.0.1", "--out", str(files))
    for words in (("ca", "init"), ("host", "init"), ("keys", "init", UID, *names)):
        done = subprocess.run([*WSSCTL, *words], env=env, capture_output=True, text=True)
        if done.returncode:
            raise BenchError(done.stderr.strip())
    port = free_port()
    start = f"import wss_repl\nwss_repl.start(port={port}, host='127.0.0.1', password={env['WSSCTL_PASSWORD']!r})\n"
    (files / "boot.py").write_text(start)
    with Board(files) as board:
        board.read_until(b"wss_repl: listening", 20)
        board.read_until(b">>> ", 20)
        yield port


@contextlib.contextmanager
def theirs(folder: Path) -> Iterator[int]:
    """The port of an sshd for this user and a key of its own. Keys are of the same kind as ours."""
    program = shutil.which("sshd") or "/usr/sbin/sshd"
    if not Path(program).exists() or not shutil.which("ssh"):
        raise BenchError("OpenSSH is the anchor and is missing: apt-get install openssh-server openssh-client")
    for name in ("host_key", "user_key"):
        make = ["ssh-keygen", "-q", "-t", "ecdsa", "-b", "256", "-N", "", "-f", str(folder / name)]
        subprocess.run(make, check=True, stdin=subprocess.DEVNULL)
    shutil.copy(folder / "user_key.pub", folder / "authorized_keys")
    port = free_port()
    known = (folder / "host_key.pub").read_text()
    (folder / "known_hosts").write_text(f"board {known}")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where sshd shuts itself in; root's own to make
    (folder / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {folder}/host_key\nAuthorizedKeysFile {folder}/authorized_keys\n"
        "StrictModes no\nUsePAM no\nPidFile none\nPermitRootLogin prohibit-password\nPrintMotd no\nPrintLastLog no\n"
    )
    server = subprocess.Popen(
        [program, "-D", "-e", "-f", str(folder / "sshd_config")],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert server.stderr
    try:
        for line in server.stderr:
            if "listening on" in line:
                break
        else:
            raise BenchError("sshd does not start")
        yield port
    finally:
        server.terminate()
        server.wait()


def ssh(folder: Path, port: int) -> Command:
    options = {
        "UserKnownHostsFile": folder / "known_hosts",
        "HostKeyAlias": "board",
        "StrictHostKeyChecking": "yes",
        "IdentitiesOnly": "yes",
        "IdentityFile": folder / "user_key",
        "BatchMode": "yes",
        "LogLevel": "ERROR",
    }

    def words(kept: bool) -> list[str]:
        more = {"ControlMaster": "auto", "ControlPersist": "5m", "ControlPath": folder / "control"} if kept else {}
        given = [f"-o{name}={value}" for name, value in (options | more).items()]
        return ["ssh", "-F", "none", *given, "-p", str(port), "127.0.0.1", "echo 42"]

    return words


def wssctl(port: int) -> Command:
    return lambda kept: [*WSSCTL, "exec", "--keep", "5m" if kept else "0", f"wss://127.0.0.1:{port}", "print(42)"]


def ten(command: Command, kept: bool, env: dict[str, str], n: int, stop: list[str]) -> list[float]:
    """Seconds of n commands in a row; with a kept connection, the first one makes it."""
    times = [run(command(kept), env) for _ in range(n)]
    if kept:
        subprocess.run(stop, env=env, check=True, capture_output=True)
    return times


def imports(words: list[str], env: dict[str, str]) -> dict[str, float]:
    """What `python -X importtime` says of a command: modules, and milliseconds in all."""
    done = subprocess.run([sys.executable, "-X", "importtime", *words[1:]], env=env, capture_output=True, text=True)
    rows = re.findall(r"^import time: +(\d+) \| +\d+ \| +(\S+)$", done.stderr, re.M)
    names = {name for _, name in rows}
    found = {"modules": float(len(rows)), "ms": sum(int(us) for us, _ in rows) / 1000}
    return found | {name: float(name in names) for name in ("cryptography", "rich", "ssl", "websockets")}


def measure(n: int, turns: int, login: float, trip: float) -> dict[str, Any]:
    result: dict[str, Any] = {"n": n, "login": login, "trip": trip, "seconds": {}}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        secret = secrets.token_urlsafe(12)
        env = {k: v for k, v in os.environ.items() if not k.startswith(("WSSCTL_", "PYTHONDONTWRITE"))}
        env |= {"WSSCTL_KEYS": str(folder / "keys"), "WSSCTL_PASSPHRASE": secret, "WSSCTL_PASSWORD": secret}
        # compiled modules are where they would be if wssctl were installed, as good as
        env |= {"XDG_RUNTIME_DIR": str(folder), "PYTHONPYCACHEPREFIX": str(folder / "compiled")}
        folder.chmod(0o700)
        board, server = stack.enter_context(ours(folder, env)), stack.enter_context(theirs(folder))
        near = stack.enter_context(Network(board, 0.0))
        ways, stops, networks = {}, {}, {}
        result |= {"logins": {"wssctl": {}, "ssh": {}}, "trips": {"wssctl": {}, "ssh": {}}}
        for name, port in (("wssctl", board), ("ssh", server)):
            network = networks[name] = stack.enter_context(Network(port, trip / 2, login))
            ways[name] = wssctl(network.port) if name == "wssctl" else ssh(folder, network.port)
            stops[name] = [*WSSCTL, "keep", "stop"] if name == "wssctl" else [*ways[name](True)[:-2], "-O", "exit", "x"]
        # How long the process takes by itself: a kept connection to a board that is near
        here = wssctl(near.port)(True)
        run(here, env)
        result["start"] = [run(here, env) for _ in range(n)]
        result["imports"] = {"kept": imports(here, env), "not kept": imports(wssctl(near.port)(False), env)}
        for turn in range(turns):
            for name in list(ways)[:: 1 if turn % 2 else -1]:
                for how in ("each", "kept"):
                    network = networks[name]
                    network.connections = network.trips = 0
                    times = ten(ways[name], how == "kept", env, n, stops[name])
                    result["seconds"].setdefault(name, {}).setdefault(how, []).append(times)
                    result["logins"][name][how], result["trips"][name][how] = network.connections, network.trips
        subprocess.run([*WSSCTL, "keep", "stop"], env=env, capture_output=True)
    return result


def report(result: dict[str, Any]) -> tuple[str, dict[str, bool]]:
    """A table in Markdown, and which of the goals are reached."""
    n, start = result["n"], statistics.median(result["start"])
    titles = ("a login each", "one kept", "times faster", "a command, kept", "round trips, each", "round trips, kept")
    lines = [f"| {n} commands in a row | {' | '.join(titles)} |", "|---" + "|--:" * len(titles) + "|"]
    faster = {}
    for name, got in result["seconds"].items():
        each, kept = ([sum(times) for times in got[how]] for how in ("each", "kept"))
        faster[name] = statistics.median(a / b for a, b in zip(each, kept, strict=True))
        later = statistics.median(t for times in got["kept"] for t in times[1:])
        seconds = [f"{statistics.median(sums):.2f} s ({min(sums):.2f}–{max(sums):.2f})" for sums in (each, kept)]
        trips = [str(result["trips"][name][how]) for how in ("each", "kept")]
        cells = [name, *seconds, f"{faster[name]:.1f}", f"{later * 1000:.0f} ms", *trips]
        lines.append(f"| {' | '.join(cells)} |")
    got = result["seconds"]["wssctl"]
    login = statistics.median(t for times in got["each"] for t in times) - start
    bound = login + n * (start + 3 * result["trip"])
    goals = {
        "within login + n x (process start + 3 round trips)": statistics.median(map(sum, got["kept"])) <= bound,
        "as many times faster as ssh": faster["wssctl"] >= faster["ssh"],
    }
    words = {True: "yes", False: "**no**"}
    lines += ["", f"Process start {start * 1000:.0f} ms, login {login:.2f} s: at most {bound:.2f} s: "
              f"{words[goals['within login + n x (process start + 3 round trips)']]}. At least as many times faster as "
              f"ssh: {words[goals['as many times faster as ssh']]}.", ""]  # fmt: skip
    for how, said in result["imports"].items():
        without = [name for name in ("cryptography", "rich", "ssl", "websockets") if not said[name]]
        lines.append(
            f"Imports, {how}: {said['modules']:.0f} modules, {said['ms']:.0f} ms by `python -X importtime`"
            + (f"; without {', '.join(without)}." if without else ".")
        )
    return "\n".join(lines) + "\n", goals


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=3, metavar="N", help="times that everything is measured (3)")
    parser.add_argument("--quick", action="store_true", help="everything once and little of it: does it work?")
    parser.add_argument("--out", metavar="DIR", type=Path, default=OUT, help="where the results go (build/bench)")
    a = parser.parse_args(argv)
    try:
        result = measure(2, 1, 0.1, TRIP) if a.quick else measure(10, a.turns, LOGIN, TRIP)
    except (BenchError, OSError, subprocess.SubprocessError) as e:
        print(f"bench: {e}", file=sys.stderr)
        return 1
    result["host"] = platform.platform()
    result["python"] = platform.python_version()
    result["date"] = time.strftime("%Y-%m-%d")
    result["load"] = os.getloadavg()[0]
    text, goals = report(result)
    a.out.mkdir(parents=True, exist_ok=True)
    (a.out / "kept.json").write_text(json.dumps(result | {"goals": goals}, indent=1) + "\n")
    (a.out / "kept.md").write_text(text)
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
