# ruff: noqa: E501, I001, SIM105
"""Updates of a bundle on a real file system (littlefs or FAT in memory) whose power fails at each write in turn.

`micropython update.py lfs|fat STEP FOLDER ANOTHER`: every STEP-th write, whole and torn; the folders have the loader's
files as they lie in a board's root, and those of another version of it.
What `wssctl update` has a board do runs here without the network: puts, then begin(). After each failure the image is
mounted anew and boots: the old bundle runs, or the new one if the change-over was complete.
"""

import json
import os
import sys
import vfs
from binascii import hexlify
from hashlib import sha256

from ram import Ram
from power import put

KIND, STEP = sys.argv[1], int(sys.argv[2])


def loader_in(folder):
    """(name, bytes), in the order in which `wssctl update` sends them."""
    files = []
    for name in ("wss_update.mpy", "wss_repl.py"):
        try:
            with open(folder + "/" + name, "rb") as f:
                files.append((name, f.read()))
        except OSError:
            pass
    return files


LOADER, ANOTHER = loader_in(sys.argv[3]), loader_in(sys.argv[4])

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
        if len(LOADER) == 1:  # else the rest of the loader is let go of
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


def write(name, data):
    if put(name.encode(), data) != [0, 0]:
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
    with open("/d/wss_repl.py") as f:
        exec(f.read(), names)
    return names


def confirm():
    """As `wssctl update` does it after a login, which writes the state where the loader is let go of."""
    update = sys.modules["wss_update"]
    if len(LOADER) == 1:
        update.confirm("x")
        return
    there = loader()
    state = there["read"]()
    state.update({"good": state["trial"], "trial": None, "version": state["new"], "n": state["n"] + 1})
    data = json.dumps(state).encode()
    write("/d/wss_state%d" % (state["n"] & 1), hexlify(sha256(data).digest()[:8]) + data)
    update.trial = None


def steps(new, folder, good, source=LOADER):
    """An update from its first write to the change-over."""
    for name, data in source:
        try:
            with open("/d/" + name, "rb") as f:
                there = f.read() == data
        except OSError:
            there = False
        if not there:
            write("/d/" + name, data)
    for name in (folder, folder + "/wss"):
        try:
            os.mkdir(name)
        except OSError as e:
            if e.errno != 17:
                raise
    for name, text in BUNDLE.items():
        write(folder + "/" + name, (text % new).encode())
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
        confirm()
        if boot() != ("two", True, False):
            raise ValueError(boot())
    return unmount(disk)


def update_cut(first, old, new, folder, good, source=LOADER):
    """Power fails during the update, and then the board goes on by itself.

    Another loader: FAT's rename removes the old one first. Without any the bundle in lib runs, which is whole."""
    for torn in (False, True):
        n = 0
        seen = {old: 0, new: 0}
        if source != LOADER and KIND == "fat":
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
                update = sys.modules.get("wss_update")
                if proved and update and update.trial:
                    confirm()
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
update_cut(first, "two", "three", "/d/lib", "/d/wss_a", ANOTHER)
