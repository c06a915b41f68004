# The HTTP upgrade of RFC 6455 section 4.2.
# In: a request's bytes.  Out: (response, path), or Refused with a status.  Next: frames.py.
from binascii import b2a_base64
from hashlib import sha1
from micropython import const

from wss import port
from wss.frames import Refused

REQUEST_MAX = const(2048)  # browsers send 500 to 900 bytes, and more with cookies
_KEY_MAX = const(64)  # upydev sends 31 bytes, a browser 24

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def refusal(status, why):
    """The HTTP response with this status and this sentence, as bytes."""
    extra = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" if status == 426 else ""
    head = b"HTTP/1.1 %d Refused\r\n%sContent-Type: text/plain\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s\n"
    return head % (status, extra, len(why) + 1, why)


def accept_key(key):
    """Sec-WebSocket-Accept for a Sec-WebSocket-Key (both bytes; the key is opaque: webrepl_cli sends b"foo")."""
    return b2a_base64(sha1(key + _GUID).digest())[:-1]


def headers(lines):
    """{lower-case name: value} of header lines (bytes). Raises Refused for a malformed line, and for a second one of
    those that decide something."""
    found = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        name = name.lower()
        if not colon or not name or name != name.strip():
            raise Refused(400, "malformed header")
        if name in found and name in (b"sec-websocket-key", b"host", b"origin"):
            raise Refused(400, "repeated header")
        found[name] = value.strip()
    return found


def request_end(data):
    """How many bytes of data are a whole request, 0 when more of it has to come. Raises Refused: 400 not a GET, 431."""
    end = data.find(b"\r\n\r\n")
    if end >= 0:
        return end + 4
    if not b"GET ".startswith(data[:4]):
        raise Refused(400, "not an HTTP GET")
    if len(data) >= REQUEST_MAX:
        raise Refused(431, "request too long")
    return 0


def answer(request, scheme=None):
    """The 101 response and the path for a whole request (bytes, the empty line at its end included).

    scheme: b"https" or b"http", with which a browser has come here if it did. A page of another origin, in a browser
    that holds a certificate, could guess passwords: its upgrade is refused (RFC 6455 section 10.2). Browsers always
    send Origin, and programs do not.

    A browser's plain GET of / gets the page, where the firmware has it, and then the path is None.
    Raises Refused: 400 not HTTP or no key, 403 another origin,
    405 not GET, 426 not an upgrade or another version, 431 too long.
    """
    if len(request) > REQUEST_MAX:
        raise Refused(431, "request too long")
    lines = request[:-4].split(b"\r\n")
    first = lines.pop(0).split(b" ")
    if len(first) != 3 or not first[2].startswith(b"HTTP/1.") or not first[1].startswith(b"/"):
        raise Refused(400, "not an HTTP request")
    if first[0] != b"GET":
        raise Refused(405, "only GET")
    found = headers(lines)
    if first[1] == b"/" and b"upgrade" not in found:
        try:
            from wss.page import RESPONSE

            return memoryview(RESPONSE), None
        except ImportError:
            pass
    if found.get(b"upgrade", b"").lower() != b"websocket" or b"upgrade" not in found.get(b"connection", b"").lower():
        raise Refused(426, "this is a MicroPython WebREPL: open it with a WebSocket client")
    origin = found.get(b"origin")
    host = found.get(b"host")
    # Browsers leave out the same ports in both, and write both in lower case (RFC 6454 section 6.2). upydev sends one,
    # with http; it sends no User-Agent, which a browser always does and a page cannot take away.
    if b"user-agent" not in found and origin and origin.startswith(b"http:"):
        scheme = b"http"
    if scheme and origin is not None and (not host or origin.lower() != scheme + b"://" + host.lower()):
        raise Refused(403, "a page of another origin may not open a REPL")
    key = found.get(b"sec-websocket-key", b"")
    if not 0 < len(key) <= _KEY_MAX:
        raise Refused(400, "missing or bad Sec-WebSocket-Key")
    # webrepl_cli, belay and PyPI's webrepl do not send it.
    if found.get(b"sec-websocket-version", b"13") != b"13":
        raise Refused(426, "WebSocket version 13 only")
    # Server has the form of RFC 9110 section 10.2.4: product/version, and a comment.
    head = (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Server: wss_repl/%s%s\r\nSec-WebSocket-Accept: %s\r\n\r\n"
    )
    note = port.update_note and " (%s)" % port.update_note
    return head % (port.VERSION, note, accept_key(key).decode()), first[1]
