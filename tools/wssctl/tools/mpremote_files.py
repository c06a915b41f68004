"""mpremote's copies, when its port is a board behind wss: by the board's file protocol (wire/files.py), which streams.
mpremote itself has the REPL read or write 256 bytes at a time, and waits for the answer to each.

What the protocol cannot do goes mpremote's own way, with mpremote's own words for what is wrong: a name of more than 64
bytes, a board that refuses (it may have no room for the new file beside the old one), stock WebREPL (which takes no
acknowledgement ahead), and all names while a folder of this machine is mounted. The board would open a file of that
folder inside of a step of our server, and mpremote's answer would have to come in by that server: a wait without end.
"""

import io
from collections.abc import Callable
from typing import Any

_Progress = Callable[[int, int], None]  # bytes done, bytes in all


def install(ours: Any) -> None:
    """For transports whose port is of the class `ours`, once; nothing without mpremote."""
    try:
        from mpremote.transport import Transport
    except ImportError:
        return
    if getattr(Transport, "_wssctl", False):
        return
    Transport._wssctl = True

    def streams(transport: Any) -> bool:
        # A mount of a client that was lost is still there, and so is the class that it needs on the board.
        return (
            isinstance(transport.serial, ours)  # not while a folder is mounted, which puts another port in front
            and transport.serial.has_file_protocol
            and not transport.eval("'RemoteFS' in globals()")
        )

    def read(
        self: Any,
        src: str,
        chunk_size: int = 256,
        progress_callback: _Progress | None = None,
        _theirs: Any = Transport.fs_readfile,
    ) -> Any:
        if streams(self):
            size = self.fs_stat(src).st_size if progress_callback else 0
            data = io.BytesIO()
            if self.serial.transfer(lambda board: board.get(src, data, _counting(progress_callback, size))):
                return data.getvalue()
        return _theirs(self, src, chunk_size, progress_callback)

    def write(
        self: Any,
        dest: str,
        data: Any,
        chunk_size: int = 256,
        progress_callback: _Progress | None = None,
        _theirs: Any = Transport.fs_writefile,
    ) -> None:
        count = _counting(progress_callback, len(data))
        if not (streams(self) and self.serial.transfer(lambda board: board.put(data, dest, progress=count))):
            _theirs(self, dest, data, chunk_size, progress_callback)

    Transport.fs_readfile = read
    Transport.fs_writefile = write


def _counting(progress: _Progress | None, size: int) -> Callable[[int], None] | None:
    return (lambda done: progress(done, size)) if progress else None
