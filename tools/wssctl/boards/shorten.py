"""Short names, in the board's bytecode, for what a module of the bundle keeps to itself.

A .mpy file carries each name that its code uses, and a board keeps those that its firmware lacks in the heap. So names
that begin with one underscore, and names of arguments, become _a, _b, ... in every module anew: for all modules the
board needs them once. Sources, and firmware that has them frozen in, keep the long names.
"""

import ast
import io
import itertools
import re
import string
import symtable
import tokenize
from collections.abc import Iterator

PUBLIC = ("wss_repl.py", "wss_helper.py", "ussl.py")  # programs may name the arguments of what is in there


def shorten(sources: dict[str, bytes]) -> dict[str, bytes]:
    """The sources of all modules, by file name, with short names. Nothing else changes, and no line moves."""
    return {name: _replace(sources[name].decode(), short).encode() for name, short in short_names(sources).items()}


def short_names(sources: dict[str, bytes]) -> dict[str, dict[str, str]]:
    """{file name: {long name: short name}}, the same for the same sources in any order."""
    trees = {name: ast.parse(source) for name, source in sources.items()}
    named = {node.arg for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.keyword)}
    found = {}
    for name, tree in trees.items():
        names = _private(tree)
        if name not in PUBLIC:
            names |= _arguments(sources[name].decode(), tree)
        taken = _identifiers(tree) | _words(tree)
        fresh = (short for short in _short() if short not in taken)
        found[name] = dict(zip(sorted(names - named - {"self"}), fresh, strict=False))
    return found


def _private(tree: ast.Module) -> set[str]:
    # What begins with one underscore and gets its value here. Not constants (MicroPython's const()): bytecode does not
    # name them. Not what is in a string, which may be meant for getattr(), nor what is imported and so another's.
    bound: set[str] = set()
    others = _imported(tree) | _words(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            bound.add(node.id)
        elif isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load):
            bound.add(node.attr)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            bound.add(node.name)
        elif isinstance(node, ast.alias):
            bound.add(node.asname or "")
        elif isinstance(node, ast.Assign) and ast.unparse(node.value).startswith("const("):
            others |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return {name for name in bound - others if re.match("_[^_]", name)}


def _arguments(source: str, tree: ast.Module) -> set[str]:
    # Of functions, and wherever they occur a function's variables and nothing else.
    if "exec" in _identifiers(tree):
        return set()  # who knows what its text names
    arguments = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    others = _imported(tree) | {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for scope in _scopes(symtable.symtable(source, "", "exec")):
        for symbol in scope.get_symbols():
            if scope.get_type() != "function" or symbol.is_global():
                others.add(symbol.get_name())
    return arguments - others


def _imported(tree: ast.Module) -> set[str]:
    paths = [node.name for node in ast.walk(tree) if isinstance(node, ast.alias)]
    paths += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {word for path in paths for word in path.split(".")}


def _scopes(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    yield table
    for child in table.get_children():
        yield from _scopes(child)


def _identifiers(tree: ast.Module) -> set[str]:
    fields = ("id", "attr", "name", "asname", "arg", "module")
    found = (getattr(node, field, None) for node in ast.walk(tree) for field in fields)
    return {name for name in found if isinstance(name, str)}


def _words(tree: ast.Module) -> set[str]:
    # In strings and bytes, but for documentation
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    texts = [
        node.value if isinstance(node.value, str) else node.value.decode("latin-1")
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes)) and id(node) not in documentation
    ]
    return set(re.findall(r"\w+", " ".join(texts)))


def _short() -> Iterator[str]:
    # _a, _b, ... _Z, _aa, ...
    for length in itertools.count(1):
        for letters in itertools.product(string.ascii_letters, repeat=length):
            yield "_" + "".join(letters)


def _replace(source: str, short: dict[str, str]) -> str:
    starts = [0, *itertools.accumulate(map(len, io.StringIO(source)))]  # of lines
    out: list[str] = []
    end = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NAME and token.string in short:
            begin = starts[token.start[0] - 1] + token.start[1]
            out += source[end:begin], short[token.string]
            end = begin + len(token.string)
    return "".join([*out, source[end:]])
