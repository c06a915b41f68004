"""stubs/ says of ussl, wss_helper and wss_repl what lib/ has: every public name, parameter, default and constant."""

import ast
import subprocess
import sys

import pytest
from targets import ROOT

MODULES = ["ussl", "wss_helper", "wss_repl"]
FIRMWARES = {  # those that ussl takes over with `from tls import *`
    "PROTOCOL_TLS_CLIENT", "PROTOCOL_TLS_SERVER", "PROTOCOL_DTLS_CLIENT", "PROTOCOL_DTLS_SERVER", "MBEDTLS_VERSION",
}  # fmt: skip


def parsed(module):
    return ast.parse((ROOT / "lib" / f"{module}.py").read_text())


def stub(module):
    return ast.parse((ROOT / "stubs" / f"{module}-stubs" / "__init__.pyi").read_text())


def parameters(function):
    """[(name, kind, default as source or None)]; a constant of the module as a default is its value."""
    a = function.args
    plain = [*a.posonlyargs, *a.args]
    defaults = [None] * (len(plain) - len(a.defaults)) + list(a.defaults)
    found = [(p.arg, "plain", d) for p, d in zip(plain, defaults, strict=True)]
    found += [("*" + a.vararg.arg, "", None)] if a.vararg else []
    found += [(p.arg, "named", d) for p, d in zip(a.kwonlyargs, a.kw_defaults, strict=True)]
    found += [("**" + a.kwarg.arg, "", None)] if a.kwarg else []
    return [(name, kind, d and {"CERT_NONE": "0"}.get(ast.unparse(d), ast.unparse(d))) for name, kind, d in found]


def public(body, bases):
    """{name: parameters, or "value"} of a module's or class's body; a class as {"Class.name": ...}."""
    found = {}
    for node in body:
        if isinstance(node, ast.FunctionDef):
            if not node.name.startswith("_") or node.name in ("__init__", "__getattr__"):
                overloaded = isinstance(found.get(node.name), list) and node.decorator_list
                found[node.name] = [*found[node.name], parameters(node)] if overloaded else [parameters(node)]
        elif isinstance(node, ast.ClassDef):
            inherited = [c for b in node.bases for c in bases if c.name == ast.unparse(b)]
            members = {}
            for each in (*inherited, node):
                members |= public(each.body, bases)
            if not node.name.startswith("_"):
                found |= {f"{node.name}.{name}": is_ for name, is_ in members.items()} | {node.name: "class"}
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                for name in target.elts if isinstance(target, ast.Tuple) else [target]:
                    if isinstance(name, ast.Name) and not name.id.startswith("_"):
                        value = node.value if isinstance(node.value, ast.Constant) else None
                        found[name.id] = value.value if value else "value"
    return found


def named(tree):
    return public(tree.body, [n for n in tree.body if isinstance(n, ast.ClassDef)])


@pytest.mark.parametrize("module", MODULES)
def test_a_stub_says_what_the_module_has(module):
    real, said = named(parsed(module)), named(stub(module))
    if module == "ussl":
        # Two orders of arguments, each with a function of its own. WiPy's takes the rest of the other's by name
        functions = {n.name: parameters(n) for n in parsed(module).body if isinstance(n, ast.FunctionDef)}
        wipy, other = functions["_wipy"][:-1], functions["_v1_21"]
        given = {name for name, *_ in wipy} | {"cert_reqs"}
        wipy += [(name, "named", default) for name, _, default in other if name not in given]
        assert real["wrap_socket"] == [[("sock", "plain", None), ("*args", "", None), ("**kwargs", "", None)]]
        real["wrap_socket"] = [wipy, other]
        # set through SSLContext.__setattr__
        real |= {"SSLContext.verify_mode": "value", "SSLContext.check_hostname": "value"}
        real |= dict.fromkeys(FIRMWARES, "value")
        real = {n: is_ for n, is_ in real.items() if n not in ("SSLSocket.__init__",)}  # wrap_socket() makes them
    if module == "wss_helper":
        said = {n: is_ for n, is_ in said.items() if not n.startswith("Stream")}  # what its functions take
    if module == "wss_repl":
        status = next(n for n in parsed(module).body if getattr(n, "name", "") == "status")
        keys = next(n for n in ast.walk(status) if isinstance(n, ast.Dict)).keys
        real |= {f"Status.{k.value}": "value" for k in keys} | {"Status": "class"}
    # A stub gives a constant's value or its type
    typed = {n for n, is_ in said.items() if is_ == "value" and not isinstance(real.get(n), list)}
    assert {n: "value" if n in typed else is_ for n, is_ in real.items()} == said


def test_every_public_module_has_a_stub():
    assert sorted(p.stem for p in (ROOT / "lib").glob("*.py")) == MODULES
    assert sorted(p.name for p in (ROOT / "stubs").iterdir()) == [f"{m}-stubs" for m in MODULES]


def test_a_program_is_checked_against_them(tmp_path):
    """mypy finds them as it does in site-packages, and sees a wrong argument."""
    (tmp_path / "program.py").write_text(
        "import ussl, wss_helper, wss_repl\n"
        "wss_repl.start(8833, 'secret', log=4096)\n"
        "print(wss_repl.status()['client'], ussl.CERT_REQUIRED)\n"
        "ussl.wrap_socket(object(), '/flash/cert/private.key', timeout=5).recv(10)\n"
        "ussl.wrap_socket(object(), True, 'key.der', 'cert.der')\n"
        "wss_repl.start(prot=1)\n"
        "wss_repl.status()['clients']\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--cache-dir", tmp_path / "cache", "--strict", "program.py"],
        cwd=tmp_path, capture_output=True, text=True, timeout=180,
        env={"MYPYPATH": str(ROOT / "stubs"), "PATH": ""},
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if "error:" in line]
    assert [line.split(":")[1] for line in lines] == ["6", "7"], done.stdout + done.stderr
