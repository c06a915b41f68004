"""One exception per kind of failure. Its text is one sentence that says what to do next; cli.py turns it into an exit
code."""

from .text import shown


class WssctlError(Exception):
    exit_code = 1
    passes = False  # whether the same may succeed later: what waits for the board goes on waiting

    def __str__(self) -> str:
        """On one line and without control characters, whoever shows it: a board's words may be in it."""
        return shown(super().__str__())


class BoardError(WssctlError):
    """The board answered, and the answer is no: a file it cannot open, code that raised, a full file system."""


class NotNow(BoardError):
    """The answer is no as things are there at this moment, and may be another one later."""

    passes = True


class UsageError(WssctlError):
    exit_code = 2


class Unreachable(WssctlError):
    """No TCP connection: unknown name, refused, timed out."""

    exit_code = 3


class TrustError(WssctlError):
    """TLS failed: one side does not accept the other's certificate, or they share no version or suite."""

    exit_code = 4


class HandshakeCut(TrustError):
    """The board hung up in the middle of the TLS handshake, as it does when it is being reset."""


class LoginError(WssctlError):
    """TLS is up and the board refuses the session."""

    exit_code = 5


class AccessDenied(LoginError):
    """The password is wrong."""


class SessionInUse(LoginError):
    """Another client is logged in and alive."""


class ConnectionLost(WssctlError):
    """The board went away, or stopped speaking the protocol, after the connection was up."""

    exit_code = 6


class NoAnswer(ConnectionLost):
    """The board is there, and what it sends is no answer: nothing in time, or what nobody asked for."""


class KeyFileError(WssctlError):
    """A key file on this machine is missing, unreadable, in the way, or needs another passphrase."""

    exit_code = 7


class NotHere(KeyFileError):
    """This machine lacks something for the work that can be brought here: a file, a program."""

    passes = True
