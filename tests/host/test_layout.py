"""The rooms of tools/wssctl: imports go downward only, also those inside of functions."""

import ast
from pathlib import Path

import evidence
import pytest
from targets import ROOT

WSSCTL = ROOT / "tools" / "wssctl"
# What a room may import from beside itself. cli.py names the functions it calls as text (cli._lazy).
BELOW = {
    "keys": {"errors", "text"},
    "wire": {"errors", "text", "keys"},
    "boards": {"errors", "text", "keys", "wire"},
    "onboard": set(),
    "cable": {"errors", "text", "keys", "wire", "boards"},
    "tools": {"errors", "text", "keys", "wire", "boards", "cable"},
    "errors": {"text"},
    "text": set(),
    "cli": {"arguments", "errors", "text", "__init__"},
    "arguments": set(),
    "protocol_wss": {"tools"},
    "protocol_ws": {"protocol_wss"},
    "__init__": {"wire"},
    "__main__": {"cli"},
}
FILES = sorted(p.relative_to(WSSCTL) for p in WSSCTL.rglob("*.py"))


def imported(file) -> set[str]:
    """The rooms and ground files that a file of wssctl imports."""
    package = ["wssctl", *file.parts[:-1]]
    found = set()
    for node in ast.walk(ast.parse((WSSCTL / file).read_text())):
        names = []
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = base + (node.module.split(".") if node.module else [])
            names = [module + [alias.name] for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        for name in names:
            if name[0] == "wssctl":
                inner = name[1] if (WSSCTL / name[1]).is_dir() or (WSSCTL / f"{name[1]}.py").exists() else "__init__"
                found.add(inner)
    return found


@pytest.mark.parametrize("file", FILES, ids=str)
def test_arrows_go_downward_only(file):
    room = file.parts[0].removesuffix(".py")
    assert imported(file) - {room} <= BELOW[room]


def test_the_arrows_are_seen():
    """A test that would see an arrow upward: these are known to be there."""
    assert imported(FILES[FILES.index(next(f for f in FILES if f.name == "setup.py"))]) >= {"boards", "keys", "wire"}
    assert {f.parts[0] for f in FILES if len(f.parts) > 1} == {"keys", "wire", "boards", "cable", "tools", "onboard"}


def test_make_evidence_runs_all_of_it():
    jobs = {Path(word).name for _, _, words in evidence.JOBS + evidence.SLOW for word in words}
    assert {p.name for p in (ROOT / "tests/evidence").glob("test_*.py")} <= jobs


DEVICE = sorted((ROOT / "lib").rglob("*.py"))
NEEDS_NO_MEMORY = {"MemoryError", "RuntimeError", "KeyboardInterrupt", "Exception", "Busy"}


@pytest.mark.parametrize("file", DEVICE, ids=lambda file: file.name)
def test_what_may_come_without_memory_is_caught_without_memory(file):
    """A tuple of exceptions behind `except` is made when one is matched (py/compile.c). In a function, where memory may
    be short, that raises a MemoryError in place of the handler."""
    for function in ast.walk(ast.parse(file.read_text())):
        if isinstance(function, ast.FunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.ExceptHandler) and isinstance(node.type, ast.Tuple):
                    names = {name.id for name in node.type.elts if isinstance(name, ast.Name)}
                    assert not names & NEEDS_NO_MEMORY, f"{file.name}:{node.lineno}"
