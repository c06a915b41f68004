"""Tab in real shells: commands, options, boards and groups. Nothing of the record changes by it, nothing is asked."""

import os
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from desk import Terminal
from wssctl.boards.registry import Registry, known_names
from wssctl.keys.store import Store

BIN = Path(sys.executable).parent


@pytest.fixture
def env(tmp_path):
    registry = Registry(Store(tmp_path / "keys"))
    registry.update("room1", host="10.0.0.7", groups=["home"])
    registry.update("room2", host="10.0.0.8", groups=["home", "attic"])
    registry.update("shed", host="10.0.0.9")
    home = tmp_path / "home"
    home.mkdir()
    env = {n: v for n, v in os.environ.items() if not n.startswith(("WSSCTL", "_ARC", "COMP_"))}
    env |= {"WSSCTL_KEYS": str(tmp_path / "keys"), "HOME": str(home), "TERM": "dumb", "COLUMNS": "200"}
    return env | {"PATH": f"{BIN}:{env['PATH']}", "PS1": "ready> ", "ZDOTDIR": str(home), "LC_ALL": "C.UTF-8"}


def need(shell):
    return shutil.which(shell) or pytest.skip(f"there is no {shell} here")


# What is typed before Tab, and the words that come of it
CASES = [
    ("wssctl mprem", {"mpremote"}),
    ("wssctl repl ro", {"room1", "room2"}),
    ("wssctl repl @", set()),  # one board at a time
    ("wssctl status @", {"@all", "@home", "@attic"}),
    ("wssctl exec room1,s", {"room1,shed"}),
    ("wssctl boards renew s", {"shed"}),
    ("wssctl boards remember s", {"shed"}),
    ("wssctl ca rotate --skip s", {"shed"}),
    ("wssctl put --takeo", {"--takeover"}),
]


@pytest.mark.parametrize("line, wanted", CASES, ids=lambda v: v if isinstance(v, str) else "")
def test_what_bash_gets(env, tmp_path, line, wanted):
    """bash runs the function that `wssctl completion bash` has registered, as Tab does."""
    script = """
        eval "$(wssctl completion bash)"
        COMP_LINE=$1 COMP_POINT=${#1} COMP_TYPE=9 COMP_CWORD=1
        read -ra COMP_WORDS <<< "$1"
        function=$(complete -p wssctl | sed 's/.*-F \\([^ ]*\\).*/\\1/')
        "$function" wssctl "${COMP_WORDS[-1]}" 2>/dev/null
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    before = {p: p.read_bytes() for p in (tmp_path / "keys").iterdir()}
    done = subprocess.run(
        [need("bash"), "--norc", "-c", script, "bash", line], env=env, capture_output=True, text=True, timeout=180,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    # for bash a word begins behind the @ (COMP_WORDBREAKS), and so do the words it gets
    got = {w.strip() for w in done.stdout.splitlines() if w.strip()}
    assert got == {w.removeprefix("@") for w in wanted}, done.stderr
    assert {p: p.read_bytes() for p in (tmp_path / "keys").iterdir()} == before


@pytest.mark.parametrize(
    "shell, words, setup",
    [
        ("bash", ["--norc", "--noprofile", "-i"], 'eval "$(wssctl completion bash)"'),
        ("zsh", ["-f", "-i"], 'autoload -U compinit && compinit -u && eval "$(wssctl completion zsh)"'),
    ],
)
def test_tab_at_a_prompt(env, shell, words, setup):
    with Terminal(need(shell), *words, env=env) as terminal:
        terminal.type(f"PS1='re''ady> '; {setup}; echo set''up\r")
        terminal.until("setup\r\n", 60)
        terminal.until("ready> ", 60)
        terminal.type("wssctl repl she\t")
        terminal.until("she.{0,20}d ", 60)  # zsh may draw the word anew
        terminal.type("\x15exit\r")
        terminal.wait()


def test_fish(env):
    fish = need("fish")
    for line, wanted in CASES:
        script = f"wssctl completion fish | source; complete -C '{line}'"
        done = subprocess.run([fish, "--no-config", "-c", script], env=env, capture_output=True, text=True, timeout=180)
        assert {w.split("\t")[0] for w in done.stdout.splitlines()} == wanted, (line, done.stderr)


def test_the_shell_is_guessed_or_asked_for(env):
    def run(**more):
        return subprocess.run(
            [sys.executable, "-m", "wssctl", "completion"], env=env | more, capture_output=True, text=True, timeout=180
        )

    assert "complete -o" in run(SHELL="/bin/bash").stdout and "fish" in run(SHELL="/usr/bin/fish").stdout
    refused = run(SHELL="/bin/tcsh")
    assert refused.returncode == 2 and "bash | zsh | fish" in refused.stderr


def test_a_record_that_is_none_or_anybodys_gives_nothing(tmp_path):
    assert known_names(tmp_path) == ([], []) and list(tmp_path.iterdir()) == []
    record = Registry(Store(tmp_path)).record.path
    assert not record.exists() and known_names(tmp_path / "not there") == ([], [])
    Registry(Store(tmp_path)).update("room1", host="10.0.0.7", groups=["home"])
    assert known_names(tmp_path) == (["room1"], ["home"])
    # what would be more than a name to a shell is none
    with sqlite3.connect(record) as db:
        db.execute("INSERT INTO boards(name, port) VALUES('$(reboot)', 1), ('a b', 1), ('\x1b[2J', 1)")
    assert known_names(tmp_path) == (["room1"], ["home"])
    record.chmod(0o666)
    assert known_names(tmp_path) == ([], [])
    record.chmod(0o600)
    record.write_bytes(b"no database")
    assert known_names(tmp_path) == ([], [])


def test_what_the_page_says_is_what_the_command_says():
    """docs/tools.md has the lines that test_tab_at_a_prompt uses."""
    page = (Path(__file__).parents[2] / "docs/tools.md").read_text()
    for line in ('eval "$(wssctl completion bash)"', 'eval "$(wssctl completion zsh)"', "wssctl completion fish"):
        assert re.search(re.escape(line), page), line
