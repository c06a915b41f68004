"""What waits for boards that were off: recorded, told, and brought by `wssctl boards apply`, not by every contact."""

import json
import re

import pytest
from site_of_boards import SECOND, Site, in_row
from targets import UID, Unix
from wssctl.boards import modules, waiting
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
    waiting.want(store.record, ["room1"], waiting.PASSWORD, {"remember": True})
    off(site)
    (site.path / "room1/webrepl_cfg.py").write_text("PASS = 'the new 42'\n")
    (site.path / "given").write_text("another one\n")
    assert "apply room1` first" in site.run("password", "room1", "--new-password-file", site.path / "given", status=2)
    on(site)
    assert '"output": "has a new password' in site.run("boards", "apply", "--json")
    assert remembered(store, "password:room1") == "the new 42" and not remembered(store, "new password:room1")
    assert site.run(*HELLO, env={"WSSCTL_PASSWORD": ""}) == "42\n"


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
    assert not waiting.of(Store(site.keys).record, "room1")


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
