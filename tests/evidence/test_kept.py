"""A kept connection under twenty processes with fifty commands each, some of them killed; under commands that are
killed at any point; and under all that stock mpremote does."""

import pytest
from evidence_common import LONG, run_more_of


@pytest.mark.skipif(not LONG, reason="the long cut of a test in tests/host: EVIDENCE=long")
def test_a_crowd(row):
    run_more_of("test_keep.py", "many_at_once", CROWD="20x50")
    row("Kept connection", "20 processes, 50 commands each, one in five killed", "every answer to whom it belongs")


@pytest.mark.skipif(not LONG, reason="the long cut of a test in tests/host: EVIDENCE=long")
def test_killed_at_any_point(row):
    run_more_of("test_keep_states.py", "any_point", POINTS="116")
    row("Kept connection", "a command killed after each prefix of what it sends", "the next one finds its prompt")


@pytest.mark.skipif(not LONG, reason="the long cut of a test in tests/host: EVIDENCE=long")
def test_mpremote(row):
    run_more_of("test_mpremote_wss.py", "", WSSCTL_KEEP="5m")
    row("Kept connection", "the whole list of mpremote's commands, two versions of it", "as on a cable")
