# The state table: what a connection may do at each stage, and the only place where it becomes a session.
# In: readable sockets, ticks.  Out: everything.  Drives upgrade, frames, login, terminal and files.
# Loaded with the first connection where it is frozen (server.py).
import os
from micropython import const

from wss import port, trust
from wss.frames import Decoder, Refused, closing, frame
from wss.login import PASSWORD_MAX, BackOff, same
from wss.terminal import Terminal

# Stages, in order of progress: a newcomer takes the place of the lowest.
_CLOSING = const(0)  # the last words are on their way
_SILENT = const(1)  # no byte yet, and no TLS object either: it costs a socket, not 30 KB
_REQUEST = const(2)  # TLS handshake, then the HTTP request
_LOGIN = const(3)  # "Password: "
_DENIED = const(4)  # wrong, and to be told so when the delay is over
_JUDGE = const(5)  # to be judged when earlier failures' delay is over
_RIVAL = const(6)  # right, but somebody else has the terminal: asked for a sign of life
_OPEN = const(9)  # stages that nobody is in lie between: server.py adds two to some

_SILENT_MS = const(10000)
_REQUEST_MS = const(15000)  # an ESP32 needs 1 to 5 s for mutual ECDSA
_LOGIN_MS = const(60000)  # somebody types
_RIVAL_MS = const(1500)
_CLOSING_MS = const(1000)

# RFC 6455 section 5.2
_TEXT = const(1)
_CLOSE = const(8)
_PING = const(9)
_PONG = const(10)

_RX = const(512)  # read at a time before login: what follows the password must fit into the terminal
_READS = const(8)  # reads a step: what a peer may keep the program waiting
_REPLIES = const(4)  # small frames queued


class Session:
    """One connection, from its first byte to its last. Every method returns at once."""

    def __init__(self, server, sock, address, now):
        server.backoff = server.backoff or BackOff()
        self.server = server
        self.sock = sock
        self.address = address
        self.io = None
        self.stage = _SILENT
        self.due = port.later(now, _SILENT_MS)
        self.awake = False  # has sent a first byte
        self.alive = False  # has sent something since it was last asked
        self._parted = None  # our answer to its CLOSE, sent when what it typed before is with the REPL
        self.rival = None  # whom we asked for a sign of life
        self.takeover = False
        self.term = None
        self.files = None
        self.attached = None  # what os.dupterm held before us
        self.flight = None  # memoryview of the record being written: TLS wants the very same bytes again
        self._sent = None
        self._replies = []
        self._input = b""  # the request, then the password
        self._typed = b""  # behind the password in its frame
        self._rest = b""  # frames behind that
        self._decoder = Decoder(self._frame)

    # Output -----------------------------------------------------------------------------------------------

    def reply(self, data):
        """Queue a small frame. A peer that asks faster than it reads loses the answers, not our memory."""
        if len(self._replies) < _REPLIES:
            self._replies.append(data)

    def pump(self):
        """Write what can be written; True when nothing is left in flight."""
        while True:
            # The count is stored before the VM's next check: a KeyboardInterrupt there must not send bytes twice
            if self._sent:
                data = self.flight
                self.flight = data[self._sent :] if self._sent < len(data) else None
                self._sent = None
            if self.flight is None:
                if self._replies:
                    self.flight = self._replies.pop(0)
                elif self.stage != _OPEN:
                    return True
                else:
                    # What is printed comes first: acknowledgements sent ahead keep a get busy to its end
                    self.flight = self.term.take()
                    if self.flight is None:
                        if not self.files or not self.files.busy():
                            return True
                        self.flight = self.files.piece()
                        continue
            self._sent = self.io.write(self.flight)
            if not self._sent:
                return False

    def send(self):
        """pump(), but never raises: a connection that is lost is dropped."""
        try:
            return self.pump()
        except MemoryError:
            pass  # nothing is lost, and the next step tries again
        except (OSError, ValueError):
            self.server.drop(self, "connection lost")

    def write(self, data):
        """Write bytes past the framing, for upydev's rcat; returns their count. Raises OSError: the session is gone."""
        server = self.server
        term = self.term
        if not term or not server.guard.enter(True):
            raise OSError(128)  # ENOTCONN
        try:
            if not term.drain(True):
                raise OSError
            rest = memoryview(bytes(data))
            start = port.ticks()
            while rest:
                n = self.io.write(rest)
                if n:
                    rest = rest[n:]
                    start = port.ticks()
                elif port.since(port.ticks(), start) >= server.write_ms:
                    raise OSError
                else:
                    port.sleep_ms(1)
        except (OSError, ValueError):
            server.drop(self, "stopped reading")
            raise OSError(128)
        finally:
            server.guard.leave()
        return len(data)

    def close(self, last):
        """Send the last words, then end; they wait until the peer has hung up too, or a reset would overtake them."""
        self._enter(_CLOSING, _CLOSING_MS)  # first: _OPEN without a terminal is no state to be left in by a MemoryError
        self._leave()
        self._replies.append(last)

    def _enter(self, stage, ms):
        self.stage = stage
        self.due = port.later(port.ticks(), ms)

    def starved(self):
        """End at the next step, now there is no memory even for that."""
        self._enter(_CLOSING, 0)
        self.server.last = "out of memory"

    # Input ------------------------------------------------------------------------------------------------

    def advance(self, now):
        """One step. Here, and nowhere else, what goes wrong becomes a status or a close code, or the end."""
        server = self.server
        try:
            try:
                if self.stage == _SILENT and self.awake:
                    self._wrap()
                elif self.stage == _RIVAL:
                    self._contest()
                elif self.term:
                    # Taken away by a program, or by the firmware, which had no stack left for our write()
                    was = os.dupterm(self.term)
                    if was is not self.term:
                        os.dupterm(was)
                        raise Refused(1011, "no terminal")
                if self.stage != _OPEN and port.since(now, self.due) >= 0:
                    self._overdue()
                if self.io:
                    self._receive()
                    if self._parted and self.stage != _CLOSING:
                        # ioctl(3, 1) asks whether there is something to read (py/stream.h)
                        if self.stage != _OPEN or not self.term.ioctl(3, 1) or port.since(now, self.due) >= 0:
                            self.close(self._parted)
                    if self.pump() and self._parted and self.stage == _CLOSING:
                        raise Refused(0, "closed")
            except Refused as e:
                self._refuse(*e.args)
        except MemoryError:
            port.mend()
            server.drop(self, "out of memory")
        except (OSError, ValueError) as e:  # ValueError: a certificate that does not verify (extmod/modtls_mbedtls.c)
            why = "connection lost", None
            if self.stage == _REQUEST:
                why = trust.reason() or ("TLS: %s" % (e.args[-1] if e.args else e), None)
            server.drop(self, why[0])
            server.last = why[1] or server.last

    def _refuse(self, code, cause):
        server = self.server
        if not code:
            server.drop(self, cause)
            return
        server.refused(cause)
        if code < 1000:
            from wss.upgrade import refusal

            self.close(refusal(code, cause))
        else:
            self.close(closing(code))

    def _wrap(self):
        # The stream to talk on: TLS, its handshake left to the reads, or the socket itself
        context = self.server.context
        self.io = self.sock
        if context:
            port.on_certificate(context, trust.verify)
            self.io = context.wrap_socket(self.sock, server_side=True, do_handshake_on_connect=False)
        self._enter(_REQUEST, _REQUEST_MS)

    def _overdue(self):
        stage = self.stage
        if stage == _JUDGE:
            self._judge()
        elif stage == _RIVAL:
            self._admit()
        elif stage > _REQUEST:
            if stage == _DENIED:
                self.reply(frame(_TEXT, b"\r\nAccess denied\r\n"))
            self.close(closing(1008))
        else:
            raise Refused(0, "closed" if stage == _CLOSING else "silent" if stage == _SILENT else "handshake timed out")

    def _receive(self):
        for _ in range(_READS):
            stage = self.stage
            if self._parted:
                return
            if stage == _OPEN:
                # As much as the terminal takes even if it is all typed text, and what is known to be a file's
                room = self.term.free()
                left = self._decoder.binary_left()
                view = left and self.files and self.files.room(room + left) or self.term.room(room)
                if not view:
                    return
                n = self.io.readinto(view)
            elif stage > _LOGIN:
                return
            else:
                view = self.io.read(_RX)
                n = view if view is None else len(view)
            if n is None:
                return
            if not n:
                raise Refused(0, "closed")
            self.alive = True
            self.server.used = port.ticks()
            if stage == _OPEN:
                self._decoder.feed(view[:n])
            elif stage == _REQUEST:
                self._request(view)
            elif stage:
                self._frames(memoryview(bytearray(view)))
        self.server.more = True

    def _request(self, data):
        from wss.upgrade import REQUEST_MAX, answer

        self._input += bytes(data)
        request = self._input
        end = request.find(b"\r\n\r\n") + 4
        if end < 4:
            if not b"GET ".startswith(request[:4]):
                raise Refused(400, "not an HTTP GET")
            if len(request) >= REQUEST_MAX:
                raise Refused(431, "request too long")
            return
        response, path = answer(request[:end])
        if not path:  # the page: a browser connects anew for what it does on it
            self.close(response)
            self._enter(_CLOSING, _REQUEST_MS)
            return
        port.forget("upgrade")
        self.takeover = path.startswith(b"/takeover")
        self._input = b""
        self._replies.append(response)
        self._replies.append(frame(_TEXT, b"Password: "))
        self._enter(_LOGIN, _LOGIN_MS)
        self.pump()
        if end < len(request):
            self._frames(memoryview(bytearray(request[end:])))

    def _frames(self, data):
        used = self._decoder.feed(data)
        if used < len(data):
            self._rest = bytes(data[used:])

    def _frame(self, op, data, start):
        # The decoder's sink. True stops it.
        if op == _PING:
            self.reply(frame(_PONG, data))
        elif op == _CLOSE:
            self._parted = closing(0, data)
            self.due = port.later(port.ticks(), _CLOSING_MS)
            return True
        elif op == _PONG:
            pass
        elif self.stage == _LOGIN:
            return self._password(data)
        elif op == _TEXT:
            self.term.put(data)
        else:
            if not self.files:
                from wss.files import Files

                self.files = Files(self.reply)
            self.files.feed(data, start)

    # Login ------------------------------------------------------------------------------------------------

    def _password(self, data):
        data = bytes(data)
        for i in range(len(data)):
            if data[i] == 13 or data[i] == 10:
                self._input += data[:i]
                i += 2 if data[i : i + 2] == b"\r\n" else 1
                self._typed = data[i:]
                self._judge()
                return self.stage != _OPEN
        if len(self._input) <= PASSWORD_MAX:  # one byte too many is kept, to be wrong
            self._input += data

    def _judge(self):
        now = port.ticks()
        backoff = self.server.backoff
        wait = backoff.wait(self.address[0], now)
        if wait:
            self._enter(_JUDGE, wait)
        elif same(self._input, self.server.password):
            backoff.right(self.address[0])
            self._input = b""
            if self.takeover:
                self._admit()
            else:
                self._contest()
        else:
            self._input = b""
            self.server.refused("wrong password")
            self._enter(_DENIED, backoff.wrong(self.address[0], now))

    def _contest(self):
        # The session before us answers, or is gone, or the time is up (_overdue): then it was a ghost.
        other = self.server.session
        if not other:
            self._admit()
        elif other is not self.rival:
            self.rival = other
            other.alive = False
            other.reply(frame(_PING))
            self._enter(_RIVAL, _RIVAL_MS)
        elif other.alive:
            self.server.refused("in use")
            who = b"\r\nIn use by %s. To take over, connect to the path /takeover.\r\n" % other.address[0]
            self.reply(frame(_TEXT, who))
            self.close(closing(1013))

    def _admit(self):
        # The gate: the only way to _OPEN.
        server = self.server
        other = server.session
        if other:
            other.farewell(self.address[0])
            server.drop(other, "taken over")
        self.term = Terminal(server, self)
        self.stage = _OPEN
        server.session = self
        if server.context:
            trust.remember()
        self.attached = os.dupterm(self.term)
        server.changed(self)
        self._replies.append(frame(_TEXT, b"\r\nWebREPL connected\r\n>>> "))
        self.term.put(self._typed[: self.term.free()])
        rest = self._rest
        self._typed = self._rest = b""
        if rest:
            self._frames(memoryview(bytearray(rest)))

    def farewell(self, address):
        """Tell a peer that may still be there who took over; never waits."""
        self._replies = [frame(_TEXT, b"\r\nTaken over by %s.\r\n" % address)]
        self.close(closing(1008))
        self.send()

    def _leave(self):
        # Give the terminal and the file in transfer back.
        if self.term:
            self.term.detach()
            now = os.dupterm(None)
            # Somebody else's terminal may have taken the place meanwhile: then it stays
            os.dupterm(self.attached if now is self.term else now)
            if self.files:
                self.files.abort()
            self.term = self.files = self.attached = None
            self.server.session = None
            self.server.changed(None)

    def end(self):
        """Release everything; may be called at any stage."""
        self._leave()
        for s in (self.io, self.sock):
            try:
                if s:
                    s.close()
            except (OSError, ValueError):
                pass
        # Without rival, or a ghost would keep the one before it, and so on
        self.io = self.flight = self._sent = self.rival = None
