"""A kept connection under twenty processes with fifty commands each, some of them killed."""

import os
import subprocess
import sys

import pytest
from targets import ROOT

LONG = os.environ.get("EVIDENCE") == "long"


@pytest.mark.skipif(not LONG, reason="the long cut of a test in tests/host: EVIDENCE=long")
def test_a_crowd(row):
    env = os.environ | {"CROWD": "20x50"}
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/host/test_keep.py", "-k", "many_at_once"]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, env=env, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stdout[-3000:]
    row("Kept connection", "20 processes, 50 commands each, one in five killed", "every answer to whom it belongs")
