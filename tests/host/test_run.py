"""`make run`, the README's first command, without a terminal."""

import os
import subprocess
import sys

import pytest
from targets import ROOT

PROGRAM = "import pathlib, sys\nimport run\nrun.DEMO = pathlib.Path(sys.argv[1])\nsys.exit(run.main())\n"


def start(folder, redirection):
    env = os.environ | {"PYTHONPATH": str(ROOT / "tools/dev")}
    words = ["sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, "-c", PROGRAM, str(folder)]
    return subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("redirection", ["<&-", "</dev/null"])
def test_without_a_terminal(tmp_path, redirection):
    out, err = start(tmp_path, redirection).communicate(timeout=120)
    assert "Board on the desk" in out and "'listening': ['wss://127.0.0.1:" in out, err
    assert "$ wssctl exec wss://localhost" in err and "Traceback" not in err
