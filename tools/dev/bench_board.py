"""The board's side of bench.py: what the bundle is compared with, and the programs that are timed.

start(kind, ...) listens in the background, stop(kind) ends that:
    ours    this bundle
    stock   the firmware's C websocket and _webrepl over a TLS socket, wired as upydev's wss_repl.py does
    bare    nothing but a TLS socket, and the commands of _serve()
All three ask for a client certificate, with the same key, certificate and CA on the board.
"""

import gc
import os
import socket
import time
from binascii import b2a_base64
from hashlib import sha1

import tls

_CALLBACK = 20  # setsockopt(SOL_SOCKET, 20, f): f(sock) is called when sock is readable
_PIECE = 4096  # the largest TLS record an ESP32 writes at once
_listening = {}
_client = None


def _context():
    from wss.credentials import places, read
    from wss.port import uid

    names = places(uid())
    context = tls.SSLContext(tls.PROTOCOL_TLS_SERVER)
    context.verify_mode = tls.CERT_REQUIRED
    context.load_cert_chain(read(None, names[1], "certificate")[0][0], read(None, names[0], "private key")[0][0])
    for der in read(None, names[2], "CA certificate")[0]:
        context.load_verify_locations(der)
    return context


def start(kind, port, password, host="0.0.0.0"):
    if kind == "ours":
        import wss_repl

        wss_repl.start(port=port, password=password, host=host)
        return
    if kind == "stock":
        import _webrepl

        _webrepl.password(password)
    context = _context()
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(socket.getaddrinfo(host, port)[0][-1])
    sock.listen(1)
    accept = _accept_stock if kind == "stock" else _accept_bare
    sock.setsockopt(socket.SOL_SOCKET, _CALLBACK, lambda s: accept(s, context))
    _listening[kind] = sock


def stop(kind):
    global _client
    if kind == "ours":
        import wss_repl

        wss_repl.stop()
        return
    sock = _listening.pop(kind, None)
    if sock:
        sock.close()
    if kind == "stock" and _client:
        os.dupterm(None)
        _client.close()
        _client = None


def attached():
    """Whether a session has the terminal."""
    term = os.dupterm(None)
    os.dupterm(term)
    return term is not None


# Stock: blocking handshake and upgrade, then everything is C. ------------------------------------------------


def _accept_stock(listener, context):
    global _client
    import _webrepl
    import websocket

    sock = listener.accept()[0]
    if attached():
        print("concurrent connection rejected")
        sock.close()
        return
    _client = sock
    try:
        sock.setsockopt(socket.SOL_SOCKET, _CALLBACK, os.dupterm_notify)
        sock = context.wrap_socket(sock, server_side=True)
        _upgrade(sock)
    except (OSError, ValueError) as e:
        print("stock:", e)
        _client.close()
        return
    term = _webrepl._webrepl(websocket.websocket(sock, True))
    _client.setblocking(False)
    os.dupterm(term)


def _upgrade(sock):
    key = b""
    sock.readline()
    while True:
        line = sock.readline()
        if not line:
            raise OSError("end in the request")
        if line == b"\r\n":
            break
        name, value = [part.strip() for part in line.split(b":", 1)]
        if name == b"Sec-WebSocket-Key":
            key = value
    digest = sha1(key)
    digest.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11")
    sock.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n")
    sock.write(b"Sec-WebSocket-Accept: ")
    sock.write(b2a_base64(digest.digest())[:-1])
    sock.write(b"\r\n\r\n")


# Bare: one connection at a time, blocking, until it ends. ------------------------------------------------------


def _accept_bare(listener, context):
    raw = listener.accept()[0]
    try:
        raw.setsockopt(6, getattr(socket, "TCP_NODELAY", 1), 1)
        _serve(context.wrap_socket(raw, server_side=True))
    except (OSError, ValueError) as e:
        print("bare:", e)
    raw.close()


def _serve(sock):
    # A command is five bytes: a letter and a 32-bit count of bytes.
    buf = memoryview(bytearray(_PIECE))
    while True:
        command = sock.read(5)
        if len(command) < 5:
            sock.close()
            return
        n = int.from_bytes(command[1:], "big")
        command = command[:1]
        if command == b"e":  # echo
            for _ in range(n):
                sock.write(sock.read(1))
        elif command == b"i":  # take n bytes, then say so
            while n:
                n -= sock.readinto(buf[: min(n, _PIECE)])
            sock.write(b"k")
        elif command == b"o":  # give n bytes
            while n:
                n -= sock.write(buf[: min(n, _PIECE)])
        elif command == b"l":  # give n bytes in lines of 50
            line = b"x" * 48 + b"\r\n"
            for _ in range(n // 50):
                sock.write(line)


# The programs ---------------------------------------------------------------------------------------------------


def lines(n):
    """Print n lines that have 50 bytes each on the wire; took is then what they took of the processor, in seconds,
    where firmware tells it."""
    global took
    line = "x" * 48
    clock = getattr(time, "clock", int)
    print("GO")
    start = clock()
    for _ in range(n):
        print(line)
    took = clock() - start


def _count(n):
    # By the processor's time where firmware tells it (the desk's, whose machine has other things to do), to the ms
    clock = getattr(time, "clock", None)
    start = clock() if clock else time.ticks_us()
    for _ in range(n):
        pass
    return round((clock() - start) * 1000000) if clock else time.ticks_diff(time.ticks_us(), start)


def slowdown(kinds, samples, ms):
    """Time a program that counts, with no server and with an idle session.

    kinds: [(kind, port, password, host)]. Prints "open KIND" or "close KIND" when it wants the host to do so, and
    "count KIND none open" in microseconds for each sample.
    """
    n = 1000
    while _count(n) < ms * 1000:
        n += n // 2
    for _ in range(samples):
        for kind, port, password, host in kinds:
            gc.collect()
            none = _count(n)
            start(kind, port, password, host)
            print("open", kind)
            while not attached():
                time.sleep_ms(5)
            time.sleep_ms(2300)  # idle: ours ticks faster for two seconds after something has come in
            opened = _count(n)
            print("close", kind)
            while attached():
                time.sleep_ms(5)
            stop(kind)
            time.sleep_ms(20)
            print("count", kind, none, opened)
