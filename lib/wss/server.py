# The listening socket, the connections, and when each of them does a step.
# In: TCP connections, socket events, ticks.  Out: a session for each connection, its steps.  Next: session.py.
import gc
import select
import socket
from io import BytesIO
from micropython import const

from wss import port
from wss.guard import Busy, Guard, check_stack, interrupt, interrupted

_PENDING_MAX = const(2)  # connections before login: one slow peer must not keep the next one out
_BACKLOG = const(4)

_PERIOD_IDLE = const(100)  # ms between steps that the timer makes when nobody is connected, or nothing comes in
_IDLE_MS = const(2000)  # after this time without input
_NOT_NOW = (Busy, RuntimeError)  # the last: no stack, against all care. Made here, because matching must not allocate.
_NO_ROOM = (OSError, MemoryError)  # likewise
_LOST_MS = const(2000)  # the timer is somebody else's when it has made no step for this long, and others have


class Server:
    """The listener and its connections.

    found: where to listen, as from getaddrinfo(). context: a tls.SSLContext that requires client certificates, or
    None for plain ws. password: bytes. write_ms: how long output may wait for a peer that does not read.
    changed(session or None) is called when a session begins or ends. Raises OSError when it can't listen there.
    """

    def __init__(self, found, context, password, write_ms, changed):
        self.context = context
        self.password = password
        self.write_ms = write_ms
        self.changed = changed
        self.session = None  # the one that has the terminal
        self.sessions = []  # all connections
        self.failures = []  # see login.py
        self.guard = Guard()
        self.input_left = False  # input was left unread, perhaps inside mbedTLS, where no socket event tells of it
        self.refusals = {}
        self.logins = {}  # by the host's name
        self.last_refusal = None
        self.timer = None
        self.log = None  # a wss.log.Log
        self.mode = 0  # in which the REPL is, see modes.py
        self.line = 1  # 0: a program may run; 1: the REPL has an empty line, as far as is known; 2, 3: it is begun
        self.last_input = 0  # ticks when something last came in
        self._cause = None  # what called step(): the timer, a socket, or None
        self._last_tick = 0
        self.records = 0  # that were made of output since then
        self._last_step = 0
        self.callback = self.step  # this bound method is made once, because callbacks must not allocate
        self.sock = sock = socket.socket(found[0])  # for IPv6, where host is such an address
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(found[-1])
            sock.listen(_BACKLOG)
        except OSError:
            sock.close()
            raise
        sock.setblocking(False)
        self._poll = None
        self._held = None  # see hold_memory()
        port.on_readable(sock, self.callback)

    def _stop_waiting(self, sock):
        # No longer wait for its first byte.
        try:
            if self._poll:
                self._poll.unregister(sock)
        except (KeyError, OSError):
            pass

    def hold_memory(self):
        """On an ESP32 without PSRAM, keep the memory of one more TLS connection, until give_memory().

        There MicroPython's heap grows into the memory of TLS and Wi-Fi: by as much as it has, or else by the largest
        block in one piece (gc_try_add_heap() in py/gc.c). What is held lies in the middle of what is free, so that
        block is smaller, and what a program takes ends before the board is out of reach. Never raises.
        """
        if self._held or not self.context or port.memory_to_spare():
            return
        first = None
        try:
            first = self.tls(BytesIO())
            self._held = self.tls(BytesIO())
        except _NO_ROOM:
            pass  # it is the program's already, and Wi-Fi needs the rest
        if first:
            first.close()

    def give_memory(self):
        """Let go of what hold_memory() keeps: a TLS connection needs it now."""
        if self._held:
            self._held.close()
            self._held = None

    def tls(self, stream):
        """TLS over stream. The handshake is left to the reads."""
        return self.context.wrap_socket(stream, server_side=True, do_handshake_on_connect=False)

    def start_timer(self, timer):
        """Let timer (a machine.Timer or None) make steps where no socket callback can: while a program computes.

        It is set once and never again. A program may take it for itself, and then keeps it. And ESP32 1.26 to 1.28 can
        do that only 255 times (micropython#19162).
        """
        self.timer = timer
        if timer:
            self._last_tick = port.ticks_ms()
            timer.init(period=port.TIMER_MS, mode=timer.PERIODIC, callback=self.callback)

    def _timer_has_work(self, now):
        # Whether a step that the timer makes is due; the others note when the timer makes none any more.
        if self._cause is not self.timer:
            if port.ticks_diff(now, self._last_tick) > _LOST_MS and not port.is_ours(self.timer):
                self.start_timer(port.timer())  # a program has taken it
            return True
        self._last_tick = now
        rush = self.records
        self.records = 0
        recent = port.ticks_diff(now, self.last_input) <= _IDLE_MS
        if self.sessions and (recent or rush or not port.has_socket_callback):
            return True
        return port.ticks_diff(now, self._last_step) >= _PERIOD_IDLE

    def count_refusal(self, cause):
        """Count a refusal for status()."""
        self.last_refusal = cause
        self.count(self.refusals, cause)

    def count(self, counts, what):
        """One more of what, in a dict of at most 16."""
        try:
            if what in counts or len(counts) < 16:
                counts[what] = counts.get(what, 0) + 1
        except MemoryError:
            pass

    def step(self, cause=None):
        """Do what can be done without waiting. Called by socket callbacks, the timer, the terminal and poll()."""
        self._cause = cause
        self.run(Server.step_all, self)

    def run(self, work, on):
        """work(on) inside of the guard, or nothing when somebody is inside or there is no stack. A KeyboardInterrupt
        rises in the program afterwards, and does not leave the work half done. Never raises."""
        end = bool  # which does nothing
        try:
            check_stack()
            end = interrupt
            if self.guard.owner is None:
                self._run(work, on)
            return None
        except:  # a KeyboardInterrupt, or no stack: nothing else leaves _run()  # noqa: E722
            return end()

    def _run(self, work, on):
        again = False
        try:
            with self.guard:
                while interrupted(work, on):
                    again = True
            if self.input_left:
                self.input_left = False
                port.schedule(self.callback)
            session = self.session  # read once: another step, at the next jump, may end it
            terminal = session and session.terminal
            if terminal:
                terminal.hand_on()
        except _NOT_NOW:
            pass
        except MemoryError:
            port.remove_failed_imports()
            self.last_refusal = "out of memory"  # the next step tries again
        except Exception as e:  # nobody has thought of it: the server goes on with the next step
            self.last_refusal = ("internal error: %r" % e)[:100]
        if again:
            raise KeyboardInterrupt

    def step_all(self):
        """A step of the listener and of each connection. The guard is held."""
        now = port.ticks_ms()
        if self.timer and not self._timer_has_work(now):
            return
        self._last_step = now
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
                        s.has_spoken = True
                        self._stop_waiting(sock)
        for s in list(self.sessions) if len(self.sessions) > 1 else self.sessions:
            s.step(now)

    def _accept(self, now):
        gc.collect()  # before some KB are allocated in pieces of 1 KB: see wss_repl.start()
        # What takes most memory comes first. Where it is missing, the connection stays in the queue. A MemoryError
        # inside of the firmware's accept() would lose the connection and its descriptor.
        try:
            from wss.session import Session

            bytearray(1024)
        except MemoryError:
            if self.session:
                self.session.probe()
            raise
        try:
            sock, address = self.sock.accept()
        except OSError:
            return
        try:
            sock.setblocking(False)
            port.no_delay(sock)
            self._poll.register(sock, select.POLLIN)
            port.on_readable(sock, self.callback)
            if not isinstance(address, tuple):  # the unix port returns a raw sockaddr
                family, address, number = socket.sockaddr(address)[:3]
                address = (socket.inet_ntop(family, address), number)
            if len(self.sessions) - bool(self.session) >= _PENDING_MAX:
                # Never the open one gives way. Of the others first one of the newcomer's own address, whatever its
                # stage: who floods or guesses from one address displaces himself, and nobody else. Then the one that
                # has got least far, and of several the oldest.
                n = address[0]
                pending = [s for s in self.sessions if s is not self.session]
                self.end(min(pending, key=lambda s: s.rank() + 16 * (s.address[0] != n)), "displaced")
            self.sessions.append(Session(self, sock, address, now))
            self.last_input = now
        except MemoryError:
            # A register() without memory leaves an empty entry, on which ipoll() crashes (extmod/modselect.c).
            self._poll = None
            sock.close()
            self.count_refusal("out of memory")

    def end(self, s, cause):
        """End the session s now. Never raises anything, but MemoryError when that is the cause."""
        if s not in self.sessions:
            return
        try:
            self._stop_waiting(s.sock)
            s.release()
        except MemoryError:
            s.out_of_memory()
            return
        self.sessions.remove(s)
        if cause != "closed":
            self.count_refusal(cause)
            if self.session and cause == "out of memory":
                self.session.probe()
        self.hold_memory()

    def stop(self):
        """Close everything. Raises RuntimeError when there is no stack."""
        check_stack()
        if not self.guard.wait(self._stop):  # no step may come in between
            self._stop()

    def _stop(self):
        timer = self.timer
        if timer and port.is_ours(timer):
            timer.deinit()
        self.timer = None
        self.sock.close()
        for s in list(self.sessions):
            self.end(s, "closed")
        self.give_memory()
        if self.log:
            self.log.detach()
