#!/usr/bin/env python3
"""What each module costs, against its budget in size.json: flash, heap when it is not frozen, growth of the firmware.

flash     bytes of the module's .mpy (short names, mpy-cross -O3), as it lies in a board's file system
heap      bytes that importing it takes from the MicroPython heap of a 32-bit board, from that .mpy, with the names
          that its firmware does not have
frozen    the same when it is frozen
firmware  bytes that the image grows by when it is frozen (32 bits, its own names included; names that two modules
          share count for both, so that the sum is a little more than the whole)

and, frozen into 32-bit firmware and as .mpy, what the heap holds while the server listens, has a session, and takes a
file, without mbedTLS: its buffers are in another heap on ESP32, and what its context and connection objects take in
this one is measured beside it and subtracted.

Exit code 1 when a module outgrows its budget. A budget is changed by `size.py --accept "REASON"`, which writes the
present figures and the reason into size.json.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TypedDict

import bench
import firmware
from board import Board, BoardError
from ports import free_port
from wssctl.boards.shorten import shorten

ROOT = Path(__file__).resolve().parent.parent.parent
LIB = ROOT / "lib"
BUDGET = Path(__file__).with_suffix(".json")
COLUMNS = {"flash": "flash", "heap": "heap, not frozen", "frozen": "heap, frozen", "firmware": "firmware growth"}
PUT = 64 << 10  # a transfer to measure in the middle of


def modules(lib: Path = LIB) -> list[str]:
    """Names of all modules, each after those that it imports when it is imported."""
    paths = {p.relative_to(lib).with_suffix("").as_posix().replace("/", "."): p for p in sorted(lib.rglob("*.py"))}
    order: list[str] = []

    def visit(name: str) -> None:
        if name in order or name not in paths:
            return
        for node in ast.parse(paths[name].read_text()).body:
            if isinstance(node, ast.ImportFrom) and node.module:
                visit(node.module)
                for alias in node.names:
                    visit(f"{node.module}.{alias.name}")
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    visit(alias.name)
        order.append(name)

    for name in paths:
        visit(name)
    return order


def needed(start: str = "wss_repl", lib: Path = LIB) -> list[str]:
    """Names of the modules that start needs, in order: all it imports at any time but those it does without."""
    found = {start}

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.Try) and any(h.type and "ImportError" in ast.unparse(h.type) for h in node.handlers):
            return
        names = [a.name for a in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] + [f"{node.module}.{n}" for n in names]
        for name in names:
            file = lib / path(name)
            if file.exists() and name not in found:
                found.add(name)
                visit(ast.parse(file.read_text()))
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse((lib / path(start)).read_text()))
    return [n for n in modules(lib) if n in found]


def path(name: str) -> str:
    return name.replace(".", "/") + ".py"


def compile_all(lib: Path, out: Path) -> dict[str, int]:
    """Compile to .mpy in out as a board gets them (wssctl.boards.modules); the size of each."""
    cross = firmware.mpy_cross()
    names = modules(lib)
    short = shorten({path(name): (lib / path(name)).read_bytes() for name in names})
    sizes = {}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source.py"
        for name in names:
            to = (out / path(name)).with_suffix(".mpy")
            to.parent.mkdir(parents=True, exist_ok=True)
            source.write_bytes(short[path(name)])
            subprocess.run([cross, "-O3", "-s", name.rpartition(".")[2], "-o", to, source], check=True)
            sizes[name] = to.stat().st_size
    return sizes


class Raw:
    """Code on a board through its console's raw REPL, which keeps no history in the heap."""

    def __init__(self, board: Board):
        self._board = board
        board.read_until(b">>> ", 20)
        board.write(b"\x01")
        board.read_until(b"exit\r\n>")

    def __call__(self, code: str) -> str:
        self._board.write(code.encode() + b"\x04")
        self._board.read_until(b"OK")
        out = self._board.read_until(b"\x04", 30)[:-1]
        error = self._board.read_until(b"\x04>")[:-2]
        if error:
            raise BoardError(error.decode(errors="replace").strip())
        return out.decode()

    def used(self) -> int:
        """Bytes of heap in use; the least of three, because a collection may keep what only looks like a pointer."""
        return min(int(self("import gc;gc.collect();print(gc.mem_alloc())").split()[-1]) for _ in range(3))


def _binary(mpy: Path | None) -> Path:
    # A firmware that has the bundle frozen in has its names as well, which on a board are in the heap
    return firmware.bare_firmware() if mpy else firmware.firmware(32)


def import_heap(mpy: Path | None, names: list[str]) -> dict[str, int]:
    """Bytes of heap that each import adds, in order, on a 32-bit board with .mpy files; None: with frozen modules."""
    with tempfile.TemporaryDirectory() as folder, Board(folder, 32, lib=mpy, binary=_binary(mpy)) as board:
        raw = Raw(board)
        before, costs = raw.used(), {}
        for name in names:
            raw(f"import {name}")
            now = raw.used()
            costs[name], before = now - before, now
        return costs


class States(TypedDict):
    """Bytes of heap in each state. tls: of mbedTLS's context, and with a connection. loaded: modules in a session."""

    tls: list[int]
    imported: int
    listening: int
    session: int
    put: int
    loaded: list[str]


class Allowed(TypedDict):
    """Of a module, in size.json."""

    flash: int
    heap: int
    why: str


class Budget(TypedDict):
    """size.json. goals: bytes, by what goals() calls it."""

    modules: dict[str, Allowed]
    goals: dict[str, int]


class Result(TypedDict):
    """What is measured: bytes of each module by COLUMNS, and of all."""

    modules: dict[str, dict[str, int]]
    firmware: int


class WholeResult(Result):
    """And of the server's states."""

    frozen: States
    mpy: States
    needed: list[str]
    repl: dict[str, int]


def states_heap(mpy: Path | None = None) -> States:
    """Bytes of heap over those of a bare REPL on a 32-bit board, less those of mbedTLS's objects ("tls": of a context,
    and of that with a connection), and which modules a session has loaded.

    mpy: a folder of .mpy files in place of the frozen modules (then their code and names are in the heap, too).
    """
    with tempfile.TemporaryDirectory() as folder:
        files, credentials = bench.provision(Path(folder))
        port = free_port()
        with Board(files, 32, lib=mpy, binary=_binary(mpy)) as board:
            raw = Raw(board)
            bare = raw.used()
            raw("import tls,socket;c=tls.SSLContext(tls.PROTOCOL_TLS_SERVER)")
            tls = [raw.used() - bare]
            raw("s=c.wrap_socket(socket.socket(),server_side=True,do_handshake_on_connect=False)")
            tls.append(raw.used() - bare)
            raw("del c,s")
            bare = raw.used()
            raw("import wss_repl")
            imported = raw.used() - bare
            raw("wss_repl.start(port=%d, password='secret', host='127.0.0.1')" % port)
            listening = raw.used() - bare - tls[0]
            session = bench.Session(("127.0.0.1", port), credentials.context(), 10, "secret")
            in_session = raw.used() - bare - tls[1]
            session.send(bench.file_request(1, bench.FILE, PUT))
            session.answer("write")
            for _ in range(PUT // bench.PIECE // 2):
                session.send(bench.frame(bench.BINARY, b"x" * bench.PIECE))
            put = raw.used() - bare - tls[1]
            for _ in range(PUT // bench.PIECE // 2):
                session.send(bench.frame(bench.BINARY, b"x" * bench.PIECE))
            session.answer("write")
            loaded = raw("import sys;print(*sys.modules)").split()
            session.sock.shutdown(socket.SHUT_RDWR)
            session.close()
            return {
                "tls": tls,
                "imported": imported,
                "listening": listening,
                "session": in_session,
                "put": put,
                "loaded": [path(n) for n in modules() if n in loaded],
            }


def image_growth(lib: Path = LIB) -> tuple[dict[str, int], int]:
    """(bytes each module adds to a 32-bit image, bytes that all of them add together), as gcc lays them out."""
    program = firmware.firmware(32)
    src = firmware.source().path
    build = program.parent / "build-32"
    with tempfile.TemporaryDirectory() as folder:
        cross, out = firmware.mpy_cross(), Path(folder)
        files = []
        for name in modules(lib):  # as manifest.py has them compiled
            files.append((out / path(name)).with_suffix(".mpy"))
            files[-1].parent.mkdir(parents=True, exist_ok=True)
            subprocess.run([cross, "-O3", "-s", path(name), "-o", files[-1], lib / path(name)], check=True)

        def size(some: list[Path]) -> int:
            c, o = out / "frozen.c", out / "frozen.o"
            names = build / "genhdr/qstrdefs.preprocessed.h"
            tool: list[str | Path] = [sys.executable, src / "tools" / "mpy-tool.py", "-f", "-q", names]
            with open(c, "w") as f:
                subprocess.run([*tool, "-mlongint-impl=mpz", *some], stdout=f, check=True)
            include = [f"-I{p}" for p in (src, src / "ports/unix", build, firmware.VARIANT)]
            defines = ['-DMP_CONFIGFILE="board_config.h"', "-DMICROPY_PY_THREAD=1", "-DMPZ_DIG_SIZE=16"]
            defines += ["-DMICROPY_MODULE_FROZEN_MPY", "-DMICROPY_QSTR_EXTRA_POOL=mp_qstr_frozen_const_pool"]
            flags = ["-m32", "-Os", "-fno-asynchronous-unwind-tables", "-fno-pic", "-w"]
            subprocess.run(["gcc", "-c", *flags, *include, *defines, "-o", o, c], check=True)
            shown = subprocess.run(["size", o], check=True, capture_output=True, text=True).stdout
            return sum(map(int, re.findall(r"\d+", shown.splitlines()[1])[:2]))

        return {n: size([f]) for n, f in zip(modules(lib), files, strict=True)}, size(files)


def measure_modules(lib: Path, mpy: Path) -> Result:
    """mpy: an empty folder that receives the .mpy files."""
    flash = compile_all(lib, mpy)
    heap = import_heap(mpy, list(flash))
    frozen = import_heap(None, list(flash)) if lib == LIB else heap
    image, together = image_growth(lib)
    costs = {path(n): {"flash": flash[n], "heap": heap[n], "frozen": frozen[n], "firmware": image[n]} for n in flash}
    return {"modules": costs, "firmware": together}


def measure(lib: Path = LIB) -> WholeResult:
    with tempfile.TemporaryDirectory() as folder:
        result = measure_modules(lib, Path(folder))
        states = states_heap(Path(folder))
    wanted = [path(n) for n in needed(lib=lib)]
    return {
        **result,
        "mpy": states,
        "frozen": states_heap() if lib == LIB else states,
        "needed": wanted,
        "repl": {k: sum(result["modules"][n][k] for n in wanted) for k in COLUMNS},
    }


def over(result: Result, budget: Budget) -> list[str]:
    """One sentence for each module that costs more than size.json allows."""
    found = []
    for name, costs in result["modules"].items():
        allowed = budget["modules"].get(name)
        if not allowed:
            found.append(f"{name} has no budget")
            continue
        for what, most in (("flash", allowed["flash"]), ("heap", allowed["heap"])):
            if costs[what] > most:
                found.append(f"{name} takes {costs[what]} bytes of {what}, {most} are allowed")
    return found


def goals(result: WholeResult, budget: Budget) -> list[tuple[str, int, int]]:
    """(what, bytes, bytes aimed at) for the totals."""
    got = {
        "flash of a wss REPL": result["repl"]["flash"],
        "flash of ussl": result["modules"]["ussl.py"]["flash"],
    }
    for how, states in (("not frozen", result["mpy"]), ("frozen", result["frozen"])):
        got |= {f"heap {how}, {at}": states[at] for at in ("listening", "session", "put")}
    return [(what, got[what], aim) for what, aim in budget["goals"].items()]


def accept(result: Result, budget: Budget, reason: str) -> None:
    """Make the present figures the budget; what has changed gets the reason."""
    for name in set(budget["modules"]) - set(result["modules"]):
        del budget["modules"][name]
    for name, costs in result["modules"].items():
        old = budget["modules"].get(name)
        # Room for a name that another module had before: which module pays for it depends on the order of imports
        flash, heap = ((costs[k] + room) // room * room for k, room in (("flash", 32), ("heap", 128)))
        if old is None or (old["flash"], old["heap"]) != (flash, heap):
            budget["modules"][name] = {"flash": flash, "heap": heap, "why": reason}
    budget["modules"] = dict(sorted(budget["modules"].items()))
    BUDGET.write_text(json.dumps(budget, indent=2) + "\n")


def table(result: WholeResult, budget: Budget) -> str:
    """Markdown."""
    out = ["| module | " + " | ".join(COLUMNS.values()) + " |", "|---|" + "--:|" * len(COLUMNS)]

    def line(name: str, costs: dict[str, int], form: str = "%s") -> None:
        out.append(f"| {form % name} | " + " | ".join(form % f"{costs[k]:,}" for k in COLUMNS) + " |")

    for name in result["needed"]:
        line(name, result["modules"][name])
    line("a wss REPL", result["repl"], "**%s**")
    for name in result["modules"]:
        if name not in result["needed"]:
            line(name, result["modules"][name])
    out.append(f"| all, common names once | | | | {result['firmware']:,} |")
    out += ["", "| total | bytes | to reach | |", "|---|--:|--:|---|"]
    for what, got, aim in goals(result, budget):
        out.append(f"| {what} | {got:,} | {aim:,} | {'yes' if got <= aim else '**no**'} |")
    return "\n".join(out) + "\n"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lib", type=Path, default=LIB, help="measure these modules (lib/)")
    parser.add_argument("--accept", metavar="REASON", help="make what is measured the budget")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench", help="where size.json and size.md go")
    a = parser.parse_args(argv)
    try:
        result = measure(a.lib.resolve())
    except (firmware.FirmwareError, BoardError, bench.BenchError, OSError) as e:
        print(f"size: {e}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as e:
        print(f"size: {Path(e.cmd[0]).name} failed", file=sys.stderr)
        return 1
    budget: Budget = json.loads(BUDGET.read_text())
    if a.accept:
        accept(result, budget, a.accept)
    text = table(result, budget)
    a.out.mkdir(parents=True, exist_ok=True)
    (a.out / "size.json").write_text(json.dumps(result, indent=1) + "\n")
    (a.out / "size.md").write_text(text)
    print(text, end="")
    found = over(result, budget)
    for sentence in found:
        print(f"size: {sentence}", file=sys.stderr)
    if found:
        print('size: make it smaller, or give a reason: size.py --accept "REASON"', file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
