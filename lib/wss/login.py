# The password, and what a wrong one costs.
# In: bytes typed at "Password: ".  Out: right or wrong, and from when that may be said.  Next: terminal.py.
from micropython import const

from wss.port import ticks_add, ticks_diff

_PASSWORD_MAX = const(64)  # bytes

_DELAY_FIRST = const(125)  # ms before the first denial; the delay doubles with each further one
_DELAY_MAX = const(4000)
_FORGIVEN = const(60000)  # ms after which an address starts afresh
_ADDRESSES_MAX = const(4)


def compare_digest(a, b):
    """Compare two byte strings in a time that does not tell where they differ."""
    diff = len(a) ^ len(b)
    for i in range(len(a)):
        diff |= a[i] ^ b[i % len(b)]
    return not diff


class Login:
    """What one client types at "Password: ".

    failures: the server's list, which is kept from one login to the next. For each address that wrong passwords came
    from it has [address, how many, ticks from which the next one may be judged]. The delay grows with each of them. It
    goes on when the client hangs up, so hanging up saves an attacker nothing. Other addresses never wait.
    """

    def __init__(self, failures, password, address):
        self._failures = failures
        self._password = password
        self._address = address
        self._typed = b""
        self.is_complete = False  # whether the line has ended

    def feed(self, data):
        """Take typed bytes (memoryview) up to the line's end. Returns how many, 0 when it has ended already."""
        if self.is_complete:
            return 0
        data = bytes(data)
        taken = end = len(data)
        for i in range(end):
            if data[i] == 13 or data[i] == 10:
                end = i
                taken = i + (2 if data[i : i + 2] == b"\r\n" else 1)
                break
        # One byte too many is kept, so that the password is wrong. No jump from here on, see guard.py.
        self._typed = (self._typed + data[:end])[: _PASSWORD_MAX + 1]
        self.is_complete = end < taken
        return taken

    def wait(self, now):
        """Milliseconds until the line may be judged, 0 for at once."""
        f = self._earlier(now)
        return max(0, ticks_diff(f[2], now)) if f and f[1] else 0

    def judge(self, now):
        """0 when the password is right, else the milliseconds after which it may be denied."""
        failures = self._failures
        f = self._earlier(now)
        if compare_digest(self._typed, self._password):
            if f:
                failures.remove(f)
            return 0
        if not f:
            if len(failures) >= _ADDRESSES_MAX:  # the one that has waited longest gives way
                failures.remove(max(failures, key=lambda f: ticks_diff(now, f[2])))
            f = [self._address, 0, now]
            failures.append(f)
        f[1] += 1
        delay = min(_DELAY_MAX, _DELAY_FIRST << min(f[1] - 1, 8))
        f[2] = ticks_add(now, delay)
        return delay

    def _earlier(self, now):
        for f in self._failures:
            if f[0] == self._address:
                # Ticks wrap, in 12 days at 32 bits: what seems further ahead than any delay was days ago.
                if not -_DELAY_MAX <= ticks_diff(now, f[2]) <= _FORGIVEN:
                    f[1] = 0
                return f
