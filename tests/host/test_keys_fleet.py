"""Keys of boards in use, over real wss logins: rotation, revocation, two hosts, expiry, renewal, passwords, names."""

import contextlib
import socket
import stat
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.serialization import pkcs12
from peers import Identity, Peer
from site_of_boards import PASSPHRASE, PASSWORD, SECOND, Site, in_row
from targets import UID
from wssctl.cable.port import Cable
from wssctl.keys import ca, store


@pytest.fixture
def site(target, tmp_path):
    with Site(tmp_path, target.bits) as site:
        yield site


@pytest.fixture
def room1(site):
    return site.add("room1", UID)


HELLO = ("exec", "room1", "print(6*7)")


def test_two_hosts_and_a_revoked_one(site, room1):
    env, folder = site.other_host()
    assert (folder / "ROOT_CA_key.pem").read_bytes() != (site.keys / "ROOT_CA_key.pem").read_bytes()  # encrypted anew
    assert site.run(*HELLO) == site.run(*HELLO, env=env) == "42\n"
    # bea's laptop is gone: known here by its certificate
    cert = next(folder.glob("HOST_cert@*.pem"))
    assert "revoked" in site.run("host", "revoke", cert)
    text = site.run(*HELLO, env=env, status=4)
    assert "refuses this HOST certificate" in text
    assert site.run(*HELLO) == "42\n"
    assert "is revoked" in site.run("exec", "room1", "import wss_repl; print(wss_repl.status()['last_refusal'])")
    site.run("host", "revoke", cert, "--undo")
    assert site.run(*HELLO, env=env) == "42\n"


def test_a_pinned_host_alone_gets_in_and_nobody_turns_himself_away(site, room1):
    env, folder = site.other_host()
    mine = next(site.keys.glob("HOST_cert@*.pem"))
    for name in (mine, mine.name):  # in the key folder it needs no path
        assert "this very host" in site.run("host", "revoke", name, status=2)
    assert "this very host" in site.run("host", "pin", next(folder.glob("HOST_cert@*.pem")), status=2)
    assert site.run(*HELLO, env=env) == "42\n"
    site.run("host", "pin", "ana")
    assert site.run(*HELLO) == "42\n"
    assert "refuses this HOST certificate" in site.run(*HELLO, env=env, status=4)
    site.run("host", "pin", ca.report(next(folder.glob("HOST_cert@*.pem")).read_bytes(), "host").serial)
    assert site.run(*HELLO, env=env) == "42\n"


def test_a_lost_board_is_refused_before_the_password(site, room1):
    assert site.run(*HELLO) == "42\n"
    site.run("boards", "revoke", "room1")
    assert "has been revoked" in site.run(*HELLO, status=4)
    site.add("room2", SECOND)
    assert site.run("exec", "room2", "print(1)") == "1\n"
    crl = (site.path / "keys/ROOT_CA_crl.pem").read_bytes()
    site.run("boards", "revoke", SECOND)
    assert "has been revoked; `wssctl setup PORT --new-keys`" in site.run("exec", "room2", "print(1)", status=4)
    assert "has been revoked" in site.run(*HELLO, status=4)
    assert crl != (site.path / "keys/ROOT_CA_crl.pem").read_bytes()


def shown(port, keys):
    host = next(keys.glob("HOST_cert@*.pem"))
    identity = Identity(keys / "ROOT_CA_cert.pem", host, host.with_name(host.name.replace("cert", "key")), PASSPHRASE)
    with Peer(("127.0.0.1", port), identity) as peer:
        peer.login(PASSWORD).command("1")
        return peer.tls.getpeercert(True)


class Doorway:
    """A way to a board on which some connections, named by their numbers from 1, end before TLS has begun: what a
    client meets that comes while the board is about to restart."""

    def __init__(self, port, cut):
        self.port, self.cut, self.count = port, cut, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                self.count += 1
                if self.count in self.cut:
                    near.recv(1)
                    near.close()
                    continue
                try:
                    far = socket.create_connection(("127.0.0.1", self.port))
                except OSError:
                    near.close()
                    continue
                for a, b in ((near, far), (far, near)):
                    threading.Thread(target=self._pass_on, args=(a, b), daemon=True).start()

    def _pass_on(self, a, b):
        with contextlib.suppress(OSError):
            while data := a.recv(65536):
                b.sendall(data)
        for s in (a, b):
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)


def test_a_handshake_cut_by_the_restart_is_tried_again(site, room1):
    _, port = room1
    door = Doorway(port, cut=(3, 4))  # the first is tried to see whether it is on
    with contextlib.closing(door.listener):
        site.run("boards", "add", "door", door.address, "--uid", UID)
        assert in_row(site.run("boards", "renew", "--all", "door"), "door", "ok", "renewed")
        assert door.count >= 5
        # Where nothing restarts it is no reason to wait
        door.cut = (door.count + 1,)
        assert "during the TLS handshake" in site.run("exec", "door", "1", status=4)


@pytest.mark.parametrize(
    "words",
    ["exec @door print(6*7)", "put @door FILE", "host pin ana door", "password door", "boards renew --all door"],
)
def test_a_login_that_breaks_off_is_tried_once_more(site, room1, words):
    """With many boards one does so from time to time. What comes after the login is not tried again."""
    _, port = room1
    (site.path / "file").write_text("x")
    words = [str(site.path / "file") if w == "FILE" else w for w in words.split()]
    door = Doorway(port, cut=(2,))  # the first is tried to see whether it is on
    with contextlib.closing(door.listener):
        site.run("boards", "add", "door", door.address, "--uid", UID, "--group", "door")
        site.run(*words)
        assert door.count > 2
        door.cut = (door.count + 2, door.count + 3)
        before = door.count
        assert "during the TLS handshake" in site.run(*words, status=4)
        assert door.count == before + 3


def test_rotation_locks_nobody_out_and_ends_the_old_ca(site, room1):
    files, port = room1
    second_files, second_port = site.add("room2", SECOND)
    env, folder = site.other_host()
    old = {p.name: p.read_bytes() for p in site.keys.iterdir()}
    key_on_board = (files / f"SSL_key{UID}.der").read_bytes()

    # one board is off: nothing is lost, and everything still works as before
    site.boards["room2"].kill()
    text = site.run("ca", "rotate", "--timeout", "30", status=3)
    assert in_row(text, "room1", "ok", "trusts both") and "Not done on room2" in text
    assert (files / "ROOT_CA_cert.pem").read_bytes().count(b"BEGIN CERTIFICATE") == 2
    assert (site.keys / "ROOT_CA_cert.pem").read_bytes() == old["ROOT_CA_cert.pem"]
    assert site.run(*HELLO) == site.run(*HELLO, env=env) == "42\n"
    assert "rotation is under way" in site.run("ca", "status")

    # it is back: this host changes over, the other one still gets in
    site.boards["room2"].restart()
    site.boards["room2"].read_until(b"wss_repl: listening", 60)
    assert "All boards trust both" in site.run("ca", "rotate", "--keep-old")
    assert site.run(*HELLO) == site.run(*HELLO, env=env) == "42\n"
    assert (site.keys / "ROOT_CA_key.pem").read_bytes() != old["ROOT_CA_key.pem"]

    # the other host follows
    site.run("ca", "export", site.path / "ca.pem", "--force")
    third, _ = {"WSSCTL_KEYS": str(site.path / "keys of cleo"), "USER": "cleo"}, None
    site.run("ca", "import", site.path / "ca.pem", env=third)
    site.run("host", "init", env=third)
    site.tell(third)

    assert "The rotation is complete" in site.run("ca", "rotate")
    for name in ("room1", "room2"):
        assert site.run("exec", name, "print(6*7)") == site.run("exec", name, "print(6*7)", env=third) == "42\n"
        site.run("exec", name, "print(6*7)", env=env, status=4)  # it has the old CA's keys only
    new_ca = (site.keys / "ROOT_CA_cert.pem").read_bytes()
    assert new_ca.count(b"BEGIN CERTIFICATE") == 1 and new_ca != old["ROOT_CA_cert.pem"]
    assert (files / "ROOT_CA_cert.pem").read_bytes() == (second_files / "ROOT_CA_cert.pem").read_bytes() == new_ca
    assert shown(port, site.keys) == (site.keys / f"SSL_certificate{UID}.der").read_bytes()
    assert (files / f"SSL_key{UID}.der").read_bytes() == key_on_board  # the same key, never sent
    assert not list(site.keys.glob("NEXT_*"))
    # the old host key really opens nothing any more
    for kind in ("cert", "key"):
        (site.path / f"old_{kind}.pem").write_bytes(old[f"HOST_{kind}@616e61.pem"])
    identity = Identity(
        site.keys / "ROOT_CA_cert.pem", site.path / "old_cert.pem", site.path / "old_key.pem", PASSPHRASE
    )
    with pytest.raises(Exception, match="(?i)unknown ca|bad cert|Ended|reset|alert"):
        Peer(("127.0.0.1", second_port), identity).upgrade()


def test_a_rotation_leaves_no_board_behind_unasked(site, room1):
    _, port = room1
    address = f"127.0.0.1:{port}"
    for uid in ("cc01", "cc02", "cc03"):
        site.run("keys", "init", uid, *(["--days", "1"] if uid == "cc01" else []))
    site.run("boards", "revoke", "cc02")
    site.run("boards", "forget", "room1")
    before = sorted(p.name for p in site.keys.iterdir())
    text = site.run("ca", "rotate", status=2)
    assert f"does not list {UID}, cc01, cc03," in text and "--skip ID" in text
    assert "no board 'room7'" in site.run("ca", "rotate", "--skip", "room7", status=2)
    assert sorted(p.name for p in site.keys.iterdir()) == before
    site.run("boards", "add", "room1", address, "--uid", UID)
    assert "complete" in site.run("ca", "rotate", "--skip", "cc01", "--skip", "cc03")
    assert site.run(*HELLO) == "42\n"
    (site.keys / "rotation.json").write_text("{")  # of an earlier version
    assert "repair it" in site.run("ca", "rotate", status=7)


def test_a_rotation_with_a_wrong_passphrase_changes_nothing(site, room1):
    before = sorted(p.name for p in site.keys.iterdir())
    site.run("ca", "rotate", status=7, env={"WSSCTL_CA_PASSPHRASE": "not this one"})
    assert sorted(p.name for p in site.keys.iterdir()) == before


def test_expiry_is_announced_and_renewed_in_one_command(site):
    files, port = site.add("room1", UID, days=20)
    site.add("room2", SECOND)
    assert "expires in 19 days" in site.run(*HELLO) or "expires in 20 days" in site.run(*HELLO)
    table = site.run("boards")
    assert "Expiring: room1." in table and "(19 days)" in table or "(20 days)" in table
    text = site.run("boards", "renew")
    assert in_row(text, "room1", "ok", "renewed") and "room2" not in text
    assert site.run(*HELLO) == "42\n"
    assert "Expiring" not in site.run("boards")
    assert shown(port, site.keys) == (files / f"SSL_certificate{UID}.der").read_bytes()
    report = ca.report((site.keys / f"SSL_certificate{UID}.pem").read_bytes(), "device")
    assert report.names == ["room1", "room1.local", "127.0.0.1"] + [
        f"wss://{n}:{port}" for n in ("room1", "room1.local", "127.0.0.1")
    ]
    assert "No certificate is due" in site.run("boards", "renew")
    assert in_row(site.run("boards", "renew", "--all", "@all"), "room2", "ok", "renewed")


def test_a_board_whose_certificate_is_elsewhere_does_not_keep_the_others_from_theirs(site):
    site.add("room2", UID, days=20)
    site.run("boards", "add", "room1", "127.0.0.1:1", "--uid", SECOND)  # as the README adds one
    text = site.run("boards", "renew", status=3)
    assert in_row(text, "room2", "ok", "renewed") and "Not done on room1;" in text


def test_a_board_that_somebody_is_on_does_not_keep_the_others_from_theirs(site):
    site.add("room1", UID, days=20)
    site.add("room2", SECOND, days=20)
    hold = [sys.executable, "-m", "wssctl", "exec", "room1", "print('on')\nimport time\nwhile True: time.sleep_ms(50)"]
    with subprocess.Popen(hold, env=site.env, stdout=subprocess.PIPE) as somebody:
        try:
            assert somebody.stdout.readline() == b"on\n"
            text = site.run("boards", "renew", status=5)
        finally:
            somebody.kill()
    assert in_row(text, "room2", "ok", "renewed") and "in use" in text and "Not done on room1;" in text


def test_an_expired_board_is_refused_with_a_sentence(site, room1):
    files, port = room1
    authority = ca.Authority.load(
        (site.keys / "ROOT_CA_cert.pem").read_bytes(), (site.keys / "ROOT_CA_key.pem").read_bytes(), PASSPHRASE
    )
    past = datetime.now(UTC) - timedelta(days=30)
    made = authority.device(UID, names=["room1"], addresses=["127.0.0.1"], not_before=past, days=10)
    (files / f"SSL_key{UID}.der").write_bytes(made.key_der)
    (files / f"SSL_certificate{UID}.der").write_bytes(made.cert_der)
    site.boards["room1"].restart()
    site.boards["room1"].read_until(b"certificate expired on", 60)
    assert "has expired" in site.run(*HELLO, status=4)


def test_a_random_password_over_the_secure_channel(site, room1):
    files, _ = room1
    before = (files / "webrepl_cfg.py").read_text()
    assert "Nobody would know" in site.run("password", "room1", "--no-remember", status=2)
    assert (files / "webrepl_cfg.py").read_text() == before
    assert "has a new password" in site.run("password", "room1")
    assert (files / "webrepl_cfg.py").read_text() != before
    without = {"WSSCTL_PASSWORD": ""}
    assert site.run(*HELLO, env=without) == "42\n"  # remembered
    assert "Wrong password" in site.run(*HELLO, status=5)
    assert stat.S_IMODE((site.keys / "wssctl.db").stat().st_mode) == 0o600
    assert site.remembered() == ["password:room1"]
    site.run("boards", "forget", "room1")
    assert site.remembered() == []


def test_a_password_that_boot_py_names_stays(site, room1):
    files, port = room1
    (files / "boot.py").write_text(f"import wss_repl\nwss_repl.start(port={port}, password={PASSWORD!r})\n")
    site.boards["room1"].restart()
    site.boards["room1"].read_until(b"wss_repl: listening", 60)
    before = (files / "webrepl_cfg.py").read_text()
    assert "from elsewhere" in site.run("password", "room1", status=1)
    assert (files / "webrepl_cfg.py").read_text() == before
    assert site.run(*HELLO) == "42\n"


def test_secrets_are_remembered_only_when_asked_and_only_if_they_work(site, room1):
    site.run(*HELLO)
    site.run("boards", "remember", "room1", status=5, env={"WSSCTL_PASSWORD": "wrong"})
    assert site.remembered() == []
    site.run("boards", "remember", "room1", "--passphrase")
    bare = {"WSSCTL_PASSWORD": "", "WSSCTL_PASSPHRASE": ""}
    assert site.run(*HELLO, env=bare) == "42\n"


def test_names_and_groups(site, room1):
    _, port = room1
    site.run("boards", "add", "far", "far.example:9000", "--group", "@greenhouse")
    listing = site.run("boards", "list", "@greenhouse")
    assert "far.example:9000" in listing and "room1" not in listing
    listing = site.run("boards", "list", "@all")  # everybody, whatever groups there are
    assert "far.example:9000" in listing and "room1" in listing
    assert "no group" in site.run("boards", "list", "@nowhere", status=2)
    assert "is no name" in site.run("boards", "add", "../x", "a", status=2)
    assert "already the name of" in site.run("boards", "add", "room1", "a", "--uid", SECOND, status=2)
    # its own name is what is checked, so a new address needs no new certificate
    site.run("boards", "add", "room1", f"localhost:{port}")
    assert site.run(*HELLO) == "42\n"
    (site.keys / "devices.json").write_text("{")
    assert "repair it" in site.run(*HELLO, status=7)


def test_a_request_signed_on_another_machine(site, room1):
    """The board's new key waits until its certificate is there; a foreign certificate is refused."""
    files, port = room1
    tty = site.boards["room1"].tty
    old_key = (files / f"SSL_key{UID}.der").read_bytes()
    request = site.path / "r.pem"
    site.run("keys", "csr", tty, "--out", request)
    assert (files / f"SSL_key{UID}.der").read_bytes() == old_key
    site.boards["room1"].restart()
    site.boards["room1"].read_until(b"wss_repl: listening", 60)
    assert site.run(*HELLO) == "42\n"
    (site.path / "bad.pem").write_text(request.read_text().replace("M", "N", 3))
    assert "no certificate request" in site.run("keys", "sign", site.path / "bad.pem", "--force", status=7)
    said = site.run("keys", "sign", request, "--force")
    assert f"for {UID}, {UID}.local." in said and "add those you will type" in said
    said = site.run("keys", "sign", request, "--name", "room1", "--ip", "127.0.0.1", "--force")
    assert "for room1, room1.local, 127.0.0.1." in said and "add those" not in said
    site.run("keys", "install", tty)
    assert (files / f"SSL_key{UID}.der").read_bytes() != old_key
    assert not list(files.glob("*.new"))
    site.boards["room1"].restart()
    site.boards["room1"].read_until(b"wss_repl: listening", 60)
    assert site.run(*HELLO) == "42\n"
    site.run("keys", "init", UID, "--name", "room1", "--force")  # a key that is not on the board
    assert "not for a key on this board" in site.run("keys", "install", tty, status=1)
    with Cable(tty) as board:
        assert board.holds(f"SSL_certificate{UID}.der", (files / f"SSL_certificate{UID}.der").read_bytes())


def test_exports(site, room1, tmp_path):
    files, _ = room1
    out = tmp_path / "out"
    out.mkdir()
    site.run("keys", "export", UID, out)
    assert sorted(p.name for p in out.iterdir()) == sorted(
        ["ROOT_CA_cert.pem", f"SSL_key{UID}.der", f"SSL_certificate{UID}.der"]
    )
    assert "exist" in site.run("keys", "export", UID, out, status=7)
    site.run("host", "export", "--p12", out / "me.p12")
    key, cert, others = pkcs12.load_key_and_certificates((out / "me.p12").read_bytes(), PASSPHRASE.encode())
    assert key.public_key() == cert.public_key() and len(others) == 1
    assert stat.S_IMODE((out / "me.p12").stat().st_mode) == 0o600
    (tmp_path / "new").write_text("another passphrase\n")
    site.run("host", "export", out / "me.pem", "--new-passphrase-file", tmp_path / "new")
    assert subprocess.run(
        ["openssl", "pkey", "-in", out / "me.pem", "-passin", "pass:another passphrase", "-noout"], capture_output=True
    ).returncode == 0  # fmt: skip
    # what leaves this machine is under a passphrase of the same strength, whatever the key's own is here
    (tmp_path / "weak").write_text("short\n")
    for words in (("host", "export"), ("host", "export", "--p12"), ("ca", "export")):
        said = site.run(*words, out / "weak.pem", "--new-passphrase-file", tmp_path / "weak", status=2)
        assert "too few" in said and not (out / "weak.pem").exists()
    host = next(site.keys.glob("HOST_key@*.pem"))
    strong = host.read_bytes()
    host.write_bytes(ca.encrypted_pem(ca.load_key(strong, PASSPHRASE, "HOST key"), "short"))
    said = site.run("host", "export", out / "weak.pem", status=2, env={"WSSCTL_PASSPHRASE": "short"})
    assert "too few" in said and not (out / "weak.pem").exists()
    host.write_bytes(strong)
    env = {"WSSCTL_KEYS": str(tmp_path / "elsewhere")}
    site.run("ca", "export", out / "ca.pem", "--new-passphrase-file", tmp_path / "new")
    assert "Wrong passphrase" in site.run("ca", "import", out / "ca.pem", status=7, env=env)
    assert not (tmp_path / "elsewhere").exists()
    (out / "junk.pem").write_text("junk")
    assert "no ROOT CA" in site.run("ca", "import", out / "junk.pem", status=7, env=env)
    assert "Wrong passphrase" in site.run(
        "ca", "export", out / "x", status=7, env={"WSSCTL_CA_PASSPHRASE": "wrong one"}
    )


@pytest.mark.parametrize("renames", [0, 1, 2, 3])
@pytest.mark.parametrize("where", ["before", "after"])
def test_power_lost_on_the_host_leaves_one_set_or_the_other(tmp_path, renames, where):
    """A process that dies (os._exit: no `finally`, no commit) after `renames` of three renames, or before anything is
    decided: whoever looks next sees all files old, or all new."""
    names = ["ROOT_CA_key.pem", "ROOT_CA_cert.pem", "HOST_key@616e61.pem"]
    folder = tmp_path / "keys"
    store.Store(folder).write({folder / n: b"old" for n in names})
    program = f"""
import os, sqlite3
from pathlib import Path
from wssctl.keys import record, store
folder, names = Path({str(folder)!r}), {names!r}
real, done = os.replace, []
def dying(source, target):
    if len(done) == {renames}:
        os._exit(9)
    real(source, target)
    done.append(target)
if {where == "after"}:
    os.replace = dying
elif {renames} < 3:
    stage, count = record.Record._stage, {renames}
    record.Record._stage = lambda self, files: (stage(self, dict(list(files.items())[:count])), os._exit(9))
store.Store(folder).write({{folder / n: b"new" for n in names}}, force=True)
os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=180).returncode == 9
    store.Store(folder)
    wanted = b"old" if where == "before" and renames < 3 else b"new"
    assert {(folder / n).read_bytes() for n in names} == {wanted}
    with store.Store(folder).record.view() as db:
        assert not db.execute("SELECT 1 FROM files").fetchone()
