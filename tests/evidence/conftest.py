"""Evidence: attacks, conformance and faults, with figures. EVIDENCE=long (make evidence) runs the long cut.

Each test records its rows with `row(section, case, result)`; tools/dev/evidence.py makes the table of them.
"""

import json
import os
import shutil

import pytest

ROWS = os.environ.get("EVIDENCE_ROWS")  # the file that rows go to


@pytest.fixture
def row():
    def record(section: str, case: str, result: str):
        if ROWS:
            with open(ROWS, "a") as f:
                f.write(json.dumps([section, case, result]) + "\n")

    return record


@pytest.fixture(scope="session")
def kept(target, keys, tmp_path_factory):
    """One running board for many tests, for those that leave it as it was."""
    directory = tmp_path_factory.mktemp("evidence") / "board"
    shutil.copytree(keys.board, directory)
    with target.board(directory) as running:
        yield running
