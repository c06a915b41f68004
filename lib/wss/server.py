# The listening socket, and whose turn it is.
# In: TCP connections, socket events, ticks.  Out: a session for each connection, its steps.  Next: session.py.
import gc
import select
import socket
from micropython import const

from wss import port

_PENDING_MAX = const(2)  # connections before login: one slow peer must not keep the next one out
_BACKLOG = const(4)

_STACK = const(24)  # calls: 18 of ours, and those of mbedTLS, which does not look where the stack ends

_IDLE_TICK = const(100)  # ms between timer steps with nobody connected, or a session in which nothing comes in
_TICK = const(20)
_USED_MS = const(2000)  # how long something counts as just having come in


def _dive(n):
    # Raises RuntimeError when there is no stack for n calls more
    if n:
        _dive(n - 1)


class Server:
    """The listener and its connections.

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
        self.backoff = None
        self.guard = port.Guard()
        self.more = False  # input was left unread, perhaps inside mbedTLS, where no socket event tells of it
        self.refusals = {}
        self.last = None
        self.timer = None
        self.used = 0  # when something last came in
        self._period = 0
        self.tick = self.step  # bound once: callbacks must not allocate
        self.sock = sock = socket.socket()
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(socket.getaddrinfo(host, number)[0][-1])
            sock.listen(_BACKLOG)
        except OSError:
            sock.close()
            raise
        sock.setblocking(False)
        self._poll = None
        port.on_readable(sock, self.tick)

    def forget(self, sock):
        """Its first byte is there, or it is gone: no longer wait for it."""
        try:
            if self._poll:
                self._poll.unregister(sock)
        except (KeyError, OSError):
            pass

    def pace(self):
        """Let the timer drive the steps where no socket callback can: in a busy loop."""
        timer = self.timer
        if timer:
            period = _TICK
            if port.driven and port.since(port.ticks(), self.used) > _USED_MS or not self.sessions:
                period = _IDLE_TICK
            if period != self._period:
                self._period = period
                timer.init(period=period, mode=timer.PERIODIC, callback=self.tick)

    def refused(self, cause):
        """Count a refusal for status()."""
        self.last = cause
        try:
            if cause in self.refusals or len(self.refusals) < 16:
                self.refusals[cause] = self.refusals.get(cause, 0) + 1
        except MemoryError:
            pass

    def step(self, _=None):
        """Do what can be done without waiting. Called by socket callbacks, the timer, the terminal and poll()."""
        guard = self.guard
        before = guard.owner
        try:
            return self._step(guard)
        except KeyboardInterrupt:
            guard.recover(before)
            return guard.interrupt()

    def _step(self, guard):
        try:
            if not guard.enter(False):
                return
            try:
                self.cycle()
            finally:
                guard.leave()
        except MemoryError:
            port.mend()
            self.last = "out of memory"  # the next step tries again
        if self.more:
            self.more = False
            port.soon(self.tick)
        session = self.session  # asked for once: another step at the next jump may end it
        term = session and session.term
        if term:
            term.rearm()

    def cycle(self):
        """One round over listener and connections; the guard is held."""
        try:
            _dive(_STACK)
        except RuntimeError:
            return  # a program is deep in its calls: an exception in the middle of ours would lose what we have read
        now = port.ticks()
        if not self._poll:
            poll = select.poll()
            poll.register(self.sock, select.POLLIN)
            self._poll = poll
        found = ()
        for event in self._poll.ipoll(0):
            found += (event[0],)
        for sock in found:
            if sock is self.sock:
                self._accept(now)
            else:
                for s in self.sessions:
                    if s.sock is sock:
                        s.awake = True
                        self.forget(sock)
        for s in list(self.sessions) if len(self.sessions) > 1 else self.sessions:
            s.advance(now)
        self.pace()

    def _accept(self, now):
        gc.collect()  # before some KB in pieces of 1 KB: see wss_repl.start()
        # What takes most first: without it the connection waits where it is. Inside the firmware's accept() a
        # MemoryError would lose it, with its descriptor.
        from wss.session import Session

        bytearray(1024)
        try:
            sock, address = self.sock.accept()
        except OSError:
            return
        try:
            sock.setblocking(False)
            port.no_delay(sock)
            self._poll.register(sock, select.POLLIN)
            port.on_readable(sock, self.tick)
            if not isinstance(address, tuple):  # the unix port gives a raw sockaddr: family, port, IPv4
                address = ("%d.%d.%d.%d" % tuple(address[4:8]), address[2] << 8 | address[3])
            if len(self.sessions) - bool(self.session) >= _PENDING_MAX:
                # The least advanced gives way, of these the oldest: none that is open. From elsewhere counts as two
                # stages more, so that a flood from one address displaces itself, not who comes between, still silent.
                n = address[0]
                self.drop(min(self.sessions, key=lambda s: s.stage + 2 * (s.address[0] != n)), "displaced")
            self.sessions.append(Session(self, sock, address, now))
            self.used = now
        except MemoryError:
            # A register() that found no memory leaves an empty entry, on which ipoll() crashes (extmod/modselect.c)
            self._poll = None
            sock.close()
            self.refused("out of memory")

    def drop(self, s, cause):
        """End s now. Never raises."""
        if s not in self.sessions:
            return
        try:
            self.forget(s.sock)
            s.end()
        except MemoryError:
            s.starved()
            return
        self.sessions.remove(s)
        if cause != "closed":
            self.refused(cause)

    def stop(self):
        """Close everything."""
        entered = self.guard.enter(True)  # no step may come in between
        if self.timer:
            self.timer.deinit()
            self.timer = None
        self.sock.close()
        for s in list(self.sessions):
            self.drop(s, "closed")
        if entered:  # for a print() of another thread that waits
            self.guard.leave()
