# A client that is lost while the REPL is in raw or paste mode leaves it there, and the next one would type into
# nothing. So the mode is told from what the REPL says of it, and left when the next session begins.
# In: what is printed and typed.  Out: what leaves the mode.  Next: session.py.
# Loaded when the REPL first says that it goes into such a mode (shared/runtime/pyexec.c).
from micropython import const

_RAW = const(1)
_PASTE = const(2)
_RUN = const(4)  # the code was whole: a program runs, which may read what is typed
_LEFT = const(8)  # by a client that is lost
_END = const(16)  # the latest of what is printed is the 0x04 behind what a program in raw mode has printed

_SAID = (
    (b"\x81\x18raw REPL; CTRL-B to exit", _RAW),
    (b"\x81.paste mode; Ctrl-C to cancel,", _PASTE),
)


def after_output(mode, record):
    """(mode, what to type) after these frames; mode 0 is the friendly REPL."""
    record = bytes(record)
    found = -1
    for said, to in _SAID:
        at = record.rfind(said)
        if at > found:
            found = at
            mode = to
    if record.endswith(b"\x81\x04>>> "):
        return 0, b""
    # The program has ended: 0x04 and ">" are two writes, and may be two records
    if mode & _RAW and (record.endswith(b"\x04>") or mode & _END and record == b"\x81\x01>"):
        return _RAW, b"\x02" if mode & _LEFT else b""
    return mode & ~_END | _END * (record[-1] == 4), b""


def after_input(mode, data):
    """(mode, what to type behind it) after data was typed in a mode that is not 0."""
    data = bytes(data)
    if len(data) <= 4:  # keys, not code
        if mode & _LEFT and data[-1:] == b"\x03":
            return mode, b"\x02"
        if not mode & _RUN and (b"\x02" if mode & _RAW else b"\x03") in data:
            return 0, b""  # the client leaves the mode itself, and may be gone before the REPL says so
    if b"\x01" in data:  # this client wants raw mode
        mode &= ~_LEFT
    return mode | _RUN if b"\x04" in data else mode, b""


def begin(mode):
    """(mode, what to type, what to say) when a session begins. A program is neither interrupted nor typed at."""
    if not mode & _RUN:
        return mode, b"\x03\x02" if mode & _RAW else b"\x03", None
    if mode & _PASTE:  # it ends with a prompt
        return mode, b"", None
    return mode | _LEFT, b"", b"\r\nIn raw mode, with a program of a client that was lost: Ctrl-C stops both.\r\n"
