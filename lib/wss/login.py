# The password, and what a wrong one costs.
# In: bytes typed at "Password: ".  Out: right or wrong, and from when it may be said.  Next: terminal.py.
from micropython import const

from wss.port import later, since

PASSWORD_MAX = const(64)  # bytes

_FIRST = const(125)  # ms before the first denial; doubles with each further one
_WORST = const(4000)
_FORGET = const(60000)  # ms after which a source starts afresh
_SOURCES = const(4)  # sources remembered


def check_password(password):
    """password as bytes; raises ValueError with the way out when it can't be used."""
    if isinstance(password, str):
        password = password.encode()
    if not password or len(password) > PASSWORD_MAX or b"\r" in password or b"\n" in password:
        raise ValueError("the password must have 1 to %d bytes and no line end" % PASSWORD_MAX)
    return password


def same(a, b):
    """Compare two byte strings in a time that does not tell where they differ."""
    diff = len(a) ^ len(b)
    for i in range(len(a)):
        diff |= a[i] ^ b[i % len(b)]
    return not diff


class BackOff:
    """Growing delay for each source of wrong passwords, bounded in memory and time.

    An attempt is judged no earlier than the delay of the wrong ones before it from the same address; it need not stay
    connected meanwhile, so hanging up saves an attacker nothing, and other addresses never wait.
    """

    def __init__(self):
        self._sources = []  # [address, failures, when it may be judged again]

    def _find(self, address, now):
        for s in self._sources:
            if s[0] == address:
                # Ticks wrap, in 12 days at 32 bits: what seems further ahead than any delay was days ago
                if not -_WORST <= since(now, s[2]) <= _FORGET:
                    s[1] = 0
                return s

    def wait(self, address, now):
        """Milliseconds until an attempt from address may be judged, 0 for at once."""
        s = self._find(address, now)
        return max(0, since(s[2], now)) if s and s[1] else 0

    def wrong(self, address, now):
        """Note a wrong password; returns the milliseconds after which it may be denied."""
        s = self._find(address, now)
        if not s:
            if len(self._sources) >= _SOURCES:  # the one that has waited longest gives way
                self._sources.remove(max(self._sources, key=lambda s: since(now, s[2])))
            s = [address, 0, now]
            self._sources.append(s)
        s[1] += 1
        delay = min(_WORST, _FIRST << min(s[1] - 1, 8))
        s[2] = later(now, delay)
        return delay

    def right(self, address):
        """Forget the failures of address."""
        s = self._find(address, 0)
        if s:
            self._sources.remove(s)
