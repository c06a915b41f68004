# ruff: noqa: E501, I001, SIM105
"""Updates of a bundle on a real file system (littlefs or FAT in memory) whose power fails at each write in turn.

`micropython update.py lfs|fat STEP LOADER`: every STEP-th write, whole and torn; LOADER is tools/wssctl/onboard/loader.py.
What `wssctl update` has a board do runs here without the network: puts, then begin(). After each failure the image is
mounted anew and boots: the old bundle runs, or the new one if the change-over was complete.
"""

import os
import sys
import vfs

from ram import Ram
from power import put

KIND, STEP, LOADER = sys.argv[1], int(sys.argv[2]), sys.argv[3]
with open(LOADER) as f:
    SOURCE = f.read()

BUNDLE = {
    "wss/port.py": "NAME = %r\nupdate_note = ''\n" + "# filler of a length that takes several blocks\n" * 30,
    "wss/other.py": "NAME = %r\n",
    "wss_repl.py": "VERSION = %r\nfrom wss import port, other\ndef status():\n return {'client': 1, 'listening': ['wss://x']}\n",
}


class Board:
    """What the loader uses of a board; a reset ends the process that it is."""

    class Reset(Exception):
        pass

    def WDT(self, timeout):
        raise ValueError

    def reset(self):
        raise Board.Reset

    def __init__(self):
        self.start_new_thread = lambda function, args: None  # not a method, which can't be imported


sys.modules["machine"] = sys.modules["_thread"] = Board()


mounted = []  # kept, because what a failure left open is closed by the collector, at any later time


def mount(disk, left=None, torn=False):
    kind = vfs.VfsLfs2 if KIND == "lfs" else vfs.VfsFat
    mounted.append(kind(disk))
    vfs.mount(mounted[-1], "/d")
    os.chdir("/d")
    disk.left = left
    disk.torn = torn


def unmount(disk):
    """Power is off: nothing of what is still open gets there. Returns the disk as it is found later."""
    after = Ram(0, disk.size, disk.data)
    os.chdir("/")
    try:
        vfs.umount("/d")
    except OSError:
        pass
    disk.gone = True
    disk.data = None
    return after


def write(name, text):
    if put(name.encode(), text.encode()) != [0, 0]:
        raise OSError(5)


def boot():
    """(version that runs, whether all of it is of one version, whether it is on trial)"""
    for name in list(sys.modules):
        if name.split(".")[0] in ("wss_repl", "wss", "wss_update"):
            del sys.modules[name]
    sys.path[:] = ["", "/d/lib"]
    __import__("wss_repl")
    real = sys.modules["wss_repl"]
    update = sys.modules.get("wss_update")
    whole = real.port.NAME == real.other.NAME == real.VERSION
    return real.VERSION, whole, bool(update and update.trial)


def loader():
    names = {"__name__": "wss_update"}
    exec(SOURCE, names)
    return names


def steps(new, folder, good, source=SOURCE):
    """An update from its first write to the change-over."""
    try:
        with open("/d/wss_repl.py") as f:
            there = f.read() == source
    except OSError:
        there = False
    if not there:
        write("/d/wss_repl.py", source)
    for name in (folder, folder + "/wss"):
        try:
            os.mkdir(name)
        except OSError as e:
            if e.errno != 17:
                raise
    for name, text in BUNDLE.items():
        write(folder + "/" + name, text % new)
    loader()["begin"](good, folder, new, 60, "x")


def image(updated):
    disk = Ram(160)
    (vfs.VfsLfs2 if KIND == "lfs" else vfs.VfsFat).mkfs(disk)
    mount(disk)
    os.mkdir("lib")
    os.mkdir("lib/wss")
    for name, text in BUNDLE.items():
        with open("lib/" + name, "w") as f:
            f.write(text % "one")
    if updated:  # the third takes the place of the first, in lib
        steps("two", "/d/wss_a", "/d/lib")
        boot()
        sys.modules["wss_update"].confirm("x")
        if boot() != ("two", True, False):
            raise ValueError(boot())
    return unmount(disk)


def update_cut(first, old, new, folder, good, source=SOURCE):
    """Power fails during the update, and then the board goes on by itself.

    Another loader: FAT's rename removes the old one first. Without any the bundle in lib runs, which is whole."""
    for torn in (False, True):
        n = 0
        seen = {old: 0, new: 0}
        if source != SOURCE and KIND == "fat":
            seen["one"] = 0
        done = False
        while not done:
            disk = Ram(0, first.size, first.data)
            mount(disk, n, torn)
            try:
                steps(new, folder, good, source)
                done = True
            except OSError:
                pass
            disk = unmount(disk)
            mount(disk)
            version, whole, trial = boot()
            if not whole or version not in seen or trial != (version == new) or done and not trial:
                raise ValueError("cut at %d: %s" % (n, (version, whole, trial)))
            seen[version] += 1
            if trial and boot()[:2] != (old, True):  # nobody has logged in: the second start goes back
                raise ValueError("cut at %d: not taken back" % n)
            steps(new, folder, good, source)  # the next attempt succeeds
            got = boot()
            if got != (new, True, True):
                raise ValueError("cut at %d: %s at the next attempt" % (n, got))
            unmount(disk)
            n += 1 if done else STEP
        print("UPDATE", "torn" if torn else "whole", n, seen[old], seen[new], seen["one"] if old != "one" and "one" in seen else 0)


def later_cut(first, old, new, folder, good, proved):
    """Power fails while the state is written: at the first start, and when it is proved or taken back."""
    disk = Ram(0, first.size, first.data)
    mount(disk)
    steps(new, folder, good)
    begun = unmount(disk)
    for torn in (False, True):
        n = 0
        done = False
        seen = {old: 0, new: 0}
        while not done:
            disk = Ram(0, begun.size, begun.data)
            mount(disk, n, torn)
            try:
                boot()
                if proved and sys.modules["wss_update"].trial:
                    sys.modules["wss_update"].confirm("x")
                elif not proved:
                    boot()
            except OSError:
                pass
            done = disk.left > 0 or disk.left == 0 and not torn and n > 40
            disk = unmount(disk)
            mount(disk)
            boot()
            version, whole, trial = boot()  # the third or fourth start since: it is settled
            if not whole or trial or version not in seen or done and version != (new if proved else old):
                raise ValueError("cut at %d: %s" % (n, (version, whole, trial)))
            seen[version] += 1
            unmount(disk)
            n += 1
        print("PROVED" if proved else "BACK", "torn" if torn else "whole", n, seen[old], seen[new])


for updated, old, new, folder, good in (
    (False, "one", "two", "/d/wss_a", "/d/lib"),
    (True, "two", "three", "/d/lib", "/d/wss_a"),
):
    first = image(updated)
    update_cut(first, old, new, folder, good)
    for proved in (True, False):
        later_cut(first, old, new, folder, good, proved)
update_cut(first, "two", "three", "/d/lib", "/d/wss_a", SOURCE + "# another\n")
