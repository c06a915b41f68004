# One connection from its first byte to its last: what the peer may do at each stage, and the only gate to the REPL.
# In: a readable socket, ticks.  Out: the REPL's terminal.  Drives receiver.py, terminal.py and sender.py.
# Loaded with the first connection where it is frozen (server.py).
from micropython import const

from wss import port, trust
from wss.frames import Refused, closing, frame
from wss.guard import MAIN
from wss.receiver import Receiver
from wss.sender import Sender
from wss.terminal import Terminal

# Stages in the order of progress: see rank().
_CLOSING = const(0)  # the last words are on their way
_SILENT = const(1)  # no byte has come yet. There is no TLS object either: the connection costs a socket, not 30 KB.
_REQUEST = const(2)  # TLS handshake, then the HTTP request
_LOGIN = const(3)  # "Password: " has been sent
_DENIED = const(4)  # the password is wrong, and the peer is told so when the delay is over
_DELAYED = const(5)  # the password is judged when the delay of earlier wrong ones is over
_RIVAL = const(6)  # the password is right, but another session has the terminal and is asked for a sign of life
_OPEN = const(7)

_SILENT_MS = const(10000)
_REQUEST_MS = const(15000)  # an ESP32 needs 1 to 5 s for the handshake with ECDSA on both sides
_LOGIN_MS = const(60000)  # somebody types
_RIVAL_MS = const(1500)
_LIFE_MS = const(5000)
_CLOSING_MS = const(1000)

_ENOMEM = const(12)
_ECONNRESET = const(104)
_CONN_EOF = const(-0x7280)  # MBEDTLS_ERR_SSL_CONN_EOF
_TEXT = const(1)  # opcodes of RFC 6455 section 5.2
_PING = const(9)


class Session:
    """One connection. Every method returns at once."""

    def __init__(self, server, sock, address, now):
        self.server = server
        self.sock = sock
        self.address = address
        self.stream = None  # what is read and written: TLS over the socket, or the socket itself
        self.stage = _SILENT
        self._deadline = port.ticks_add(now, _SILENT_MS)
        self.has_spoken = False  # whether a first byte has come
        self.is_alive = False  # whether something has come since it was last asked for a sign of life
        self.asked = False  # whether it has to end if none comes in time
        self.close_answer = None  # the answer to the peer's CLOSE
        self._rival = None  # the session that was asked for a sign of life
        self.host = None  # (name, serial) of the peer's certificate
        self._takeover = False  # whether the peer wants the terminal even from a session that is alive
        self.terminal = None
        self.receiver = Receiver(self)
        self.sender = Sender(self)

    def is_open(self):
        return self.stage == _OPEN

    def rank(self):
        """How far it has got, for server.py: the lowest gives way. One whose password was wrong has got nowhere. It
        loses nothing but its denial, since the delay is kept for its address (login.py)."""
        return 0 if _DENIED <= self.stage <= _DELAYED else self.stage

    def close(self, last):
        """Send the last words, then wait until the peer has closed its side: else a reset would overtake them."""
        # The stage first: a MemoryError must not leave it open without a terminal.
        self._set_stage(_CLOSING, _CLOSING_MS)
        self._release_terminal()
        self.sender.replies.append(last)

    def _close_for(self, address):
        # Tells a peer that may still be there that address has taken over. Never waits.
        self.sender.replies = [frame(_TEXT, b"\r\nTaken over by %s.\r\n" % address)]
        self.close(closing(1008))
        self.sender.send()

    def answer_close(self, answer):
        """The peer has sent a CLOSE: answer it when what it typed before is with the REPL, or the time is up."""
        self.close_answer = answer
        self._deadline = port.ticks_add(port.ticks_ms(), _CLOSING_MS)

    def probe(self):
        """A newcomer finds no memory beside this session. Its peer may be gone, and then nobody could ever take over:
        it has to give a sign of life, or it ends."""
        if not self.asked:
            self.is_alive = False
            self.sender.reply(frame(_PING))
            self._deadline = port.ticks_add(port.ticks_ms(), _LIFE_MS)
            self.asked = True

    def out_of_memory(self):
        """There is no memory even for closing: end at the next step."""
        self._set_stage(_CLOSING, 0)
        self.server.last_refusal = "out of memory"

    def release(self):
        """Release everything; may be called at any stage."""
        self._release_terminal()
        self.stage = _CLOSING  # or a flush() that is under way would look for the terminal
        for s in (self.stream, self.sock):
            try:
                if s:
                    s.close()
            except (OSError, ValueError):
                pass
        self.sender.clear()
        # Without rival, or a session whose peer is gone would keep the one before it in memory, and so on.
        self.stream = self._rival = None

    def _set_stage(self, stage, ms):
        self.stage = stage
        self._deadline = port.ticks_add(port.ticks_ms(), ms)

    # Steps ------------------------------------------------------------------------------------------------

    def step(self, now):
        """Do what can be done now. Here, and nowhere else, an error becomes a status, a close code, or the end."""
        server = self.server
        try:
            try:
                if self.stage == _SILENT and self.has_spoken:
                    self._start_tls()
                elif self.stage == _RIVAL:
                    self._compete()
                elif self.terminal and not self.terminal.is_attached():
                    raise Refused(1011, "no terminal")
                if self.is_alive:
                    self.asked = False
                if (self.stage != _OPEN or self.asked) and port.ticks_diff(now, self._deadline) >= 0:
                    self._deadline_passed()
                if self.stream:
                    self.receiver.receive()
                    self._take_peer()
                    if self.stage == _LOGIN and self.receiver.login.is_complete:
                        self.judge()
                    if self.close_answer and self.stage != _CLOSING:
                        if (
                            self.stage != _OPEN
                            or not self.terminal.typed.waits()
                            or port.ticks_diff(now, self._deadline) >= 0
                        ):
                            self.close(self.close_answer)
                    if self.sender.flush() and self.close_answer and self.stage == _CLOSING:
                        raise Refused(0, "closed")
            except Refused as e:
                self._refuse(*e.args)
        except MemoryError:
            port.remove_failed_imports()
            receiver = self.receiver
            if self.stage == _OPEN and not receiver.login and not receiver.files:
                # Nothing that is typed or printed is lost, as after a Ctrl-C of the console (receiver.py, sender.py)
                server.last_refusal = "out of memory"  # the next step tries again
            else:
                server.end(self, "out of memory")
        except (OSError, ValueError) as e:  # ValueError: a certificate that does not verify (extmod/modtls_mbedtls.c)
            why = "connection lost", None
            if e.args[:1] == (_ENOMEM,):  # TLS found no room for its buffers
                why = "out of memory", None
            elif self.stage == _REQUEST:
                why = trust.reason() or ("TLS: %s" % (e.args[-1] if e.args else e), None)
                if e.args and e.args[0] in (_CONN_EOF, _ECONNRESET):
                    # Who looks for open ports does so, wssctl as well: that must not hide who was refused.
                    why = "hung up during TLS", server.last_refusal
            server.end(self, why[0])
            server.last_refusal = why[1] or server.last_refusal
        except RuntimeError:
            raise  # there is no stack, or the queue of callbacks is full: the next step tries again
        except Exception as e:  # nobody has thought of it: it ends this session, and must not end the server
            server.end(self, "internal error")
            server.last_refusal = ("internal error: %r" % e)[:100]

    def _refuse(self, code, cause):
        server = self.server
        if not code:
            server.end(self, cause)
            return
        server.count_refusal(cause)
        if code < 1000:
            from wss.upgrade import refusal

            self.close(refusal(code, cause))
        else:
            self.close(closing(code, reason=cause))

    def _start_tls(self):
        server = self.server
        self.stream = self.sock
        if server.context:
            port.set_verify_callback(server.context, trust.verify)
            server.give_memory()
            self.stream = server.tls(self.sock)
        self._set_stage(_REQUEST, _REQUEST_MS)

    def _deadline_passed(self):
        stage = self.stage
        if stage == _DELAYED:
            self.judge()
        elif stage == _RIVAL:
            self._open_terminal()
        elif stage == _OPEN:
            raise Refused(0, "silent")
        elif stage > _REQUEST:
            if stage == _DENIED:
                self.sender.reply(frame(_TEXT, b"\r\nAccess denied\r\n"))
            self.close(closing(1008))
        else:
            raise Refused(0, "closed" if stage == _CLOSING else "silent" if stage == _SILENT else "handshake timed out")

    # The gate ---------------------------------------------------------------------------------------------

    def send_page(self, response):
        """Send the page. A browser connects anew for what it does on it."""
        self.close(response)
        self._set_stage(_CLOSING, _REQUEST_MS)

    def _take_peer(self):
        # Whose certificate it is, when the handshake was in the reads just made.
        if trust.peer:
            self.host = trust.peer
            trust.peer = None

    def ask_password(self, response, takeover):
        """Accept the WebSocket with response, and ask."""
        self._takeover = takeover
        self._take_peer()
        ask = frame(_TEXT, b"Password: ")
        self.sender.replies += (response, ask)  # no jump from here on
        self._set_stage(_LOGIN, _LOGIN_MS)

    def judge(self):
        """A password has been typed."""
        now = port.ticks_ms()
        login = self.receiver.login
        wait = login.wait(now)
        if wait:
            self._set_stage(_DELAYED, wait)
            return
        delay = login.judge(now)
        if delay:
            self.server.count_refusal("wrong password")
            self._set_stage(_DENIED, delay)
        elif self._takeover:
            self._open_terminal()
        else:
            self._compete()

    def _compete(self):
        # The session that has the terminal keeps it if its peer answers in time (if not, see _deadline_passed).
        other = self.server.session
        if not other:
            self._open_terminal()
        elif other is not self._rival:
            self._rival = other
            other.is_alive = False
            other.sender.reply(frame(_PING))
            self._set_stage(_RIVAL, _RIVAL_MS)
        elif other.is_alive:
            self.server.count_refusal("in use")
            who = b"\r\nIn use by %s. To take over, connect to the path /takeover.\r\n" % other.address[0]
            self.sender.reply(frame(_TEXT, who))
            self.close(closing(1013))

    def _open_terminal(self):
        # The only way to the stage _OPEN.
        server = self.server
        other = server.session
        if other:
            other._close_for(self.address[0])
            server.end(other, "taken over")
        self.terminal = Terminal(server, self.sender)
        self.stage = _OPEN
        server.session = self
        if self.host:
            server.count(server.logins, self.host[0])
        if server.context:
            trust.remember()
        self.terminal.attach()
        server.changed(self)
        self.sender.replies.append(frame(_TEXT, b"\r\nWebREPL connected\r\n>>> "))
        if server.mode:
            from wss.modes import begin

            server.mode, typed, said = begin(server.mode)
            self.terminal.typed.put(typed)
            if said:
                self.sender.replies.append(frame(_TEXT, said))
        elif server.line > 1 and server.guard.owner == MAIN and self.terminal.typed.is_at_prompt():
            # What a lost client had typed is no part of what this one types. The first byte ends an escape sequence.
            self.terminal.typed.put(b"\0\x03")
        self.receiver.open()
        server.hold_memory()

    def _release_terminal(self):
        self.receiver.ignore()
        if self.terminal:
            self.terminal.detach()
            self.terminal = None
            self.server.session = None
            self.server.changed(None)
