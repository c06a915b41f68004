"""Updates that have to be signed: start(update_key=...). Who holds a host's key, the password and no update key, tries.

The attacks go past wssctl, which would not send most of them: the files, the image and wss_signed are put on the
board's disk, and the board is asked to change over as wssctl asks it. What a REPL can do besides: SECURITY.md.
"""

import ast
import hashlib
import os
import re
import shutil
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from desk import WSSCTL
from targets import ROOT, UID, Unix
from test_keys_enrol import run as on_board
from test_update import FROZEN, LIB, NEW, Updated, desk_of, newer  # noqa: F401
from test_update_attacks import arguments
from test_update_firmware import esp32, image
from wssctl.boards import modules, update
from wssctl.boards.dialler import Dialler
from wssctl.boards.update import LOADER_CODE
from wssctl.errors import BoardError
from wssctl.keys import ca, signing

NOW = datetime.now(UTC)


def update_key(authority, **validity) -> signing.UpdateKey:
    pem, cert = authority.update_key("tester", "correct horse", **validity)
    return signing.UpdateKey(ca.load_key(pem, "correct horse", "key"), ca.load_cert(cert, "certificate"))


def of_identity(identity) -> signing.UpdateKey:
    key = ca.load_key(identity.key.read_bytes(), identity.passphrase, "key")
    return signing.UpdateKey(key, ca.load_cert(identity.cert.read_bytes(), "certificate"))


def bundle(version, files, time=None):
    lines = "".join(f"{hashlib.sha256(data).hexdigest()} {name}\n" for name, data in files.items())
    return f"bundle {version} {time or signing.now()}\n{lines}"


class Attacked:
    """A board with update_key, and a new bundle in its slot."""

    def __init__(self, desk, files):
        self.desk, self.files = desk, files
        self.slot()
        (desk.directory / "wss_repl.py").write_bytes(modules.loader())

    def slot(self):
        shutil.rmtree(self.desk.directory / "wss_a", ignore_errors=True)
        for name, data in self.files.items():
            (self.desk.directory / "wss_a" / name).parent.mkdir(parents=True, exist_ok=True)
            (self.desk.directory / "wss_a" / name).write_bytes(data)

    def begin(self, signature: bytes | None, where="'/wss_a'", more="") -> str:
        """What the board says to it; "" when it takes it."""
        file = self.desk.directory / "wss_signed"
        file.unlink(missing_ok=True)
        if signature is not None:
            file.write_bytes(signature)
        for state in self.desk.directory.glob("wss_state*"):
            state.unlink()
        code = LOADER_CODE.format(home="/") + f"{more}\nu['begin']('.frozen', {where}, '9.9.9', 600, 'x')"
        done = self.desk.wssctl("exec", code)
        assert bool(done.returncode) != bool(list(self.desk.directory.glob("wss_state*"))), done
        assert not done.returncode or "ValueError: " in done.stderr, done
        return done.stderr.strip().rpartition("\n")[2].removeprefix("ValueError: ")


@pytest.fixture(scope="module")
def key(keys):
    return update_key(keys.ca)


def signed_desk(keys, folder, target="unix", told="True"):
    shutil.copytree(keys.board, folder)
    return Updated(keys, Unix(target), folder, options=f", update_key={told}")


@pytest.fixture(scope="module")
def attacked(keys, tmp_path_factory):
    with signed_desk(keys, tmp_path_factory.mktemp("attacked") / "board", "unix32") as desk:
        yield Attacked(desk, modules.compiled())


def wrong(how):
    def make(keys, key, files):
        what = bundle("0.1.0", files)
        good = key.sign(what)
        cert = key.cert.public_bytes(ca.DER)
        old = NOW - timedelta(days=30)
        return {
            "nothing": lambda: None,
            "an empty file": lambda: b"",
            "a long file": lambda: good + bytes(9000),
            "cut in the certificate": lambda: good[:300],
            "cut in the signature": lambda: good[: len(cert) + 20],
            "cut at the end": lambda: good[:-1],
            "a host's key": lambda: of_identity(keys.host).sign(what),
            "a board's key": lambda: of_identity(keys.device_as_host).sign(what),
            "a host's key under the update certificate": lambda: signing.UpdateKey(
                of_identity(keys.host).key, key.cert
            ).sign(what),
            "the ROOT CA's own": lambda: signing.UpdateKey(
                keys.ca._key, ca.load_cert(keys.ca.cert_pem, "certificate")
            ).sign(what),
            "another ROOT CA's": lambda: update_key(ca.Authority.create("Test ROOT CA")).sign(what),
            "an expired key": lambda: update_key(keys.ca, not_before=old, days=10).sign(what),
            "an expired key that says it was in time": lambda: update_key(keys.ca, not_before=old, days=10).sign(
                bundle("0.1.0", files, f"{old + timedelta(days=5):%Y%m%d%H%M%S}")
            ),
            "before its key": lambda: key.sign(bundle("0.1.0", files, f"{old:%Y%m%d%H%M%S}")),
            "an older version": lambda: key.sign(bundle("0.0.9", files)),
            "a bit of the statement": lambda: good[:-10] + bytes([good[-10] ^ 1]) + good[-9:],
            "a bit of the signature": lambda: (
                good[: len(cert) + 20] + bytes([good[len(cert) + 20] ^ 1]) + good[len(cert) + 21 :]
            ),
            "a bit of the certificate": lambda: good[:150] + bytes([good[150] ^ 1]) + good[151:],
            "of other files": lambda: key.sign(bundle("0.1.0", files | {"wss_repl.mpy": b"x"})),
            "of fewer files": lambda: key.sign(bundle("0.1.0", {n: d for n, d in files.items() if "log" not in n})),
            "of more files": lambda: key.sign(bundle("0.1.0", files | {"wss/zz.mpy": b""})),
            "a name outside of it": lambda: key.sign(bundle("0.1.0", files | {"../boot.py": b""})),
            "an absolute name": lambda: key.sign(bundle("0.1.0", files | {"/boot.py": b""})),
            "a name with spaces": lambda: key.sign(bundle("0.1.0", files | {"wss/z z.mpy": b""})),
            "a line without a name": lambda: key.sign(bundle("0.1.0", files) + "0\n"),
            "a thousand names": lambda: key.sign(bundle("0.1.0", files | {f"{n}.mpy": b"" for n in range(1000)})),
            "of firmware": lambda: key.sign(f"firmware 0.1.0 {signing.now()} 100 {'0' * 64}"),
            "no time": lambda: key.sign("bundle 0.1.0"),
            "no text": lambda: key.sign(""),
        }[how]()

    return make


WRONG = {
    "nothing": "it is not signed",
    "an empty file": "the signature is damaged",
    "a long file": "the signature is too long",
    "cut in the certificate": "not a certificate",
    "cut in the signature": "",
    "cut at the end": "the signature is wrong",
    "a host's key": "its certificate is not for updates",
    "a board's key": "its certificate is not for updates",
    "a host's key under the update certificate": "the signature is wrong",
    "the ROOT CA's own": "its certificate is not for updates",
    "another ROOT CA's": "its key is not of this board's ROOT CA",
    "an expired key": "its key is not valid at that time",
    "an expired key that says it was in time": "its key is not valid at that time",
    "before its key": "its key is not valid at that time",
    "an older version": "it is older than what runs",
    "a bit of the statement": "the signature is wrong",
    "a bit of the signature": "",
    "a bit of the certificate": "",
    "of other files": "wss_repl.mpy is not what was signed",
    "of fewer files": "wss/log.mpy is not what was signed",
    "of more files": "wss/zz.mpy is missing",
    "a name outside of it": "../boot.py is missing",
    "an absolute name": "/boot.py is missing",
    "a name with spaces": "",
    "a line without a name": "",
    "a thousand names": "the signature is too long",
    "of firmware": "what was signed is something else",
    "no time": "the signature is damaged",
    "no text": "the signature is damaged",
}


@pytest.mark.parametrize("how", WRONG)
def test_a_bundle_that_is_not_signed_as_it_should_be(attacked, keys, key, how):
    said = attacked.begin(wrong(how)(keys, key, attacked.files))
    assert said and WRONG[how] in said, said


def test_what_lies_beside_the_signed_files_is_refused(attacked, key):
    """MicroPython would import each of these before the signed file, or the program in the place of its own module."""
    good = key.sign(bundle("0.1.0", attacked.files))
    assert attacked.begin(good) == ""
    slot = attacked.desk.directory / "wss_a"
    for name in ("wss/port.py", "wss_repl.py", "wss.py", "network.py", "wss/more.mpy"):
        (slot / name).write_text("print('mine')\n")
        assert f"{name} is not what was signed" in attacked.begin(good)
        (slot / name).unlink()
    for name in ("wss_repl", "wss/port", "os"):
        (slot / name).mkdir()
        (slot / name / "__init__.py").write_text("print('mine')\n")
        assert attacked.begin(good)
        shutil.rmtree(slot / name)
    (slot / "wss/port.mpy").write_bytes(b"M" + attacked.files["wss/port.mpy"][1:-1] + b"\0")
    assert "wss/port.mpy is not what was signed" in attacked.begin(good)
    attacked.slot()
    assert attacked.begin(good) == ""


def test_what_was_signed_has_to_be_there_but_for_what_firmware_may_leave_out(attacked, key):
    """A bundle without a part runs, too, where an import that fails is caught."""
    good = key.sign(bundle("0.1.0", attacked.files))
    assert signed_optional() == set(update.OPTIONAL)
    try:
        for name in ("wss_repl.mpy", "wss/guard.mpy"):
            file = attacked.desk.directory / "wss_a" / name
            file.rename(attacked.desk.directory / "kept")
            assert attacked.begin(good) == f"{name} is missing"
            (attacked.desk.directory / "kept").rename(file)
        for name in update.OPTIONAL:
            (attacked.desk.directory / "wss_a" / f"{name}.mpy").unlink()
        assert attacked.begin(good) == ""
    finally:
        attacked.slot()


def signed_optional():
    text = (ROOT / "lib/wss/signed.py").read_text()
    return set(ast.literal_eval(re.search(r"^_OPTIONAL = (.+)$", text, re.M)[1]))


def test_a_revoked_key_and_a_damaged_list(attacked, key):
    good = key.sign(bundle("0.1.0", attacked.files))
    trust = attacked.desk.directory / "wss_trust.txt"
    try:
        trust.write_text(f"revoked {key.cert.serial_number:x}\nend\n")
        assert attacked.begin(good) == "its key is revoked"
        trust.write_text(f"revoked {key.cert.fingerprint(hashes.SHA256()).hex()}\nend\n")
        assert attacked.begin(good) == "its key is revoked"
    finally:
        trust.unlink()
    assert attacked.begin(good) == ""


def test_what_was_signed_before_the_latest_one_is_not_taken_again(attacked, key):
    """An older version may come back, but has to be signed again."""
    floor = "u['write']({'n': 0, 'base': '.frozen', 'signed': {'bundle': '%s'}})\n"
    replayed = key.sign(bundle("9.0.0", attacked.files, f"{NOW - timedelta(hours=1):%Y%m%d%H%M%S}"))
    again = key.sign(bundle("0.0.9", attacked.files, f"{NOW:%Y%m%d%H%M%S}"))
    more = floor % f"{NOW - timedelta(minutes=30):%Y%m%d%H%M%S}"
    code = LOADER_CODE.format(home="/") + more + "u['begin']('.frozen', '/wss_a', '9.9.9', 600, 'x')"
    for blob, says in ((replayed, "signed before what was taken last"), (again, "")):
        for state in attacked.desk.directory.glob("wss_state*"):
            state.unlink()
        (attacked.desk.directory / "wss_signed").write_bytes(blob)
        done = attacked.desk.wssctl("exec", code)
        assert (says in done.stderr) if says else (done.returncode == 0), done


def test_keys_for_updates_open_no_board_and_no_client(attacked, keys, key, tmp_path):
    folder = tmp_path / "keys"
    shutil.copytree(keys.directory, folder, ignore=shutil.ignore_patterns("board"))
    (folder / "HOST_key@7570.pem").write_bytes(ca.encrypted_pem(key.key, keys.passphrase))
    (folder / "HOST_cert@7570.pem").write_bytes(key.cert.public_bytes(ca.PEM))
    env = {"WSSCTL_KEYS": str(folder)}
    assert attacked.desk.wssctl("exec", "print(1)", env=env).returncode == 0
    before = _refused(attacked.desk)
    done = attacked.desk.wssctl("exec", "print(1)", "--host-id", "7570", env=env)
    assert done.returncode == 4 and not done.stdout, done
    assert _refused(attacked.desk) == before + 1
    # as a board: its owner has a host's key and the network
    board = tmp_path / "board"
    shutil.copytree(keys.board, board)
    der = key.key.private_bytes(ca.DER, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())
    (board / f"SSL_key{UID}.der").write_bytes(der)
    (board / f"SSL_certificate{UID}.der").write_bytes(key.cert.public_bytes(ca.DER))
    with Updated(keys, Unix("unix"), board) as desk:
        done = desk.wssctl("exec", "print(1)")
        assert done.returncode == 4 and not done.stdout, done


def _refused(desk):
    return int(desk.wssctl("exec", "import wss_repl; print(sum(wss_repl.status()['refused'].values()))").stdout)


def test_another_update_key_than_the_one_that_is_named(keys, key, tmp_path):
    """update_key is a file; who can write files puts another one there."""
    folder = tmp_path / "board"
    folder.mkdir()
    pin = key.cert.public_bytes(ca.PEM)
    shutil.copytree(keys.board, folder, dirs_exist_ok=True)
    (folder / "update.pem").write_bytes(pin)
    desk = Updated(keys, Unix("unix"), folder, options=", update_key='update.pem'")
    with desk:
        attacked = Attacked(desk, modules.compiled())
        what = bundle("0.1.0", attacked.files)
        assert attacked.begin(update_key(keys.ca).sign(what)) == "another key has signed it"
        assert attacked.begin(key.sign(what)) == ""
        for state in folder.glob("wss_*"):
            shutil.rmtree(state) if state.is_dir() else state.unlink()
        # until the next start it knows the old one; then it is told by the ROOT CA, too, who may sign
        foreign = update_key(ca.Authority.create("Test ROOT CA"))
        put = tmp_path / "update.pem"
        put.write_bytes(foreign.cert.public_bytes(ca.PEM))
        assert desk.wssctl("put", put, "update.pem").returncode == 0
        attacked = Attacked(desk, attacked.files)
        assert attacked.begin(foreign.sign(what)) == "another key has signed it"
        (folder / "wss_repl.py").unlink()
        for state in folder.glob("wss_state*"):
            state.unlink()
        desk.board.restart()
        desk.ready()
        (folder / "wss_repl.py").write_bytes(modules.loader())
        assert attacked.begin(foreign.sign(what)) == "its key is not of this board's ROOT CA"


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ("'HOST.pem'", "its certificate is not for updates"),
        ("'nowhere.pem'", "no update key: put nowhere.pem on the board"),
        ("b'x'", "update key is neither PEM nor DER"),
        ("True, ssl=False", "update_key needs ssl"),
    ],
)
def test_a_start_that_is_told_something_else_does_not_listen(keys, tmp_path, told, says):
    shutil.copytree(keys.board, tmp_path / "board")
    shutil.copy(keys.host.cert, tmp_path / "board/HOST.pem")
    program = f"import wss_repl\ntry:\n wss_repl.start(password='secret', update_key={told})\nexcept ValueError as e:\n"
    program += " print(e)\nprint(wss_repl.status()['listening'])\n"
    said = on_board(Unix("unix"), tmp_path / "board", program)
    assert says in said and said.endswith("[]\n")


@pytest.fixture
def operator(keys, tmp_path):
    """A key folder with the ROOT CA's key in it, of somebody who may sign."""
    folder = tmp_path / "keys"
    shutil.copytree(keys.directory, folder, ignore=shutil.ignore_patterns("board"))
    (folder / "ROOT_CA_key.pem").write_bytes(keys.ca.key_pem(keys.passphrase))
    return {"WSSCTL_KEYS": str(folder), "WSSCTL_UPDATE_PASSPHRASE": "another passphrase"}


@pytest.mark.parametrize("kind", [FROZEN, LIB])
def test_a_bundle_that_is_signed_now_or_at_build_time(keys, tmp_path, newer, operator, kind):  # noqa: F811
    with desk_of(keys, tmp_path / "board", kind, options=", update_key=True") as desk:
        overlay = ["--overlay"] if kind == FROZEN else []
        before = desk.files()
        said = desk.update(newer(), *overlay, status=1)
        assert f"{desk.url}: It takes signed updates alone" in said and desk.files() == before
        assert "no UPDATE_key.pem" in desk.update(operator | newer(), *overlay, "--sign", status=7)
        made = desk.run(*WSSCTL, "ca", "update-key", env=operator)
        assert made.returncode == 0, made
        assert desk.run(*WSSCTL, "ca", "status", env=operator).stdout.count("valid until") == 2
        assert "Wrong passphrase" in desk.update(
            operator | newer() | {"WSSCTL_UPDATE_PASSPHRASE": keys.passphrase}, *overlay, "--sign", status=7
        )
        assert f"-> {NEW}" in desk.update(operator | newer(), *overlay, "--sign")
        assert desk.runs()[1] == NEW
        # signed elsewhere: whoever sends it has no update key
        release = newer(version="9.9.0")
        file = tmp_path / "x.signed"
        made = desk.run(*WSSCTL, "sign", "--out", file, env=operator | release)
        assert made.returncode == 0, made
        assert "signature of something else" in desk.update(newer(version="9.9.1"), "--signed", file, status=7)
        assert f"{NEW} -> 9.9.0" in desk.update(release, "--signed", file)
        # that of before again, which was good once
        older = operator | newer(version="9.8.0")
        assert "newer than 9.8.0" in desk.update(older, "--sign", status=1)
        assert "9.9.0 -> 9.8.0" in desk.update(older, "--sign", "--force")
        said = desk.update(release, "--signed", file, status=1)
        assert "signed before what was taken last: sign it again" in said and desk.runs()[1] == "9.8.0"
        damaged = bytearray(file.read_bytes())
        damaged[-5] ^= 1
        file.write_bytes(bytes(damaged))
        assert "damaged" in desk.update(release, "--signed", file, status=7)


def test_an_image_that_is_signed_and_those_that_are_not(keys, tmp_path, operator, key):
    with esp32(keys, tmp_path / "board") as desk:
        boot = desk.directory / "boot.py"
        boot.write_text(boot.read_text().replace("wss_repl.start(", "wss_repl.start(update_key=True, "))
        desk.board.restart()
        desk.ready()
        new = image("v1.26.0")
        file = desk.directory.parent / "new.bin"
        said = desk.firmware(new, status=1)
        assert f"{desk.url}: It takes signed updates alone" in said and desk.writes() == 0
        assert desk.run(*WSSCTL, "ca", "update-key", env=operator).returncode == 0
        assert desk.run(*WSSCTL, "sign", file, env=operator).returncode == 0
        # FILE.signed is taken along; of another image it is refused here, and by the board
        assert "signature of something else" in desk.firmware(image("v1.27.0"), status=7)
        assert desk.writes() == 0
        (desk.directory / "wss_repl.py").write_bytes(modules.loader())
        now, good, cut = signing.now(), hashlib.sha256(new).hexdigest(), hashlib.sha256(new[:-1]).hexdigest()
        for what, says in (
            (f"firmware v1.26.0 {now} {len(new)} {good}", ""),
            (f"firmware v1.26.0 {now} {len(new)} {cut}", "not what was signed"),
            (f"firmware v1.24.0 {now} {len(new)} {good}", "older than what runs"),
            (bundle("0.1.0", modules.compiled()), "something else"),
        ):
            partition = desk.directory / "flash_ota_1"
            partition.write_bytes(new.ljust(len(partition.read_bytes()), b"\xff"))
            (desk.directory / "wss_signed").write_bytes(key.sign(what))
            code = LOADER_CODE.format(home="/") + "u['begin']('.frozen', '.frozen', 'x', 600, 'x', 'ota_1', 'ota_0')"
            done = desk.wssctl("exec", code)
            assert says in done.stderr if says else done.returncode == 0, done
            for state in desk.directory.glob("wss_state*"):
                state.unlink()
        assert "v1.25.0 -> v1.26.0" in desk.firmware(new)
        assert desk.runs() == "v1.26.0" and desk.marks()["boot"] == "ota_1"
        # signed now; what was signed before comes back no more
        assert "v1.26.0 -> v1.25.9" in desk.run(
            *WSSCTL, "firmware", "--sign", "--force", "--deadline", "60", desk.url, older(tmp_path), env=operator
        ).stdout
        said = desk.firmware(new, status=1)
        assert "signed before what was taken last" in said and desk.runs() == "v1.25.9"


def older(tmp_path):
    (tmp_path / "older.bin").write_bytes(image("v1.25.9"))
    return tmp_path / "older.bin"


def test_signatures_agree_with_openssl_at_the_edges(target, tmp_path):
    """verify() against cryptography's, for good signatures and for ones with something wrong in them."""
    n = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    rows = []
    for i in range(500 if os.environ.get("EVIDENCE") == "long" else 12):
        private = ec.derive_private_key([1, 2, n - 1][i] if i < 3 else int.from_bytes(os.urandom(31)), ec.SECP256R1())
        x, y = (getattr(private.public_key().public_numbers(), a) for a in "xy")
        message = os.urandom(i)
        r, s = _numbers(private.sign(message, ec.ECDSA(hashes.SHA256())))
        e = hashlib.sha256(message).hexdigest()
        rows += [(x, y, e, r, s, True), (x, y, e, r, n - s, True), (x, y, e, s, r, False), (x, y, e, r, s ^ 1, False)]
        rows += [(x, y, e, 0, s, False), (x, y, e, r, 0, False), (x, y, e, n, s, False), (x, y, e, r, n + s, False)]
        rows += [(x, y, hashlib.sha256(e.encode()).hexdigest(), r, s, False), (x, y, e, r + n, s, False)]
        rows += [(y, x, e, r, s, False)]
    (tmp_path / "v.txt").write_text("".join(f"{x:x} {y:x} {e} {r:x} {s:x}\n" for x, y, e, r, s, _ in rows))
    program = """
from binascii import unhexlify
from wss import enrol
for line in open("v.txt"):
    x, y, e, r, s = line.split()
    print(enrol.verify(int(x, 16), int(y, 16), unhexlify(e), int(r, 16), int(s, 16)))
"""
    said = on_board(target, tmp_path, program, 1800).split("\n")[:-1]
    assert said == [str(row[-1]) for row in rows]


def _numbers(der):
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

    return decode_dss_signature(der)


def test_what_changes_between_change_over_and_restart_is_not_kept(keys, tmp_path, monkeypatch, key):
    """A signed file, written to by another program of the board's."""
    for name, value in (("PASSPHRASE", keys.passphrase), ("PASSWORD", "secret")):
        monkeypatch.setenv(f"WSSCTL_{name}", value)
    with signed_desk(keys, tmp_path / "board") as desk:
        args = arguments(desk, desk.port, update_key=key)
        args.sign, args.force = True, True
        restart = update.restart

        def then(client, how="soft_reset"):
            monkeypatch.setattr(update, "restart", restart)
            with open(desk.directory / "wss_a/wss/page.mpy", "ab") as f:
                f.write(b"\0")
            restart(client, how)

        monkeypatch.setattr(update, "restart", then)
        with pytest.raises(BoardError, match="wss/page.mpy is not what was signed"):
            update._update(args, Dialler(args))
        desk.board.read_until(b"was taken back: no login proved it in 5 s", 60)
        desk.ready()
        assert desk.runs() == (".frozen", modules.version())
        args.deadline = 60
        assert update._update(args, Dialler(args)) and desk.runs() == ("/wss_a", modules.version())
