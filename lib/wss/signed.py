# Whether an update is signed by a key that the board's ROOT CA issued for updates, and for nothing else.
# In: the file wss_signed, and the files or the partition that it speaks of.  Out: when it was signed, or ValueError.
# Loaded for this only: by start(update_key=...), and by onboard/loader.py before it changes over.
import os
import time
from binascii import hexlify
from hashlib import sha256
from micropython import const

from wss import port, trust

_FILE_MAX = const(8192)  # bytes of wss_signed: 25 files' names and sums have 2,300

# The whole extension: extended key usage with codeSigning alone (RFC 5280 section 4.2.1.12). A host's or a board's
# certificate has another one.
_PURPOSE = b"\x06\x03\x55\x1d\x25\x04\x0c\x30\x0a\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x03"
# SubjectPublicKeyInfo of a P-256 key up to its x (RFC 5480 section 2)
_KEY = b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\0\4"


def trusted_keys(update_key, ca):
    """What an update may be signed with: (the one certificate in DER that may sign or None, the ROOT CAs in DER).

    update_key: True takes any update key of the ROOT CA; a file name or bytes (PEM or DER) is the certificate of the
    only one. ca: as given to start(). Raises ValueError.
    """
    from wss.credentials import places, read

    cas, _ = read(ca, places(port.uid())[2], "CA certificate")
    if update_key is True:
        return None, cas
    pin = read(update_key, (), "update key")[0][0]
    _parts(pin, True)
    return pin, cas


def _numbers(der):
    # r, s of an ECDSA signature (RFC 3279 section 2.2.3)
    i = trust.tlv(der, 0, 0x30)[1]
    _, a, i = trust.tlv(der, i, 2)
    _, b, c = trust.tlv(der, i, 2)
    return int.from_bytes(der[a:i], "big"), int.from_bytes(der[b:c], "big")


def _parts(cert, updates=False):
    # (signed part, signature, (x, y)) of a certificate; updates: it has to be for them
    try:
        tlv = trust.tlv
        start = tlv(cert, 0, 0x30)[1]
        _, i, end = tlv(cert, start, 0x30)
        _, a, b = tlv(cert, tlv(cert, end, 0x30)[2], 3)
        for tag in (0xA0, 2, 0x30, 0x30, 0x30, 0x30):  # version 3, serial, algorithm, issuer, validity, subject
            i = tlv(cert, i, tag)[2]
        k = i + len(_KEY)
        if cert[i:k] != _KEY:
            raise ValueError("its key is no P-256 key")
        if updates and cert.find(_PURPOSE, k + 64, end) < 0:
            raise ValueError("its certificate is not for updates")
        point = int.from_bytes(cert[k : k + 32], "big"), int.from_bytes(cert[k + 32 : k + 64], "big")
        return cert[start:end], cert[a + 1 : b], point
    except IndexError:
        raise ValueError("not a certificate")


def _digest(read, size):
    # SHA-256 in hex of what read(view, offset) brings, size bytes
    h = sha256()
    data = memoryview(bytearray(1024))
    done = 0
    while done < size:
        n = min(size - done, 1024)
        read(data[:n], done)
        h.update(data[:n])
        done += n
    return hexlify(h.digest()).decode()


def _number(version):
    # To compare: v1.26.0-3-gabcdef
    return [int(n) if n.isdigit() else -1 for n in version.lstrip("v").split("-")[0].split(".")]


def _bundle(folder, lines):
    # All that was signed has to be there, but for parts that firmware may leave out, and nothing else that an import
    # could find. lib holds files of others, too, our own folders do not.
    sums = dict([line.split(" ")[::-1] for line in lines])
    for part in ("", "wss/"):
        for entry in os.ilistdir(folder + "/" + part):
            name = part + entry[0]
            if name == "wss" or folder[-6:-1] != "/wss_" and not part and entry[0].split(".")[0] not in _TOP:
                continue
            path = folder + "/" + name
            if name in sums:
                with open(path, "rb") as f:
                    if _digest(lambda view, at: f.readinto(view), os.stat(path)[6]) == sums.pop(name):
                        continue
            raise ValueError("%s is not what was signed" % name)
    for name in sums:
        if name.split(".")[0] not in _OPTIONAL:
            raise ValueError("%s is missing" % name)


_TOP = ("wss", "wss_repl", "wss_helper", "ussl")
_OPTIONAL = ("ussl", "wss_helper", "wss/page", "wss/about", "wss/log")


def _firmware(label, size, digest):
    from esp32 import Partition

    part = Partition.find(Partition.TYPE_APP, label=label)[0]
    if _digest(lambda view, at: part.readblocks(at // 4096, view, at % 4096), size) != digest:
        raise ValueError("the image is not what was signed")
    head = bytearray(32)
    Partition(Partition.RUNNING).readblocks(0, head, 48)  # esp_app_desc.h: version
    return head.split(b"\0")[0].decode()


def check(keys, name, place, image, floor):
    """When it was signed, "YYYYMMDDhhmmss" in UTC. Raises ValueError with why it is not taken, OSError.

    keys: what trusted_keys() returned. name: of the file with the signature. That file is the signer's certificate and
    an ECDSA signature of the rest, both in DER, and that rest: a line "bundle VERSION TIME" and a line "SHA-256 NAME"
    for each file, or "firmware VERSION TIME SIZE SHA-256". place: the bundle's folder, or the label of the image's
    partition. floor: when the latest update that was taken was signed, "" if none was taken yet; then an older version
    than the one that runs is refused.
    """
    from wss import enrol

    pin, cas = keys
    try:
        size = os.stat(name)[6]
    except OSError:
        raise ValueError("it is not signed")
    if size > _FILE_MAX:
        raise ValueError("the signature is too long")
    with open(name, "rb") as f:
        data = f.read()
    try:
        a = trust.tlv(data, 0, 0x30)[2]
        b = trust.tlv(data, a, 0x30)[2]
        cert = data[:a]
        r, s = _numbers(data[a:b])
        message = data[b:]
        tbs, signature, point = _parts(cert, True)
        if pin and cert != pin:
            raise ValueError("another key has signed it")
        serial, first, last = trust.fields(cert)
        if trust.listed(serial, hexlify(sha256(cert).digest()).decode())[0]:
            raise ValueError("its key is revoked")
        lines = message.decode().split("\n")
        words = lines[0].split(" ")
        signed = trust.parse_date(0x18, words[2].encode())
        # The board's clock may be slow, so it cannot tell that a key is from the future.
        if not first <= signed <= last or time.gmtime()[:6] > last:
            raise ValueError("its key is not valid at that time")
    except IndexError:
        raise ValueError("the signature is damaged")
    if not enrol.verify(*point, sha256(message).digest(), r, s):
        raise ValueError("the signature is wrong")
    digest = sha256(tbs).digest()
    r, s = _numbers(signature)
    for ca in cas:
        try:
            if enrol.verify(*_parts(ca)[2], digest, r, s):
                break
        except ValueError:
            pass  # a CA with a key of another kind signs no update keys
    else:
        raise ValueError("its key is not of this board's ROOT CA")
    if words[0] != ("firmware" if image else "bundle"):
        raise ValueError("what was signed is something else")
    if image:
        runs = _firmware(place, int(words[3]), words[4])
    else:
        _bundle(place, lines[1:-1])
        runs = port.VERSION
    if words[2] < floor:
        raise ValueError("it was signed before what was taken last: sign it again")
    if not floor and _number(words[1]) < _number(runs):
        raise ValueError("it is older than what runs")
    return words[2]
