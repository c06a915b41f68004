"""Key files: what they hold, that verifiers take them for their purpose and no other, and that nothing is lost."""

import os
import shutil
import ssl
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from wssctl import cli
from wssctl.errors import KeyFileError, UsageError
from wssctl.keys import ask, ca
from wssctl.keys.store import Store, host_id, write_files
from wssctl.tools.local import replacing

UID = "240ac4a1b2c3"
SECRET = "correct horse"


@pytest.fixture(scope="module")
def authority():
    return ca.Authority.create("ROOT CA test")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, authority):
    folder = tmp_path_factory.mktemp("pem")
    (folder / "ca.pem").write_bytes(authority.cert_pem)
    key, cert = authority.host("ana@desk", SECRET)
    (folder / "host_key.pem").write_bytes(key)
    (folder / "host.pem").write_bytes(cert)
    device = authority.device(UID, names=["esp_room1"], addresses=["192.168.1.20", "fd00::7"])
    (folder / "device.pem").write_bytes(device.cert_pem)
    (folder / "device.der").write_bytes(device.cert_der)
    (folder / "device_key.der").write_bytes(device.key_der)
    return folder


def openssl(*args, **options):
    if not shutil.which("openssl"):
        pytest.skip("no openssl command on this machine")
    return subprocess.run(["openssl", *map(str, args)], capture_output=True, text=True, timeout=180, **options)


@pytest.mark.parametrize(
    "cert, purpose, good",
    [
        ("host", "sslclient", True),
        ("host", "sslserver", False),
        ("device", "sslserver", True),
        ("device", "sslclient", False),
    ],
)
def test_openssl_strict_verifies_each_leaf_for_its_purpose_alone(folder, cert, purpose, good):
    run = openssl(
        "verify",
        "-x509_strict",
        "-check_ss_sig",
        "-purpose",
        purpose,
        "-CAfile",
        folder / "ca.pem",
        folder / f"{cert}.pem",
    )
    assert (run.returncode == 0) is good, run.stdout + run.stderr
    if not good:
        assert "unsuitable certificate purpose" in run.stdout + run.stderr


def test_openssl_strict_takes_the_root_itself(folder):
    run = openssl("verify", "-x509_strict", "-check_ss_sig", "-CAfile", folder / "ca.pem", folder / "ca.pem")
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("name", ["esp_room1", "esp_room1.local", "192.168.1.20", "fd00::7"])
def test_openssl_matches_real_names(folder, name):
    option = "-verify_ip" if ":" in name or name[0].isdigit() else "-verify_hostname"
    run = openssl("verify", option, name, "-CAfile", folder / "ca.pem", folder / "device.pem")
    assert run.returncode == 0, run.stderr


def test_openssl_refuses_another_name(folder):
    run = openssl("verify", "-verify_hostname", "esp_room2", "-CAfile", folder / "ca.pem", folder / "device.pem")
    assert run.returncode != 0


def test_certificate_fields(authority, folder):
    cert = x509.load_pem_x509_certificate((folder / "device.pem").read_bytes())
    assert cert.serial_number.bit_length() >= 128
    assert cert.not_valid_before_utc < datetime.now(UTC) - timedelta(hours=12)  # a board on local time
    names = [str(n.value) for n in cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value]
    assert names[:4] == ["esp_room1", "esp_room1.local", "192.168.1.20", "fd00::7"]
    assert "wss://esp_room1.local:8833" in names and "wss://192.168.1.20:8833" in names
    host = x509.load_pem_x509_certificate((folder / "host.pem").read_bytes())
    assert host.subject != host.issuer
    assert {authority.host("a", SECRET)[1] for _ in range(3)}.__len__() == 3


def test_device_key_is_unencrypted_sec1(folder):
    run = openssl("asn1parse", "-inform", "DER", "-in", folder / "device_key.der")
    # SEC1 ECPrivateKey (RFC 5915): version 1, then the private key itself; PKCS #8 has version 0
    assert run.stdout.splitlines()[1].strip().endswith(":01"), run.stdout


def test_encrypted_keys_are_read_by_ssl_and_cryptography(folder):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_cert_chain(folder / "host.pem", folder / "host_key.pem", password=SECRET)
    with pytest.raises(ssl.SSLError):
        context.load_cert_chain(folder / "host.pem", folder / "host_key.pem", password="wrong")
    pem = (folder / "host_key.pem").read_bytes()
    assert b"ENCRYPTED" in pem
    assert serialization.load_pem_private_key(pem, SECRET.encode()).key_size == 256


def test_authority_is_loaded_with_its_passphrase_only(authority):
    pem = authority.key_pem(SECRET)
    assert ca.Authority.load(authority.cert_pem, pem, SECRET).cert_pem == authority.cert_pem
    with pytest.raises(KeyFileError, match="Wrong passphrase"):
        ca.Authority.load(authority.cert_pem, pem, "wrong")
    with pytest.raises(KeyFileError, match="do not belong together"):
        ca.Authority.load(ca.Authority.create("other").cert_pem, pem, SECRET)
    with pytest.raises(KeyFileError, match="is damaged"):
        ca.Authority.load(authority.cert_pem, pem[:60], SECRET)
    with pytest.raises(KeyFileError, match="not a readable certificate"):
        ca.Authority.load(b"-----BEGIN CERTIFICATE-----\nAA", pem, SECRET)


def test_validity_is_settable_and_never_beyond_the_root():
    start = datetime(2001, 2, 3, tzinfo=UTC)
    old = ca.Authority.create("old", days=10, not_before=start)
    report = ca.report(old.cert_pem, "ca")
    assert (report.not_before, report.not_after) == (start, start + timedelta(days=10))
    leaf = ca.report(old.host("a", SECRET, days=9999, not_before=start)[1], "host")
    assert leaf.not_after == start + timedelta(days=10)
    with pytest.raises(KeyFileError, match="expired"):
        old.host("a", SECRET)
    with pytest.raises(UsageError):
        ca.Authority.create("never", days=0)
    assert ca.report(ca.Authority.create("long", days=10**8).cert_pem, "ca").not_after.year == 9999


@pytest.mark.parametrize("bad", ["", "a b", "wss://x", "x" * 64, "a..b", "1.2.3.4", "ü"])
def test_bad_names_are_refused(authority, bad):
    with pytest.raises(UsageError):
        authority.device(UID, names=[bad])


@pytest.mark.parametrize("bad", ["300.1.1.1", "board", ""])
def test_bad_addresses_are_refused(authority, bad):
    with pytest.raises(UsageError, match="--ip"):
        authority.device(UID, addresses=[bad])


def test_report_says_what_a_certificate_of_upydevs_kind_lacks(authority):
    key = authority._key
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "upydev")])
    now = datetime.now(UTC)
    bare = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
    bare = bare.add_extension(x509.SubjectAlternativeName([x509.DNSName("wss://1.2.3.4:8833")]), critical=False)
    pem = bare.sign(key, ca.hashes.SHA256()).public_bytes(ca.PEM)
    lacks = " ".join(ca.report(pem, "device", authority.cert_pem).lacks)
    for word in ("subject key", "authority key", "key usage", "serverAuth", "subject of its own", "host name or IP"):
        assert word in lacks
    assert ca.report(pem, "device", authority.cert_pem).signed_by_ca is False
    good = authority.device(UID, names=["x"]).cert_pem
    assert ca.report(good, "device", authority.cert_pem).lacks == []
    assert ca.report(good, "device", authority.cert_pem).signed_by_ca is True


# The folder and its commands


@pytest.fixture
def keys(tmp_path, monkeypatch):
    monkeypatch.setenv("USER", "carlos")
    monkeypatch.setenv("WSSCTL_PASSPHRASE", SECRET)
    monkeypatch.setenv("WSSCTL_KEYS", str(tmp_path / "keys"))
    return tmp_path / "keys"


def made(keys: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in keys.iterdir()}


def test_init_makes_upydevs_file_names_and_protects_them(keys, tmp_path, capsys):
    board = tmp_path / "board"
    board.mkdir()
    assert cli.main(["ca", "init"]) == 0
    assert cli.main(["host", "init"]) == 0
    assert cli.main(["keys", "init", UID, "--name", "esp_room1", "--ip", "10.0.0.7", "--out", str(board)]) == 0
    assert sorted(made(keys)) == [
        "HOST_cert@6361726c6f.pem",  # "carlo", as in upydev's own documentation
        "HOST_key@6361726c6f.pem",
        "ROOT_CA_cert.pem",
        "ROOT_CA_key.pem",
        f"SSL_certificate{UID}.der",
        f"SSL_certificate{UID}.pem",
        f"SSL_key{UID}.der",
        "wssctl.db",
    ]
    assert sorted(made(board)) == ["ROOT_CA_cert.pem", f"SSL_certificate{UID}.der", f"SSL_key{UID}.der"]
    if os.name == "posix":
        assert stat.S_IMODE(keys.stat().st_mode) == 0o700
        assert {stat.S_IMODE(p.stat().st_mode) for p in keys.iterdir()} == {0o600}
    capsys.readouterr()
    assert cli.main(["ca", "status"]) == cli.main(["host", "status"]) == cli.main(["keys", "status"]) == 0
    said = capsys.readouterr().out
    assert "esp_room1.local" in said and "(yours)" in said and "lacks" not in said


def test_nothing_is_overwritten_unasked(keys, tmp_path, capsys):
    for argv in (["ca", "init"], ["host", "init"], ["keys", "init", UID]):
        assert cli.main(argv) == 0
    before = made(keys)
    for argv in (["ca", "init"], ["host", "init"], ["keys", "init", UID]):
        assert cli.main(argv) == 7
        assert "--force" in capsys.readouterr().err
    assert made(keys) == before
    assert cli.main(["host", "init", "--force"]) == 0
    assert made(keys)["HOST_key@6361726c6f.pem"] != before["HOST_key@6361726c6f.pem"]


def test_a_file_on_the_board_is_in_the_way_before_anything_is_made(keys, tmp_path):
    assert cli.main(["ca", "init"]) == 0
    (tmp_path / f"SSL_key{UID}.der").write_bytes(b"precious")
    before = made(keys)
    assert cli.main(["keys", "init", UID, "--out", str(tmp_path)]) == 7
    assert made(keys) == before and (tmp_path / f"SSL_key{UID}.der").read_bytes() == b"precious"


def test_what_is_no_file_is_never_replaced(keys, tmp_path, capsys):
    """As root, `wssctl get board x /dev/null` or `keys csr --out /dev/stdout` put a file in the device's place."""
    assert cli.main(["ca", "init"]) == 0
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "link"):
        capsys.readouterr()
        assert cli.main(["ca", "export", "--force", str(tmp_path / name)]) == 7
        assert "is no file" in capsys.readouterr().err
        with pytest.raises(KeyFileError, match="is no file"), replacing(tmp_path / name):
            pass
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode) and (tmp_path / "link").is_symlink()
    (tmp_path / "target").write_bytes(b"old")
    (tmp_path / "way").symlink_to("target")
    write_files({tmp_path / "way": b"new"}, force=True)
    assert (tmp_path / "way").is_symlink() and (tmp_path / "target").read_bytes() == b"new"
    with replacing(tmp_path / "way") as f:
        f.write(b"newer")
    assert (tmp_path / "way").is_symlink() and (tmp_path / "target").read_bytes() == b"newer"
    assert sorted(os.listdir(tmp_path)) == ["keys", "link", "pipe", "target", "way"]


def test_a_write_that_fails_leaves_every_old_file(tmp_path, monkeypatch):
    files = {tmp_path / "a": b"new a", tmp_path / "b": b"new b"}
    for p in files:
        p.write_bytes(b"old")
    real, calls = os.fsync, []

    def full(fd):
        calls.append(fd)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        real(fd)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(KeyFileError, match="No space left"):
        write_files(files, force=True)
    assert made(tmp_path) == {"a": b"old", "b": b"old"}


@pytest.mark.parametrize(
    "argv, code, words",
    [
        (["host", "init"], 7, "ca init"),
        (["keys", "init", UID], 7, "ca init"),
        (["ca", "status"], 7, "ca init"),
        (["keys", "init", "not-hex"], 2, "unique_id"),
        (["ca", "init", "--days", "0"], 2, "--days"),
        (["ca", "init", "--passphrase-file", "nowhere"], 7, "nowhere"),
        (["keys", "init", UID, "--out", "nowhere"], 2, "nowhere"),
    ],
)
def test_mistakes_are_one_sentence_and_an_exit_code(keys, capsys, argv, code, words):
    assert cli.main(argv) == code
    err = capsys.readouterr().err
    assert err.startswith("wssctl: ") and words in err and err.count("\n") == 1


def test_a_file_of_another_kind_is_one_sentence_without_a_link(keys, tmp_path, capsys):
    assert cli.main(["ca", "init"]) == 0
    (tmp_path / "text").write_text("hello\n")
    assert cli.main(["keys", "sign", str(tmp_path / "text")]) == 7
    (keys / "ROOT_CA_cert.pem").write_text("hello\n")
    assert cli.main(["ca", "status"]) == 7
    err = capsys.readouterr().err
    assert err.count("\n") == 2 and "http" not in err and "Unable to load PEM" in err


def test_wrong_ca_passphrase(keys, tmp_path, capsys):
    assert cli.main(["ca", "init"]) == 0
    wrong = tmp_path / "wrong"
    wrong.write_text("not the passphrase\n")
    assert cli.main(["host", "init", "--ca-passphrase-file", str(wrong)]) == 7
    assert "Wrong passphrase" in capsys.readouterr().err
    assert sorted(made(keys)) == ["ROOT_CA_cert.pem", "ROOT_CA_key.pem", "wssctl.db"]


def test_an_imported_ca_is_under_the_new_passphrase_that_is_given(keys, tmp_path, capsys):
    assert cli.main(["ca", "init"]) == 0 and cli.main(["ca", "export", str(tmp_path / "ca.pem")]) == 0
    (tmp_path / "new").write_text("another horse\n")
    there = ["--keys", str(tmp_path / "there")]
    new = str(tmp_path / "new")
    assert cli.main(["ca", "import", str(tmp_path / "ca.pem"), *there, "--new-passphrase-file", new]) == 0
    assert cli.main(["host", "init", *there]) == 7
    assert cli.main(["host", "init", *there, "--ca-passphrase-file", new]) == 0


def test_short_passphrases_are_refused(keys, monkeypatch, capsys):
    monkeypatch.setenv("WSSCTL_PASSPHRASE", "short")
    assert cli.main(["ca", "init"]) == 2
    assert not keys.exists()


def test_a_passphrase_is_typed_twice_and_must_agree(keys, monkeypatch, capsys):
    monkeypatch.delenv("WSSCTL_PASSPHRASE")
    answers = iter([SECRET, SECRET + "x", SECRET, SECRET])
    monkeypatch.setattr(ask, "_typed", lambda question: next(answers))
    assert cli.main(["ca", "init"]) == 2
    assert "differ" in capsys.readouterr().err and not keys.exists()
    assert cli.main(["ca", "init"]) == 0


def test_the_right_host_key_is_chosen(keys, monkeypatch):
    cli.main(["ca", "init"])
    store = Store()
    with pytest.raises(KeyFileError, match="host init"):
        store.find_host()
    cli.main(["host", "init", "--user", "maria"])
    assert store.find_host() == store.host_files(host_id("maria"))  # the only one
    cli.main(["host", "init", "--user", "zoe"])
    with pytest.raises(KeyFileError, match="several hosts .* --host-id"):
        store.find_host()
    cli.main(["host", "init"])
    assert store.find_host() == store.host_files(host_id("carlos"))


def test_upydevice_finds_everything_in_the_folder(keys):
    wsclient = pytest.importorskip("upydevice.wsclient", reason="upydevice is not installed in this environment")
    cli.main(["ca", "init"])
    cli.main(["host", "init"])
    cli.main(["keys", "init", UID])
    data = wsclient.load_custom_CA_data(str(keys))
    assert data.count("BEGIN CERTIFICATE") == 3
    key, cert = wsclient.load_cert_from_hostname(str(keys), "wss://esp_room1:8833")
    context = ssl.create_default_context()
    context.load_verify_locations(cadata=data)
    context.load_cert_chain(cert, key, password=SECRET)
