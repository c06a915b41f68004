# RFC 6455 frames over the caller's buffers.
# In: decrypted bytes.  Out: (opcode, payload) to a sink, frames to send.  Next: session.py.
from micropython import const

CONT = const(0)
TEXT = const(1)
BINARY = const(2)
CLOSE = const(8)
PING = const(9)
PONG = const(10)

HEADROOM = const(4)  # bytes a header of ours needs at most: payloads stay below 64 KiB

_BLOCK = const(256)  # unmasked at a time; the integers of one block are about four times this in heap


class ProtocolError(Exception):
    """The peer broke RFC 6455; args are (close code, reason) of section 7.4."""


def header(buf, op, n):
    """Write an unmasked header for n payload bytes so that it ends at buf[HEADROOM]; return where it starts."""
    if n < 126:
        buf[2] = 0x80 | op
        buf[3] = n
        return 2
    buf[0] = 0x80 | op
    buf[1] = 126
    buf[2] = n >> 8
    buf[3] = n & 255
    return 0


def frame(op, payload=b""):
    """A whole small frame as bytes (payload up to 65,535 bytes)."""
    head = bytearray(HEADROOM)
    return bytes(head[header(head, op, len(payload)) :]) + payload


class Decoder:
    """Incremental decoder of client frames (RFC 6455 section 5.2).

    feed() calls sink(opcode, payload, start) for every piece of a data frame as it comes (opcode TEXT or
    BINARY, continuation resolved; payload a memoryview valid during the call; start True for a frame's first piece)
    and once for a whole control frame. Unmasked frames are taken: webrepl_cli and its heirs send them (against
    section 5.1). Raises ProtocolError. Holds no payload except a control frame's 125 bytes.
    """

    def __init__(self, sink):
        self._sink = sink
        self._head = bytearray(14)
        self._have = 0
        self._need = 2
        self._left = -1  # payload bytes to come; -1 while in the header
        self._op = 0
        self._message = 0  # opcode of the fragmented message in progress
        self._masked = False
        self._start = False
        self._control = bytearray(125)
        self._filled = 0
        self._key = bytearray(_BLOCK)  # the mask, repeated and turned to the current phase
        self._number = None  # the same as an integer, made when first needed

    def feed(self, data):
        """Decode data, a writable memoryview; payloads are unmasked in place. Returns bytes consumed.

        Stops early, behind the piece just delivered, when the sink returns True.
        """
        i = 0
        n = len(data)
        while i < n:
            if self._left < 0:
                self._head[self._have] = data[i]
                self._have += 1
                i += 1
                if self._have < self._need or not self._header():
                    continue
                piece = data[i:i]
            else:
                k = min(self._left, n - i)
                piece = data[i : i + k]
                i += k
                self._left -= k
                if self._masked:
                    self._unmask(piece)
            if self._op < CLOSE:
                stop = self._sink(self._op, piece, self._start)
                self._start = False
            else:
                k = self._filled
                self._control[k : k + len(piece)] = piece
                self._filled = k + len(piece)
                stop = not self._left and self._sink(self._op, memoryview(self._control)[: self._filled], True)
            if not self._left:
                self._left = -1
            if stop:
                break
        return i

    def binary_left(self):
        """Bytes still to come of the binary frame in progress, 0 without one."""
        return self._left if self._op == BINARY and self._left > 0 else 0

    def _header(self):
        # True when the frame has no payload, so that it must be delivered at once.
        h = self._head
        size = h[1] & 127
        self._need = 2 + (2 if size == 126 else 8 if size == 127 else 0) + (4 if h[1] & 128 else 0)
        if self._have < self._need:
            return False
        op = h[0] & 15
        if h[0] & 0x70:
            raise ProtocolError(1002, "reserved bit set")
        at = 2
        if size == 126:
            size = h[2] << 8 | h[3]
            at = 4
        elif size == 127:
            if h[2] or h[3] or h[4] or h[5] or h[6] & 128:
                raise ProtocolError(1009, "frame over 2 GiB")
            size = h[6] << 24 | h[7] << 16 | h[8] << 8 | h[9]
            at = 10
        if op >= CLOSE:
            if op > PONG or size > 125 or not h[0] & 128:
                raise ProtocolError(1002, "bad control frame")
        elif op == CONT:
            if not self._message:
                raise ProtocolError(1002, "continuation of nothing")
            op = self._message
        elif op > BINARY or self._message:
            raise ProtocolError(1002, "bad opcode")
        if op < CLOSE:
            self._message = 0 if h[0] & 128 else op
        self._masked = h[1] & 128
        if self._masked and size:
            self._turn(h[at : at + 4])
        self._op = op
        self._left = size
        self._start = True
        self._filled = 0
        self._have = 0
        self._need = 2
        return not size

    def _turn(self, key):
        self._key[:] = bytes(key) * (_BLOCK // 4)
        self._number = None

    def _unmask(self, data):
        n = len(data)
        key = self._key
        if n < 16:
            for i in range(n):
                data[i] ^= key[i]
        else:
            # One xor of big integers a block: 1 KB in 9 us where a byte loop takes 56 (not every build has viper)
            if self._number is None:
                self._number = int.from_bytes(key, "little")
            for i in range(0, n, _BLOCK):
                part = data[i : i + _BLOCK]
                x = int.from_bytes(part, "little") ^ self._number
                k = len(part)
                if k == _BLOCK:
                    part[:] = x.to_bytes(_BLOCK, "little")
                else:
                    part[:] = x.to_bytes(_BLOCK, "little")[:k]
        k = n & 3
        if k:
            self._turn(bytes(key[k:4]) + bytes(key[:k]))


def close_payload(code, received=None):
    """Payload of our CLOSE: code, or the answer to the payload of theirs (RFC 6455 sections 5.5.1 and 7.4)."""
    if received is not None:
        n = len(received)
        code = received[0] << 8 | received[1] if n > 1 else 1002 if n else 0
        if n > 1 and not (1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999):
            code = 1002
    return bytes((code >> 8, code & 255)) if code else b""
