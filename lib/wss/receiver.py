# The way into a connection: what comes goes to the request, the password, the terminal, or a file.
# In: a readable stream.  Out: typed text, file transfers, answers to pings.  Drives upgrade, frames, login, files.
from micropython import const

from wss import port
from wss.frames import Decoder, Refused, closing, frame

# Opcodes of RFC 6455 section 5.2
_TEXT = const(1)
_CLOSE = const(8)
_PING = const(9)
_PONG = const(10)

_READ_MAX = const(512)  # bytes read at a time before login: what follows the password must fit into the terminal
_NEW_LINE = const(b"\x01\x02\x03\x04\n\r")  # typed last, they end the line, or leave none

_READS_MAX = const(8)  # reads in a step, so that a peer cannot hold up the program


class Receiver:
    """Reads what the peer of one session sends. Nothing waits.

    A Ctrl-C of the console can end receive() at any jump (guard.py). Then it is called again, and goes on where it was:
    nothing that was read is lost, and nothing is done twice.
    """

    def __init__(self, session):
        self.session = session
        self.login = None  # from the HTTP request to the open terminal
        self.files = None
        self._request = b""  # None when it is complete, or no longer wanted
        self._data = None  # a writable memoryview: what was read
        self._left = None  # how many bytes of it, while they are not decoded
        self._decoder = Decoder(self._take_frame)

    def receive(self):
        """Read as much as one step may. Raises Refused."""
        session = self.session
        if not session.terminal and port.may_write and not port.may_write(session):
            return  # a read goes on with the handshake, which writes, too
        decoder = self._decoder
        for _ in range(_READS_MAX):
            if session.close_answer or self.login and self.login.is_complete:
                return
            n = self._left
            if n is None:
                view = self._room()
                if not view:
                    return
                self._data = view
                n = self._left = session.stream.readinto(view)  # no jump since it was read
                if n is None:
                    return
            if not n:
                raise Refused(0, "closed")
            session.is_alive = True
            session.server.last_input = port.ticks_ms()
            data = self._data[:n]
            if session.terminal or self.login:
                while decoder.at < n:
                    decoder.feed(data)
                    if session.close_answer or self.login and self.login.is_complete:
                        return
            elif self._request is not None and not self._take_request(data):
                continue
            self._left = None  # no jump from here on
            decoder.at = 0
        session.server.input_left = True

    def _room(self):
        # As much as the terminal takes even if all of it is typed text, and what is known to be a file's.
        terminal = self.session.terminal
        if not terminal:
            return memoryview(bytearray(_READ_MAX))
        room = terminal.typed.free()
        left = self._decoder.binary_left()
        return left and self.files and self.files.room(room + left) or terminal.typed.room(room)

    def ignore(self):
        """The last words are said: what still comes is thrown away, and a file in transfer is given up."""
        self.login = self._request = None
        if self.files:
            self.files.abort()
            self.files = None

    def open(self):
        """The terminal is there: what came behind the password is for it."""
        self.login = None
        port.unload_frozen("login")
        self.session.server.input_left = True

    def _take_request(self, data):
        # True when all of data is taken; else the frames behind the request are what is left.
        from wss.upgrade import answer, request_end

        session = self.session
        server = session.server
        request = self._request + bytes(data)
        end = request_end(request)
        if not end:
            self._request = request
            return True
        response, path = answer(request[:end], b"https" if server.context else b"http")
        if not path:
            session.send_page(response)
            return True
        port.unload_frozen("upgrade")
        from wss.login import Login

        login = Login(server.failures, server.password, session.address[0])
        rest = memoryview(bytearray(request[end:]))
        left = len(rest) or None
        session.ask_password(response, path.startswith(b"/takeover"))  # no jump from its effects on
        self.login = login
        self._request = None
        self._data = rest
        self._left = left
        return False

    def _take_frame(self, op, data, start):
        # The decoder's sink.
        session = self.session
        if op >= _CLOSE:
            if op == _PING:
                session.sender.reply(frame(_PONG, data))
            elif op == _CLOSE:
                session.answer_close(closing(0, data))
            return None
        if self.login:
            return self.login.feed(data)
        n = len(data)
        if op == _TEXT:
            typed = session.terminal.typed
            server = session.server
            server.records = 0  # an answer to what is typed is no rush (terminal.py), and does not wait for a tick
            if server.line:
                server.line = 2 * (data[-1] not in _NEW_LINE)
            if server.mode:
                from wss.modes import after_input

                mode, more = after_input(server.mode, data)
                server.mode = mode  # no jump from here on
                typed.put(data)
                typed.put(more)
                return n
            typed.put(data)
            return n
        if not self.files:
            from wss.files import Files

            self.files = Files(session.sender.reply)
        return self.files.feed(data, start)
