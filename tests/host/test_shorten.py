"""Bytecode for a board has short names for what is private: all else is as it was."""

import ast
import random
import re

import pytest
from wssctl.boards import modules
from wssctl.boards.shorten import PUBLIC, short_names, shorten


def names_in(mpy: bytes) -> set[str]:
    """The names that a .mpy file brings along; MicroPython's static ones are numbers in it (tools/mpy-tool.py)."""
    at = 4

    def number() -> int:
        nonlocal at
        value = 0
        while True:
            at += 1
            value = value << 7 | mpy[at - 1] & 127
            if mpy[at - 1] < 128:
                return value

    count = number()
    number()  # of objects
    found = set()
    for _ in range(count):
        length = number()
        if not length & 1:
            found.add(mpy[at : at + length // 2].decode())
            at += length // 2 + 1
    return found


def is_private(name: str) -> bool:
    return re.match("_[^_]", name) is not None


def renamed(source: bytes, names: dict[str, str]) -> str:
    """What ast says of a source in which names have other names."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        for field in ("id", "attr", "name", "asname", "arg"):
            if not (isinstance(node, ast.alias) and field == "name") and isinstance(getattr(node, field, None), str):
                setattr(node, field, names.get(getattr(node, field), getattr(node, field)))
        if isinstance(node, (ast.Global, ast.Nonlocal)):
            node.names = [names.get(name, name) for name in node.names]
    return ast.dump(tree)


def test_no_private_name_is_left_in_bytecode():
    theirs = {"_thread", "_machine"}  # the firmware's
    by_name = {"_ctx", "_dtls"}  # ussl sets these by what is in a string
    short = short_names(modules.sources())
    for name, data in modules.compiled().items():
        left = {n for n in names_in(data) if is_private(n)} - theirs - set(short[modules.other(name)].values())
        assert left == (by_name if name == "ussl.mpy" else set()), name


def test_the_same_short_names_serve_all_modules():
    short = short_names(modules.sources())
    repl = [names for name, names in short.items() if name != "ussl.py"]  # which has the most
    assert len({name for names in repl for name in names.values()}) <= max(map(len, repl)) + 3 < 45


def test_nothing_but_names_changes():
    sources = modules.sources()
    short = short_names(sources)
    for name, data in shorten(sources).items():
        assert len(set(short[name].values())) == len(short[name]), name
        assert ast.dump(ast.parse(data)) == renamed(sources[name], short[name]), name
        assert data.count(b"\n") == sources[name].count(b"\n"), name


def test_public_names_stay():
    sources = modules.sources()
    for name, data in shorten(sources).items():
        before, after = ast.parse(sources[name]), ast.parse(data)
        for kind in (ast.FunctionDef, ast.ClassDef, ast.Attribute):
            public = [
                [n for node in ast.walk(tree) if isinstance(node, kind)
                 for n in [node.attr if isinstance(node, ast.Attribute) else node.name] if not is_private(n)]
                for tree in (before, after)
            ]  # fmt: skip
            assert public[0] == public[1], name
        if name in PUBLIC:
            found = [[node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)] for tree in (before, after)]
            assert found[0] == found[1], name


def test_what_is_private_is_used_in_its_module_alone():
    """Else the two modules would have different names for it."""
    used, bound = {}, {}
    for name, source in modules.sources().items():
        nodes = list(ast.walk(ast.parse(source)))
        load = [(n.attr if isinstance(n, ast.Attribute) else n.id, isinstance(n.ctx, ast.Load))
                for n in nodes if isinstance(n, (ast.Attribute, ast.Name))]  # fmt: skip
        used[name] = {n for n, is_load in load if is_load and is_private(n)}
        bound[name] = {n for n, is_load in load if not is_load and is_private(n)}
        bound[name] |= {n.name for n in nodes if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and is_private(n.name)}
        bound[name] |= {n.asname for n in nodes if isinstance(n, ast.alias) and n.asname}
        imported = {n.name for n in nodes if isinstance(n, ast.alias)}
        assert not [n for n in imported if is_private(n) and n != "_thread"], name
        bases = {ast.unparse(base) for n in nodes if isinstance(n, ast.ClassDef) for base in n.bases}
        classes = {n.name for n in nodes if isinstance(n, ast.ClassDef)}
        firmware = {"IOBase", "io.IOBase", "Exception", "ValueError", "OSError", "object"}
        assert bases <= classes | firmware, f"{name}: a class of another module may have the same short names"
    for name in used:
        elsewhere = set().union(*(bound[other] for other in bound if other != name))
        assert not (used[name] - bound[name]) & elsewhere, name


def test_it_is_the_same_each_time():
    sources = modules.sources()
    mixed = list(sources.items())
    random.shuffle(mixed)
    assert shorten(dict(mixed)) == shorten(sources)


SOURCE = b'''
import sys
from _thread import get_ident as _ident

_LIMIT = const(5)
_table = {"_key": 1}
_a = 7
asked = 1


def _double(number, extra=0):
    return 2 * number + extra + _table["_key"]


class Counter:
    """_value"""

    __slots__ = ("_slot", "__step")

    def __init__(self, start, step):
        self._slot = start
        self.__step = step

    def _next(self, amount):
        self._slot += amount * self.__step
        return lambda more: self._slot + more

    def go(self, amount, named=2):
        return self._next(amount)(named) + _double(number=amount) + _a + _LIMIT

    def ask(self, asked, sys=None):
        return asked, sys


def outer(values):
    def inner(value):
        global _last
        _last = value
        return value + len(values)

    return [inner(value) for value in values]


result = Counter(3, 2).go(4), Counter(1, 1).ask(9), outer([1, 2]), _last, asked, Counter(0, 1).__slots__, sys.version
'''


def test_the_code_does_the_same():
    def run(source):
        names = {"const": lambda value: value}
        exec(compile(source, "x", "exec"), names)
        return names["result"]

    short = short_names({"wss/x.py": SOURCE})["wss/x.py"]
    # A word in a string may name an attribute, a call names an argument, and an argument that is called as a global is
    # would hide it. A constant is no name in bytecode.
    assert set(short) == {
        "_a", "_double", "_ident", "_last", "_next", "_table", "amount", "extra", "more", "named", "start", "step",
        "value", "values",
    }  # fmt: skip
    source = shorten({"wss/x.py": SOURCE})["wss/x.py"]
    assert run(source) == run(SOURCE)
    assert ast.dump(ast.parse(source)) == renamed(SOURCE, short)


@pytest.mark.parametrize("name", PUBLIC)
def test_arguments_of_what_programs_call_stay(name):
    short = short_names({name: SOURCE})[name]
    assert short and all(is_private(long) for long in short)
