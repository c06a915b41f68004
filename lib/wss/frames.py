# RFC 6455 frames, decoded in the caller's buffers.
# In: decrypted bytes.  Out: (opcode, payload) to a function, frames to send.  Next: receiver.py.
from micropython import const

from wss.port import unmask

_CONT = const(0)
_BINARY = const(2)
_CLOSE = const(8)
_PONG = const(10)

_SHORT = const(6)  # the header of most frames


class Refused(Exception):
    """What the peer has sent is refused; args are (code, cause). The code is a close code of RFC 6455 section 7.4 from
    1000 on, an HTTP status below that, or 0 for a connection that has ended."""


def header(op, n):
    """The unmasked header of a frame with n bytes of payload, at most 65,535."""
    return bytes((0x80 | op, n) if n < 126 else (0x80 | op, 126, n >> 8, n & 255))


def frame(op, payload=b""):
    """A whole frame of a small payload."""
    return header(op, len(payload)) + payload


class Decoder:
    """Incremental decoder of client frames (RFC 6455 section 5.2).

    feed() calls sink(opcode, payload, start) for each piece of a data frame as it comes, and once for a whole control
    frame. opcode is TEXT or BINARY for a continuation, too. payload is a memoryview that is valid during the call, of a
    data frame at least one byte. start is True for the first piece of a frame. Of a data frame the sink returns how
    many bytes it has taken. Unmasked frames are accepted against section 5.1, because webrepl_cli and the clients made
    from it send them. Raises Refused. Keeps no payload but a control frame's 125 bytes.

    After a KeyboardInterrupt feed() goes on where it was: what changes is stored without a jump in between (guard.py).
    So what a sink must not do twice comes last in it, with no jump up to its return.
    """

    def __init__(self, sink):
        self._sink = sink
        self.at = 0  # how much of the data is decoded
        self._head = b""  # of a header, or a control frame, what has come of it
        self._need = _SHORT  # and how long it is at least
        self._left = 0  # payload bytes to come of a data frame
        self._op = 0
        self._message = 0  # opcode of the fragmented message in progress
        self._start = False
        self._key = None  # the mask, rotated so that its first byte is for the next byte of the payload
        self._is_clear = False  # whether the piece at hand is unmasked already

    def feed(self, data):
        """Go on with data, a writable memoryview, from `at` on: decode a header and a control frame, or a piece, which
        is unmasked in place. Call it until `at` is at the end; then begin with other data, and `at` at 0.
        """
        if not self._left:
            self._header(data)
            return
        at = self.at
        k = min(self._left, len(data) - at)
        piece = data[at : at + k]
        if not self._is_clear:
            self._unmask(piece, k)
        taken = self._sink(self._op, piece, self._start)
        self.at = at + taken  # no jump since it was taken
        self._left -= taken
        self._is_clear = taken < k
        self._start = False

    def binary_left(self):
        """How many bytes are still to come of the binary frame in progress, 0 when there is none; at most 65,535. It
        becomes the length of a slice, and at 32 bits a frame of 2 GB is longer than a slice may be."""
        return min(self._left, 65535) if self._op == _BINARY else 0

    def _header(self, data):
        at = self.at
        have = len(self._head)
        h = self._head + bytes(data[at : at + self._need - have])
        n = len(h)
        need = 2
        if n > 1:
            size = h[1] & 127
            begin = 2 + (2 if size == 126 else 8 if size == 127 else 0)  # of the mask
            need = end = begin + (h[1] >> 7) * 4  # of the header
        if n >= need:
            op = h[0] & 15
            message = self._message
            if h[0] & 0x70:
                raise Refused(1002, "reserved bit set")
            if size == 126:
                size = h[2] << 8 | h[3]
            elif size == 127:
                if any(h[2:6]) or h[6] & 128:
                    raise Refused(1009, "frame over 2 GiB")
                size = int.from_bytes(h[6:10], "big")
            if op >= _CLOSE:
                if op > _PONG or h[1] & 127 > 125 or not h[0] & 128:
                    raise Refused(1002, "bad control frame")
                need += size
            elif op == _CONT:
                if not message:
                    raise Refused(1002, "continuation of nothing")
                op = message
            elif op > _BINARY or message:
                raise Refused(1002, "bad opcode")
        if n < need:
            self._head = h  # no jump up to the return
            self._need = need
            self.at = at + n - have
            return
        key = h[begin:end]
        if op >= _CLOSE:
            payload = memoryview(bytearray(h[end:need]))
            if key:
                unmask(payload, key, size)
            self._sink(op, payload, True)
            size = 0
            op = self._op
        else:
            message = 0 if h[0] & 128 else op
        # No jump from here on.
        self._message = message
        self._key = key
        self._op = op
        self._left = size
        self._start = True
        self._head = b""
        self._need = _SHORT
        self.at = at + need - have

    def _unmask(self, data, n):
        key = self._key
        if key:
            k = n & 3
            after = key[k:] + key[:k]
            unmask(data, key, n)  # no jump from here on
            self._key = after
            self._is_clear = True


def closing(code, received=None, reason=""):
    """A CLOSE frame with code and reason, or the answer to one whose payload was received (RFC 6455, 5.5.1 and 7.4)."""
    if received is not None:
        n = len(received)
        code = received[0] << 8 | received[1] if n > 1 else 1002 if n else 0
        if n > 1 and not (1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999):
            code = 1002
    return frame(_CLOSE, bytes((code >> 8, code & 255)) + reason.encode() if code else b"")
