# The way out of a connection: one frame is one TLS record and one write to the socket.
# In: small frames, what the terminal printed, pieces of a file.  Out: the peer's socket.  Next: the network.
from micropython import const

from wss import port
from wss.guard import check_stack

_REPLIES_MAX = const(4)
_ENOTCONN = const(128)
_MODE = const(2)  # what port.text_frames() has found in a record
_PROMPT = const(4)
_NEW = const(8)  # in every record
_BEGUN_MS = const(20)  # how long the beginning of a character waits for its end


class Sender:
    """Sends what one session has to say, as far as the socket takes it. Only write() waits."""

    def __init__(self, session):
        self.session = session
        self.replies = []  # small frames that come before all else
        self.record = None  # memoryview of what is being written. TLS wants the very same bytes again.
        self._sent = None  # how much of it the socket has just taken
        self._found = 0  # what is still to be done with record: _note() for _NEW, _split() for the rest
        self._begun = b""  # the beginning of a character, printed before the rest of it
        self._since = 0  # ticks of that
        self.wrote = False  # for room.py: whether the open session has written

    def reply(self, data):
        """Queue a small frame. A peer that asks faster than it reads loses answers; our memory stays bounded."""
        if len(self.replies) < _REPLIES_MAX:
            self.replies.append(data)

    def flush(self):
        """Write what can be written now; True when nothing is left."""
        session = self.session
        while True:
            # The count was stored before the VM's next check: a KeyboardInterrupt there must not send bytes twice.
            if self._sent:
                data = self.record
                self.record = data[self._sent :] if self._sent < len(data) else None
                self._sent = None
            if self._found & _NEW:
                self._note()
            if self._found:
                self._split()
            if self.record is None:
                if self.replies:
                    self.record = self.replies.pop(0)
                elif not session.is_open():
                    return True
                else:
                    # What is printed comes first: acknowledgements sent ahead would keep a get busy to its end.
                    self.record = session.terminal.take()
                    self._found = session.terminal.found  # no jump since it was taken
                    if self._found:
                        continue
                    if self._begun:
                        if port.ticks_diff(port.ticks_ms(), self._since) >= _BEGUN_MS:
                            self._found = 1
                            continue
                        session.server.input_left = True
                    files = session.receiver.files
                    if not files or not files.busy():
                        return True
                    self.record = files.piece()
                    continue
            if port.may_write and not port.may_write(session):
                return False
            self._sent = session.stream.write(self.record)
            if not self._sent:
                return False

    # A Ctrl-C of the console can end these two at any jump: then the next flush() begins them anew. So what must not be
    # done twice is struck off in the same stretch without a jump.

    def _note(self):
        # A new record: for modes.py (4 and 62: see there) and log.py.
        session = self.session
        server = session.server
        record = self.record
        found = self._found
        if session.terminal and (found & _MODE or server.mode and (found & _PROMPT or record[-1] in (4, 62))):
            from wss.modes import after_output

            server.mode, typed = after_output(server.mode, record)
            session.terminal.typed.put(typed)
        if found & _PROMPT and session.terminal:
            session.terminal.typed.given = False
            server.line = 3 - 2 * (record[-2] == 62)  # ">>> ": "... " is a line that goes on
        if server.log:
            server.log.add_frames(record)
        self._found = found & 1 | len(self._begun)

    def _split(self):
        from wss.utf8 import invalid_frame, split

        files = self.session.receiver.files
        only_text = files and files.is_active()
        if self.record:
            done = split(self.record, self._begun, only_text)
        else:
            done = invalid_frame(self._begun, only_text), b""
        self.record, self._begun = done
        self._found = 0
        self._since = port.ticks_ms()
        if self._begun:
            port.schedule(self.session.server.callback)

    def send(self):
        """flush(), but it never raises: a lost connection ends the session."""
        try:
            return self.flush()
        except MemoryError:
            pass  # nothing is lost, and the next step tries again
        except (OSError, ValueError):
            self.session.server.end(self.session, "connection lost")

    def clear(self):
        """Let go of what waits: the session is over."""
        self.record = self._sent = None

    def write(self, data):
        """Write bytes without a frame, for upydev's rcat; returns their count. Raises OSError: the session is gone;
        RuntimeError: there is no stack."""
        check_stack()
        session = self.session
        rest = memoryview(bytes(data))
        if not session.terminal or not session.server.guard.wait(self._write, rest) or not session.terminal:
            raise OSError(_ENOTCONN)
        return len(data)

    def _write(self, rest):
        session = self.session
        try:
            start = port.ticks_ms()
            while session.terminal and not self.send():  # what waits already, and what is acknowledged of a get
                self._pause(start)
            start = port.ticks_ms()
            while session.terminal and rest:
                n = None
                if not port.may_write or port.may_write(session):
                    n = session.stream.write(rest)
                if n:
                    rest = rest[n:]
                    start = port.ticks_ms()
                else:
                    self._pause(start)
        except (OSError, ValueError):
            session.server.end(session, "stopped reading")

    def _pause(self, start):
        if port.ticks_diff(port.ticks_ms(), start) >= self.session.server.write_ms:
            raise OSError
        port.sleep_ms(1)
