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
_READS_MAX = const(8)  # reads in a step, so that a peer cannot hold up the program


class Receiver:
    """Reads what the peer of one session sends. Nothing waits."""

    def __init__(self, session):
        self.session = session
        self.login = None  # from the HTTP request to the open terminal
        self.files = None
        self._request = b""  # None when it is complete, or no longer wanted
        self._typed = b""  # what came behind the password in its frame
        self._frames = b""  # the frames behind that one
        self._decoder = Decoder(self._take_frame)

    def receive(self):
        """Read as much as one step may. Raises Refused."""
        session = self.session
        if not session.terminal and port.may_write and not port.may_write(session):
            return  # the handshake writes, too
        for _ in range(_READS_MAX):
            terminal = session.terminal
            if session.close_answer or self.login and self.login.is_complete:
                return
            if terminal:
                # As much as the terminal takes even if all of it is typed text, and what is known to be a file's.
                room = terminal.typed.free()
                left = self._decoder.binary_left()
                view = left and self.files and self.files.room(room + left) or terminal.typed.room(room)
                if not view:
                    return
                n = session.stream.readinto(view)
            else:
                view = session.stream.read(_READ_MAX)
                n = view if view is None else len(view)
            if n is None:
                return
            if not n:
                raise Refused(0, "closed")
            session.is_alive = True
            session.server.last_input = port.ticks_ms()
            if terminal:
                self._decoder.feed(view[:n])
            elif self.login:
                self.take_frames(memoryview(bytearray(view)))
            elif self._request is not None:
                self._take_request(view)
        session.server.input_left = True

    def ignore(self):
        """The last words are said: what still comes is thrown away, and a file in transfer is given up."""
        self.login = self._request = None
        if self.files:
            self.files.abort()
            self.files = None

    def open(self):
        """The terminal is there: give it what came behind the password."""
        terminal = self.session.terminal
        terminal.typed.put(self._typed[: terminal.typed.free()])
        frames = self._frames
        self._typed = self._frames = b""
        self.login = None
        port.unload_frozen("login")
        if frames:
            self.take_frames(memoryview(bytearray(frames)))

    def _take_request(self, data):
        from wss.upgrade import answer, request_end

        session = self.session
        server = session.server
        self._request += bytes(data)
        request = self._request
        end = request_end(request)
        if not end:
            return
        response, path = answer(request[:end], b"https" if server.context else b"http")
        if not path:
            session.send_page(response)
            return
        port.unload_frozen("upgrade")
        from wss.login import Login

        self.login = Login(server.failures, server.password, session.address[0])
        self._request = None
        session.ask_password(response, path.startswith(b"/takeover"))
        if end < len(request):
            self.take_frames(memoryview(bytearray(request[end:])))

    def take_frames(self, data):
        """Decode a writable memoryview of frames; what follows the password is kept for open()."""
        used = self._decoder.feed(data)
        if used < len(data):
            self._frames = bytes(data[used:])

    def _take_frame(self, op, data, start):
        # The decoder calls this for each piece of a frame, and stops when it returns True.
        session = self.session
        if op == _PING:
            session.sender.reply(frame(_PONG, data))
        elif op == _CLOSE:
            session.answer_close(closing(0, data))
            return True
        elif op == _PONG:
            pass
        elif self.login:
            rest = self.login.feed(bytes(data))
            if rest is not None:
                self._typed = rest
                session.judge()
                return not session.terminal
        elif op == _TEXT:
            session.terminal.typed.put(data)
            server = session.server
            server.records = 0  # an answer to what is typed is no rush (terminal.py), and does not wait for a tick
            if server.mode:
                from wss.modes import after_input

                server.mode, more = after_input(server.mode, data)
                session.terminal.typed.put(more)
        else:
            if not self.files:
                from wss.files import Files

                self.files = Files(session.sender.reply)
            self.files.feed(data, start)
