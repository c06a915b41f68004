"""One exception per kind of failure. Its text is one sentence that says what to do next; cli.py turns it into an exit
code."""


class WssctlError(Exception):
    exit_code = 1


class BoardError(WssctlError):
    """The board answered, and the answer is no: a file it cannot open, code that raised, a full file system."""


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


class KeyFileError(WssctlError):
    """A key file on this machine is missing, unreadable, in the way, or needs another passphrase."""

    exit_code = 7
