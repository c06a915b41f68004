"""`wssctl firmware`: images that are refused, one that is kept after a login, and all that is taken back.

The stand-in has tests/board_api/esp32.py: partitions over files, and a bootloader. What an image "does" is in boot.py,
by the version that it says it has. On a real ESP32 and its bootloader this has not run.
"""

import bz2
import gzip
import hashlib
import json
import lzma
import os
import shutil
import struct

import pytest
from cutter import Cutter
from desk import PASSWORD, WSSCTL, Desk
from targets import ROOT, Unix
from wssctl import cli
from wssctl.boards import firmware, modules
from wssctl.boards.update import LOADER_CODE

LONG = (os.environ.get("EVIDENCE") == "long") * 1  # make evidence: each write
SIZE = 0x10000  # of a partition
BOOT = """\
import esp32
import wss_repl
version = esp32.version()
if "hangs" in version:
    while True:
        pass
if "raises" in version:
    1 // 0
wss_repl.start(port=%d, password="wrong" if "refuses" in version else %r)
"""


def image(version, chip=0, size=20_000, force_hash=True, magic=0xE9):
    """As esptool makes one (esp_app_format.h, esp_app_desc.h), of one segment."""
    described = struct.pack("<II8x32s", 0xABCD5432, 0, version.encode()).ljust(256, b"\1")
    body = described + hashlib.shake_128(version.encode()).digest(size - 256)
    head = struct.pack("<BBBBIB3sHBHH4sB", magic, 1, 0, 0, 0x40080000, 0, b"", chip, 0, 0, 0, b"", int(force_hash))
    data = head + struct.pack("<II", 0x3F400000, len(body)) + body
    data += bytes(15 - len(data) % 16) + b"\xef"
    return data + hashlib.sha256(data).digest()


class Esp32(Desk):
    def firmware(self, data, *words, status=0):
        (self.directory.parent / "new.bin").write_bytes(data)
        # A login that shall come gets the time of a busy machine; one that shall not has to be waited for.
        words = ["--deadline", "5" if status else "60", *words, self.url, self.directory.parent / "new.bin"]
        done = self.run(*WSSCTL, "firmware", *words, timeout=150)
        assert done.returncode == status and "Traceback" not in done.stderr, (done, self.board.log[-2000:])
        return done.stdout + done.stderr

    def runs(self):
        done = self.wssctl("exec", "import esp32; print(esp32.version())")
        assert done.returncode == 0, done
        return done.stdout.strip()

    def marks(self):
        return json.loads((self.directory / "flash_otadata").read_text())

    def writes(self):
        file = self.directory / "flash_writes"
        return int(file.read_text()) if file.exists() else 0


def esp32(keys, folder, kind="unix", partitions=2):
    shutil.copytree(keys.board, folder)
    shutil.copy(ROOT / "tests/board_api/esp32.py", folder)
    for n in range(partitions):
        data = image("v1.25.0") if n == 0 else b""
        (folder / f"flash_ota_{n}").write_bytes(data.ljust(SIZE, b"\xff"))
    desk = Esp32(keys, Unix(kind), folder)
    (folder / "boot.py").write_text(BOOT % (desk.port, PASSWORD))
    desk.board.restart()
    desk.ready()
    return desk


@pytest.fixture
def desk(keys, tmp_path):
    with esp32(keys, tmp_path / "board") as running:
        yield running


NEW = image("v1.26.0")
AT_ITS_END = len(NEW) - 40  # in the last line


@pytest.mark.parametrize(
    ("data", "says", "status"),
    [
        (b"", "it is empty", 7),
        (image("v1.26.0", magic=0xE8), "0xE9", 7),
        (NEW[:-1], "it is cut off", 7),
        (NEW[:9000], "it is cut off", 7),
        (NEW[:9000] + bytes([NEW[9000] ^ 1]) + NEW[9001:], "it is damaged", 7),
        (NEW[:AT_ITS_END] + bytes([NEW[AT_ITS_END] ^ 128]) + NEW[AT_ITS_END + 1 :], "it is damaged", 7),
        (NEW + b"\xff" * 4096, "something follows it", 7),
        (image("v1.26.0", force_hash=False), "no SHA-256", 7),
        (NEW[:32] + b"\0" * 4 + NEW[36:], "no application in it", 7),
        (image("v1.26.0", chip=9), "for ESP32-S3, and this is ESP32.", 1),
        (image("v1.26.0", size=SIZE), "65536 fit into its partition", 1),
        (image("v1.24.1"), "v1.25.0, which is newer than v1.24.1", 1),
    ],
)
def test_an_image_that_is_refused(desk, data, says, status):
    said = desk.firmware(data, status=status)
    assert says in said, said
    assert desk.runs() == "v1.25.0" and desk.writes() == 0 and desk.marks()["boot"] == "ota_0"
    assert sorted(p.name for p in desk.directory.glob("wss_*")) in ([], ["wss_time.txt"])


def test_what_people_take_for_an_image():
    bootloader = NEW[:32] + b"\x50" + NEW[33:4000]  # esp_bootloader_desc.h
    table = bytes.fromhex("aa50").ljust(4096, b"\xff")
    for data, says in (
        (b"\x7fELF\1\1\1" + bytes(500), "an ELF file"),
        (b"UF2\n" + bytes(508), "a UF2 file"),
        (gzip.compress(NEW), "compressed"),
        (bz2.compress(NEW), "compressed"),
        (lzma.compress(NEW), "compressed"),
        (b"PK\3\4" + bytes(500), "an archive"),
        (b":020000040000FA\n" * 40, "an Intel HEX file"),
        (bootloader, "is it the bootloader, or all of a flash"),
        (bootloader.ljust(0x7000, b"\xff") + table.ljust(0x8000, b"\xff") + NEW, "the bootloader, or all of a flash"),
        (b"\xff" * 0x1000 + bootloader.ljust(0x7000, b"\xff") + NEW, "all of a flash"),
        (NEW.ljust(0x1F0000, b"\xff"), "all of a flash"),
        (NEW[:287], "cut off"),
        (NEW[:1], "cut off"),
        (bytes(1000), "its first byte is not 0xE9"),
        (NEW + bytes(68 - 1), "something follows it"),
        (NEW + b"\1" + bytes(67), "something follows it"),
        (NEW + bytes(firmware._LARGEST), "more than 32 MB"),
    ):
        with pytest.raises(ValueError, match=says):
            firmware.parse(data)


def test_a_signature_of_secure_boot_stays_with_its_image():
    """ESP-IDF, security/secure-boot-v1 and -v2: the chip looks at it."""
    padded = NEW.ljust(-(-len(NEW) // 4096) * 4096, b"\xff")
    for signed in (NEW + bytes(4) + os.urandom(64), padded + (b"\xe7\2" + os.urandom(1214)).ljust(4096, b"\xff")):
        assert firmware.parse(signed).data == signed
    for other in (padded + b"\xe7" + bytes(4094), NEW + padded[len(NEW) + 1 :] + b"\0\xe7" + bytes(4095)):
        with pytest.raises(ValueError, match="something follows it"):
            firmware.parse(other)


def test_a_folder_is_no_image_and_neither_is_what_is_not_there(keys, tmp_path, capsys):
    for file, says in ((tmp_path, "Is a directory"), (tmp_path / "x", "No such file")):
        assert cli.main(["firmware", "wss://127.0.0.1:1", str(file)]) == 7
        assert f"Cannot read {file} ({says}" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["unix", "unix32"])
def test_an_image_is_kept_after_a_login_and_the_next_takes_the_other_place(keys, tmp_path, kind):
    """At 32 bits with a heap of 160 KB, of which an image is a multiple."""
    size = 300_000 if kind == "unix32" else 20_000
    with esp32(keys, tmp_path / "board", kind) as desk:
        for n in range(2):
            file = desk.directory / f"flash_ota_{n}"
            file.write_bytes(file.read_bytes().ljust(0x50000, b"\xff"))
        kept_after_a_login(desk, image("v1.26.0", size=size))


def kept_after_a_login(desk, new):
    assert "v1.25.0 -> v1.26.0" in desk.firmware(new)
    assert desk.runs() == "v1.26.0" and desk.marks() == {"boot": "ota_1", "ota_0": "valid", "ota_1": "valid"}
    assert (desk.directory / "flash_ota_1").read_bytes()[: len(new)] == new
    for _ in range(2):
        desk.board.restart()
        desk.ready()
        assert desk.runs() == "v1.26.0"
    assert "v1.26.0 -> v1.24.0" in desk.firmware(image("v1.24.0"), "--force")
    assert desk.runs() == "v1.24.0" and desk.marks()["boot"] == "ota_0"


@pytest.mark.parametrize("what", ["hangs", "refuses"] + LONG * ["raises"])
def test_the_bootloader_goes_back_by_itself(desk, what):
    said = desk.firmware(image(f"v1.26.0-{what}"), status=1)
    assert f"v1.26.0-{what} was taken back: no login proved it in 5 s" in said or "bootloader" in said, said
    assert desk.runs() == "v1.25.0" and desk.marks()["boot"] == "ota_0"
    told = desk.wssctl("exec", "import wss_repl; print(wss_repl.status()['update'])")
    assert f"v1.26.0-{what} was taken back" in told.stdout and f"v1.26.0-{what} was taken back" in told.stderr
    assert "v1.25.0 -> v1.26.0" in desk.firmware(NEW)
    assert desk.runs() == "v1.26.0"


def test_a_bootloader_without_rollback_is_told_to_go_back(desk):
    """The loader does it at the second start."""
    file = desk.directory / "esp32.py"
    text = file.read_text()
    assert 'if data[label] == "new":' in text
    file.write_text(text.replace('if data[label] == "new":', "if True:"))
    said = desk.firmware(image("v1.26.0-refuses"), status=1)
    assert "v1.26.0-refuses was taken back: no login proved it in 5 s" in said and "v1.25.0 runs again" in said
    assert desk.runs() == "v1.25.0"


def test_without_an_old_one_to_go_back_to_the_new_one_stays(desk):
    """Somebody wrote to that partition. A board without a server would be worse."""
    file = desk.directory / "esp32.py"
    file.write_text(file.read_text().replace('if data[label] == "new":', "if True:"))
    (desk.directory / "wss_repl.py").write_bytes(modules.loader())
    (desk.directory / "flash_ota_1").write_bytes(NEW.ljust(SIZE, b"\xff"))
    begin = "u['begin']('.frozen', '.frozen', 'v1.26.0', 600, 'x', 'ota_1', 'ota_0')\nimport esp32\n"
    begin += "esp32.Partition('ota_1').set_boot()\nwith open('/flash_ota_0', 'r+b') as f: f.write(bytes(4096))"
    done = desk.wssctl("exec", LOADER_CODE.format(home="/") + begin)
    assert done.returncode == 0, done
    for on_trial in ("True", "False", "False"):
        desk.board.restart()
        desk.ready()
        assert desk.runs() == "v1.26.0"
        done = desk.wssctl("exec", "import wss_update; print(bool(wss_update.trial))")
        assert done.stdout.strip() == on_trial
    assert "v1.26.0 stays without a proof: no login proved it" in done.stderr
    assert "the one before it cannot start: OSError -5379" in done.stderr
    assert "v1.26.0 -> v1.27.0" in desk.firmware(image("v1.27.0"))
    assert desk.runs() == "v1.27.0"


CUT = image("v1.26.0", size=30_000)
WRITES = -(-len(CUT) // 4096) + 1  # its blocks, then set_boot()'s


@pytest.mark.parametrize("cut", range(WRITES) if LONG else [0, 3, WRITES - 1])
def test_power_is_cut_at_a_write_and_the_next_attempt_succeeds(desk, cut):
    (desk.directory / "flash_cut").write_text(str(cut))
    desk.board.restart()
    desk.ready()
    said = desk.firmware(CUT, status=6)
    assert desk.runs() == "v1.25.0" and desk.marks()["boot"] == "ota_0", said
    before = desk.writes()
    assert before == cut + 1
    assert "v1.25.0 -> v1.26.0" in desk.firmware(CUT)
    assert desk.runs() == "v1.26.0"
    # all of it was there already when set_boot() was cut, and when a half of the last block was enough
    whole = cut == WRITES - 1 or cut == WRITES - 2 and len(CUT) % 4096 <= 2048
    assert desk.writes() - before == (1 if whole else WRITES)


def test_the_connection_is_cut_at_some_records(desk):
    cutter = Cutter(desk.port)
    url, desk.url = desk.url, f"wss://127.0.0.1:{cutter.port}"
    try:
        desk.firmware(image("v1.30.0"))
        cutter.records = 0
        desk.firmware(image("v2.0.0"))
        total, old = cutter.records, "v2.0.0"
        for cut in (total // 2, total - 8):  # each of them: tests/evidence/test_update_faults.py
            new = f"v2.{cut}.0"
            cutter.records, cutter.limit = 0, cut
            file = desk.directory.parent / "new.bin"
            file.write_bytes(image(new))
            words = ["firmware", "--takeover", "--force", "--deadline", "20", desk.url, file]
            said = desk.run(*WSSCTL, *words, timeout=100)
            cutter.limit = None
            runs = desk.runs()
            assert runs in (old, new) and (said.returncode == 0) == (runs == new), (cut, said)
            waits = desk.wssctl("exec", "import sys; print(sys.modules['wss_update'].trial)")
            assert waits.stdout.strip() == "None", (cut, waits)
            old = f"v2.{cut}.1"
            assert f"{runs} -> {old}" in desk.firmware(image(old), "--takeover")
    finally:
        desk.url = url
        cutter.close()


def test_what_is_there_already_is_not_sent_again(desk):
    """A piece of 64 KB is; a larger partition holds two."""
    data = image("v1.26.0", size=100_000)
    for n in range(2):
        file = desk.directory / f"flash_ota_{n}"
        file.write_bytes(file.read_bytes().ljust(0x20000, b"\xff"))
    other = bytearray(data)
    other[90_000:] = b"\0" * len(other[90_000:])
    (desk.directory / "flash_ota_1").write_bytes(bytes(other).ljust(0x20000, b"\xff"))
    said = desk.firmware(data)
    assert "64 of 97 KB are there already" in said and "v1.25.0 -> v1.26.0" in said, said
    assert desk.writes() == -(-(len(data) - 65536) // 4096) + 1
    assert desk.runs() == "v1.26.0"


def test_boards_without_a_second_place_for_firmware_or_that_are_no_esp32(keys, tmp_path):
    with esp32(keys, tmp_path / "board", partitions=1) as desk:
        said = desk.firmware(NEW, status=1)
        assert "no second place for firmware" in said and "VARIANT=OTA" in said
        (desk.directory / "esp32.py").unlink()
        (desk.directory / "boot.py").write_text(
            f"import wss_repl\nwss_repl.start(port={desk.port}, password={PASSWORD!r})\n"
        )
        desk.board.restart()
        desk.ready()
        assert "This is no ESP32" in desk.firmware(NEW, status=1)


def test_the_first_of_a_group_is_the_canary(keys, tmp_path):
    with esp32(keys, tmp_path / "a") as first, esp32(keys, tmp_path / "b") as second:
        (tmp_path / "bad.bin").write_bytes(image("v1.26.0-refuses"))
        words = ["firmware", "--deadline", "5", "--json", f"{first.url},{second.url}"]
        done = first.run(*WSSCTL, *words, tmp_path / "bad.bin", timeout=100)
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        assert done.returncode == 1 and "taken back" in rows[0]["output"] and "not begun" in rows[1]["output"]
        assert second.writes() == 0


