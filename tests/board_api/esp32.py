"""ESP32's `esp32.Partition` over files, for the stand-in, and a bootloader that honours the marks of its rollback.

Two partitions for applications, /flash_ota_0 and /flash_ota_1 (whose length is the partition's), and /flash_otadata:
which is started, and what is known of each: "new", "pending" (started once), "valid" or "aborted". The bootloader runs
at the first import after any reset, also a soft one, which a real one would not notice. /flash_cut with a number in it
takes the power away inside of that write, once; /flash_writes counts them.
"""

import json
import machine
import os
from hashlib import sha256

_DATA = "/flash_otadata"
_BLOCK = 4096


def _read(name, otherwise):
    try:
        with open(name) as f:
            return f.read()
    except OSError:
        return otherwise


def _write(name, text):
    with open(name, "w") as f:
        f.write(text)


_cut = int(_read("/flash_cut", "-1"))
if _cut >= 0:
    os.remove("/flash_cut")


def _power():
    # Before each write to flash
    global _cut
    _write("/flash_writes", str(int(_read("/flash_writes", "0")) + 1))
    if _cut == 0:
        return False
    _cut -= 1
    return True


def _other(label):
    return "ota_1" if label == "ota_0" else "ota_0"


def _bootloader():
    data = json.loads(_read(_DATA, '{"boot": "ota_0", "ota_0": "valid", "ota_1": "aborted"}'))
    label = data["boot"]
    if data[label] == "new":
        data[label] = "pending"
    elif data[label] == "pending":
        data[label] = "aborted"
        data["boot"] = label = _other(label)
    _write(_DATA, json.dumps(data))
    return label


_running = _bootloader()


class Partition:
    BOOT = 0
    RUNNING = 1
    TYPE_APP = 0
    TYPE_DATA = 1

    def __init__(self, which):
        self._label = _running if which == self.RUNNING else which
        self._name = "/flash_" + self._label

    @classmethod
    def find(cls, type=0, subtype=255, label=None, block_size=4096):
        return [cls(n) for n in ("ota_0", "ota_1") if label in (None, n)] if type == 0 else []

    def info(self):
        return 0, 16 + int(self._label[-1]), 0x10000, os.stat(self._name)[6], self._label, False

    def get_next_update(self):
        try:
            os.stat("/flash_" + _other(_running))
        except OSError:
            raise OSError(2)  # a table with one application
        return Partition(_other(_running))

    def readblocks(self, block, data, offset=0):
        with open(self._name, "rb") as f:
            f.seek(block * _BLOCK + offset)
            f.readinto(data)

    def writeblocks(self, block, data, offset=0):
        assert self._label != _running and len(data) % _BLOCK == 0
        whole = _power()
        with open(self._name, "r+b") as f:
            f.seek(block * _BLOCK + offset)
            f.write(data if whole else bytes(data[: len(data) // 2]))
        if not whole:
            machine.reset()

    def _image(self):
        # The heap is smaller than an image
        with open(self._name, "rb") as f:
            head = f.read(24)
            at = 24
            for _ in range(head[1]):
                f.seek(at + 4)
                at += 8 + int.from_bytes(f.read(4), "little")
            left = (at // 16 + 1) * 16
            h = sha256()
            f.seek(0)
            while left > 0 and (data := f.read(min(left, _BLOCK))):
                h.update(data)
                left -= len(data)
            return head[0] == 0xE9 and h.digest() == f.read(32)

    def set_boot(self):
        if not self._image():
            raise OSError(-5379)  # ESP_ERR_OTA_VALIDATE_FAILED
        if not _power():
            machine.reset()
        data = json.loads(_read(_DATA, ""))
        data["boot"] = self._label
        data[self._label] = "new"
        _write(_DATA, json.dumps(data))

    @classmethod
    def mark_app_valid_cancel_rollback(cls):
        data = json.loads(_read(_DATA, ""))
        data[_running] = "valid"
        _write(_DATA, json.dumps(data))


def version():
    """What the running image says it is: this stand-in's way of being another firmware."""
    data = bytearray(32)
    Partition(Partition.RUNNING).readblocks(0, data, 48)
    return bytes(data).split(b"\0")[0].decode()
