# Which hosts are turned away although the CA signed them, and what time it is at least.
# In: certificates in DER, wss_trust.txt, wss_time.txt.  Out: let in or not, and why; the clock.  Next: session.py.
import os
import time
from binascii import hexlify, unhexlify
from hashlib import sha256
from micropython import const


FILE = "wss_trust.txt"
_CLOCK = const("wss_time.txt")

_FILE_MAX = const(204800)  # bytes: 1,000 fingerprints with names, read line by line
_LINE_MAX = const(160)
_CHAIN_MAX = const(9)  # certificates above a host's own: as many as mbedTLS builds (MBEDTLS_X509_MAX_INTERMEDIATE_CA)
_DAY = const(86400)
_REFUSE = const(-0x3000)  # MBEDTLS_ERR_X509_FATAL_ERROR: the peer gets the alert access_denied

_why = None  # (cause, details) of the latest refusal
_depth = 0
_above = []  # serials and fingerprints of the certificates above a host's own
peer = None  # (name, serial) of the host that verify() has let in; session.py takes it


class Damaged(ValueError):
    pass


def tlv(der, i, tag=None):
    # (tag, start, end) of the DER value at i (X.690 section 8.1)
    t = der[i]
    n = der[i + 1]
    i += 2
    if n & 128:
        k = n & 127
        n = int.from_bytes(bytes(der[i : i + k]), "big")
        i += k
    if i + n > len(der) or (tag is not None and t != tag):
        raise ValueError("not a certificate")
    return t, i, i + n


def fields(cert):
    """(serial in hex, not before, not after) of a certificate in DER (RFC 5280 section 4.1).

    Dates are (year, month, day, hour, minute, second) in UTC. Raises ValueError.
    """
    try:
        i = tlv(cert, tlv(cert, 0, 0x30)[1], 0x30)[1]
        t, start, end = tlv(cert, i)
        if t == 0xA0:  # version
            _, start, end = tlv(cert, end, 2)
        if end - start > 21:  # RFC 5280 section 4.1.2.2: 20 bytes, and a zero in front
            raise ValueError("not a certificate")
        serial = hexlify(cert[start:end]).decode().lstrip("0")
        for _ in range(3):  # signature algorithm, issuer, validity
            _, start, end = tlv(cert, end, 0x30)
        t, a, b = tlv(cert, start)
        first = parse_date(t, bytes(cert[a:b]))
        t, a, b = tlv(cert, b)
        return serial, first, parse_date(t, bytes(cert[a:b]))
    except IndexError:
        raise ValueError("not a certificate")


def _name(cert):
    # The common name in the subject, for people to read. It is looked for behind the dates, because the issuer before
    # them has one, too. Whoever made the certificate chose its characters: only printable ASCII is let through.
    cert = bytes(cert)
    i = cert.find(b"\x06\x03\x55\x04\x03", cert.find(b"\x17\x0d"))
    if i < 0:
        return "?"
    _, a, b = tlv(cert, i + 5)
    # Not with chr(): the firmware keeps each letter for ever, as a name.
    return bytes([c if 32 <= c < 127 else 63 for c in cert[a : min(b, a + 40)]]).decode()


def parse_date(tag, text):
    # UTCTime or GeneralizedTime (RFC 5280 section 4.1.2.5)
    if tag == 0x17:
        text = (b"19" if text >= b"5" else b"20") + text
    return (int(text[:4]),) + tuple([int(text[i : i + 2]) for i in range(4, 14, 2)])


def show(date):
    """A date as text."""
    return "%04d-%02d-%02d %02d:%02d UTC" % date[:5]


def place(name=FILE):
    """The absolute name of the list: one place, whatever folder a program on the board has gone to."""
    try:
        if os.statvfs("/")[0]:
            return "/" + name
    except OSError:
        pass  # the root is no file system: WiPy, pyboard
    return "/flash/" + name


def listed(serial="", fingerprint="", name=None, above=()):
    """(revoked, pinned) for a certificate; (False, None) when there is no list. Raises Damaged, OSError.

    above: serials and fingerprints of the certificates between it and the root: to revoke one of them is to revoke all
    below it. pinned is None when the list pins nobody.

    The list is read for each login, so a change that arrives over wss counts from the next login on. It is read line
    by line, so that its length costs no memory.
    """
    revoked = False
    pinned = None
    n = total = 0
    line = ""
    name = name or place()
    try:
        f = open(name)
    except OSError as e:
        if e.errno == 2:
            return False, None
        raise
    with f:
        while True:
            try:
                line = f.readline(_LINE_MAX + 1)
            except UnicodeError:
                line = "\xff"  # refused below, which names the line
            if not line:
                # A list without its end would let in the hosts that are revoked there.
                raise Damaged("%s is cut off" % name)
            n += 1
            total += len(line)
            if total > _FILE_MAX:
                raise Damaged("%s is over %d bytes" % (name, _FILE_MAX))
            if len(line) > _LINE_MAX:
                raise Damaged("%s is malformed in line %d" % (name, n))
            words = line.split("#")[0].split()
            if not words:
                continue
            if words == ["end"]:
                try:
                    for line in f:
                        if line.split("#")[0].strip():
                            raise UnicodeError
                except UnicodeError:
                    raise Damaged("%s has text behind its end" % name)
                return revoked, pinned
            if words == ["pinned"]:  # only pinned hosts are let in, even if none is listed
                pinned = pinned or False
                continue
            if len(words) != 2 or words[0] not in ("revoked", "pinned") or not 0 < len(words[1]) <= 64:
                raise Damaged("%s is malformed in line %d" % (name, n))
            which = words[1].lower()
            try:
                unhexlify("0" * (len(which) & 1) + which)  # digit by digit takes most of a login's time
            except ValueError:
                raise Damaged("%s is malformed in line %d" % (name, n))
            which = which.lstrip("0") if len(which) < 64 else which
            hit = which == serial or which == fingerprint
            if words[0] == "revoked":
                revoked = revoked or hit or which in above
            else:
                pinned = pinned or hit


def verify(cert, depth):
    """mbedTLS calls this for each certificate of a chain, from the root to the leaf (depth 0). 0 lets it pass.

    Must not raise: its caller is C code through which no exception may pass (extmod/modtls_mbedtls.c,
    ssl_sock_cert_verify).
    """
    global _why, _depth, peer
    try:
        if depth >= _depth:
            _why = None
            _above.clear()
        _depth = depth
        serial, first, last = fields(cert)
        now = time.gmtime()[:6]
        if not first <= now <= last and not _why:
            # mbedTLS refuses it by itself. Here is noted which certificate it was, and its dates.
            when = "expired" if now > last else "from the future"
            _why = when, "%s certificate %s is %s: it is valid from %s to %s, and here it is %s" % (
                "CA" if depth else "host", serial, when, show(first), show(last), show(now)
            )  # fmt: skip
        fingerprint = hexlify(sha256(cert).digest()).decode()
        if depth:
            if len(_above) == 2 * _CHAIN_MAX:
                raise ValueError("its chain is too long")
            _above.extend((serial, fingerprint))
            return 0
        revoked, pinned = listed(serial, fingerprint, None, _above)
        if revoked:
            _why = "revoked", "host certificate %s is revoked in %s" % (serial, FILE)
        elif pinned is False:
            _why = "not pinned", "host certificate %s is not pinned in %s" % (serial, FILE)
        else:
            peer = _name(cert), serial
            return 0
    except Damaged as e:
        _why = "trust list", "%s: send it again" % e
    except BaseException as e:
        _why = "trust list", "the host certificate can't be checked (%r)" % e
    return _REFUSE


def reason():
    """(cause, details) when verify() has refused the latest chain, else None. The second call returns None."""
    global _why
    why = _why
    _why = None
    return why


def stored():
    """The time that remember() has stored, as six numbers; () when there is none."""
    try:
        with open(place(_CLOCK)) as f:
            date = tuple([int(x) for x in f.read(40).split()])
        for n, least, most in zip(date, (2000, 1, 1, 0, 0, 0), (2099, 12, 31, 23, 59, 59)):
            if not least <= n <= most:
                return ()
        return date if len(date) == 6 else ()
    except (OSError, ValueError):
        return ()


def remember():
    """Store the time after a login, at most once a day, because flash wears."""
    now = time.gmtime()[:6]
    if stored()[:3] == now[:3]:
        return
    try:
        with open(place(_CLOCK), "w") as f:
            f.write("%d %d %d %d %d %d\n" % now)
    except OSError:
        pass  # a login is possible with a full flash, too
