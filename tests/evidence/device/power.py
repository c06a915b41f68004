# ruff: noqa: E501, I001, SIM105
"""Puts on a real file system (littlefs or FAT in memory) whose power fails at each write in turn, that is full, or read-only.

`micropython power.py lfs|fat [FOLDER]`: with a folder, a replacement of keys (FOLDER/old, FOLDER/new, the code FOLDER/rename) instead of puts, with the bundle in MICROPYPATH. After each failure the image is mounted anew, as after a boot.
"""

import os
import struct
import sys
import vfs

from ram import Ram
from wss import credentials, port
from wss.files import Files

NEW = b"n" * 3000
OLD = b"o" * 2500


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
    disk = Ram(blocks, size)
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
            disk = Ram(0, first.size, first.data)
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



def load(folder, files):
    found = []
    for name in files:
        with open(folder + "/" + name, "rb") as f:
            found.append(f.read())
    return found


def send(files, contents, rename):
    """What `wssctl setup` and `enrol` have a board do (tools/wssctl/cable.py): all beside their names, then renamed."""
    for name, content in zip(files, contents):  # noqa: B905
        with open(name + ".new", "wb") as f:
            for i in range(0, len(content), 512):
                f.write(content[i : i + 512])
    exec(rename % (files,), {"print": lambda *a, **k: None})  # it tells as it goes


def boot(disk, names):
    """Power is back: what start() does first. Returns what key, certificate and CA are."""
    os.chdir("/")
    try:
        vfs.umount("/d")
    except OSError:
        pass
    disk.gone = True
    enter(Ram(0, disk.size, disk.data))
    credentials.finish_replacement(names)
    return [read(n[0]) for n in names]


def broken(got, good, names):
    """1 for a damaged file, which start() names, 2 for a mixture of old and new. On FAT there may be both: its rename
    writes the new directory entry and takes the old one away in two steps. Between them both lead to the same
    clusters, and who removes one of the two frees these."""
    if sys.argv[1] != "fat":
        raise ValueError("neither old nor new: %s" % os.listdir())
    if not [g for g in got if g not in good]:
        return 2
    try:
        credentials.context()
    except ValueError as e:
        if "copy it again" in e.args[0] or "put" in e.args[0]:
            return 1
        raise
    raise ValueError("damaged, and taken: %s" % os.listdir())


def enter(disk, left=None, torn=False, **how):
    """The working directory is the disk's root from here on; its power fails after `left` writes."""
    vfs.mount(fs(disk), "/d", **how)
    os.chdir("/d")
    disk.left = left
    disk.torn = torn


def leave():
    os.chdir("/")
    vfs.umount("/d")


def keys(folder):
    """Every write of a replacement of key, certificate and CA; and every write of finishing it at the next boot."""
    names = credentials.places(port.uid())
    files = [n[0] for n in names]
    with open(folder + "/rename") as f:
        rename = f.read()
    old = load(folder + "/old", files)
    new = load(folder + "/new", files)
    first = image(160)
    enter(first)
    for name, content in zip(files, old):  # noqa: B905
        with open(name, "wb") as f:
            f.write(content)
    leave()
    for torn in (False, True):
        seen = {"old": 0, "new": 0}
        n = again = 0
        once = [0, 0, 0]
        twice = [0, 0, 0]
        failed = True
        while failed:
            disk = Ram(0, first.size, first.data)
            enter(disk, n, torn)
            try:
                send(files, new, rename)
                failed = False
            except OSError:
                pass
            after = Ram(0, disk.size, disk.data)  # before anything is closed in order
            got = boot(disk, names)
            if failed and got not in (old, new):
                once[broken(got, old + new, names)] += 1
                what = None
            elif got in (old, new) and (failed or got == new):
                what = "old" if got == old else "new"
                seen[what] += 1
                credentials.context()  # raises when it can't be used
            else:
                raise ValueError("after %d writes: %s" % (n, os.listdir()))
            send(files, new, rename)
            left = sorted(os.listdir()) != sorted(files + ["f", "other"])
            if [read(f) for f in files] != new or left and sys.argv[1] != "fat":  # half an entry of FAT's may stay
                raise ValueError("after %d writes: the next attempt leaves %s" % (n, os.listdir()))
            leave()
            # Power fails while that boot finishes it
            m = 0
            cut = failed and what
            while cut:
                disk = Ram(0, after.size, after.data)
                enter(disk, m, torn)
                try:
                    credentials.finish_replacement(names)
                    cut = False
                except OSError:
                    again += 1
                got = boot(disk, names)
                if got != (old if what == "old" else new):
                    twice[broken(got, old + new, names)] += 1
                leave()
                m += 1
            n += failed
        print("KEYS", "torn" if torn else "whole", n, seen["old"], seen["new"], *once[1:], again, *twice[1:])
    # No room for them, and a file system that takes nothing
    disk = Ram(0, first.size, first.data)
    enter(disk)
    i = 0
    while put(b"/d/fill%d" % i, b"x" * 2000) == [0, 0]:
        i += 1
    for _ in range(2):
        try:
            send(files, new, rename)
            raise ValueError("stored what there is no room for")
        except OSError as e:
            code = e.errno
        for name in reversed(files):  # Cable.stage()
            try:
                os.remove(name + ".new")
            except OSError:
                pass
        data = disk.data
        if boot(disk, names) != old:
            raise ValueError("without room: %s" % os.listdir())
        leave()
        print("KEYS", code)
        disk = Ram(0, first.size, data)
        enter(disk, readonly=True)


if __name__ != "__main__":
    pass  # update.py takes put()
elif len(sys.argv) > 2:
    keys(sys.argv[2])
else:
    power()
    full()
    read_only()
    interrupted()
