"""WebREPL over TLS with mutual authentication: a drop-in for `webrepl` and for upydev's `wss_repl`."""

from typing import Any, Literal, TypedDict

VERSION: str
listen_s: Any  # the listening socket, None when nothing listens
client_s: Any  # the socket of who is in, or None
client_swr: Any  # takes bytes that go out without a frame, or None
began: tuple[int, int]  # time.time() and time.ticks_ms() at start()

class Status(TypedDict):
    listening: list[str]
    client: tuple[str, int] | None
    host: tuple[str, str] | None
    logins: dict[str, int]
    pending: int
    refused: dict[str, int]
    last_refusal: str | None
    lacks: list[str]
    version: str
    timer: str | None
    update: str

def start(
    port: int | None = None,
    password: str | bytes | None = None,
    ssl: bool = True,
    auth: bool = True,
    *,
    key: str | bytes | None = None,
    cert: str | bytes | None = None,
    ca: str | bytes | None = None,
    host: str = "0.0.0.0",
    write_timeout: int = 2000,
    timer: Any = None,
    log: int = 0,
    update_key: bool | str | bytes | None = None,
) -> None:
    """Listen, and answer in the background. Raises ValueError (missing or unusable settings) or OSError (the port)."""

def start_foreground(port: int | None = None, password: str | bytes | None = None, **options: Any) -> Literal[True]:
    """start(), then wait until somebody has logged in."""

def stop() -> None:
    """End the session and the listening."""

def poll() -> None:
    """Do what can be done now, without waiting."""

def status() -> Status:
    """What is going on."""

def set_ssl(flag_ssl: bool = True, flag_auth: bool = True) -> None:
    """Write ssl_config.py for the next start."""
