# Checks the arguments of start(), and makes from them what a server needs. It is unloaded afterwards, with all modules
# that it has loaded, because on a board without PSRAM a session needs every kilobyte.
# In: start()'s arguments.  Out: what wss_repl.py gives to server.py.
from micropython import const

from wss import port as _port
from wss import probe

_PASSWORD_MAX = const(64)  # bytes, as in login.py


def _password(password):
    if isinstance(password, str):
        password = password.encode()
    good = isinstance(password, (bytes, bytearray)) and 0 < len(password) <= _PASSWORD_MAX
    if not good or b"\r" in password or b"\n" in password:
        raise ValueError("the password must have 1 to %d bytes and no line end" % _PASSWORD_MAX)
    return password


def check(port, password, ssl, key, cert, ca, host, write_timeout, timer, log, update_key):
    """(getaddrinfo()'s entry, TLS context or None, password, what the certificate lacks, update keys, timer or None,
    Log or None, URLs); the arguments are start()'s. Raises ValueError, which says what to do."""
    if password is None:
        try:
            from webrepl_cfg import PASS as password
        except ImportError:
            raise ValueError("no password: pass one, or write webrepl_cfg.py with PASS = '...'")
    password = _password(password)
    number = port or (8833 if ssl else 8266)
    if not isinstance(number, int) or not 0 < number < 65536:
        raise ValueError("a port is 1 to 65535")
    if not isinstance(write_timeout, int) or not 0 < write_timeout < 1 << 29:
        raise ValueError("write_timeout is a number of ms")
    found = probe.resolve(host, number)
    context = update_keys = None
    lacks = []
    if update_key and not ssl:
        raise ValueError("update_key needs ssl")
    if ssl:
        from wss.credentials import context as load

        context, lacks = load(key, cert, ca)
        if update_key:
            try:
                from wss.signed import trusted_keys
            except ImportError:
                raise ValueError("update_key needs wss/signed and wss/enrol: this firmware is without them")
            update_keys = trusted_keys(update_key, ca)
    timer = _port.timer(timer)  # this can raise, so it comes before anything listens
    if log:
        from wss.log import Log

        log = Log(log)
    scheme = "wss" if ssl else "ws"
    url = [("%s://[%s]:%d" if ":" in a else "%s://%s:%d") % (scheme, a, number) for a in probe.addresses(host)]
    return found, context, password, lacks, update_keys, timer, log, url
