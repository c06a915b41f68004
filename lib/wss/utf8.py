# What is printed and is not UTF-8 goes in binary frames: a text frame holds UTF-8 (RFC 6455 section 8.1), and strict
# clients end a connection over one that does not. webrepl_cli's heirs, upydevice and Thonny read both kinds as the
# terminal, so each byte arrives as it was printed: raw paste counts on that, whose flow control begins with 0x80.
# In: text frames, perhaps with bytes that are not UTF-8.  Out: frames as they may be sent.  Next: sender.py.
# Loaded with the first output that is not ASCII.
from wss.frames import frame, header

_TEXT = 1  # opcodes of RFC 6455 section 5.2
_BINARY = 2


def _is_char(data):
    # Whether data is one character. MicroPython's own check lets surrogates, overlong forms and too large ones pass
    # (py/unicode.c).
    try:
        u = ord(str(data, "utf8"))
    except (UnicodeError, TypeError):
        return False
    return (0, 0, 0x80, 0x800, 0x10000)[len(data)] <= u < 0x110000 and u >> 11 != 0x1B


def _length(lead):
    # How many bytes a character has that begins with this one.
    return 1 if lead < 0xC0 else 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4


def _valid(data):
    # How many bytes from the start on are whole characters.
    i = 0
    while i < len(data):
        k = 1
        if data[i] > 127:
            k = _length(data[i])
            if not _is_char(data[i : i + k]):
                break
        i += k
    return i


def _is_beginning(data):
    # Whether data is the beginning of a character.
    lead = data[0]
    missing = _length(lead) - len(data)
    # After one byte the second is not known yet, and each lead has one that suits it.
    return missing > 0 and (len(data) == 1 and 0xC2 <= lead < 0xF5 or _is_char(data + b"\x80" * missing))


def invalid_frame(data, only_text):
    """A frame of bytes that are not UTF-8: a binary one; a text frame with ? in their places if only_text."""
    if not only_text:
        return frame(_BINARY, data) if len(data) < 126 else header(_BINARY, len(data)) + data
    data = bytearray(data)
    i = 0
    while i < len(data):
        data[i] = 63
        i += 1
        i += _valid(data[i:])
    return header(_TEXT, len(data)) + data


def split(record, begun, only_text):
    """(frames, beginning of a character) for the frames in record and the beginning that was left before them.

    A frame with bytes that are not UTF-8 is cut before the first of them, and the rest is a frame of its own, which
    thus begins with a byte of 0x80 or more: no answer of the file protocol does, so a client can tell them apart. The
    pieces of a file may, so during a transfer (only_text) ? takes the place of such bytes.
    """
    out = bytearray()
    i = 0
    while i < len(record):
        n = record[i + 1]
        i += 2
        data = bytes(record[i : i + n])
        i += n
        if begun and (data[0] & 0xC0 != 0x80 or not _is_beginning(begun)):
            out += invalid_frame(begun, only_text)
            begun = b""
        data = begun + data
        begun = b""
        k = _valid(data)
        if k:
            out += header(_TEXT, k) + data[:k]
        data = data[k:]
        if data:
            if _is_beginning(data):
                begun = data
            else:
                out += invalid_frame(data, only_text)
    return memoryview(out) if out else None, begun
