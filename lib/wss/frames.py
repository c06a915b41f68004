# RFC 6455 frames, decoded in the caller's buffers.
# In: decrypted bytes.  Out: (opcode, payload) to a function, frames to send.  Next: receiver.py.
from micropython import const

from wss.port import unmask

_CONT = const(0)
_BINARY = const(2)
_CLOSE = const(8)
_PONG = const(10)


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
    frame. opcode is TEXT or BINARY for a continuation, too. payload is a memoryview that is valid during the call.
    start is True for the first piece of a frame. Unmasked frames are accepted against section 5.1, because webrepl_cli
    and the clients made from it send them. Raises Refused. Keeps no payload but a control frame's 125 bytes.
    """

    def __init__(self, sink):
        self._sink = sink
        self._head = b""
        self._need = 2
        self._left = -1  # payload bytes to come; -1 while in the header
        self._op = 0
        self._message = 0  # opcode of the fragmented message in progress
        self._start = False
        self._control = b""
        self._key = None  # the mask, rotated so that its first byte is for the next byte of the payload

    def feed(self, data):
        """Decode data, a writable memoryview, and unmask payloads in place. Returns how many bytes were decoded: all,
        or those up to the end of the piece for which the sink has returned True.
        """
        i = 0
        n = len(data)
        while i < n:
            if self._left < 0:
                k = min(self._need - len(self._head), n - i)
                self._head += bytes(data[i : i + k])
                i += k
                if len(self._head) < self._need or not self._header():
                    continue
                piece = data[n:]
            else:
                k = min(self._left, n - i)
                piece = data[i : i + k]
                i += k
                self._left -= k
                if self._key:
                    self._unmask(piece)
            if self._op < _CLOSE:
                stop = self._sink(self._op, piece, self._start)
                self._start = False
            else:
                self._control += bytes(piece)
                stop = not self._left and self._sink(self._op, self._control, True)
            if not self._left:
                self._left = -1
            if stop:
                break
        return i

    def binary_left(self):
        """How many bytes are still to come of the binary frame in progress, 0 when there is none; at most 65,535. It
        becomes the length of a slice, and at 32 bits a frame of 2 GB is longer than a slice may be."""
        return min(self._left, 65535) if self._op == _BINARY and self._left > 0 else 0

    def _header(self):
        # True when the frame has no payload: then it has to be delivered at once.
        h = self._head
        size = h[1] & 127
        self._need = 2 + (2 if size == 126 else 8 if size == 127 else 0) + (4 if h[1] & 128 else 0)
        if len(h) < self._need:
            return False
        op = h[0] & 15
        if h[0] & 0x70:
            raise Refused(1002, "reserved bit set")
        end = 2  # of the length
        if size == 126:
            size = h[2] << 8 | h[3]
            end = 4
        elif size == 127:
            if any(h[2:6]) or h[6] & 128:
                raise Refused(1009, "frame over 2 GiB")
            size = int.from_bytes(h[6:10], "big")
            end = 10
        if op >= _CLOSE:
            if op > _PONG or size > 125 or not h[0] & 128:
                raise Refused(1002, "bad control frame")
        elif op == _CONT:
            if not self._message:
                raise Refused(1002, "continuation of nothing")
            op = self._message
        elif op > _BINARY or self._message:
            raise Refused(1002, "bad opcode")
        if op < _CLOSE:
            self._message = 0 if h[0] & 128 else op
        self._key = h[end:]
        self._op = op
        self._left = size
        self._start = True
        self._control = self._head = b""
        self._need = 2
        return not size

    def _unmask(self, data):
        n = len(data)
        unmask(data, self._key, n)
        n &= 3
        if n:
            self._key = self._key[n:] + self._key[:n]


def closing(code, received=None, reason=""):
    """A CLOSE frame with code and reason, or the answer to one whose payload was received (RFC 6455, 5.5.1 and 7.4)."""
    if received is not None:
        n = len(received)
        code = received[0] << 8 | received[1] if n > 1 else 1002 if n else 0
        if n > 1 and not (1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999):
            code = 1002
    return frame(_CLOSE, bytes((code >> 8, code & 255)) + reason.encode() if code else b"")
