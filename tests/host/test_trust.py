"""Who is turned away, by several hosts that do not know of each other, on boards that are off, gone astray or odd."""

import base64
import contextlib
import functools
import json
import os
import random
import shutil
import sqlite3
import subprocess
import tempfile
import threading
import unicodedata
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import firmware
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st
from site_of_boards import PASSPHRASE, SECOND, Site, in_row
from targets import UID
from wssctl.boards import trust
from wssctl.boards.hosts import pinned_beside
from wssctl.cable.credentials import send_trust
from wssctl.cable.port import Cable
from wssctl.errors import KeyFileError, UsageError
from wssctl.keys import ca, hosts, record, trustlist
from wssctl.keys.store import Store
from wssctl.keys.trustlist import Entry
from wssctl.wire.link import Credentials

HELLO = ("exec", "room1", "print(6*7)")


@pytest.fixture
def site(target, tmp_path):
    with Site(tmp_path, target.bits) as site:
        yield site


def certificate(folder):
    return next(folder.glob("HOST_cert@*.pem"))


def listed(files):
    return (files / "wss_trust.txt").read_text()


def test_a_second_host_drops_no_revocation_of_the_first(site):
    files, _ = site.add("room1", UID)
    bea, _ = site.other_host("bea")
    eve, eves = site.other_host("eve")
    _, zoes = site.other_host("zoe")
    site.run("host", "revoke", certificate(eves))
    site.run("host", "revoke", certificate(zoes), env=bea)
    assert "refuses" in site.run(*HELLO, env=eve, status=4)
    assert listed(files).count("revoked ") == 2 and listed(files).endswith("end\n")
    # bea learned of it, and takes back only what is named
    assert in_row(site.run("host", "list", env=bea), "HOST eve", "REVOKED")
    assert "is not revoked" in site.run("host", "revoke", "ab" * 32, "--undo", env=bea, status=2)
    site.run("host", "revoke", certificate(zoes), "--undo", env=bea)
    assert "refuses" in site.run(*HELLO, env=eve, status=4)
    # and a list that does not know of the undoing brings nothing back
    site.run("host", "revoke", "cd" * 32)
    assert f"#undone revoked {hosts.of(certificate(zoes).read_bytes()).fingerprint}" in listed(files)
    assert site.run("exec", "room1", "print(1)", env={"WSSCTL_KEYS": str(zoes), "USER": "zoe"}) == "1\n"


def write_on_board(site, files, *lines):
    """Who has a board in his hands writes into its list what he likes."""
    (files / "wss_trust.txt").write_text("\n".join([*lines, "end", ""]))


def test_who_has_a_board_takes_back_no_revocation(site):
    """Neither there nor, through the hosts that read it, anywhere else; not even before it is made."""
    files, _ = site.add("room1", UID)
    others, _ = site.add("room2", SECOND)
    eve, eves = site.other_host("eve")
    who = hosts.of(certificate(eves).read_bytes())
    key = ca.load_key(next(eves.glob("HOST_key@*")).read_bytes(), PASSPHRASE, "")
    cert = ca.load_cert(certificate(eves).read_bytes(), "")
    board_key = serialization.load_der_private_key((files / f"SSL_key{UID}.der").read_bytes(), None)
    board_cert = ca.load_cert((files / f"SSL_certificate{UID}.der").read_bytes(), "")
    forged = Entry("revoked", who.fingerprint, 999_999_999, True, who.name)
    mine = trustlist.sealed(forged, key, cert)
    stranger = ca.Authority.create("Another CA").host("bea", "correct horse")
    lies = (
        forged,
        mine,  # the one who is revoked vouches for himself
        trustlist.sealed(forged, board_key, board_cert),
        trustlist.sealed(forged, ca.load_key(stranger[0], "correct horse", ""), ca.load_cert(stranger[1], "")),
        trustlist.sealed(forged, key, ca.load_cert(certificate(site.keys).read_bytes(), "")),
        replace(forged, seal=trustlist.sealed(replace(forged, version=9), key, cert).seal),
        replace(forged, seal="AAAA"),
        replace(forged, number=who.serial),
    )
    write_on_board(site, files, *trustlist.render([mine]).decode().splitlines()[:-1])  # before it is made
    text = site.run("host", "revoke", certificate(eves))
    assert in_row(text, "room1", "ok", "revoked HOST eve") and in_row(text, "room2", "ok")
    for lie in lies:
        write_on_board(site, files, *trustlist.render([lie]).decode().splitlines()[:-1])
        said = site.run("host", "revoke", "ab" * 32)
        assert lie.number != who.fingerprint or "which no host vouches for; it stays so" in said
        for board in ("room1", "room2"):
            assert "refuses" in site.run("exec", board, "1", env=eve, status=4)
        site.run("host", "revoke", "ab" * 32, "--undo")
    assert in_row(site.run("host", "list"), "HOST eve", "REVOKED")
    # the same on a board that is set up anew
    assert listed(others).count(who.fingerprint) == 1


def test_who_has_a_board_takes_back_no_pin(site):
    """Neither for the hosts that read it, with a list from another board neither; a host that vouches does."""
    files, _ = site.add("room1", UID)
    others, _ = site.add("room2", SECOND)
    bea, beas = site.other_host("bea")
    zoe, _ = site.other_host("zoe")
    ana, bea_is = (hosts.of(certificate(folder).read_bytes()) for folder in (site.keys, beas))
    for board in ("room1", "room2"):
        site.run("host", "pin", "ana", board)
        site.run("host", "pin", certificate(beas), board)
    site.run("host", "revoke", "12" * 32, env=bea)  # who learns of it
    site.run(*HELLO, env=zoe, status=4)
    key = ca.load_key(next(beas.glob("HOST_key@*")).read_bytes(), PASSPHRASE, "")
    cert = ca.load_cert(certificate(beas).read_bytes(), "")
    board_key = serialization.load_der_private_key((files / f"SSL_key{UID}.der").read_bytes(), None)
    board_cert = ca.load_cert((files / f"SSL_certificate{UID}.der").read_bytes(), "")
    lies = (
        lambda e: e,
        lambda e: trustlist.sealed(e, key, cert, SECOND),  # bea's word for another board
        lambda e: trustlist.sealed(e, board_key, board_cert, UID),
    )
    for i, lie in enumerate(lies):
        lied = [lie(Entry("pinned", w.fingerprint, 999_999_999, True)) for w in (ana, bea_is)]
        write_on_board(site, files, *trustlist.render(lied).decode().splitlines()[:-1])
        said = site.run("host", "revoke", f"ab{i}" * 20, "room1")
        assert said.count("is pinned, which no host vouches for; it stays so") == 2
        assert listed(files).count("\npinned ") == 2
    site.run(*HELLO, env=zoe, status=4)
    # What is pinned there by nobody here is said
    write_on_board(site, files, f"pinned {ana.fingerprint}", f"pinned {'78' * 32} #1 HOST eve")
    assert f"`wssctl host pin {'78' * 32} room1 --undo`" in site.run("host", "revoke", "ab" * 32, "room1")
    assert in_row(site.run("host", "pin", "78" * 32, "room1", "--undo"), "room1", "ok")
    # A host takes it back, and others believe it, on that board
    for who in (certificate(beas), "ana"):
        said = site.run("host", "pin", who, "room1", "--undo")
        assert in_row(said, "room1", "ok", "took back")
    before = listed(files)
    assert "\npinned " not in before and site.run(*HELLO, env=zoe) == "42\n"
    site.run("host", "pin", "ana", "room1", "--undo")
    assert listed(files) == before, "and once is enough"
    said = site.run("host", "revoke", "cd" * 32, env=bea)
    assert "vouches" not in said and "\npinned " not in listed(files) and site.run(*HELLO, env=zoe) == "42\n"
    write_on_board(site, others, *before.splitlines()[:-1])
    assert said.count("no host vouches") == 0
    assert "which no host vouches for; it stays so" in site.run("host", "revoke", "ef" * 32, env=bea)
    site.run("exec", "room2", "1", env=zoe, status=4)


def test_a_pin_that_is_taken_back_while_the_board_is_off_is_vouched_for_when_it_is_reached(site):
    """By whichever command; and one that somebody took back who is revoked by now can be taken back again."""
    files, _ = site.add("room1", UID)
    bea, beas = site.other_host("bea")
    for who in ("ana", certificate(beas)):
        site.run("host", "pin", who, "room1")
    site.run("host", "revoke", "12" * 32, env=bea)
    site.boards["room1"].kill()
    for who in (certificate(beas), "ana"):
        site.run("host", "pin", who, "room1", "--undo", "--timeout", "30", status=3)
    site.boards["room1"].restart()
    site.boards["room1"].read_until(b"wss_repl: listening", 60)
    assert site.run(*HELLO) == "42\n"
    assert not in_row(site.run("boards"), "room1", "trust list")
    assert "vouches" not in site.run("host", "revoke", "34" * 32, env=bea) and "\npinned " not in listed(files)
    site.run("host", "pin", certificate(beas), "room1", "--undo", env=bea)
    assert listed(files).count("#undone pinned") == 2


def test_who_has_a_board_fills_no_list(site):
    """999 revocations that somebody wrote there are that board's alone: others still take what is meant."""
    files, _ = site.add("room1", UID)
    others, _ = site.add("room2", SECOND)
    eve, eves = site.other_host("eve")
    _, zoes = site.other_host("zoe")
    lies = [Entry("revoked", f"{i:064x}") for i in range(1, trustlist.MOST)]
    write_on_board(site, files, *trustlist.render(lies).decode().splitlines()[:-1])
    said = site.run("host", "revoke", certificate(eves))
    assert "499 more certificates that nobody here knows" in said or "500 more" in said
    assert not in_row(site.run("boards"), "room1", "trust list"), "it has what is wanted there"
    said = site.run("host", "revoke", certificate(zoes), status=7)
    assert in_row(said, "room1", "1001 entries are too many") and in_row(said, "room2", "ok")
    for who, board in ((eve, "room1"), (eve, "room2"), ({"WSSCTL_KEYS": str(zoes), "USER": "zoe"}, "room2")):
        assert "refuses" in site.run("exec", board, "1", env=who, status=4)
    with Cable(site.boards["room1"].tty) as board:  # as `setup` does
        pem = (site.keys / f"SSL_certificate{UID}.pem").read_bytes()
        send_trust(Store(site.keys), board, "room1", False, pem)
    assert 500 <= listed(files).count("revoked ") <= 502
    assert "refuses" in site.run(*HELLO, env={"WSSCTL_KEYS": str(zoes), "USER": "zoe"}, status=4)
    assert site.run(*HELLO) == "42\n" and others


def test_a_list_longer_than_a_board_reads_is_not_read_here_either():
    text = b"#host 0123456789abcdef QUFB\n" * 10_000 + b"end\n"
    with pytest.raises(KeyFileError, match="is over 204800 bytes"):
        trustlist.parse(text)
    assert trustlist.parse(text, damaged=True) == {}


def test_what_a_host_took_back_that_is_revoked_since_can_be_taken_back_again(site):
    """On a host that learned of it only then it counts for nothing; ana says it once more, and it counts."""
    files, _ = site.add("room1", UID)
    bea, beas = site.other_host("bea")
    eve, eves = site.other_host("eve")
    site.run("host", "revoke", certificate(eves))
    site.run("host", "revoke", "ef" * 32, env=bea)
    site.run("host", "revoke", certificate(eves), "--undo", env=bea)
    site.run("host", "revoke", "ab" * 32)  # here ana learns what bea did
    assert site.run(*HELLO, env=eve) == "42\n"
    site.run("host", "revoke", certificate(beas))
    zoe, _ = site.other_host("zoe")
    write_on_board(site, files, f"revoked {hosts.of(certificate(eves).read_bytes()).fingerprint}")
    site.run("host", "revoke", certificate(eves), "--undo")
    assert site.run(*HELLO, env=eve) == "42\n"
    site.run("host", "revoke", "cd" * 32, env=zoe)  # she has learned of bea's end from ana's ROOT CA
    assert site.run(*HELLO, env=eve) == "42\n"
    before = listed(files)
    site.run("host", "revoke", certificate(eves), "--undo")
    assert listed(files) == before, "and once is enough"


def test_nobody_revokes_what_is_above_himself(site):
    """The ROOT CA, by whom everybody would be turned away: neither by a command nor by what a board's list says."""
    files, _ = site.add("room1", UID)
    root = hosts.of((site.keys / "ROOT_CA_cert.pem").read_bytes())
    for who in (site.keys / "ROOT_CA_cert.pem", root.fingerprint, "00" + root.serial.upper()):
        assert "this very host" in site.run("host", "revoke", who, status=2)
    with Cable(site.boards["room1"].tty) as board:  # it is in force when somebody is in already
        text = f"revoked {root.fingerprint}\nrevoked {root.serial}\nrevoked {'cd' * 32}\nend\n"
        board.exec(
            "from wss import trust\nold = trust.listed\ntrust.listed = lambda *a: (False, None)\n"
            f"with open('/wss_trust.txt', 'w') as f: f.write({text!r})"
        )
    said = site.run("host", "revoke", "ab" * 32, status=1)  # it reads the list in another way than it was meant
    assert "the ROOT CA itself is revoked, which is left out" in said
    with Cable(site.boards["room1"].tty) as board:
        board.exec("trust.listed = old\nimport os\nos.remove('/wss_trust.txt')")
    assert site.run(*HELLO) == "42\n"
    assert root.fingerprint not in listed(files) and "ab" * 32 in listed(files)


def test_another_board_under_a_known_name_gets_the_list(site):
    """Somebody else put another one in its place, or set it up anew, and did not know who is revoked."""
    files, port = site.add("room1", UID)
    eve, eves = site.other_host("eve")
    site.run("host", "revoke", certificate(eves))
    site.boards.pop("room1").close()
    (files / "wss_trust.txt").unlink()
    names = ["--name", "room1", "--ip", "127.0.0.1", "--wss-port", port]
    site.run("keys", "init", UID, *names, "--out", files, "--force")
    site.boot("room1", UID)
    assert site.run(*HELLO, env=eve) == "42\n", "which nobody could know"
    assert site.run(*HELLO) == "42\n"
    assert "refuses" in site.run(*HELLO, env=eve, status=4)


def test_a_name_that_begins_as_another_is_not_taken_for_it(tmp_path):
    """Ids of hosts have five letters of a user's name, and names of machines can be long."""
    store, authority = Store(tmp_path), ca.Authority.create("ROOT CA")
    agents = [f"deploy@build-agent-of-europe-production-{i}" for i in range(12)]
    for user, file in (("alice@desk", "alice"), ("alicebob@desk", ""), *((agent, "") for agent in agents)):
        key, cert = authority.host(user, "correct horse")
        hosts.issued(store, cert)
        if file:
            store.write(dict(zip(store.host_files(file.encode().hex()), (key, cert), strict=True)))
    for user in ("alice@desk", "alicebob@desk", *agents):
        assert [w.name for w in hosts.which(store, f"HOST {user}")] == [f"HOST {user}"]
        assert [w.name for w in hosts.which(store, user)] == [f"HOST {user}"]
    assert [w.name for w in hosts.which(store, "alice")] == ["HOST alice@desk"]
    for nobody in ("alicebob", "alicecooper", "deploy", "HOST alice"):
        with pytest.raises(UsageError, match="no host here"):
            hosts.which(store, nobody)


def test_a_file_that_is_called_as_a_host_is_not_taken_for_it(tmp_path, monkeypatch, capsys):
    """In a folder from elsewhere: alice, or a file with a number of hers for its name."""
    store, authority = Store(tmp_path / "keys"), ca.Authority.create("ROOT CA")
    people = {user: authority.host(f"{user}@desk", "correct horse")[1] for user in ("alice", "eve")}
    store.write({store.ca_cert: authority.cert_pem, store.host_files(b"alice".hex())[1]: people["alice"]})
    for pem in people.values():
        hosts.issued(store, pem)
    alice, eve = map(hosts.of, people.values())
    monkeypatch.chdir(tmp_path)
    unknown = "ab" * 32
    words = ["alice", "alice@desk", "HOST alice@desk", alice.serial, alice.serial[:8], alice.fingerprint, unknown]
    for word in words:
        (tmp_path / word).write_bytes(people["eve"])
        (who,) = hosts.which(store, word)
        assert who == (hosts.Who("", unknown) if word == unknown else alice), word
        assert word == unknown or f"for the file of that name: .{os.sep}{word}" in capsys.readouterr().err
        assert hosts.which(store, f".{os.sep}{word}") == [eve]
        assert "is the certificate of HOST eve@desk." in capsys.readouterr().err
    (tmp_path / "some.pem").write_bytes(people["eve"])
    assert hosts.which(store, "some.pem") == [eve]
    file = store.host_files(b"alice".hex())[1].name
    (tmp_path / file).write_bytes(people["eve"])
    assert hosts.which(store, file) == [alice], "one in the key folder needs no path"


def test_a_certificate_of_another_ca_takes_back_nothing_by_its_serial(tmp_path, capsys):
    store, authority = Store(tmp_path), ca.Authority.create("ROOT CA")
    store.write({store.ca_cert: authority.cert_pem})
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "HOST ana@desk")])
    eve = hosts.of(authority.host("eve@desk", "correct horse")[1])
    for serial in (int(eve.serial, 16), int(eve.fingerprint[:39], 16)):
        builder = x509.CertificateBuilder(name, name, key.public_key(), serial, now, now + timedelta(9))
        (tmp_path / "x.pem").write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        (who,) = hosts.which(store, str(tmp_path / "x.pem"))
        assert who.serial == "" and who.fingerprint != eve.fingerprint
        assert "which this ROOT CA has not signed" in capsys.readouterr().err


def test_names_that_look_alike_are_told_apart(tmp_path):
    """A Cyrillic letter in alice; letters with two codes; what is no ASCII at all; control characters."""
    store, authority = Store(tmp_path), ca.Authority.create("ROOT CA")
    store.write({store.ca_cert: authority.cert_pem})
    users = ["alice", "\u0430lice", "\xf6d\xf6n", "\xfcd\xfcn", "\u5f20\u4f1f", "\u738b\u82b3", "al#ice", "al\\xf6ce"]
    for user in users:
        hosts.issued(store, authority.host(f"{user}@desk", "correct horse")[1])
    with store.record.view() as db:
        names = [row["name"] for row in db.execute("SELECT name FROM hosts")]
    assert len(set(names)) == len(users) and all(n.isascii() and n.isprintable() for n in names)
    for user in users:
        (who,) = hosts.which(store, f"{user}@desk")
        (shown,) = hosts.which(store, who.name)  # as `host list` has it
        assert shown == who
    decomposed = unicodedata.normalize("NFD", "\xf6d\xf6n@desk")
    assert hosts.which(store, decomposed) == hosts.which(store, "\xf6d\xf6n@desk")
    assert hosts.which(store, "alice@desk")[0].name == "HOST alice@desk"


def test_a_list_of_what_was_taken_back_has_room_for_a_thousand():
    """Each by one of three hosts, whose certificates are in the list once; and all of it is vouched for."""
    authority = ca.Authority.create("ROOT CA")
    root = [ca.load_cert(authority.cert_pem, "")]
    people = [authority.host(f"ana@desk{i}", "correct horse") for i in range(3)]
    pairs = [(ca.load_key(key, "correct horse", ""), ca.load_cert(cert, "")) for key, cert in people]
    entries = {}
    for i in range(trustlist.MOST):
        e = trustlist.sealed(Entry("revoked", f"{i:064x}", 2, True), *pairs[i % 3])
        entries[e.key] = e
    data = trustlist.render(entries.values())
    assert max(map(len, data.splitlines())) < 160  # what a board reads of a line
    found = trustlist.parse(data)
    assert found == entries and trustlist.render(found.values()) == data
    assert all(trustlist.vouched(e, root, {}) for e in list(found.values())[:9])
    # Lines that were moved about vouch for nothing
    text = data.decode().splitlines()
    signed = [i for i, line in enumerate(text) if line.startswith("#by")][:2]
    text[signed[0]], text[signed[1]] = text[signed[1]], text[signed[0]]
    moved = trustlist.parse("\n".join([*text, ""]).encode())
    assert [trustlist.vouched(e, root, {}) for e in list(moved.values())[:3]] == [False, False, True]
    for line in ("#host 0 AAAA", "#by " + "0" * 16 + " !!", "#host " + "0" * 16 + " A", "#by"):
        assert trustlist.parse(f"{line}\n#undone revoked ab 3\n{line}\nend\n".encode())["revoked", "ab"].seal == ""


def test_what_a_host_says_counts_whatever_version_a_board_has(site):
    """bea took back a revocation that ana did not know of, many times; ana means it now."""
    files, _ = site.add("room1", UID)
    bea, _ = site.other_host("bea")
    eve, eves = site.other_host("eve")
    for undo in ([], ["--undo"]) * 2:
        site.run("host", "revoke", certificate(eves), *undo, env=bea)
    assert site.run(*HELLO, env=eve) == "42\n" and " 4\n" in listed(files)
    assert in_row(site.run("host", "revoke", certificate(eves)), "room1", "ok", "revoked HOST eve")
    assert "refuses" in site.run(*HELLO, env=eve, status=4)
    site.run("host", "revoke", certificate(eves), "--undo", env=bea)  # which has learned of it only at this contact
    assert site.run(*HELLO, env=eve) == "42\n"


def test_serial_zero_and_lines_that_only_python_ends(site):
    files, _ = site.add("room1", UID)
    write_on_board(site, files, "revoked 0 # by hand", "# a\x0bpinned 12\x0cend\x1drevoked 34")
    site.run("host", "revoke", "ab" * 32)
    assert "revoked 0 #1" in listed(files) and listed(files).count("revoked ") == 2
    assert site.run(*HELLO) == "42\n"
    # A certificate of which the fingerprint alone is known has not the serial 0, which is "" on a board
    assert in_row(site.run("host", "revoke", "ab" * 32, "--undo"), "room1", "ok", "took back")


def test_a_program_in_another_folder_hides_no_revocation(site):
    files, port = site.add("room1", UID)
    (files / "data").mkdir()
    (files / "boot.py").write_text(f"import os, wss_repl\nwss_repl.start(port={port})\nos.chdir('data')\n")
    site.boards["room1"].restart()
    site.boards["room1"].read_until(b"wss_repl: listening", 60)
    eve, eves = site.other_host("eve")
    assert site.run(*HELLO, env=eve) == "42\n"
    site.run("host", "revoke", certificate(eves))
    site.run(*HELLO, env=eve, status=4)
    assert listed(files) and not os.listdir(files / "data")
    site.boards["room1"].restart()
    site.boards["room1"].read_until(b"wss_repl: listening", 60)
    site.run(*HELLO, env=eve, status=4)


def test_a_board_that_is_off_gets_it_at_the_next_contact_whatever_that_is(site):
    site.add("room1", UID)
    files, _ = site.add("room2", SECOND)
    eve, eves = site.other_host("eve")
    site.boards["room2"].kill()
    text = site.run("host", "revoke", certificate(eves), "--timeout", "30", status=3)
    assert in_row(text, "room1", "ok", "revoked HOST eve") and "brought to them when they are next reached" in text
    assert in_row(site.run("boards"), "room2", "trust list") and not in_row(site.run("boards"), "room1", "trust list")
    site.boards["room2"].restart()
    site.boards["room2"].read_until(b"wss_repl: listening", 60)
    assert site.run("exec", "room2", "import os; print('wss_trust.txt' in os.listdir('/'))") == "True\n"
    assert not in_row(site.run("boards"), "room2", "trust list")
    site.run("exec", "room2", "1", env=eve, status=4)
    # and `boards apply` asks for no other reason
    site.boards["room2"].kill()
    site.run("host", "revoke", "ab" * 32, "--timeout", "30", status=3)
    site.boards["room2"].restart()
    site.boards["room2"].read_until(b"wss_repl: listening", 60)
    assert in_row(site.run("boards", "apply"), "room2", "ok") and "ab" * 32 in listed(files)
    assert "Nothing waits" in site.run("boards", "apply")


def test_nothing_of_a_certificate_becomes_a_line_of_the_list(site, tmp_path):
    files, _ = site.add("room1", UID)
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    for i, text in enumerate(("bob's\npinned 00112233\nend\n", "x" * 50 + "\u202e\x1b[2J", "# 9 revoked", "ä" * 30)):
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])
        builder = x509.CertificateBuilder(name, name, key.public_key(), 99 + i, now, now + timedelta(9))
        pem = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        (tmp_path / "old.pem").write_bytes(pem)
        said = site.run("host", "revoke", tmp_path / "old.pem")
        assert "\x1b" not in said and "\u202e" not in said
        assert site.run(*HELLO) == "42\n"
        lines = listed(files).splitlines()
        assert len(lines) == i + 2 and lines[-1] == "end" and max(map(len, lines)) < 140
        assert all(line.startswith("revoked ") and line.isascii() and line.isprintable() for line in lines[:-1])


def test_the_first_odd_board_stops_the_rest_and_keeps_its_old_list(site):
    files, _ = site.add("room1", UID)
    others, _ = site.add("room2", SECOND)
    site.run("host", "revoke", "ab" * 32)
    before = listed(files)
    for folder in (files, others):  # it can't be written there
        (folder / "wss_trust.txt.new").mkdir()
    text = site.run("host", "revoke", "cd" * 32, "-j", "1", status=1)
    assert "not begun" in text and "cannot write" in text
    assert listed(files) == listed(others) == before
    assert "is a folder" in site.run(*HELLO, status=1), "before anything else, and it says why"
    for folder in (files, others):
        (folder / "wss_trust.txt.new").rmdir()
    assert site.run(*HELLO) == "42\n" and "cd" * 32 in listed(files)


def test_a_list_that_the_board_refuses_is_taken_back(site):
    """A board whose wss_repl reads less than is sent, as an older one does: it says so before anything is renamed."""
    files, _ = site.add("room1", UID)
    site.run("host", "revoke", "ab" * 32)
    before = listed(files)
    # The last is what a board says of the list that is in force: it is found out after the renaming
    for listed_now, words in (
        ("no(s, f) if n else old(s, f)", "too long for me"),
        ("(False, None) if n else old(s, f)", "reads the list in another way"),
        ("old(s, f, n) if n else (False, None)", "The old one is back"),
    ):
        with Cable(site.boards["room1"].tty) as board:
            board.exec(
                "from wss import trust\nold = globals().get('old', trust.listed)\n"
                "def no(*a): raise ValueError('too long for me')\n"
                f"trust.listed = lambda s='', f='', n=None, above=(): {listed_now}"
            )
        assert words in site.run("host", "revoke", "cd" * 32, status=1)
        assert listed(files) == before
    with Cable(site.boards["room1"].tty) as board:
        board.exec("trust.listed = old")
    assert site.run(*HELLO) == "42\n" and "cd" * 32 in listed(files)


def test_a_thousand_entries_and_not_one_more(site):
    """Refused before anything is sent, and before the record takes it."""
    files, _ = site.add("room1", UID)
    eve, eves = site.other_host("eve")
    store = Store(site.keys)
    words = "HOST somebody@a-laptop-somewhere"
    entries = [Entry("revoked", f"{i:064x}", words=words) for i in range(1, trustlist.MOST)]
    with store.record.change() as db:
        trustlist.learn(db, "", {e.key: e for e in entries})
    assert in_row(site.run("host", "revoke", certificate(eves)), "room1", "ok", "revoked HOST eve")
    before = listed(files)
    assert before.count("revoked ") == 1000 and "refuses" in site.run(*HELLO, env=eve, status=4)
    assert "1001 entries are too many" in site.run("host", "revoke", "ab" * 32, status=7)
    assert site.run(*HELLO) == "42\n" and listed(files) == before
    assert not in_row(site.run("boards"), "room1", "trust list")


def test_pins_belong_to_a_board_and_follow_a_renewed_key(site):
    """trust-05."""
    files, _ = site.add("room1", UID)
    others, _ = site.add("room2", SECOND)
    bea, _ = site.other_host("bea")
    site.run("host", "pin", "ana", "room1")
    site.run(*HELLO, env=bea, status=4)
    site.run("host", "revoke", "ab" * 32)
    assert site.run("exec", "room2", "print(1)", env=bea) == "1\n", "whom nobody pinned out"
    assert "pinned" not in listed(others)
    text = site.run("host", "init", "--force")
    assert in_row(text, "room1", "ok", "pins the new certificate, too")
    assert site.run(*HELLO) == "42\n"
    assert "complete" in site.run("ca", "rotate")
    assert site.run(*HELLO) == site.run("exec", "room2", "print(6*7)") == "42\n"
    # A board that pins the present certificate and can't be reached: no key is made that it would turn away
    site.boards["room1"].kill()
    before = certificate(site.keys).read_bytes()
    assert "nothing was made" in site.run("host", "init", "--force", status=3)
    assert certificate(site.keys).read_bytes() == before


def test_a_pin_that_another_host_made_follows_a_renewed_key_too(site):
    """Only the board knows of it; and nobody is pinned who was not."""
    site.add("room1", UID)
    site.run("host", "init", "--user", "zoe")
    bea, beas = site.other_host("bea")
    site.run("host", "pin", certificate(beas), "room1", env=bea)
    site.run("host", "pin", site.keys / f"HOST_cert@{b'ana'.hex()}.pem", "room1", env=bea)
    assert in_row(site.run("host", "init", "--user", "zoe", "--force"), "room1", "ok", "does not pin the old one")
    site.run(*HELLO, "--host-id", b"zoe".hex(), status=4)
    assert in_row(site.run("host", "init", "--force"), "room1", "ok", "pins the new certificate, too")
    assert site.run(*HELLO) == site.run(*HELLO, env=bea) == "42\n"
    site.boards["room1"].kill()
    assert "room1 could not be asked" in site.run("host", "init", "--user", "zoe", "--force")


def test_nobody_turns_himself_away(site):
    files, _ = site.add("room1", UID)
    bea, beas = site.other_host("bea")
    for words in (("revoke", "ana"), ("pin", certificate(beas)), ("revoke", certificate(site.keys))):
        assert "this very host" in site.run("host", *words, status=2)
    assert not (files / "wss_trust.txt").exists()
    # not by what another host did, either: what waits says so, and the old list stays
    site.run("host", "pin", "ana", env=bea, status=2)
    assert site.run(*HELLO) == "42\n"


def test_a_laptop_that_is_gone_can_be_named(site):
    site.add("room1", UID)
    site.run("host", "init", "--user", "eve")
    site.run("host", "init", "--user", "eve", "--force")  # renewed: two certificates, both still valid
    old = [p.rename(site.path / p.name) for p in site.keys.glob(f"HOST_*@{b'eve'.hex()}.pem")]
    table = site.run("host", "list")
    assert table.count("HOST eve") == 2 and in_row(table, "HOST ana", "key is here")
    assert in_row(site.run("host", "revoke", f"eve@{os.uname().nodename}"), "room1", "ok", "revoked HOST eve")
    assert site.run("host", "list").count("REVOKED") == 2 and old
    for path in old:
        path.rename(site.keys / path.name)
    assert "refuses" in site.run(*HELLO, "--host-id", b"eve".hex(), status=4)


def test_a_ca_that_moves_takes_its_hosts_and_its_revocations_along(site):
    files, _ = site.add("room1", UID)
    eve, eves = site.other_host("eve")
    site.run("host", "revoke", certificate(eves))
    bea, beas = site.other_host("bea")
    assert in_row(site.run("host", "list", env=bea), "HOST eve", "REVOKED")
    assert in_row(site.run("host", "list", env=bea), "HOST ana")
    text = (site.path / "ca.pem").read_text()
    bad = site.path / "bad.pem"
    begin = text.index("-----BEGIN WSSCTL") + 40
    bad.write_text(text[:begin] + "!" * 9 + text[begin + 9 :])
    fresh = {"WSSCTL_KEYS": str(site.path / "fresh"), "USER": "cleo"}
    assert "cannot be read" in site.run("ca", "import", bad, env=fresh, status=7)
    assert not (site.path / "fresh" / "ROOT_CA_key.pem").exists(), "a key without the revocations sets up boards"
    # On its way somebody takes out that eve is revoked, or all of it, or says so by a key of his own
    other = ca.Authority.create("ROOT CA")
    block = base64.b64decode(text[begin - 11 : text.index("-----END WSSCTL")])
    was = block[1 + block[0] :]
    found = json.loads(was)
    found["revoked"][0][1:3] = [7, 1]
    changed = json.dumps(found).encode()
    theirs = other.sign(hosts._CONTEXT + changed)
    for signature, data in ((block[1 : 1 + block[0]], changed), (theirs, changed), (b"", was)):
        packed = base64.encodebytes(bytes([len(signature)]) + signature + data).decode()
        bad.write_text(f"{text[: begin - 40]}-----BEGIN WSSCTL RECORD-----\n{packed}-----END WSSCTL RECORD-----\n")
        assert "changed since they were exported" in site.run("ca", "import", bad, env=fresh, status=7)
    # Or puts a ROOT CA of his own beside it: whatever he has then would pass for a board
    for place in (text.index("-----BEGIN CERTIFICATE"), begin - 40):
        bad.write_text(text[:place] + other.cert_pem.decode() + text[place:])
        said = site.run("ca", "import", bad, env=fresh, status=7)
        assert "changed since they were exported" in said or "do not belong together" in said
    assert not (site.path / "fresh" / "ROOT_CA_cert.pem").exists()
    store = Store(site.keys)
    mine = ca.Authority.load(store.read(store.ca_cert), store.read(store.ca_key), PASSPHRASE)
    trusted = other.cert_pem.replace(b" CERT", b" TRUSTED CERT").decode()  # as OpenSSL calls it, and trusts it, too
    bad.write_text(text[: begin - 40] + trusted + text[begin - 40 :])
    site.run("ca", "import", bad, env={"WSSCTL_KEYS": str(site.path / "trusted")})
    assert (site.path / "trusted" / "ROOT_CA_cert.pem").read_bytes() == mine.cert_pem
    for row in (["ab", 10**30, 1, "", ""], ["ab", 0, 1, "", ""], ["ab", 2, 1, "", "x\nend"], "[" * 9):
        data = json.dumps({"authorities": found["authorities"], "hosts": [], "revoked": [row]}).encode()
        signature = mine.sign(hosts._CONTEXT + data)
        packed = base64.encodebytes(bytes([len(signature)]) + signature + data).decode()
        bad.write_text(f"{text[: begin - 40]}-----BEGIN WSSCTL RECORD-----\n{packed}-----END WSSCTL RECORD-----\n")
        assert "cannot be read" in site.run("ca", "import", bad, env=fresh, status=7)
    bad.write_text(text[: begin - 40] + other.cert_pem.decode())
    assert "was cut off on its way" in site.run("ca", "import", bad, env=fresh, status=7)
    assert not (site.path / "fresh" / "ROOT_CA_key.pem").exists() and files
    assert "revoke here whoever is" in site.run("ca", "import", bad, "--force", env=fresh)
    assert (site.path / "fresh" / "ROOT_CA_cert.pem").read_bytes() == mine.cert_pem, "the key's own alone"


# The merging of lists, whoever did what when. The boards' own verdict is asked for: lib/wss/trust.py, run.

AUTHORITY = ca.Authority.create("ROOT CA")
BOARDS = [ca.load_cert(AUTHORITY.device(uid).cert_der, "").public_bytes(ca.DER) for uid in (UID, SECOND)]
VICTIMS = [hosts.Who(f"e{i}", f"{i + 100:064x}", f"victim {i}") for i in range(3)]

VERDICTS = """
import json
from wss import trust
with open("lists.json") as f: lists = json.load(f)
for text, who in lists:
    with open("list", "w") as f: f.write(text)
    print(json.dumps([trust.listed(s, n, "list") for s, n in who]))
"""


def verdicts(folder, lists, people):
    """[(revoked, pinned)...] of all hosts and victims, for each list, by the device's own code."""
    who = [(w.serial, w.fingerprint) for w in people + VICTIMS]
    (folder / "ask.py").write_text(VERDICTS)
    (folder / "lists.json").write_text(json.dumps([[data.decode() or "end\n", who] for data in lists]))
    done = subprocess.run([firmware.firmware(64), "ask.py"], capture_output=True, text=True, cwd=folder, timeout=180)
    assert done.returncode == 0, done
    return [[tuple(v) for v in json.loads(line)] for line in done.stdout.splitlines()]


# The suite tries the same ones each time, EXAMPLES=1000 (tests/evidence) others
SETTINGS = settings(
    max_examples=int(os.environ.get("EXAMPLES", 15)), derandomize="EXAMPLES" not in os.environ, deadline=None
)
VERBS = ["revoke", "undo", "pin", "unpin", "reach", "setup", "renew", "rotate", "export", "import", "lie"]
VERBS += ["backup", "restore"]
OPS = st.lists(
    st.tuples(
        st.sampled_from(VERBS),
        st.integers(0, 2),  # by which host
        st.integers(0, 2),  # which victim; whose export
        st.integers(0, 1),  # on which board
        st.sets(st.integers(0, 1)),  # which boards are on
    ),
    max_size=24,
)


class Machine:
    """A host's folder: its record, and the key and certificate that it shows now."""

    def __init__(self, folder):
        self.store = Store(folder)
        self.store.write({self.store.ca_cert: AUTHORITY.cert_pem})
        self.credentials = Credentials(self.store.ca_cert, folder / "cert.pem", folder / "key.pem")
        self.take(self.new())

    def new(self):
        key_pem, cert_pem = AUTHORITY.host("somebody", PASSPHRASE)
        return ca.load_key(key_pem, PASSPHRASE, ""), cert_pem

    def take(self, pair):
        self.key, pem = pair
        none = serialization.NoEncryption()
        key = self.key.private_bytes(ca.PEM, serialization.PrivateFormat.PKCS8, none)
        self.credentials.key.write_bytes(key)
        self.credentials.cert.write_bytes(pem)
        self.cert, self.who = ca.load_cert(pem, ""), hosts.of(pem)


class World:
    """Three hosts with a record each, two boards, and who did what: the host's own code, but for the network."""

    names = ("room0", "room1")

    def __init__(self, folder, step=lambda *_: contextlib.nullcontext()):
        self.folder, self.step = folder, step
        self.machines = [Machine(folder / f"keys{i}") for i in range(3)]
        self.boards = [b"", b""]
        self.made = {}  # the entry of each key that counts, of all that anybody made
        self.exports = [hosts.packed(m.store, AUTHORITY) for m in self.machines]
        self.rotating = [None] * 3  # the new pair, and the boards that were reached
        self.backups = [b""] * 3
        self.out = set()  # (host, board): somebody else had pinned it there, and it was off or lied when it renewed

    def make(self, db, board, entries):
        trustlist.learn(db, board, entries)
        for key, e in entries.items():
            key = (key, board)
            self.made[key] = trustlist.winner(self.made[key], e) if key in self.made else e

    def lets_in(self, host, b):
        who = self.machines[host].who
        return not self.boards[b] or trustlist.lets_in(trustlist.parse(self.boards[b]), who.serial, who.fingerprint)

    def reach(self, host, b, **more):
        """A contact with a board; False when this host is turned away, or would turn itself away, and leaves it."""
        m, name = self.machines[host], self.names[b]
        with self.step(b):  # a board has one session
            if not self.lets_in(host, b):
                return False
            theirs = trustlist.parse(self.boards[b]) if self.boards[b] else {}
            theirs = trust.believed(m.store, theirs, name, BOARDS[b])
            try:
                merged = trust.plan(m.store.record, name, theirs, m.who, **more)
            except UsageError:
                return False
            merged = trust.sealed(merged, m.store, m.credentials, BOARDS[b])
            self.boards[b] = trustlist.render(merged.values()) if merged else b""
            trust.note_held(m.store.record, name, merged, theirs, BOARDS[b])
            for key, e in merged.items():
                where = "" if e.verb == "revoked" else name
                told = not e.undone or e.seal  # and not a lie, which this host must not have believed
                if told and ((key, where) not in self.made or trustlist.winner(self.made[key, where], e) == e):
                    self.made[key, where] = e  # a pin that was made on the board, or what was sealed there
        return True

    def do(self, verb, host, v, b, on):
        m, who, name, up = self.machines[host], VICTIMS[v], self.names[b], b in on
        if verb in ("revoke", "undo"):
            for other in on:
                self.reach(host, other)  # he looks first, as the commands do
            with m.store.record.change() as db:
                have = trustlist.entries(db, "")
                if verb == "revoke" or ("revoked", who.number) in have:
                    e = trustlist.changed(have, "revoked", who.number, who.name, verb == "undo")
                    if e.undone and not e.seal:
                        e = trustlist.sealed(e, m.key, m.cert)
                    self.make(db, "", {e.key: e})
            if up:
                self.reach(host, b)
        elif verb in ("pin", "unpin") and up and self.reach(host, b):
            with m.store.record.change() as db:
                have = trustlist.entries(db, name)
                pins = [e.number for e in have.values() if e.verb == "pinned" and not e.undone]
                numbers = pins if verb == "unpin" else [w.number for w in (*(x.who for x in self.machines), who)]
                new = [trustlist.changed(have, "pinned", n, "", verb == "unpin") for n in numbers]
                self.make(db, name, {e.key: e for e in new})
            self.reach(host, b)
        elif verb == "reach" and up:
            self.reach(host, b)
        elif verb == "setup":  # its flash was erased
            with m.store.record.view() as db:
                mine = trustlist.entries(db, name)
            there = trustlist.parse(self.boards[b] or b"end").values()
            # Pins that were on it alone would be nobody's to know
            if {e.number for e in there if e.verb == "pinned"} <= {e.number for e in mine.values()}:
                with self.step(b):
                    self.boards[b] = b""
                self.reach(host, b)
        elif verb == "lie":  # of somebody who has the board in his hands
            # Of pins that one host alone knows he can rob a board, and then the hosts keep each other out (SECURITY.md)
            known = set()
            for machine in self.machines:
                with machine.store.record.view() as db:
                    mine = trustlist.entries(db, name).values()
                known.add(frozenset(e.number for e in mine if e.verb == "pinned" and not e.undone))
            if len(known - {frozenset()}) < 2:
                there = trustlist.parse(self.boards[b] or b"end").values()
                lies = [Entry(e.verb, e.number, trustlist.LAST, True) for e in there]
                self.boards[b] = trustlist.render(lies) if lies else b""
        elif verb == "export":
            self.exports[host] = hosts.packed(m.store, AUTHORITY)
        elif verb == "import":  # it may be of long ago
            hosts.take_in(m.store, hosts.unpack(self.exports[v], AUTHORITY, AUTHORITY.cert_pem))
        elif verb == "backup":
            self.backups[host] = m.store.record.path.read_bytes()
        elif verb == "restore" and self.backups[host]:
            with m.store.record.view() as db:
                mine = [trustlist.entries(db, n) for n in self.names]
            there = [trustlist.parse(data or b"end") for data in self.boards]
            # What no board has yet, or has no more, would be nobody's to know
            if all(trustlist.merge(t, have) == t for t, have in zip(there, mine, strict=True)):
                m.store.record.path.write_bytes(self.backups[host])
        elif verb == "renew" and not self.rotating[host]:
            self.renew(host, on)
        elif verb == "rotate":
            self.rotate(host, on)

    def renew(self, host, on):
        m, new = self.machines[host], self.machines[host].new()
        for b in range(2):
            with m.store.record.view() as db:
                entries = trustlist.entries(db, self.names[b]).values()
            pinned = any(e.verb == "pinned" and not e.undone and e.number == m.who.number for e in entries)
            if b in on:
                if not self.reach(host, b, want=pinned_beside(m.who, hosts.of(new[1]))):
                    return
            elif pinned:
                return  # nothing is made
        kept_out = {(host, b) for b in range(2) if self.keeps_out(b, hosts.of(new[1]))}
        if len(self.out | kept_out) < 2:  # more, and nobody might be left to bring what he alone knows
            self.out |= kept_out
            m.take(new)

    def keeps_out(self, b, who):
        """Whether a board turns a host away as soon as everybody was there: its list has what all know."""
        known = trustlist.parse(self.boards[b] or b"end")
        for m in self.machines:
            with m.store.record.view() as db:
                known = trustlist.merge(known, trustlist.entries(db, self.names[b]))
        return not trustlist.lets_in(known, who.serial, who.fingerprint)

    def rotate(self, host, on):
        m = self.machines[host]
        new, done = self.rotating[host] = self.rotating[host] or (m.new(), set())
        for b in on - done:
            if self.reach(host, b, pin_too=hosts.of(new[1])):
                done.add(b)
        if len(done) == 2:
            if any(self.keeps_out(b, hosts.of(new[1])) for b in range(2)):
                done.clear()  # somebody else has pinned meanwhile whoever was there then
            else:
                m.take(new)
                self.rotating[host] = None

    def check(self):
        """When all have reached all, all boards say the same of everybody, and it is what was done last."""
        for _ in range(3):
            for host in range(3):
                for b in range(2):
                    reached = self.reach(host, b)
                    assert reached or (host, b) in self.out, "a host turns itself away"
        views = [trustlist.parse(data) if data else {} for data in self.boards]
        revoked = [{k: e for k, e in view.items() if k[0] == "revoked"} for view in views]
        assert revoked[0] == revoked[1]
        for (key, where), e in self.made.items():
            for b in range(2) if not where else [self.names.index(where)]:
                entry = views[b].get(key)
                assert entry and trustlist.winner(entry, e) == entry, "an entry was lost"
                assert e.undone or not entry.undone or entry.seal, "a lie was believed"
        people = [m.who for m in self.machines]
        for b, answers in enumerate(verdicts(self.folder, self.boards, people)):
            for who, (is_revoked, pinned) in zip(people + VICTIMS, answers, strict=True):
                assert (is_revoked, pinned) == trustlist.verdict(views[b], who.serial, who.fingerprint)
            for host, (is_revoked, pinned) in enumerate(answers[:3]):
                assert not is_revoked and (pinned is not False or (host, b) in self.out), "a host locked out"
            for who, (is_revoked, _) in zip(VICTIMS, answers[3:], strict=True):
                last = self.made.get((("revoked", who.number), ""))
                assert is_revoked == bool(last and not last.undone), "who is revoked gets in, or who is not does not"


@SETTINGS
@given(OPS)
def test_any_sequence_by_three_hosts_loses_no_entry(tmp_path_factory, ops):
    world = World(tmp_path_factory.mktemp("model"))
    for op in ops:
        world.do(*op)
    world.check()


# New certificates are left out, and who takes pins back: both name the certificates of one moment
AT_ONCE = st.tuples(
    st.sampled_from(["revoke", "undo", "reach", "setup", "pin", "export", "import", "lie"]),
    st.integers(0, 2), st.integers(0, 1), st.sets(st.integers(0, 1)),
)  # fmt: skip


class Turns:
    """Threads that stand for processes: one runs at a time, and before each statement of SQL, each commit and each
    contact with a board `chance` says who goes on. Who would wait for a lock waits."""

    def __init__(self, chance):
        self.chance = chance
        self.turn = threading.Condition()
        self.waiting = {}  # who may go on when
        self.running = None
        self.writers, self.readers, self.sessions = {}, {}, {}

    def point(self, can=lambda: True):
        me = threading.current_thread()
        if not isinstance(me, Process):
            return
        with self.turn:
            self.waiting[me] = can
            self.running = None
            self.turn.notify_all()
            assert self.turn.wait_for(lambda: self.running is me, 120)

    @contextlib.contextmanager
    def session(self, board):
        me = threading.current_thread()
        self.point(lambda: board not in self.sessions)
        self.sessions[board] = me
        try:
            yield
        finally:
            del self.sessions[board]

    def run(self, processes):
        self.running = self
        for p in processes:
            p.start()
            with self.turn:
                assert self.turn.wait_for(lambda p=p: p in self.waiting or p.ended, 120)
        while [p for p in processes if not p.ended]:
            ready = [p for p in processes if p in self.waiting and self.waiting[p]()]
            assert ready, "nobody can go on"
            chosen = self.chance.choice(ready)
            with self.turn:
                del self.waiting[chosen]
                self.running = chosen
                self.turn.notify_all()
                assert self.turn.wait_for(lambda c=chosen: self.running is not c, 120)
        for p in processes:
            p.join(120)
            if p.failed:
                raise p.failed


class Process(threading.Thread):
    def __init__(self, turns, work):
        super().__init__(daemon=True)
        self.turns, self.work, self.ended, self.failed = turns, work, False, None

    def run(self):
        try:
            self.turns.point()
            self.work()
        except BaseException as e:
            self.failed = e
        with self.turns.turn:
            self.ended = True
            self.turns.running = None
            self.turns.turn.notify_all()


def in_turns(turns):
    """A class for sqlite3.connect(): each statement is a point at which another process may come first. SQLite's own
    locks (sqlite.org/lockingv3.html) would be waited for by a thread that is not to run, so they are known here."""

    class Connection(sqlite3.Connection):
        def __init__(self, database, *more, **named):
            self.file = str(database)
            super().__init__(database, *more, **named)

        def execute(self, sql, *more):
            if sql == "BEGIN IMMEDIATE":
                turns.point(lambda: self.file not in turns.writers)
                turns.writers[self.file] = self
            else:
                turns.point()
                if sql == "BEGIN":
                    turns.readers.setdefault(self.file, set()).add(id(self))
            return super().execute(sql, *more)

        def commit(self):
            turns.point(lambda: not turns.readers.get(self.file, set()) - {id(self)})
            super().commit()
            turns.writers.pop(self.file, None)

        def rollback(self):
            super().rollback()
            turns.writers.pop(self.file, None)

        def close(self):
            super().close()
            turns.readers.get(self.file, set()).discard(id(self))

    return Connection


@SETTINGS
@given(st.lists(st.lists(AT_ONCE, min_size=2, max_size=4), min_size=4, max_size=4), st.integers(0, 1 << 32))
def test_processes_between_any_two_statements_lose_no_entry(tmp_path_factory, ops, seed):
    """Four at once, two of them with the same record."""
    turns = Turns(random.Random(seed))
    world = World(tmp_path_factory.mktemp("model"), turns.session)
    real = sqlite3.connect

    def work(host, mine):
        for verb, v, b, on in mine:
            world.do(verb, host, v, b, on)

    def connect(*words, **more):
        return real(*words, **more | {"timeout": 0, "factory": in_turns(turns)})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite3, "connect", connect)
        patch.setattr(record, "_TURN", contextlib.nullcontext())  # of threads, which stand for processes here
        turns.run([Process(turns, functools.partial(work, h, o)) for h, o in zip((0, 0, 1, 2), ops, strict=True)])
    world.check()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "revoked ab\n",
        "revoked xyz\nend\n",
        "revoked\nend\n",
        "revoked " + "1" * 65 + "\nend\n",
        "gone ab\nend\n",
        "end\nrevoked ab\n",
    ],
)
def test_a_list_that_a_board_refuses_is_refused_here_too(text):
    with pytest.raises(KeyFileError):
        trustlist.parse(text.encode())


def test_lines_that_people_wrote_are_entries():
    text = b"# lost laptop\nrevoked 00AB # ana\n\nREVOKED\n".replace(b"REVOKED\n", b"pinned 0f\nend # done\n")
    found = trustlist.parse(text)
    assert set(found) == {("revoked", "ab"), ("pinned", "f")} and all(e.version == 1 for e in found.values())
    assert trustlist.parse(trustlist.render(found.values())) == found


def test_a_kept_connection_keeps_no_revocation_out(site):
    run = tempfile.mkdtemp()  # short: a socket's name has 107 bytes at most
    site.env |= {"XDG_RUNTIME_DIR": run}
    site.add("room1", UID)
    eve, eves = site.other_host("eve")
    assert site.run(*HELLO, "--keep", "60") == "42\n"
    assert in_row(site.run("host", "revoke", certificate(eves)), "room1", "ok", "revoked HOST eve")
    site.run(*HELLO, env=eve, status=4)
    # nor one that is kept while the board is told by nobody: the record changes under it
    with Store(site.keys).record.change() as db:
        e = Entry("revoked", "ab" * 32)
        trustlist.learn(db, "", {e.key: e})
    assert site.run(*HELLO, "--keep", "60") == "42\n"
    assert "ab" * 32 in listed(site.path / "room1")
    site.run("keep", "stop")
    shutil.rmtree(run)
