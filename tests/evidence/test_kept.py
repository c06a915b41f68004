"""A kept connection under twenty processes with fifty commands each, some of them killed."""

import pytest
from evidence_common import LONG, run_more_of


@pytest.mark.skipif(not LONG, reason="the long cut of a test in tests/host: EVIDENCE=long")
def test_a_crowd(row):
    run_more_of("test_keep.py", "many_at_once", CROWD="20x50")
    row("Kept connection", "20 processes, 50 commands each, one in five killed", "every answer to whom it belongs")
