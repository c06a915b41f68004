# An application image for ESP-IDF's two partitions, by puts into a folder that writes to the one that does not run.
# wssctl sends this file and runs it, with the board's program stopped; nothing of it stays.

from hashlib import sha256

import esp32
import vfs

MOUNT = "/wss_firmware"
_BLOCK = 4096  # what flash erases at once
PIECE = 65536  # what same() compares at once


def running():
    return esp32.Partition(esp32.Partition.RUNNING)


def other():
    """The partition that the next image goes into, None where there is no other."""
    try:
        part = running().get_next_update()
    except OSError:
        return None
    return None if part.info()[4] == running().info()[4] else part


def head(part):
    """The first bytes of an image: its header, that of the first segment and the description of the application."""
    data = bytearray(288)
    part.readblocks(0, data, 0)
    return data


def sums(part, pieces, say):
    """Calls say(digest) with the SHA-256 of each piece of the partition: [(offset, bytes)]."""
    data = bytearray(_BLOCK)
    view = memoryview(data)
    for at, size in pieces:
        h = sha256()
        while size:
            n = min(size, _BLOCK)
            part.readblocks(at // _BLOCK, view[:n], at % _BLOCK)
            h.update(view[:n])
            at += n
            size -= n
        say(h.digest())


class _File:
    # Written from a block's beginning on. What is left at the end is filled up with erased flash's bytes.

    def __init__(self, part, block):
        self._part = part
        self._at = block
        self._data = bytearray(_BLOCK)
        self._n = 0

    def write(self, data):
        done = 0
        while done < len(data):
            n = min(len(data) - done, _BLOCK - self._n)
            self._data[self._n : self._n + n] = data[done : done + n]
            done += n
            self._n += n
            if self._n == _BLOCK:
                self._flush()
        return done

    def _flush(self):
        if (self._at + 1) * _BLOCK > self._part.info()[3]:
            raise OSError(28)
        self._part.writeblocks(self._at, self._data)
        self._at += 1
        self._n = 0

    def close(self):
        if self._n:
            for i in range(self._n, _BLOCK):
                self._data[i] = 0xFF
            self._flush()


class _Folder:
    # A file system (docs.micropython.org, vfs) whose file N.part is the partition from its block N on.

    def __init__(self, part):
        self._part = part

    def mount(self, readonly, mkfs):
        pass

    def umount(self):
        pass

    def open(self, path, mode):
        return _File(self._part, int(path.strip("/").split(".")[0]))

    def stat(self, path):
        raise OSError(2)

    def remove(self, path):
        raise OSError(2)

    def rename(self, old, new):
        pass  # a put is complete: nothing has to be moved


def mount():
    unmount()
    vfs.mount(_Folder(other()), MOUNT)


def unmount():
    try:
        vfs.umount(MOUNT)
    except OSError:
        pass


