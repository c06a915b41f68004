"""ussl as WiPy and pycom had it and ssl as MicroPython 1.21 had it, over the TLS of today's firmware."""

from collections.abc import Sequence
from typing import Any, Final, Self, TypeAlias, overload

_Buffer: TypeAlias = bytes | bytearray | memoryview

CERT_NONE: Final = 0
CERT_OPTIONAL: Final = 1
CERT_REQUIRED: Final = 2
IPPROTO_SEC: Final = 0
SSL_TIMEOUT: int

# Of the firmware's tls module; the last two where it has DTLS
PROTOCOL_TLS_CLIENT: int
PROTOCOL_TLS_SERVER: int
PROTOCOL_DTLS_CLIENT: int
PROTOCOL_DTLS_SERVER: int
MBEDTLS_VERSION: str

class SSLError(OSError): ...

class SSLSocket:
    """A socket that speaks TLS; wrap_socket() makes them. What is not named here is the socket's own."""

    def connect(self, addr: Any) -> None: ...
    def accept(self) -> tuple[Self, Any]: ...
    def setblocking(self, flag: bool) -> None: ...
    def settimeout(self, seconds: float | None) -> None: ...
    def read(self, n: int = -1) -> bytes | None: ...
    def readline(self, n: int = -1) -> bytes | None: ...
    def readinto(self, buf: _Buffer, n: int | None = None) -> int | None: ...
    def write(self, buf: _Buffer, *part: int) -> int | None: ...
    def recv(self, n: int) -> bytes: ...
    def recv_into(self, buf: _Buffer, n: int = 0) -> int: ...
    def recvfrom(self, n: int) -> tuple[bytes, Any]: ...
    def send(self, data: _Buffer) -> int: ...
    def sendall(self, data: _Buffer) -> None: ...
    def sendto(self, data: _Buffer, *to: Any) -> int: ...
    def makefile(self, mode: str = "rwb", *buffering: Any) -> Self: ...
    def cipher(self) -> tuple[str, str] | None: ...
    def close(self) -> None: ...
    def ioctl(self, request: int, arg: int) -> int: ...
    def __getattr__(self, name: str) -> Any: ...

class SSLContext:
    """Settings for any number of connections. What is not named here is the firmware's tls.SSLContext's own."""

    verify_mode: int
    check_hostname: bool
    def __init__(self, protocol: int) -> None: ...
    def get_ciphers(self) -> list[str]: ...
    def set_ciphers(self, names: Sequence[str]) -> None: ...
    def load_cert_chain(self, certfile: str | bytes, keyfile: str | bytes | None = None) -> None: ...
    def load_verify_locations(self, cafile: str | bytes | None = None, cadata: str | bytes | None = None) -> None: ...
    def wrap_socket(
        self,
        sock: Any,
        *,
        server_side: bool = False,
        do_handshake_on_connect: bool = True,
        server_hostname: str | bytes | None = None,
        client_id: bytes | None = None,
        timeout: float | None = None,
    ) -> SSLSocket: ...
    def __getattr__(self, name: str) -> Any: ...

def save_session(ssl_sock: SSLSocket) -> tuple[str, str] | None:
    """pycom's: something to pass as saved_session. It saves nothing."""

# WiPy's order of arguments, and that of 1.21: the type of the second tells which is meant
@overload
def wrap_socket(
    sock: Any,
    keyfile: str | bytes | None = None,
    certfile: str | bytes | None = None,
    server_side: bool = False,
    cert_reqs: int = 0,
    ca_certs: str | bytes | None = None,
    *,
    cadata: str | bytes | None = None,
    server_hostname: str | bytes | None = None,
    do_handshake: bool = True,
    key: str | bytes | None = None,
    cert: str | bytes | None = None,
    timeout: float | None = None,
    ssl_version: int = 0,
    saved_session: Any = None,
) -> SSLSocket: ...
@overload
def wrap_socket(
    sock: Any,
    server_side: bool = False,
    keyfile: str | bytes | None = None,
    certfile: str | bytes | None = None,
    cert_reqs: int = 0,
    cadata: str | bytes | None = None,
    server_hostname: str | bytes | None = None,
    do_handshake: bool = True,
    *,
    key: str | bytes | None = None,
    cert: str | bytes | None = None,
    ca_certs: str | bytes | None = None,
    timeout: float | None = None,
    ssl_version: int = 0,
    saved_session: Any = None,
) -> SSLSocket: ...
