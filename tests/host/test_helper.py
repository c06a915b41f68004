"""wss_helper: the WebSocket handshake over a program's own stream."""

import socket
import threading

import pytest
from peers import REQUEST
from ports import free_port

pytestmark = pytest.mark.needs("ports")


def served(board, request: bytes) -> tuple[str, bytes]:
    """What server_handshake() says about a request, and what the client got."""
    port = free_port()
    board.run("import socket, wss_helper; s = socket.socket(); s.setsockopt(1, 2, 1)")
    board.run("s.bind(socket.getaddrinfo('127.0.0.1', %d)[0][-1]); s.listen(1)" % port)
    got = bytearray()

    def client():
        with socket.create_connection(("127.0.0.1", port), 5) as c:
            c.sendall(request)
            while data := c.recv(1000):
                got.extend(data)

    thread = threading.Thread(target=client)
    thread.start()
    said = board.run("c = s.accept()[0]; print(wss_helper.server_handshake(c))")
    board.run("c.close(); s.close()")
    thread.join()
    return said, bytes(got)


@pytest.mark.parametrize(
    ("request_", "says", "status"),
    [
        (REQUEST % b"/", "None", b"101"),
        (b"GET /other HTTP/1.1\r\nHost: x\r\n\r\n", "OSError: refused: 426", b"426"),
    ],
)
def test_a_request(board, request_, says, status):
    said, got = served(board, request_)
    assert says in said and got.split(b" ")[1] == status


def test_a_browser_that_asks_for_the_page_has_not_upgraded(board):
    said, got = served(board, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert "OSError" in said and got.startswith(b"HTTP/1.1 200 OK")
