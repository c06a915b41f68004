"""`wssctl mpremote`: stock mpremote, in this process, with a board behind wss as its port."""

import argparse
import sys

from ..boards.dialler import Dialler
from ..errors import BoardError, UsageError
from ..text import brief
from ..wire.remote import NONSENSE
from . import serial_handler


def main(args: argparse.Namespace) -> int:
    try:
        from mpremote import main as stock
        from mpremote.transport import TransportError
    except ImportError:
        raise UsageError("mpremote is not installed beside wssctl: pip install mpremote.") from None
    names = ("keys", "password_file", "passphrase_file", "host_id", "server_name", "takeover", "timeout", "keep")
    try:
        import termios

        no_terminal: tuple[type[Exception], ...] = (termios.error,)
    except ImportError:  # Windows
        no_terminal = ()
    serial_handler.install(**{name: getattr(args, name) for name in names})
    dial = Dialler(args)
    url = dial.target.url.removesuffix("/")
    serial_handler.Serial.ready = url, serial_handler.first(dial), dial
    sys.argv = ["mpremote", "connect", url, *args.command]
    try:
        code = stock.main()
    except serial_handler.Lost as e:
        code = e.exit_code
    except TransportError as e:
        said = brief(str(e))
        raise BoardError(f"mpremote: {said}; `wssctl mpremote BOARD reset` starts the board afresh.") from None
    except NONSENSE as e:
        said = brief(f"{type(e).__name__}: {e}")
        raise BoardError(f"mpremote makes no sense of what the board sends ({said}).") from None
    except no_terminal:
        raise UsageError("mpremote's repl needs a terminal; `wssctl exec BOARD --file -` runs a program.") from None
    lost = serial_handler.Serial.lost
    return lost.exit_code if lost else code
