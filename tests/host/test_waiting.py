"""What waits for boards that were off: recorded, told, and brought by `wssctl boards apply`, not by every contact."""

import json
import re

import pytest
from site_of_boards import SECOND, Site, in_row
from targets import UID, Unix
from wssctl import cli
from wssctl.boards import modules, trust, waiting
from wssctl.boards.registry import Registry
from wssctl.boards.update import LOADER_CODE
from wssctl.errors import (
    AccessDenied,
    BoardError,
    ConnectionLost,
    HandshakeCut,
    KeyFileError,
    NoAnswer,
    NotHere,
    NotNow,
    SessionInUse,
    TrustError,
    Unreachable,
    UsageError,
)
from wssctl.keys import trustlist
from wssctl.keys.record import Record
from wssctl.keys.remembered import remember, remembered
from wssctl.keys.store import Store

VERSION = modules.version()
HELLO = ("exec", "room1", "print(6*7)")


@pytest.fixture
def site(tmp_path):
    """A board that is off from time to time."""
    with Site(tmp_path, Unix("unix").bits) as site:
        site.add("room1", UID)
        yield site


def off(site, name="room1"):
    site.boards[name].kill()


def on(site, name="room1"):
    site.boards[name].restart()
    site.boards[name].read_until(b"wss_repl: listening", 60)


def waits(site, name="room1"):
    """As `wssctl boards` lists it."""
    row = next(line for line in site.run("boards").splitlines() if line.strip().startswith(name))
    return [w for w in re.split(", ", re.split(r"\s{2,}", row.strip())[-1]) if w.split()[0] in KINDS]


KINDS = ("password", "certificate", "bundle", "trust", "ROOT")


def test_a_board_that_was_off_gets_all_of_it_when_asked(site):
    files = site.path / "room1"
    before = {p.name: p.read_bytes() for p in files.iterdir()}
    off(site)
    for words in (("password", "room1"), ("boards", "renew", "--all"), ("update", "room1", "--overlay", "--force")):
        said = site.run(*words, status=3)
        assert "`wssctl boards apply` brings it" in said
    assert waits(site) == [f"bundle {VERSION}", "certificate", "password"]
    assert site.run("boards", "apply", status=3).count("room1") >= 2
    on(site)
    # Somebody who runs a program there does not expect its end
    said = site.run(*HELLO)
    assert "there waits: bundle, certificate, password" in said and "42" in said
    assert (files / "webrepl_cfg.py").read_bytes() == before["webrepl_cfg.py"] and len(waits(site)) == 3
    row = json.loads(site.run("boards", "apply", "--json").splitlines()[-1])
    assert row["ok"] and re.fullmatch(f"has a new password.*, renewed, .*-> {VERSION}", row["output"]), row
    assert waits(site) == [] and "Nothing waits" in site.run("boards", "apply")
    certificate = (files / f"SSL_certificate{UID}.der").read_bytes()
    assert certificate == (site.keys / f"SSL_certificate{UID}.der").read_bytes() != before[f"SSL_certificate{UID}.der"]
    assert any((files / "wss_a").iterdir()), "the bundle"
    assert site.run(*HELLO, env={"WSSCTL_PASSWORD": ""}) == "42\n", "by the new password, which is remembered"


def test_a_password_that_came_and_was_not_proved(site):
    """Killed in between: the board has the new one, and this machine does not know it."""
    store = Store(site.keys)
    remember(store, "new password:room1", "the new 42")
    waiting.add(store.record, ["room1"], waiting.PASSWORD, {"remember": True})
    off(site)
    (site.path / "room1/webrepl_cfg.py").write_text("PASS = 'the new 42'\n")
    (site.path / "given").write_text("another one\n")
    assert "apply room1` first" in site.run("password", "room1", "--new-password-file", site.path / "given", status=2)
    on(site)
    assert '"output": "has a new password' in site.run("boards", "apply", "--json")
    assert remembered(store, "password:room1") == "the new 42" and not remembered(store, "new password:room1")
    assert site.run(*HELLO, env={"WSSCTL_PASSWORD": ""}) == "42\n"


def test_a_second_password_is_the_one_that_waits(site):
    """The board may have it already: a third one, and neither would be known here."""
    off(site)
    first = site.run("password", "room1", "--show", status=3).splitlines()
    assert not any("since an earlier attempt" in line for line in first)
    waits_for_it = remembered(Store(site.keys), "new password:room1")
    said = site.run("password", "room1", "--show", status=3)
    assert "NOTE: the new password that waits for room1 since an earlier attempt is the one" in said
    assert waits_for_it in said.splitlines() and waits_for_it in first
    assert remembered(Store(site.keys), "new password:room1") == waits_for_it
    on(site)
    site.run("password", "room1")
    assert remembered(Store(site.keys), "password:room1") == waits_for_it
    env = {"WSSCTL_PASSWORD": ""}
    assert "earlier attempt" not in site.run("password", "room1", env=env)
    assert remembered(Store(site.keys), "password:room1") != waits_for_it and site.run(*HELLO, env=env) == "42\n"


@pytest.mark.parametrize("boards", [3, 300])
def test_what_waits_is_asked_once_for_all_boards(tmp_path, monkeypatch, capsys, boards):
    """A list of 10,000 boards opened the database for each of them."""
    record = Store(tmp_path).record
    names = [f"room{n}" for n in range(boards)]
    registry = Registry(Store(tmp_path))
    with record.change() as db:
        db.executemany("INSERT INTO boards(name, port) VALUES(?, 8833)", [(n,) for n in names])
    revoked = trustlist.changed({}, "revoked", "ab" * 32, "eve", False)
    pinned = trustlist.changed({}, "pinned", "cd" * 32, "ana", False)
    with record.change() as db:
        trustlist.learn(db, "", {revoked.key: revoked})
        trustlist.learn(db, names[1], {pinned.key: pinned})
    trust.note_held(record, names[0], {revoked.key: revoked}, {}, None)
    trust.note_held(record, names[1], {revoked.key: revoked}, {}, None)
    waiting.add(record, names[:2], waiting.BUNDLE, {"version": "1.2"})
    waiting.add(record, ["forgotten"], waiting.PASSWORD)
    opened, view = [], Record.view
    monkeypatch.setattr(Record, "view", lambda self: opened.append(self) or view(self))
    assert cli.main(["boards", "list", "--keys", str(tmp_path)]) == 0
    assert len(opened) < 5 and "room2" in capsys.readouterr().out
    found = waiting.words(record, names)
    assert found.pop(names[0]) == ["bundle 1.2"] and found.pop(names[1]) == ["trust list", "bundle 1.2"]
    assert found == {n: ["trust list"] for n in names[2:]}
    with view(record) as db:  # one by one, as at a login
        assert {n for n in names if trust.pending(db, {n: None})} == set(names[1:]) and len(registry.load()) == boards
        # The board that has all is another one when it shows another certificate
        assert trust.pending(db, {names[0]: b"another"}) == {names[0]}


def test_what_cannot_be_done_there_does_not_wait(site):
    (site.path / "room1/boot.py").write_text(
        (site.path / "room1/boot.py").read_text().replace("start(", "start(password='sesame 23', ")
    )
    off(site)
    on(site)
    assert "from elsewhere" in site.run("password", "room1", status=1) and waits(site) == []
    off(site)
    site.run("password", "room1", status=3)
    assert waits(site) == ["password"]
    said = site.run("boards", "apply", "--drop")
    assert "room1's new password is forgotten" in said and "wssctl setup PORT" in said
    assert waits(site) == [] and not remembered(Store(site.keys), "new password:room1")
    site.run("password", "room1", status=3)
    site.run("boards", "forget", "room1")
    assert not waiting.pending(Store(site.keys).record, "room1")


def test_an_update_waits_while_another_is_on_trial_there(site):
    """That is over within minutes. What the board says of itself ends the waiting: see above, and below."""
    off(site)
    site.run("update", "room1", "--overlay", "--force", status=3)
    on(site)
    on_trial(site)
    said = site.run("boards", "apply", status=1)
    assert "Another update is on trial there" in said and waits(site) == [f"bundle {VERSION}"]
    said = site.run("update", "room1", "--overlay", "--force", status=1)
    assert "It waits for room1" in said and waits(site) == [f"bundle {VERSION}"]
    off(site)
    on(site)  # the second start, which ends the trial
    assert in_row(site.run("boards", "apply"), "room1", "ok", f"-> {VERSION}") and waits(site) == []


def on_trial(site, name="room1"):
    """Another host's update."""
    files = site.path / name
    for file, data in modules.compiled().items():
        (files / "wss_a" / file).parent.mkdir(parents=True, exist_ok=True)
        (files / "wss_a" / file).write_bytes(data)
    (files / "wss_repl.py").write_bytes(modules.loader())
    begin = "u['begin']('.frozen', '/wss_a', '9.9.9', 600, 'of another host')"
    site.run("exec", name, LOADER_CODE.format(home="/") + begin)
    off(site, name)
    on(site, name)


def test_one_board_on_trial_does_not_keep_the_others_waiting(site):
    site.add("room2", SECOND)
    for name in ("room1", "room2"):
        off(site, name)
    site.run("update", "@all", "--overlay", "--force", status=3)
    for name in ("room1", "room2"):
        on(site, name)
    on_trial(site)
    said = site.run("boards", "apply", "-j", "1", status=1)
    assert in_row(said, "room1", "failed (1)", "on trial") and in_row(said, "room2", "ok", f"-> {VERSION}")
    assert waits(site) == [f"bundle {VERSION}"] and waits(site, "room2") == []


def test_what_is_in_the_way_of_a_trust_list_does_not_end_what_waits(site):
    """A folder has its name, for instance: the board cannot take the list before that is gone."""
    _, folder = site.other_host()
    off(site)
    site.run("update", "room1", "--overlay", "--force", status=3)
    site.run("host", "revoke", next(folder.glob("HOST_cert@*")), status=3)
    assert sorted(waits(site)) == [f"bundle {VERSION}", "trust list"]
    (site.path / "room1/wss_trust.txt.new").mkdir()
    on(site)
    assert "room1" in site.run("boards", "apply", status=1)
    assert len(waits(site)) == 2
    (site.path / "room1/wss_trust.txt.new").rmdir()
    site.run("boards", "apply")
    assert waits(site) == []


class Refuses:
    """What can be against an update, and whether it is over when the board is reached another time."""

    FINAL = (
        BoardError("It takes signed updates alone."), KeyFileError("a signature of something else"),
        UsageError("plain ws"),
    )  # fmt: skip
    PASSES = (
        NotNow("on trial"), NotHere("no mpy-cross"), Unreachable("off"), SessionInUse("another"), AccessDenied("wrong"),
        TrustError("certificate"), HandshakeCut("reset"), ConnectionLost("gone"), NoAnswer("silent"),
    )  # fmt: skip


@pytest.mark.parametrize("error", Refuses.FINAL + Refuses.PASSES, ids=lambda e: type(e).__name__)
def test_what_ends_the_waiting(tmp_path, error):
    record = Store(tmp_path).record
    waiting.add(record, ["room1"], waiting.BUNDLE, {"version": VERSION})

    def work():
        raise error

    with pytest.raises(type(error)):
        waiting.bring(record, "room1", waiting.BUNDLE, work)
    assert bool(waiting.pending(record, "room1")) == (error in Refuses.PASSES)


def test_a_board_that_gets_another_name_meanwhile(tmp_path):
    """Set up anew on its cable during the trial: what was done does not wait under the new name."""
    registry = Registry(Store(tmp_path))
    registry.update("room1", uid=UID)
    registry.update("other", uid=SECOND)
    waiting.add(registry.record, ["room1", "other"], waiting.BUNDLE, {"version": VERSION})
    waiting.add(registry.record, ["room1"], waiting.PASSWORD)
    waiting.bring(registry.record, "room1", waiting.BUNDLE, lambda: registry.update("hall", uid=UID).name)
    assert list(waiting.pending(registry.record, "hall")) == [waiting.PASSWORD] and registry.find("room1") is None
    assert list(waiting.pending(registry.record, "other")) == [waiting.BUNDLE]


def test_a_signature_that_is_not_here_is_told_before_anything_waits(site):
    off(site)
    said = site.run("update", "room1", "--overlay", "--signed", site.path / "none", status=7)
    assert "Cannot read" in said and waits(site) == []
    (site.path / "stick").write_bytes(b"0\x000\x00bundle")
    site.run("update", "room1", "--overlay", "--force", "--signed", site.path / "stick", status=3)
    (site.path / "stick").unlink()
    on(site)
    assert "Cannot read" in site.run("boards", "apply", "--json", status=7) and waits(site) == [f"bundle {VERSION}"]
    (site.path / "stick").write_bytes(b"<html>")
    assert "The signature is damaged" in site.run("boards", "apply", "--json", status=7) and waits(site) == []


def test_a_rotation_goes_on(site):
    site.add("room2", SECOND)
    off(site, "room2")
    assert "boards apply` goes on" in site.run("ca", "rotate", "--keep-old", "--timeout", "30", status=3)
    assert waits(site, "room2") == ["ROOT CA"] and waits(site, "room1") == []
    on(site, "room2")
    said = site.run("boards", "apply")
    assert in_row(said, "room2", "ok", "trusts both") and "All boards trust both" in said
    assert "`wssctl ca rotate` drops it" in site.run("boards", "apply"), "what other hosts may still need"
    assert "complete" in site.run("ca", "rotate")
    assert waits(site, "room2") == [] and site.run(*HELLO) == "42\n"
