# Whether lwIP has memory for a write. Loaded only where sockets are those of MicroPython's extmod/modlwip.c (port.py).
# In: a session that wants to write.  Out: yes or not now.  Next: sender.py and receiver.py, which then try again later.
import socket
from micropython import const

# How many of lwIP's 8000 bytes (extmod/lwip-include/lwipopts_common.h) have to be free. The open session leaves enough
# for a newcomer's handshake, in memory and in the 32 segments that all connections share. What an ended session could
# not send any more keeps its memory for ten seconds (MICROPY_PY_LWIP_TCP_CLOSE_TIMEOUT_MS in modlwip.c). For so long
# the next session gets along with less.
_OPEN = const(4600)
_LOGIN = const(2000)
_CRAMPED = const(1200)
_ENOMEM = const(12)

_ask = None
_cramped = False  # memory was short before the open session's first write, and has been since


def _has(n):
    # lwIP has no call that tells. But sendto() allocates a datagram before it looks for a route. There is none to this
    # address, so that nothing is sent, and without memory the error is ENOMEM.
    global _ask
    try:
        if not _ask:
            _ask = socket.socket(2, getattr(socket, "SOCK_RAW", 2)), bytearray(_OPEN)
        _ask[0].sendto(memoryview(_ask[1])[:n], ("127.0.0.1", 9))
    except OSError as e:
        return not _ask or e.errno != _ENOMEM
    except MemoryError:
        return False
    return True


def may_write(session):
    """Whether a write of session can be taken at once.

    Without memory it would wait for up to ten seconds (lwip_tcp_send() in modlwip.c), on a non-blocking socket that
    poll() calls writable: a peer that stops reading would hold the board.
    """
    global _cramped
    if not session.is_open():
        return _has(_LOGIN)
    sender = session.sender
    if _has(_OPEN):
        _cramped = False
    else:
        if not sender.wrote:
            _cramped = True
        if not _cramped or not _has(_CRAMPED):
            return False
    sender.wrote = True
    return True
