"""The record of a key folder under eight processes that are killed at random, a thousand times; and the merging of
trust lists, in many more sequences than the suite tries."""

import pytest
from evidence_common import LONG, run_more_of
from killed import torture


def test_killed_at_random(tmp_path, row):
    kills = 1000 if LONG else 8
    torture(tmp_path, kills=kills, seed=1, workers=8 if LONG else 3)
    row("Record", f"8 processes at once, {kills} killed at random moments", "nothing lost, nothing torn")


@pytest.mark.skipif(not LONG, reason="the long cut of a test in tests/host: EVIDENCE=long")
def test_sequences_of_three_hosts(row):
    run_more_of("test_trust.py", "sequence or between_any", EXAMPLES="1000")
    row("Trust", "1,000 sequences of revoke, undo, pin, setup, renew, rotate by three hosts", "no entry lost")
    row("Trust", "1,000 times four processes at once, in any order of their SQL statements", "no entry lost")


@pytest.mark.skipif(not LONG, reason="the long cut of a test in tests/host: EVIDENCE=long")
def test_every_command_against_every_server(row):
    run_more_of("test_hostile_commands.py", "server", SWEEP="long")
    row("Hostile servers", "every command against each of 21 servers; hanging up at each byte of a login", "a sentence")
