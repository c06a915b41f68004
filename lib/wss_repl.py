"""WebREPL over TLS with mutual authentication: a drop-in for `webrepl` and for upydev's `wss_repl`.

    import wss_repl
    wss_repl.start(ssl=True)        # wss://board:8833, password from webrepl_cfg.PASS

Raises ImportError, in one sentence, on firmware that can't do it.
"""

import gc
from micropython import const
from time import time as _time

from wss import port as _port
from wss.probe import missing as _missing

if _missing():
    raise ImportError(_missing())
del _missing

VERSION = _port.VERSION

_THRESHOLD = const(4096)  # bytes allocated between two collections on a board without memory to spare

_server = None
_url = None
_lacks = []
began = 0, 0  # time.time() and ticks_ms() at start(), for wss/about.py

# The names that webrepl and upydev use. client_swr takes bytes that go out without a frame: upydev's `get` runs
# rcat(..., stream=client_swr).
listen_s = None
client_s = None
client_swr = None


def _changed(session):
    global client_s, client_swr
    client_s = session and session.sock
    client_swr = session and session.sender


def start(port=None, password=None, ssl=True, auth=True, *, key=None, cert=None, ca=None, host="0.0.0.0",
          write_timeout=2000, timer=None, log=0, update_key=None):
    """Listen, and answer in the background. Returns at once.

    port: TCP port, 8833 with TLS and 8266 without. password: 1 to 64 bytes; None takes webrepl_cfg.PASS.
    ssl: False is the old plain-text WebREPL, for a network you trust. auth: taken for upydev's sake; clients are
    always authenticated. key, cert, ca: file name or bytes, PEM or DER; None takes SSL_key<uid>.der,
    SSL_certificate<uid>.der and ROOT_CA_cert.pem in the root, or WiPy's names in /flash/cert. write_timeout: how long,
    in ms, output waits for a client that stopped reading before the session ends. timer: the machine.Timer (or its id)
    that lets Ctrl-C reach a busy program; None finds an unused one, False takes none. log: how many bytes of what is
    printed are kept for `wssctl log`, 64 to 65536, with no session too; that takes a quarter more of heap. update_key:
    True: `wssctl update` and `firmware` bring only what is signed by an update key of the ROOT CA; a file name or bytes
    of a certificate: by that key.

    Raises ValueError when port, password, key, certificate or CA are missing or unusable, OSError when the port is
    taken. A server that already runs goes on then, with one exception: one at the same port is stopped first, so it is
    gone if another program takes the port in that moment.
    """
    global _server, _url, _lacks, began, listen_s
    # An ESP32 without PSRAM begins with a heap of 56 KB. When that is full or too fragmented, the firmware doubles it
    # (py/gc.c) and takes the memory from TLS and Wi-Fi, which then lose frames. So the garbage that the imports leave
    # is collected while they go on. Afterwards garbage is collected early on such a board, too: otherwise objects that
    # stay would lie between garbage, and a login would find no free kilobyte in one piece. A threshold that the program
    # has set itself is left as it is.
    threshold = gc.threshold()
    gc.threshold(2048)
    try:
        from wss.server import Server

        if not _port.frozen:
            # To load these in a socket's callback would take time, and heap for the compiler.
            from wss import files, session, upgrade  # noqa: F401
        try:
            from wss.start import check

            found, context, password, lacks, update_keys, timer, log, url = check(
                port, password, ssl, key, cert, ca, host, write_timeout, timer, log, update_key
            )
            del check
        finally:
            _port.unload("start", "probe", "credentials", "pem", "signed")
        # All of them at once: a module that stayed would keep the old copy of another, and an `except` in one copy does
        # not match exceptions of the other.
        _port.unload_frozen(
            "session", "receiver", "sender", "terminal", "typed", "login", "trust", "files", "frames", "upgrade"
        )
        # All arguments are good. Up to here a server that already runs has not been touched.
        if _server and _url[0].endswith(url[0][url[0].rfind(":") :]):
            stop()
        new = Server(found, context, password, write_timeout, _changed)
        stop()
        _server = new
        _url = url  # before the calls that may raise, because the next start() reads it
        _port.update_keys = update_keys
        if log:
            _server.log = log
            log.attach()
        _server.start_timer(timer)
        gc.collect()
        _server.hold_memory()
    finally:
        gc.threshold(threshold if threshold >= 0 or _port.memory_to_spare() else _THRESHOLD)
    listen_s = _server.sock
    _lacks = lacks
    began = _time(), _port.ticks_ms()
    print("wss_repl: listening on", ", ".join(_url) + (" with " + _timer() if timer else ""))
    for lack in lacks:
        print("wss_repl: warning:", lack)


def _timer():
    timer = _server and _server.timer
    name = timer and repr(timer).split(",")[0].rstrip(")") + ")"
    return "Timer(-1)" if name and "=" in name else name  # RP2's timers are all virtual, and print no id


def start_foreground(port=None, password=None, **options):
    """start(), then wait until somebody has logged in. Returns True."""
    start(port, password, **options)
    while not _server.session:
        _server.step()
        _port.sleep_ms(10)
    return True


def stop():
    """End the session and the listening. Nothing to do is fine."""
    global _server, listen_s
    if _server:
        server = _server
        _server = listen_s = None
        server.stop()


def poll():
    """Do what can be done now, without waiting: call it often where firmware has neither socket callbacks nor timers.

    In asyncio: `while True: wss_repl.poll(); await asyncio.sleep_ms(20)`.
    """
    if _server:
        _server.step()


def status():
    """What is going on, as a dict: listening (URLs), client (address or None), host (name and serial in the certificate
    of who is in), logins ({host's name: count}), pending (connections before login),
    refused ({cause: count}), last_refusal, lacks (what the board's own certificate should have), version (of this
    bundle), timer (which machine.Timer is in use, or None), update (why the latest update was taken back, "" when
    none was)."""
    server = _server
    session = server and server.session
    return {
        "listening": _url if server else [],
        "client": session and session.address,
        "pending": len(server.sessions) - bool(session) if server else 0,
        "refused": server.refusals if server else {},
        "last_refusal": server and server.last_refusal,
        "lacks": _lacks,
        "host": session and session.host,
        "logins": server.logins if server else {},
        "version": VERSION,
        "timer": _timer(),
        "update": _port.update_note,
    }


def set_ssl(flag_ssl=True, flag_auth=True):
    """Write ssl_config.py, as upydev's `set_wss` expects: SSL.ssl and SSL.auth for the next start."""
    with open("ssl_config.py", "w") as f:
        f.write("class SSL:\n    ssl = %r\n    auth = %r\n" % (bool(flag_ssl), bool(flag_auth)))
