# The state table: what a connection may do at each stage, and the only place where it becomes a session.
# In: readable sockets, ticks.  Out: everything.  Drives listener, upgrade, frames, login, terminal and files.
import gc
import os
import select
from micropython import const

from wss import port, trust
from wss.files import Files
from wss.frames import CLOSE, PING, PONG, TEXT, Decoder, ProtocolError, close_payload, frame
from wss.listener import PENDING_MAX, Listener, weakest
from wss.login import PASSWORD_MAX, BackOff, same
from wss.terminal import INPUT_MAX, Terminal
from wss.upgrade import REQUEST_MAX, Refused, answer, refusal

# Stages, in order of progress: weakest() compares them.
_CLOSING = const(0)  # the last words are on their way
_SILENT = const(1)  # no byte yet, and no TLS object either: it costs a socket, not 30 KB
_REQUEST = const(2)  # TLS handshake, then the HTTP request
_LOGIN = const(3)  # "Password: "
_DENIED = const(4)  # wrong, and to be told so when the delay is over
_JUDGE = const(5)  # to be judged when earlier failures' delay is over
_RIVAL = const(6)  # right, but somebody else has the terminal: asked for a sign of life
_OPEN = const(7)

_SILENT_MS = const(10000)
_REQUEST_MS = const(15000)  # an ESP32 needs 1 to 5 s for mutual ECDSA
_LOGIN_MS = const(60000)  # somebody types
_RIVAL_MS = const(1500)
_CLOSING_MS = const(1000)

_RX = const(2048)  # read at a time
_READS = const(8)  # reads a step: what a peer may keep the program waiting
_REPLIES = const(4)  # small frames queued

_IDLE_TICK = const(100)  # ms between timer steps with nobody connected
_TICK = const(20)


class Over(Exception):
    """The connection has ended; args are (cause,)."""


class Session:
    """One connection, from its first byte to its last. Every method returns at once."""

    def __init__(self, server, sock, address, now):
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
        self._flight = None  # memoryview of the record being written: TLS wants the very same bytes again
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
        """Write what can be written, one frame a record and a call; True when nothing is left in flight."""
        while True:
            # The count is stored before the VM's next check: a KeyboardInterrupt there must not send a frame twice
            if self._sent:
                data = self._flight
                self._flight = data[self._sent :] if self._sent < len(data) else None
                self._sent = None
            if self._flight is None:
                if self._replies:
                    self._flight = self._replies.pop(0)
                elif self.stage != _OPEN:
                    return True
                elif self.files.busy():
                    self._flight = self.files.piece()
                    continue
                elif self.term.pending():
                    self._flight = self.term.take()
                else:
                    return True
            self._sent = self.io.write(self._flight)
            if not self._sent:
                return False

    def close(self, last):
        """Send the last words, then end; they wait until the peer has hung up too, or a reset would overtake them."""
        self._leave()
        self._replies.append(last)
        self._enter(_CLOSING, _CLOSING_MS)

    def _enter(self, stage, ms):
        self.stage = stage
        self.due = port.later(port.ticks(), ms)

    # Input ------------------------------------------------------------------------------------------------

    def advance(self, now):
        """One step; raises what ends the connection."""
        if self.stage == _SILENT and self.awake:
            self.io = self.server.wrap(self.sock)
            self._enter(_REQUEST, _REQUEST_MS)
        elif self.stage == _RIVAL:
            self._contest()
        if self.stage != _OPEN and port.since(now, self.due) >= 0:
            self._overdue()
        if self.io:
            self._receive()
            if self._parted and self.stage != _CLOSING:
                if self.stage != _OPEN or not self.term.typed() or port.since(now, self.due) >= 0:
                    self.close(self._parted)
            if self.pump() and self._parted and self.stage == _CLOSING:
                raise Over("closed")

    def _overdue(self):
        stage = self.stage
        if stage == _DENIED:
            self.reply(frame(TEXT, b"\r\nAccess denied\r\n"))
            self.close(frame(CLOSE, close_payload(1008)))
        elif stage == _JUDGE:
            self._judge()
        elif stage == _RIVAL:
            self._admit()
        elif stage == _LOGIN:
            self.close(frame(CLOSE, close_payload(1008)))
        else:
            raise Over("closed" if stage == _CLOSING else "silent" if stage == _SILENT else "handshake timed out")

    def _receive(self):
        rx = self.server.rx
        for _ in range(_READS):
            stage = self.stage
            if self._parted:
                return
            view = rx
            if stage == _OPEN:
                # As much as the terminal takes even if it is all typed text, and what is known to be a file's
                room = self.term.free() + self._decoder.binary_left()
                if room < _RX:
                    if not room:
                        return
                    view = rx[:room]
            elif stage > _LOGIN:
                return
            else:
                view = rx[:INPUT_MAX]  # what follows the password in one read must fit into the terminal
            n = self.io.readinto(view)
            if n is None:
                return
            if not n:
                raise Over("closed")
            self.alive = True
            if stage == _REQUEST:
                self._request(rx[:n])
            elif stage != _CLOSING:
                self._frames(rx[:n])
        self.server.more = True

    def _request(self, data):
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
        self.takeover = path.startswith(b"/takeover")
        self._input = b""
        self._replies.append(response)
        self._replies.append(frame(TEXT, b"Password: "))
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
        if op == PING:
            self.reply(frame(PONG, bytes(data)))
        elif op == CLOSE:
            self._parted = frame(CLOSE, close_payload(0, data))
            self.due = port.later(port.ticks(), _CLOSING_MS)
            return True
        elif op == PONG:
            pass
        elif self.stage == _LOGIN:
            return self._password(data)
        elif op == TEXT:
            self.term.put(data)
        else:
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
            other.reply(frame(PING))
            self._enter(_RIVAL, _RIVAL_MS)
        elif other.alive:
            self.server.refused("in use")
            who = "\r\nIn use by %s. To take over, connect to the path /takeover.\r\n" % other.address[0]
            self.reply(frame(TEXT, who.encode()))
            self.close(frame(CLOSE, close_payload(1013)))

    def _admit(self):
        # The gate: the only way to _OPEN.
        server = self.server
        other = server.session
        if other:
            other.farewell(self.address[0])
            server.drop(other, "taken over")
        self.files = Files(self.reply)
        self.term = Terminal(server, self)
        self.stage = _OPEN
        server.session = self
        if server.context:
            trust.remember()
        self.attached = os.dupterm(self.term)
        server.changed(self)
        self._replies.append(frame(TEXT, b"\r\nWebREPL connected\r\n>>> "))
        self.term.put(self._typed[: self.term.free()])
        rest = self._rest
        self._typed = self._rest = b""
        if rest:
            self._frames(memoryview(bytearray(rest)))

    def farewell(self, address):
        """Tell a peer that may still be there who took over; never waits."""
        self._replies = [frame(TEXT, ("\r\nTaken over by %s.\r\n" % address).encode())]
        self.close(frame(CLOSE, close_payload(1008)))
        try:
            self.pump()
        except (OSError, ValueError):
            pass

    def _leave(self):
        # Give the terminal and the file in transfer back.
        if self.term:
            self.term.detach()
            now = os.dupterm(None)
            # Somebody else's terminal may have taken the place meanwhile: then it stays
            back = self.attached if now is self.term else now
            if back:
                os.dupterm(back)
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
        self.io = self._flight = self._sent = None


class Server:
    """The one listener and its connections.

    context: a tls.SSLContext that requires client certificates, or None for plain ws; password: bytes;
    write_ms: how long output may wait for a stalled reader; changed(session or None): told of each new session.
    Raises OSError when the port can't be listened on.
    """

    def __init__(self, host, number, context, password, write_ms, changed):
        self.context = context
        self.password = password
        self.write_ms = write_ms
        self.changed = changed
        self.session = None
        self.sessions = []
        self.backoff = BackOff()
        self.guard = port.Guard()
        self.ring = port.Ring()
        self.rx = None  # what is read, in steps of _RX; there while somebody is connected
        self.more = False  # input was left unread, perhaps inside mbedTLS, where no socket event tells of it
        self.refusals = {}
        self.last = None
        self._wait = select.poll()
        self._timer = None
        self._period = 0
        self.tick = self.step  # bound once: callbacks must not allocate
        self.listener = Listener(host, number, self.tick)

    def start_timer(self, timer):
        """Let timer (machine.Timer or None) drive the steps where no socket callback can: in a busy loop."""
        self._timer = timer
        self._pace()

    def _pace(self):
        if self._timer:
            period = _TICK if self.sessions else _IDLE_TICK
            if period != self._period:
                self._period = period
                self._timer.init(period=period, mode=self._timer.PERIODIC, callback=self.tick)

    def wrap(self, sock):
        """The stream to talk on: TLS, its handshake left to the reads, or sock itself."""
        self.listener.forget(sock)
        if not self.context:
            return sock
        return self.context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)

    def refused(self, cause):
        """Count a refusal for status()."""
        self.last = cause
        if cause in self.refusals or len(self.refusals) < 16:
            self.refusals[cause] = self.refusals.get(cause, 0) + 1

    def step(self, _=None):
        """Do what can be done without waiting. Called by socket callbacks, the timer, the terminal and poll()."""
        if not self.guard.enter(False):
            return
        interrupt = False
        try:
            self.cycle()
        except KeyboardInterrupt:
            interrupt = True
        except MemoryError:
            self.last = "out of memory"  # the next step tries again
        finally:
            self.guard.leave()
        if self.more:
            self.more = False
            port.soon(self.tick)
        term = self.session and self.session.term
        if term:
            if interrupt:
                term.interrupted()
            term.rearm()

    def cycle(self):
        """One round over listener and connections; the guard is held."""
        now = port.ticks()
        for sock in self.listener.ready():
            if sock is self.listener.sock:
                self._accept(now)
            else:
                for s in self.sessions:
                    if s.sock is sock:
                        s.awake = True
                        self.listener.forget(sock)
        for s in list(self.sessions) if len(self.sessions) > 1 else self.sessions:
            self._advance(s, now)
        self._pace()

    def _accept(self, now):
        new = self.listener.accept()
        if not new:
            return
        pending = [s for s in self.sessions if s is not self.session]
        if len(pending) >= PENDING_MAX:
            self.drop(weakest(pending), "displaced")
        try:
            gc.collect()  # before 6 KB in pieces of 1 and 2 KB: see wss_repl.start()
            self.rx = self.rx or memoryview(bytearray(_RX))
            self.sessions.append(Session(self, new[0], new[1], now))
        except MemoryError:
            self.refused("out of memory")
            self.listener.forget(new[0])
            new[0].close()

    def _advance(self, s, now):
        # The one place where a refusal becomes a status or a close code.
        try:
            s.advance(now)
            return
        except Refused as e:
            cause = e.args[1]
            last = refusal(e.args[0], cause)
        except ProtocolError as e:
            cause = e.args[1]
            last = frame(CLOSE, close_payload(e.args[0]))
        except Over as e:
            self.drop(s, e.args[0])
            return
        except MemoryError:
            self.drop(s, "out of memory")
            return
        except (OSError, ValueError) as e:  # ValueError: a certificate that does not verify (extmod/modtls_mbedtls.c)
            why = trust.reason() if s.stage == _REQUEST else ("connection lost", None)
            why = why or ("TLS: %s" % (e.args[-1] if e.args else e), None)
            self.drop(s, why[0])
            self.last = why[1] or self.last
            return
        self.refused(cause)
        s.close(last)

    def pump(self, s):
        """Write what s has; it is dropped when its connection is gone."""
        try:
            s.pump()
        except (OSError, ValueError):
            self.drop(s, "connection lost")

    def wait(self, s):
        """Wait up to 20 ms until s can be written or read."""
        self._wait.register(s.sock, select.POLLOUT)
        try:
            for _ in self._wait.ipoll(20):
                pass
        finally:
            self._wait.unregister(s.sock)

    def write_raw(self, s, data):
        """Write data past the framing; False when the write deadline ended the session."""
        data = memoryview(bytes(data))
        start = port.ticks()
        try:
            while not s.pump():
                if port.since(port.ticks(), start) >= self.write_ms:
                    raise OSError(110)
                self.wait(s)
            while data:
                n = s.io.write(data)
                if n:
                    data = data[n:]
                    start = port.ticks()
                elif port.since(port.ticks(), start) >= self.write_ms:
                    raise OSError(110)
                else:
                    self.wait(s)
            return True
        except (OSError, ValueError):
            self.drop(s, "stopped reading")
            return False

    def drop(self, s, cause):
        """End s now. Never raises."""
        if s not in self.sessions:
            return
        self.sessions.remove(s)
        if not self.sessions:
            self.rx = None
        self.listener.forget(s.sock)
        if cause != "closed":
            self.refused(cause)
        s.end()

    def stop(self):
        """Close everything."""
        if self._timer:
            self._timer.deinit()
            self._timer = None
        self.listener.close()
        for s in list(self.sessions):
            self.drop(s, "closed")
