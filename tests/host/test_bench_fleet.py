"""The measurement of many boards (tools/dev/bench_fleet.py), its short cut: what it says of boards that fail is so.

`tools/dev/bench_fleet.py` itself measures 300; here nothing is timed.
"""

import bench_fleet
import pytest


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with bench_fleet.Site(tmp_path_factory.mktemp("fleet"), 10, [1, 10], login=0.1) as site:
        yield site


def test_boards_that_are_off_cut_or_silent_cost_the_others_nothing(site):
    """Each is told as what it is, keeps its old file, and all others have the new one."""
    found = bench_fleet.failing(site, 10, off=2, cut=2, silent=1)
    assert found["wrong"] == [] and found["code"] == 6, found
    assert found["failing"] < found["all"], "the others were told of before the last of these"


def test_commands_reach_all_and_the_tool_stays_small(site):
    rows = bench_fleet.measure(site, [10], ["sync", "renew", "rotate"], [])
    assert [r["command"] for r in rows] == ["sync", "renew", "rotate"]
    assert all(r["well"] == 10 and r["mb"] < bench_fleet.MEMORY for r in rows), rows


def test_the_page_shows_what_was_measured():
    row = {"command": "status", "seconds": 2.04, "mb": 41.2, "bound": 2.6, "well": 10, "cpu": 0.25, "boards_cpu": 0.02}
    ten = row | {"boards": 10, "seconds": 2.46, "cpu": 0.34, "boards_cpu": 0.5}
    text = bench_fleet.table({"commands": [row | {"boards": 1}, ten]})
    assert "| status | 2.0 | 2.5 | 2.6 | 41 | 10 | 50 |" in text
