"""make size: that what it measures is there, and that a module that grows is caught."""

import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import firmware
import pytest
import size


@pytest.fixture(scope="module")
def measured():
    return size.measure()


def test_every_module_is_measured(measured):
    files = {p.relative_to(size.LIB).as_posix() for p in size.LIB.rglob("*.py")}
    assert set(measured["modules"]) == files
    for costs in measured["modules"].values():
        assert 0 < costs["frozen"] <= costs["heap"]
        assert costs["flash"] > 0 and costs["firmware"] > 0


def test_the_states_grow(measured):
    frozen, files = measured["frozen"], measured["mpy"]
    for states in (frozen, files):
        assert 0 < states["imported"] < states["listening"] < states["session"] <= states["put"]
        assert "ussl.py" not in states["loaded"]
    assert {"wss_repl.py", "wss/session.py", "wss/frames.py"} <= set(frozen["loaded"]) <= set(measured["needed"])
    assert {"wss/credentials.py", "wss/pem.py", "wss/upgrade.py"} <= set(measured["needed"])  # loaded for a while only
    assert not {"ussl.py", "wss/page.py", "wss/enrol.py"} & set(measured["needed"])


def test_what_is_not_frozen_counts_with_its_names(measured):
    """On a board that gets .mpy files each name that its firmware has not takes heap: 8 KB that a stand-in does not
    show whose firmware has the bundle, and its names, frozen in."""
    with tempfile.TemporaryDirectory() as folder:
        size.compile_all(size.LIB, Path(folder))
        code = f"import micropython, {', '.join(size.needed())}; micropython.qstr_info()"
        names = {}
        for program in (firmware.firmware(32), firmware.bare_firmware()):
            words = [program, "-c", f"import sys; sys.path[:] = [{folder!r}]; {code}"]
            done = subprocess.run(words, capture_output=True)
            names[program.name] = int(re.search(rb"n_qstr=(\d+)", done.stdout)[1])
    bare, frozen = names.pop("micropython-32-bare"), names.pop("micropython-32")
    assert bare > frozen + 200


def test_nothing_is_over_its_budget(measured):
    assert size.over(measured, json.loads(size.BUDGET.read_text())) == []


def test_every_budget_has_a_reason_and_a_module():
    budget = json.loads(size.BUDGET.read_text())["modules"]
    assert all(b["why"] for b in budget.values())
    assert all((size.LIB / name).exists() for name in budget)


def test_a_module_that_grows_is_caught_and_named(tmp_path, measured):
    lib = tmp_path / "lib"
    shutil.copytree(size.LIB, lib)
    with open(lib / "wss" / "login.py", "a") as f:
        f.write("\n\ndef more():\n    return %r\n" % ("x" * 500))
    (lib / "wss" / "fresh.py").write_text("a = 1\n")
    (tmp_path / "mpy").mkdir()
    grown = size.measure_modules(lib, tmp_path / "mpy")
    found = size.over(grown, json.loads(size.BUDGET.read_text()))
    assert any(s.startswith("wss/login.py takes ") and "bytes of flash" in s for s in found)
    assert "wss/fresh.py has no budget" in found
    assert grown["modules"]["wss/login.py"]["firmware"] > measured["modules"]["wss/login.py"]["firmware"] + 500


def test_accept_writes_figures_and_reason(tmp_path, monkeypatch, measured):
    monkeypatch.setattr(size, "BUDGET", tmp_path / "size.json")
    budget = {"goals": {}, "modules": {"gone.py": {"flash": 1, "heap": 1, "why": "x"}}}
    size.accept(measured, budget, "because")
    written = json.loads(size.BUDGET.read_text())
    assert "gone.py" not in written["modules"]
    assert all(b["why"] == "because" for b in written["modules"].values())
    assert size.over(measured, written) == []
    size.accept(measured, written, "another reason")  # nothing has changed
    assert all(b["why"] == "because" for b in written["modules"].values())


def test_imports_come_before_their_importers():
    order = size.modules()
    assert order.index("wss.port") < order.index("wss.server") < order.index("wss_repl")
