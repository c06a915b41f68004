"""A board: log in over a Link, then its terminal, its files, and code run on it.

with Client.connect("wss://board", Credentials(ca, cert, key, passphrase), password) as board:
    board.exec("print(6*7)").output     # b"42\\r\\n"
    board.put(b"data", "name")
"""

import time
from collections.abc import Callable

from ..errors import AccessDenied, ConnectionLost, HandshakeCut, LoginError, NoAnswer, SessionInUse
from ..text import brief
from . import kept
from .files import Files
from .link import Credentials, Deadline, Target, parse_target
from .terminal import PROMPT

PAUSE = 1.0  # seconds before a second try
_LOGGED_IN, _DENIED = b"WebREPL connected", b"Access denied"


def twice(login: "Callable[[], Client]") -> "Client":
    """login(), and once more when that breaks off, whatever it was for: a connection that breaks before the board's
    prompt has brought the board a password and nothing else. Not one that is silent, which would be waited for twice,
    nor one that says no."""
    try:
        return login()
    except NoAnswer:
        raise
    except (HandshakeCut, ConnectionLost):
        time.sleep(PAUSE)
        return login()


class Client(Files):
    @classmethod
    def connect(
        cls,
        url: str | Target,
        credentials: Credentials | None = None,
        password: str | Callable[[], str] = "",
        *,
        takeover: bool = False,
        server_name: str | Callable[[], str | None] | None = None,
        timeout: float = 10.0,
        keep: float | None = None,
    ) -> "Client":
        """Connects and logs in. `password` may be a function, called when the board asks. Raises UsageError,
        KeyFileError, Unreachable, TrustError, AccessDenied, SessionInUse, LoginError, ConnectionLost.

        With `keep` the connection is another process's, which holds it for so many seconds after its last use and
        lends it to one client after the other (kept.py): only the first one logs in."""
        target = parse_target(url, takeover) if isinstance(url, str) else url
        if keep:
            wanted = kept.Wanted(target, credentials, password, server_name, timeout, keep)
            if held := kept.open(wanted):
                return cls(held, timeout)
        if not keep:
            kept.release(target)
        from .websocket import WebSocketLink

        server_name = server_name() if callable(server_name) else server_name
        link = WebSocketLink.open(target, credentials, server_name=server_name, timeout=timeout)
        try:
            client = cls(link, timeout)
            client._login(password)
        except BaseException:
            link.close()
            raise
        return client

    @property
    def tls_line(self) -> str:
        """The line upydev shows on connecting, e.g. "TLSv1.2 @ ECDHE-ECDSA-AES128-GCM-SHA256 - 128 bits Encryption"."""
        if self.link.tls is None:
            return "no TLS: everything, the password too, is readable on the network"
        return "{} @ {} - {} bits Encryption".format(*self.link.tls)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # Login

    def _login(self, password: str | Callable[[], str]) -> None:
        said = self._login_answer(b"Password: ", Deadline(self.timeout))
        if b"Password: " not in said:
            raise _login_refusal(said, self.link.target)
        secret = password if isinstance(password, str) else password()
        if not secret or any(c in secret for c in "\r\n\0"):
            raise LoginError("The password is empty or holds a line end; use the one in webrepl_cfg.py on the board.")
        del self.link.text[:]
        self.link.send_text(secret.encode() + b"\r")
        deadline = Deadline(self.timeout)
        said = self._login_answer(_LOGGED_IN, deadline)
        if _LOGGED_IN not in said:
            raise _login_refusal(said, self.link.target)
        self._find(PROMPT, deadline, "show its prompt")

    def _login_answer(self, wanted: bytes, deadline: Deadline) -> bytes:
        """What the board says until `wanted`, a denial, or its end of the connection."""
        text = self.link.text
        try:
            while wanted not in text and _DENIED not in text:
                if deadline.expired or not self.link.wait(deadline.left):
                    break
        except ConnectionLost as e:
            if not text:
                raise
            if not bytes(text).strip(b"\r\n"):
                text += str(e).encode()
        return bytes(text)


def _login_refusal(said: bytes, target: Target) -> LoginError:
    line = brief(said)
    if _DENIED in said:
        return AccessDenied(
            f"Wrong password for {target}; it is the one in webrepl_cfg.py (or given to start) on the board."
        )
    if "in use" in line.lower() or "/takeover" in line:
        return SessionInUse(f"{target} is in use (it says: {line}); --takeover ends the other session.")
    if not line:
        return LoginError(f"{target} does not ask for a password in time; try again, or reset the board.")
    return LoginError(f"{target} refuses the login: {line}.")
