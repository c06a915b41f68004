"""The WebSocket handshake over a blocking stream: upydev's `wss_helper`, strict.

Both functions take a connected socket or TLS socket; ssl is taken for upydev's call shape and changes nothing here.
"""

from binascii import b2a_base64

from wss.upgrade import REQUEST_MAX, Refused, accept_key, answer, headers, refusal


def _head(sock):
    # Reads line by line, so that what follows the empty line stays in the stream.
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line = sock.readline(REQUEST_MAX)
        if not line:
            raise OSError("ended in the handshake")
        head += line
        if len(head) > REQUEST_MAX:
            raise Refused(431, "request too long")
        if not b"GET ".startswith(head[:4]) and not b"HTTP".startswith(head[:4]):
            raise Refused(400, "not HTTP")
    return head


def server_handshake(sock, ssl=False):
    """Answer a client's upgrade request. Raises OSError with the reason; the client was told, with an HTTP status."""
    try:
        response, path = answer(_head(sock))
    except Refused as e:
        sock.write(refusal(*e.args))
        raise OSError("refused: %d %s" % e.args)
    sock.write(response)
    if not path:
        raise OSError("it got the page")


def client_handshake(sock, ssl=False, host="echo.websocket.org", path="/"):
    """Ask a server to upgrade (RFC 6455 section 4.1). Raises OSError when it does not, or answers for another key."""
    from os import urandom

    key = b2a_base64(urandom(16))[:-1]
    sock.write(
        b"GET %s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n\r\n" % (path, host, key.decode())
    )
    try:
        lines = _head(sock)[:-4].split(b"\r\n")
        found = headers(lines[1:])
    except Refused as e:
        raise OSError(e.args[1])
    if not lines[0].startswith(b"HTTP/1.1 101"):
        raise OSError("server did not upgrade: " + lines[0].decode())
    if found.get(b"sec-websocket-accept") != accept_key(key):
        raise OSError("server answered for another key")
