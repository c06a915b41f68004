"""`wssctl firmware`: an application image on an ESP32 over the network, which the board takes back if it fails.

The image is checked here, streamed into the partition that does not run (onboard/firmware.py), read back, and booted
once. onboard/loader.py limits its time as it does for a bundle; a login over wss lets ESP-IDF keep it. Otherwise the
bootloader, at the reset that the board makes itself, starts the old one. While it is written the board's program is
stopped: erasing flash stops both processors again and again, and what a program does meanwhile comes late or never.
"""

import argparse
import functools
import hashlib
import io
import re
import secrets
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import BoardError, KeyFileError, NotNow
from ..keys.signing import UpdateKey, now
from ..keys.store import write_files
from ..text import brief, say
from ..wire.remote import Remote
from . import modules
from .dialler import Dialler
from .update import (
    LOADER,
    Survey,
    Trial,
    ask,
    number,
    place_loader,
    refuse_loader,
    refuse_unstarted,
    refuse_without_room,
    run,
    signature_for,
    survey,
    try_out,
)

SUFFIX = ".signed"  # beside an image: its signature
_PIECE = 65536  # bytes that are compared at once, and sent again together: a multiple of a flash block
# ESP-IDF, components/bootloader_support/include/esp_app_format.h (esp_chip_id_t)
_CHIPS = {0: "ESP32", 2: "ESP32-S2", 5: "ESP32-C3", 9: "ESP32-S3", 12: "ESP32-C2", 13: "ESP32-C6", 16: "ESP32-H2",
          18: "ESP32-P4"}  # fmt: skip
_HEADER, _SEGMENT, _HASH = 24, 8, 32
_MAGIC, _DESCRIPTION = 0xE9, 0xABCD5432
_SECTOR = 4096
_LARGEST = 32 << 20  # bytes: no ESP32's flash has more
# How other files begin that people take for an image
_OTHERS = {
    b"\x7fELF": "it is an ELF file, as the linker makes it",
    b"UF2\n": "it is a UF2 file",
    b"\x1f\x8b": "it is compressed",
    b"BZh": "it is compressed",
    b"\xfd7zXZ": "it is compressed",
    b"\x28\xb5\x2f\xfd": "it is compressed",
    b"PK": "it is an archive",
    b":": "it is an Intel HEX file",
    b"\xff" * 16: "it begins with empty flash, so it is all of a flash",
}


@dataclass(frozen=True)
class Image:
    """An application image for ESP-IDF's bootloader: its bytes, the number of its chip, the version it says it has."""

    data: bytes
    chip: int
    version: str


def _description(data: bytes) -> tuple[int, str]:
    """(chip, version) of an image's first 288 bytes (esp_app_format.h, esp_app_desc.h). Raises ValueError."""
    if data[:1] != bytes([_MAGIC]):
        raise ValueError("its first byte is not 0xE9")
    if len(data) < 288:
        raise ValueError("it is cut off")
    if struct.unpack_from("<I", data, _HEADER + _SEGMENT)[0] != _DESCRIPTION:
        raise ValueError("it has no application in it; is it the bootloader, or all of a flash? Take the .app-bin")
    return struct.unpack_from("<H", data, 12)[0], data[48:80].split(b"\0")[0].decode("ascii", "replace")


def parse(data: bytes) -> Image:
    """Raises ValueError, in words, for what the bootloader would not start: wrong magic, cut, changed."""
    if not data:
        raise ValueError("it is empty")
    if len(data) > _LARGEST:
        raise ValueError(f"it has more than {_LARGEST >> 20} MB")
    if other := next((words for start, words in _OTHERS.items() if data.startswith(start)), None):
        raise ValueError(f"{other}; take the .app-bin")
    chip, version = _description(data)
    at = _HEADER
    for _ in range(data[1]):
        if at + _SEGMENT > len(data):
            raise ValueError("it is cut off")
        at += _SEGMENT + struct.unpack_from("<I", data, at + 4)[0]
    end = (at // 16 + 1) * 16  # a checksum is the last byte of a 16-byte line
    if not data[23]:
        raise ValueError("no SHA-256 is appended to it, so nobody can tell whether it is whole")
    if len(data) < end + _HASH:
        raise ValueError("it is cut off")
    if len(data) > end + _HASH and not _is_secure_boot(data, end + _HASH):
        raise ValueError("something follows it; is it all of a flash? Take the .app-bin")
    if hashlib.sha256(data[:end]).digest() != data[end : end + _HASH]:
        raise ValueError("its SHA-256 is another: it is damaged")
    return Image(data, chip, version)


def _is_secure_boot(data: bytes, at: int) -> bool:
    """Whether what follows the image is a signature of secure boot, which the chip itself checks (ESP-IDF's guide,
    security/secure-boot-v1 and -v2): 4 zeros and 64 bytes, or a sector of its own that begins with 0xE7."""
    sector = -(-at // _SECTOR) * _SECTOR
    v2 = len(data) == sector + _SECTOR and data[sector] == 0xE7 and data[at:sector] == b"\xff" * (sector - at)
    return v2 or len(data) == at + 68 and data[at : at + 4] == bytes(4)


def _read(file: str) -> Image:
    try:
        with open(file, "rb") as f:
            return parse(f.read(_LARGEST + 1))
    except OSError as e:
        raise KeyFileError(f"Cannot read {file} ({e.strerror}).") from None
    except ValueError as e:
        raise KeyFileError(f"{file} is no image that a board would start: {e}. Nothing was sent.") from None


def _signed(image: Image) -> str:
    """What is signed of an image (lib/wss/signed.py)."""
    version = re.sub(r"\s", "_", image.version) or "-"
    return f"firmware {version} {now()} {len(image.data)} {hashlib.sha256(image.data).hexdigest()}"


def sign(args: argparse.Namespace) -> int:
    """`wssctl sign FILE`."""
    path = Path(args.out or args.file + SUFFIX)
    data = _signed(_read(args.file))
    write_files({path: UpdateKey.load(args).sign(data)}, args.force)
    print(f"Wrote {path}; `wssctl firmware BOARD {args.file}` takes it along.")
    return 0


def firmware(args: argparse.Namespace) -> int:
    image = _read(args.file)
    if not args.signed and not args.sign and Path(args.file + SUFFIX).exists():
        args.signed = args.file + SUFFIX
    return run(args, lambda dial: _firmware(args, dial, image), "firmware")


@functools.cache
def _code() -> str:
    return modules.without_comments((Path(__file__).parent.parent / "onboard" / "firmware.py").read_text())


_SURVEY = """
def _wssctl_partitions():
 p=other()
 _wssctl_json([running().info()[4],bytes(head(running())).hex(),p and p.info()[4],p and p.info()[3] or 0])
_wssctl_partitions()
"""


def _firmware(args: argparse.Namespace, dial: Dialler, image: Image) -> str:
    with dial() as client:
        remote = Remote(client)
        board = survey(client)
        present, to, old = _partitions(args, remote, board, image)
        refuse_without_room(client)
        signature = signature_for(args, board, lambda: _signed(image))
        first = _first_other(remote, image)
        if first < len(image.data):
            if first:
                say(f"{client.link.target.host}: {first >> 10} of {len(image.data) >> 10} KB are there already.")
            ask(remote, f"{_code()}\nmount()\n_wssctl_json(1)", "make room")
            rest = io.BytesIO(image.data[first:])
            with args.progress(client.link.target.host, len(image.data) - first) as advance:
                client.put(rest, f"/wss_firmware/{first // 4096}", len(image.data) - first, advance)
            ask(remote, f"{_code()}\nunmount()\n_wssctl_json(1)", "end the writing")
            if _first_other(remote, image) < len(image.data):
                raise BoardError("What was sent is not what its flash holds; is it worn? The old firmware goes on.")
        place_loader(remote, board, {LOADER: modules.loader()})
        mark = secrets.token_hex(8)
        begin = (
            f"u['begin']({board.bundle!r},'.frozen',{image.version!r},{round(args.deadline)},{mark!r},{to!r},{present!r})\n"
            "import esp32\nesp32.Partition.find(esp32.Partition.TYPE_APP,label=%r)[0].set_boot()" % to
        )
        trial = Trial(image.version, old, begin, mark, args.deadline, "reset")
        return try_out(dial, client, board, signature, trial)


def _partitions(args: argparse.Namespace, remote: Remote, board: Survey, image: Image) -> tuple[str, str, str]:
    """(label of the partition that runs, of the other one, version that runs). Raises what is against the image."""
    try:
        said: Any = ask(remote, _code() + _SURVEY, "look at its partitions")
    except BoardError as e:
        if "ImportError" in str(e):
            raise BoardError("This is no ESP32: its firmware can't be replaced over the network.") from None
        raise
    if not isinstance(said, list) or list(map(type, said[:2])) != [str, str] or len(said) != 4:
        raise BoardError("It does not say in a form that is understood what partitions it has.")
    present, head, to, size = said
    if not to:
        raise BoardError(
            "Its flash has no second place for firmware: flash an image with OTA partitions once by cable "
            "(BOARD=ESP32_GENERIC_WSS VARIANT=OTA, or one of micropython.org's with OTA)."
        )
    if not isinstance(to, str) or not isinstance(size, int):
        raise BoardError("It does not say in a form that is understood what partitions it has.")
    try:
        chip, old = _description(bytes.fromhex(head))
    except ValueError:
        raise BoardError("The image that it runs is not understood, so none can be compared with it.") from None
    if image.chip != chip:
        raise BoardError(f"The image is for {_chip(image.chip)}, and this is {_chip(chip)}.")
    if len(image.data) > size:
        raise BoardError(f"The image has {len(image.data)} bytes, and {size} fit into its partition.")
    if board.trial:
        raise NotNow("Another update is on trial there; it is proved or taken back within minutes.")
    refuse_unstarted(args, board)
    refuse_loader(board)
    if _older(image.version, old) and not args.force:
        raise BoardError(f"It runs {brief(old)}, which is newer than {image.version}; --force takes the older one.")
    return present, to, brief(old)


def _chip(which: int) -> str:
    return _CHIPS.get(which, f"chip {which}")


def _older(new: str, old: str) -> bool:
    """By what both say: v1.26.1-3-gabcdef. Where one of them has no number, none is older."""
    found = [re.match(r"v?(\d+(?:\.\d+)+)", version) for version in (new, old)]
    return bool(found[0] and found[1] and number(found[0][1]) < number(found[1][1]))


def _first_other(remote: Remote, image: Image) -> int:
    """Up to where the partition holds the image already, in bytes: what a connection that was cut has left."""
    for at in range(0, len(image.data), 16 * _PIECE):
        pieces = [(i, image.data[i : i + _PIECE]) for i in range(at, min(at + 16 * _PIECE, len(image.data)), _PIECE)]
        asked = [(i, len(piece)) for i, piece in pieces]
        code = f"{_code()}\nsums(other(),{asked!r},lambda d:_wssctl_say(_wssctl_hex(d)))"
        words = remote.run(code, "read its flash", answers=len(pieces), attempts=3)
        for (i, piece), said in zip(pieces, words, strict=True):
            if said != [hashlib.sha256(piece).hexdigest()]:
                return i
    return len(image.data)
