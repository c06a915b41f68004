"""tools/dev/matrix.py: what it counts, and that nothing it was told to run on is passed over."""

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tools/dev"))

import firmware  # noqa: E402
import matrix  # noqa: E402


@pytest.fixture
def one_version(tmp_path, monkeypatch):
    """The firmware at hand instead of all that Debian has, and results in a folder of the test."""
    here = os.environ.get("MPY_DIR")
    monkeypatch.setattr(matrix, "OUT", tmp_path)
    monkeypatch.setattr(matrix, "sources", lambda more: [("here", here), *(("checkout", Path(p)) for p in more)])
    monkeypatch.delenv("MPY_DIR", raising=False)
    return firmware.version_name(firmware.source(here).path)


def test_each_version_is_counted_by_bits(one_version, tmp_path, capsys):
    assert matrix.main(["--jobs", "0", "tests/host/test_missing.py"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith(f"| {one_version} ")]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert [row[2] for row in cells] == ["64", "32"]
    assert all(int(row[3]) > 0 and row[4:] == ["0", "0"] for row in cells)
    assert "Of the tests only tests/host/test_missing.py." in (tmp_path / "matrix.md").read_text()


def test_a_checkout_that_cannot_be_built_is_a_row_and_a_failure(one_version, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MPY_DIR", str(tmp_path / "nothing"))
    assert matrix.main(["--jobs", "0", "tests/host/test_missing.py", "-knothing_of_that_name"]) == 1
    out = capsys.readouterr()
    assert "is not a MicroPython checkout" in out.out and "is not a MicroPython checkout" in out.err
    assert "pytest ended with exit code 5" in out.out, "no test ran, and that is not a success"


REPORT = """<testsuites><testsuite>
<testcase classname="tests.host.test_a" name="test_x[unix]"/>
<testcase classname="tests.host.test_a" name="test_x[unix32]"/>
<testcase classname="tests.host.test_a" name="test_y[32-1000]"/>
<testcase classname="tests.host.test_a" name="test_z[unix-320-x32]"/>
<testcase classname="tests.host.test_a" name="test_w[pty32-mpy]"><skipped message="no cable"/></testcase>
<testcase classname="tests.host.test_a" name="test_v"><failure message="1 != 2"/></testcase>
<testcase classname="tests.host.test_a" name="test_u[unix32-b]"><error message="set up"/></testcase>
</testsuite></testsuites>"""


def test_a_failed_test_or_one_that_could_not_start_is_a_failure(tmp_path):
    (tmp_path / "report.xml").write_text(REPORT)
    row = matrix.Row("1.99.0", "checkout")
    matrix.read_report(row, tmp_path / "report.xml")
    assert row.counts == {64: {"passed": 2, "failed": 1}, 32: {"passed": 2, "skipped": 1, "failed": 1}}
    assert row.failed == ["test_a.py::test_v", "test_a.py::test_u[unix32-b]"] and not row.ok
    assert matrix.table([row])[2:] == [
        "| 1.99.0 | checkout | 64 | 2 | 1 | 0 |",
        "| 1.99.0 | checkout | 32 | 2 | 1 | 1 |",
    ]
    assert row.skipped == {"no cable": 1}


def test_versions_are_in_their_order():
    rows = [matrix.Row(name, "") for name in ("1.29.0-preview", "1.3.0", "1.28.0")]
    assert [line.split()[1] for line in matrix.table(rows)[2::2]] == ["1.3.0", "1.28.0", "1.29.0-preview"]


def test_nothing_to_run_on_is_a_failure_but_for_cis_short_cut(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(matrix, "OUT", tmp_path)

    def unreachable(*_):
        raise firmware.FirmwareError("MicroPython's source cannot be fetched")

    monkeypatch.setattr(firmware, "source", unreachable)
    monkeypatch.delenv("MPY_DIR", raising=False)
    assert matrix.main([]) == 1
    assert matrix.main(["--short"]) == 0
    assert capsys.readouterr().err.count("cannot be fetched") == 2
