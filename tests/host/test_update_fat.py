"""`wssctl update` end to end on a board whose flash is FAT, in /flash, as on a pyboard or where somebody chose it."""

import shutil

import pytest
from desk import PASSWORD
from targets import Unix
from test_update import MOVE, NEW, Updated, newer  # noqa: F401
from wssctl.boards import modules

# The flash is a file, so that it outlives a reset. Once it is there keys and boot.py are in it, too.
BOOT = f"import os, sys, vfs\n{MOVE}" + """\
class Flash:
    def __init__(self, blocks):
        self.n = blocks
        try:
            self.f = open("/flash.img", "r+b")
        except OSError:
            with open("/flash.img", "wb") as f:
                for _ in range(blocks):
                    f.write(bytes(512))
            self.f = open("/flash.img", "r+b")
    def readblocks(self, n, b):
        self.f.seek(n * 512)
        self.f.readinto(b)
    def writeblocks(self, n, b):
        self.f.seek(n * 512)
        self.f.write(b)
        self.f.flush()
    def ioctl(self, op, x):
        return {4: self.n, 5: 512}.get(op, 0)
flash = Flash(800)
try:
    vfs.mount(vfs.VfsFat(flash), "/flash")
except OSError:
    vfs.VfsFat.mkfs(flash)
    vfs.mount(vfs.VfsFat(flash), "/flash")
    move("/flash/")
os.chdir("/flash")
sys.path[1:1] = ["/flash", "/flash/lib"]
"""


@pytest.fixture
def fat(keys, tmp_path):
    shutil.copytree(keys.board, tmp_path / "board")
    with Updated(keys, Unix("unix32"), tmp_path / "board") as desk:
        (desk.directory / "boot.py").write_text(
            BOOT + f"import wss_repl\nwss_repl.start(port={desk.port}, password={PASSWORD!r})\n"
        )
        desk.board.restart()
        desk.ready()
        yield desk


def test_updates_on_fat_take_turns_go_back_and_stay(fat, newer):  # noqa: F811
    assert fat.runs() == (".frozen", modules.version())
    assert f"{modules.version()} -> {NEW}" in fat.update(newer(), "--overlay")
    assert fat.runs() == ("/flash/wss_a", NEW)
    said = fat.update(newer("wss_repl.py", "_server = None", "1 // 0", version="9.8.8"), status=1)
    assert "9.8.8 was taken back: its import fails: ZeroDivisionError" in said and f"{NEW} runs again" in said
    assert fat.runs() == ("/flash/wss_a", NEW)
    assert f"{NEW} -> 9.9.0" in fat.update(newer(version="9.9.0"))
    for _ in range(2):
        assert fat.runs() == ("/flash/wss_b", "9.9.0")
        fat.board.restart()
        fat.ready()
    fill = "import os\ns = os.statvfs('/flash')\nf = open('x', 'wb')\n"
    fill += "for _ in range(s[3] - 20): f.write(bytes(s[0]))\nf.close()"
    room = fat.wssctl("exec", fill)
    assert room.returncode == 0, room
    said = fat.update(newer(version="9.9.1"), status=1)
    assert "KB are free: delete files there. Nothing was changed." in said and fat.runs() == ("/flash/wss_b", "9.9.0")
