"""websocket-client from PyPI and wscat from npm, with a client certificate."""

import os
import threading

import pytest
import websocket
from clients import PASSPHRASE, PASSWORD
from console import Console
from peers import FILE_REQUEST, GET, PUT

# websocket-client -------------------------------------------------------------------------------------------


def opened(desk) -> websocket.WebSocket:
    host = desk.host
    own = {"ca_certs": str(host.ca), "certfile": str(host.cert), "keyfile": str(host.key), "password": PASSPHRASE}
    return websocket.create_connection("wss://" + desk.target, timeout=60, sslopt=own)


def until(ws: websocket.WebSocket, end: str) -> str:
    text = ""
    while not text.endswith(end):
        text += ws.recv()
    return text


@pytest.fixture
def ws(desk):
    ws = opened(desk)
    try:
        assert ws.recv() == "Password: "
        ws.send(PASSWORD + "\r")
        assert ws.recv() == "\r\nWebREPL connected\r\n>>> "
        yield ws
    finally:
        ws.close(timeout=5)


def test_websocket_client_commands(ws):
    for i in range(20):
        ws.send(f"print({i} * 7)\r")
        assert until(ws, ">>> ") == f"print({i} * 7)\r\n{i * 7}\r\n>>> "


def test_websocket_client_put_and_get(ws, desk):
    content = os.urandom(300_000)

    def request(op, size=0):
        ws.send_binary(FILE_REQUEST.pack(b"WA", op, 0, 0, size, 6, b"wc.bin"))
        assert ws.recv() == b"WB\0\0"

    request(PUT, len(content))
    for i in range(0, len(content), 100_000):  # a frame with a 64-bit length
        ws.send_binary(content[i : i + 100_000])
    assert ws.recv() == b"WB\0\0"
    assert (desk.directory / "wc.bin").read_bytes() == content
    request(GET)
    got = b""
    ws.send_binary(b"\0")
    while len(piece := ws.recv()) > 2:
        got += piece[2:]
        ws.send_binary(b"\0")
    assert ws.recv() == b"WB\0\0"
    assert got == content


def test_websocket_client_close(desk):
    ws = opened(desk)
    assert ws.recv() == "Password: "
    ws.send_close(1000, b"done")
    opcode, frame = ws.recv_data_frame(control_frame=True)
    assert (opcode, frame.data[:2]) == (websocket.ABNF.OPCODE_CLOSE, b"\x03\xe8")
    ws.shutdown()


def test_websocket_app_with_pings(desk):
    """The callback style, with a ping every 0.9 s; an unanswered one would end it with an error."""
    host, seen, errors, pongs = desk.host, [], [], []

    def on_message(app, text):
        seen.append(text)
        if text == "Password: ":
            app.send(PASSWORD + "\rimport time; time.sleep(3); print(6*7)\r")
        elif "42\r\n" in "".join(seen) and text == ">>> ":
            app.close()

    app = websocket.WebSocketApp(
        "wss://" + desk.target,
        on_message=on_message,
        on_error=lambda app, error: errors.append(error),
        on_pong=lambda app, data: pongs.append(data),
    )
    own = {"ca_certs": str(host.ca), "certfile": str(host.cert), "keyfile": str(host.key), "password": PASSPHRASE}
    options = {"sslopt": own, "ping_interval": 0.9, "ping_timeout": 0.8}
    thread = threading.Thread(target=app.run_forever, kwargs=options, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert not errors, errors
    assert len(pongs) >= 3
    assert "".join(seen).endswith("print(6*7)\r\n42\r\n>>> ")


# wscat ------------------------------------------------------------------------------------------------------


@pytest.fixture
def start_wscat(desk, wscat):
    host = desk.host
    own = ["--ca", host.ca, "--cert", host.cert, "--key", host.key, "--passphrase", PASSPHRASE]
    return lambda *options: Console([wscat, "--no-color", "-c", "wss://" + desk.target, *own, *options], env=desk.env)


def test_wscat_executes_a_line(start_wscat):
    """-x sends one text frame: the password, and the command behind it. (Lines typed into wscat leave without a
    line end, so they run nothing on a REPL.)"""
    with start_wscat("-w", "1", "-x", f"{PASSWORD}\rprint(6*7)\r") as client:
        for text in (b"Password: ", b"WebREPL connected", b"42\n", b">>> "):  # an echo may come in pieces
            client.until(text)
        assert client.end() == 0


def test_wscat_without_a_certificate(desk, wscat):
    with Console([wscat, "--no-color", "--ca", desk.host.ca, "-c", "wss://" + desk.target], env=desk.env) as client:
        client.until(b"error:")
        client.end()
        assert b"Password" not in client.seen
