"""Several boards as a person, a script or somebody in a hurry names them; and Ctrl-C in the middle."""

import json
import shutil
import signal
import ssl
import subprocess
import sys

import pytest
from site_of_boards import PASSPHRASE, PASSWORD, SECOND, Site
from targets import UID, Unix
from wssctl.cli import main
from wssctl.errors import KeyFileError
from wssctl.keys import ask
from wssctl.keys.store import Store
from wssctl.wire import tls
from wssctl.wire.link import Credentials


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """room1 and room2 in the group room1; away in a group of its own."""
    with Site(tmp_path_factory.mktemp("site"), Unix("unix").bits) as site:
        site.add("room1", UID, group="room1")
        site.add("room2", SECOND, group="room1")
        site.run("boards", "add", "away", "127.0.0.1:1", "--group", "gone")
        yield site


def rows(said):
    return [json.loads(line) for line in said.splitlines() if line.startswith("{")]


@pytest.mark.parametrize(
    ("names", "options", "boards"),
    [
        ("room1,room1,@room1", [], ["room1", "room2"]),  # a group that is called as a board
        ("@room1,,", ["-j", "1"], ["room1", "room2"]),
        ("@all,@room1", ["-j", "500"], ["away", "room1", "room2"]),
        ("@gone", [], ["away"]),
    ],
)
def test_each_board_once(site, names, options, boards):
    said = site.run("exec", names, "print(6*7)", "--json", *options, status=3 if "away" in boards else 0)
    found = {r["board"]: r for r in rows(said)}
    assert sorted(found) == boards and len(rows(said)) == len(boards)
    assert all(r["output"] == "42" for n, r in found.items() if n != "away")


@pytest.mark.parametrize(
    ("names", "says"),
    [("@", "no group @;"), ("@nobody", "no group @nobody"), (",", "names no board"), ("@room1,@x\x1b[2J", "@x")],
)
def test_who_is_nobody(site, names, says):
    said = site.run("exec", names, "1", status=2)
    assert says in said and "\x1b" not in said


def test_an_address_with_brackets_and_escapes_is_shown_as_it_is(site):
    said = site.run("exec", "room1,[::1]:1,[red]x\x1b[2J", "print(6*7)", "--timeout", "30", status=3)
    assert "[::1]:1" in said and "42" in said and "\x1b" not in said


def test_the_passphrase_is_asked_for_once_and_the_key_decrypted_once(site, monkeypatch, capsys):
    for name, value in site.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("WSSCTL_PASSPHRASE")
    asked, made, context = [], [], tls.context
    monkeypatch.setattr(ask, "_typed", lambda question: asked.append(question) or PASSPHRASE)
    monkeypatch.setattr(tls, "context", lambda files: made.append(files) or context(files))
    assert main(["exec", "@room1", "print(6*7)", "--json"]) == 0
    assert {r["output"] for r in rows(capsys.readouterr().out)} == {"42"}
    assert len(asked) == len(made) == 1


def test_a_decrypted_key_is_for_the_same_files_and_passphrase(site, tmp_path):
    store = Store(shutil.copytree(site.keys, tmp_path / "keys"))
    key, cert = store.find_host()
    mine = Credentials(store.find_ca_cert(), cert, key, PASSPHRASE)
    first = tls.shared_context(mine)
    assert tls.shared_context(mine._replace()) is first
    for other in ("", "wrong horse", None):
        with pytest.raises(KeyFileError, match="passphrase"):
            tls.shared_context(mine._replace(passphrase=other))
    store.write({key: key.read_bytes(), cert: cert.read_bytes()}, force=True)
    second = tls.shared_context(mine)
    assert second is not first
    site.run("boards", "revoke", UID, env={"WSSCTL_KEYS": str(store.folder)})
    assert tls.shared_context(mine).verify_flags & ssl.VERIFY_CRL_CHECK_LEAF, "a list that was not there before"


@pytest.mark.parametrize(
    ("words", "boards"),
    [
        (["boards", "renew", "room1"], 0),
        (["boards", "apply"], 0),
        (["boards", "apply", "--drop"], 0),
        (["password", "room1", "--show", "--new-password-file", "FILE"], 1),
    ],
)
def test_with_json_nothing_else_is_on_stdout(site, monkeypatch, capsys, tmp_path, words, boards):
    for name, value in site.env.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "password").write_text(PASSWORD + "\n")
    assert main([*(str(tmp_path / "password") if w == "FILE" else w for w in words), "--json"]) == 0
    said = capsys.readouterr()
    assert len(rows(said.out)) == len(said.out.splitlines()) == boards and said.err


def test_two_files_of_one_name_are_not_one(site, tmp_path):
    for command in (["get", "@room1"], ["get", "room1"]):
        said = site.run(*command, "boot.py", "lib/boot.py", tmp_path, status=2)
        assert "would both be" in said and not list(tmp_path.iterdir())


def test_ctrl_c_tells_who_is_done_and_leaves_boards_whole(site):
    code = "import sys; print(6*7)\nif sys.platform and open('boot.py').read().find('slow') > 0:\n while True: pass"
    boot = site.path / "room2/boot.py"
    boot.write_text(boot.read_text() + "# slow\n")
    command = [sys.executable, "-m", "wssctl", "exec", "@room1", code, "--json", "--timeout", "60"]
    with subprocess.Popen(command, env=site.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert json.loads(process.stdout.readline())["board"] == "room1"
        process.send_signal(signal.SIGINT)
        assert "Waiting for room2; Ctrl-C again" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in err, err
    (row,) = rows(out)
    assert row["board"] == "room2" and row["code"] == 130 and "may or may not" in row["output"]
    said = rows(site.run("exec", "@room1", "print(7)", "--json", "--takeover"))
    assert {r["output"] for r in said} == {"7"} and len(said) == 2
