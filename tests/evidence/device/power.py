# ruff: noqa: E501, I001, SIM105
"""Puts on a real file system (littlefs or FAT in memory) whose power fails at each write in turn, that is full, or read-only.

`micropython power.py lfs|fat`, with the bundle in MICROPYPATH. After each failure the image is mounted anew, as after a boot.
"""

import os
import struct
import sys
import vfs

from wss.files import Files

NEW = b"n" * 3000
OLD = b"o" * 2500


class PowerFailed(OSError):
    pass


class Disk:
    """A block device whose power fails: after `left` writes nothing is written any more, and every write fails."""

    def __init__(self, data, size):
        self.data = data
        self.size = size
        self.left = None
        self.torn = False  # the last write is done by half

    def readblocks(self, n, buf, offset=0):
        at = n * self.size + offset
        buf[:] = memoryview(self.data)[at : at + len(buf)]

    def writeblocks(self, n, buf, offset=None):
        if self.left is not None:
            if self.left <= 0:
                if self.torn and not self.left:
                    buf = buf[: len(buf) // 2]
                    at = n * self.size + (offset or 0)
                    self.data[at : at + len(buf)] = buf
                self.left -= 1
                raise PowerFailed(5)
            self.left -= 1
        at = n * self.size + (offset or 0)
        self.data[at : at + len(buf)] = buf

    def ioctl(self, op, arg):
        if op == 4:
            return len(self.data) // self.size
        if op == 5:
            return self.size
        if op == 6:
            # littlefs erases before it writes: flash loses what was there
            if self.left is not None and self.left <= 0:
                raise PowerFailed(5)
            at = arg * self.size
            for i in range(at, at + self.size):
                self.data[i] = 0xFF
        return 0


def fs(disk, make=False):
    kind = vfs.VfsLfs2 if sys.argv[1] == "lfs" else vfs.VfsFat
    if make:
        kind.mkfs(disk)
    return kind(disk)


def put(name, content, size=None, cut=None):
    """Codes that a put is answered with."""
    replies = []
    files = Files(replies.append)
    files.feed(memoryview(bytearray(struct.pack("<2sBBQLH64s", b"WA", 1, 0, 0, len(content), len(name), name))), True)
    if files._op:
        for i in range(0, len(content), 512):
            if cut is not None and i >= cut:
                break
            files.feed(memoryview(bytearray(content[i : i + 512])), True)
    files.abort()
    return [struct.unpack("<H", r[4:6])[0] for r in replies]


def read(name):
    try:
        with open(name, "rb") as f:
            return f.read()
    except OSError as e:
        return e.errno


def image(blocks=100, size=512):
    disk = Disk(bytearray(blocks * size), size)
    vfs.mount(fs(disk, True), "/d")
    with open("/d/f", "wb") as f:
        f.write(OLD)
    with open("/d/other", "wb") as f:
        f.write(b"other")
    vfs.umount("/d")
    return disk


def power():
    """Every write of a put that replaces a file, whole writes and torn ones."""
    first = image()
    for torn in (False, True):
        n = 0
        seen = {"old": 0, "new": 0, "aside": 0}
        while True:
            disk = Disk(bytearray(first.data), first.size)
            vfs.mount(fs(disk), "/d")
            disk.left = n
            disk.torn = torn
            codes = put(b"/d/f", NEW)
            failed = disk.left < 0 or disk.left == 0 and codes != [0, 0]
            try:
                vfs.umount("/d")
            except OSError:
                pass
            disk.left = None
            vfs.mount(fs(disk), "/d")  # the boot afterwards
            got = read("/d/f")
            if got == OLD:
                what = "old"
            elif got == NEW:
                what = "new"
            elif got == 2 and sys.argv[1] == "fat" and read("/d/f.part") == NEW:
                what = "aside"  # FAT can't replace in one step (files.replace)
            else:
                raise ValueError(
                    "after %d writes: %r, %s" % (n, got if isinstance(got, int) else got[:20], os.listdir("/d"))
                )
            if codes == [0, 0] and what != "new":
                raise ValueError("after %d writes: said to be stored, and it is not" % n)
            if read("/d/other") != b"other":
                raise ValueError("after %d writes: another file is damaged" % n)
            # the board goes on: the same put now succeeds, and leaves nothing
            if put(b"/d/f", NEW) != [0, 0] or read("/d/f") != NEW:
                raise ValueError("after %d writes: the next put fails" % n)
            left = sorted(os.listdir("/d"))
            if left != ["f", "other"]:
                raise ValueError("after %d writes: left %s" % (n, left))
            vfs.umount("/d")
            seen[what] += 1
            if not failed:
                break
            n += 1
        print("POWER", "torn" if torn else "whole", n, seen["old"], seen["new"], seen["aside"])


def full():
    """Puts until there is no room: the old file stays, the code says so, and nothing is left behind."""
    disk = image(64)
    vfs.mount(fs(disk), "/d")
    stored = 0
    while True:
        codes = put(b"/d/fill%d" % stored, b"x" * 2000)
        if codes != [0, 0]:
            break
        stored += 1
    before = sorted(os.listdir("/d"))
    big = put(b"/d/f", b"y" * 60000)
    if codes[-1] != 28 or big[-1] != 28:
        raise ValueError("codes %s %s" % (codes, big))
    if read("/d/f") != OLD or sorted(os.listdir("/d")) != before or [n for n in before if n.endswith(".part")]:
        raise ValueError("a full file system: %s" % os.listdir("/d"))
    os.remove("/d/fill0")
    if put(b"/d/f", b"z" * 1000) != [0, 0] or read("/d/f") != b"z" * 1000:
        raise ValueError("no put after room was made")
    vfs.umount("/d")
    print("FULL", stored)


def read_only():
    disk = image()
    vfs.mount(fs(disk), "/d", readonly=True)
    codes = put(b"/d/f", NEW)
    if codes != [30] or read("/d/f") != OLD or sorted(os.listdir("/d")) != ["f", "other"]:
        raise ValueError("a read-only file system: %s %s" % (codes, os.listdir("/d")))
    vfs.umount("/d")
    print("READONLY", codes[0])


def interrupted():
    """The session ends inside a put, at each piece."""
    disk = image()
    vfs.mount(fs(disk), "/d")
    for cut in range(0, len(NEW), 512):
        if put(b"/d/f", NEW, cut=cut) != [0] or read("/d/f") != OLD or sorted(os.listdir("/d")) != ["f", "other"]:
            raise ValueError("cut at %d: %s" % (cut, os.listdir("/d")))
    if put(b"/d/f", NEW) != [0, 0] or read("/d/f") != NEW or sorted(os.listdir("/d")) != ["f", "other"]:
        raise ValueError("rename over an existing file: %s" % os.listdir("/d"))
    os.mkdir("/d/dir")
    codes = put(b"/d/dir", NEW)
    if codes[-1] == 0 or sorted(os.listdir("/d")) != ["dir", "f", "other"] or not os.stat("/d/dir")[0] & 0x4000:
        raise ValueError("a put onto a directory: %s %s" % (codes, os.listdir("/d")))
    vfs.umount("/d")
    print("CUT", codes[-1])


power()
full()
read_only()
interrupted()
