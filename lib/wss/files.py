# WebREPL's file protocol (extmod/modwebrepl.c): put, get, version, in binary frames.
# In: binary payload.  Out: replies and file pieces as frames.  Next: the file system.
import os
import struct
import sys
from micropython import const

from wss import port
from wss.frames import frame, header

_REQUEST = "<2sBBQLH64s"  # signature, operation, flags, offset, size, name length, name
_REQUEST_LEN = const(82)
_NAME_MAX = const(64)

_BINARY = const(2)  # RFC 6455 section 5.2

_PUT = const(1)
_GET = const(2)
_VERSION = const(3)
_LOG = const(5)  # ours: a get of what was printed last (wss.log)
_ABOUT = const(4)  # ours: a get of what wss.about says, for which no program has to be interrupted
_SKIP = const(5)  # after an unusable request: the rest of its frame is ignored

_GET_BUFFER = const(4096)  # a frame of a get with its header: the largest TLS record that an ESP32 writes at once
_GET_BUFFER_SMALL = const(1024)
_HEAD = const(6)  # bytes of a frame's header and the length of its piece
_PUT_SMALL = const(1024)  # a larger put gets a buffer
_PUT_BUFFER = const(3104)  # the rest of a frame of 4 KB, of which the terminal's buffer of 1 KB has taken the beginning

_ENOENT = const(2)
_EIO = const(5)
_ENOMEM = const(12)
_EISDIR = const(21)
_EINVAL = const(22)
_ENAMETOOLONG = const(36)
_PART = ".part"  # beside the target, so that the rename stays in one file system


class Files:
    """One session's file transfers. reply(frame) queues a small frame; sender.py fetches pieces of a get with piece().

    A request is answered with WB and a code: 0, or the errno of what went wrong, and the session goes on. A put is
    written beside its target and renamed when it is complete, so an interrupted one leaves the old file as it was.
    """

    def __init__(self, reply):
        self._reply = reply
        self._request = b""
        self._op = 0
        self._left = 0  # bytes of a put to come
        self._acks = 0  # how many pieces of a get the client has asked for
        self._file = None
        self._name = None
        self._error = 0
        self._buf = None
        self._taken = 0  # how much of the piece at hand has been taken

    def _done(self, code):
        # No jump since it was queued.
        self._reply(frame(_BINARY, struct.pack("<2sH", b"WB", code)))

    # A Ctrl-C of the console can end these at any jump: then feed() is called again with the same piece (receiver.py).
    # So what must not be done twice is noted, or struck off, in the same stretch without a jump.

    def feed(self, data, start):
        """Take the beginning of a piece of binary payload (memoryview, not empty); start is True for a frame's first.
        Returns how many bytes."""
        if not self._taken:
            self._take(data, start)
        if self._op == _PUT and not self._left:
            self._put_end()
        taken = self._taken
        self._taken = 0
        return taken

    def _take(self, data, start):
        n = len(data)
        if start and self._op == _SKIP:
            self._op = 0
        op = self._op
        if op == _PUT:
            k = min(n, self._left)
            if not self._error:
                piece = data if k == n else data[:k]
                try:
                    self._file.write(piece)
                    self._left -= k  # no jump since it was written
                    self._taken = k
                    return
                except OSError as e:
                    self._error = e.errno or _EIO
            self._left -= k
            self._taken = k
        elif op == _GET:
            self._acks += n
            self._taken = n
        elif op == _SKIP:
            self._taken = n
        elif not self._request and not data[0]:
            self._taken = 1  # an acknowledgement that was sent ahead, of a get which has ended meanwhile
        else:
            request = self._request
            k = min(n, _REQUEST_LEN - len(request))
            request += bytes(data[:k])
            if len(request) > 1 and request[:2] != b"WA":
                self._done(_EINVAL)
                self._request = b""
                self._op = _SKIP
                self._taken = k
            elif len(request) < _REQUEST_LEN:
                self._request = request
                self._taken = k
            else:
                self._begin(request, k)

    def _begin(self, request, taken):
        _, op, _, _, left, n, name = struct.unpack(_REQUEST, request)
        if op == _VERSION:
            self._reply(frame(_BINARY, bytes(sys.implementation[1][:3])))
            self._request = b""
            self._taken = taken
            return
        file = buf = None
        try:
            if not _PUT <= op <= _LOG:
                raise OSError(_EINVAL)
            if n > _NAME_MAX:
                raise OSError(_ENAMETOOLONG)
            name = name[:n]
            if not n or 0 in name:
                raise OSError(_EINVAL if n else _ENOENT)
            name = name.decode()
            if op == _PUT:
                _remove(name + _PART)
                if left > _PUT_SMALL and port.memory_to_spare():
                    try:
                        buf = bytearray(_PUT_BUFFER)
                    except MemoryError:
                        pass  # smaller pieces will do
                file = open(name + _PART, "wb")
            else:
                if op == _GET and os.stat(name)[0] & 0x4000:
                    raise OSError(_EISDIR)
                buf = bytearray(_GET_BUFFER if port.memory_to_spare() else _GET_BUFFER_SMALL)
                if op == _ABOUT:
                    from wss.about import document

                    file = document()
                    port.unload("about")
                elif op == _LOG:
                    from wss.log import document

                    file = document()
                else:
                    file = open(name, "rb")
                op = _GET
            code = 0
        except (OSError, UnicodeError, ImportError) as e:  # the last: a part was left out of this firmware
            code = isinstance(e, OSError) and e.errno or _EINVAL
        except MemoryError:  # in MicroPython it has an errno, too, which is its text
            port.remove_failed_imports()
            code = _ENOMEM
        if code:
            op = 0
            buf = None
        self._done(code)
        self._request = b""
        self._op = op
        self._file = file
        self._name = name
        self._left = left
        self._acks = 0
        self._buf = buf
        self._error = 0
        self._taken = taken

    def _put_end(self):
        try:
            if self._file:
                # Should close() fail, and the board's Ctrl-C come right then, the file is not taken for a whole one.
                error = self._error
                self._error = _EIO
                self._file.close()
                self._file = None
                self._error = error
            if not self._error and self._name:
                replace(self._name + _PART, self._name)
                self._name = None
        except OSError as e:
            self._error = e.errno or _EIO
        if self._name:
            _remove(self._name + _PART)
        self._done(self._error)
        self._op = 0
        self._file = self._name = self._buf = None

    def room(self, n):
        """Where to read the next n bytes or fewer, if a put has a buffer of its own."""
        return self._op == _PUT and self._buf and memoryview(self._buf)[:n]

    def is_active(self):
        """Whether a put or a get is under way."""
        return self._op == _PUT or self._op == _GET

    def busy(self):
        """Whether a piece of a get is due."""
        return self._acks and self._op == _GET

    def piece(self):
        """The next piece of a get as a frame (memoryview, valid until the next call), None when it cannot be read."""
        buf = self._buf
        n = 0
        try:
            n = self._file.readinto(memoryview(buf)[_HEAD:])
            head = header(_BINARY, n + 2) + bytes((n & 255, n >> 8))
            start = _HEAD - len(head)
            buf[start:_HEAD] = head
            view = memoryview(buf)[start : _HEAD + n]
            if not n:
                self._done(0)
                self._file.close()  # no jump since it was done, see guard.py
                self._file = self._buf = None
                self._op = 0
            self._acks -= 1
            return view
        except OSError as e:
            self._close()
            self._done(e.errno or _EIO)
            return None
        except BaseException:  # no memory, or a KeyboardInterrupt: the next call returns the same piece
            if n:
                self._file.seek(-n, 1)
            raise

    def _close(self):
        f = self._file
        self._file = self._buf = self._name = None
        self._op = 0
        if f:
            f.close()

    def abort(self):
        """Give up what is in progress: the session is over."""
        name = self._op == _PUT and self._name
        try:
            self._close()
        except OSError:
            pass
        if name:
            _remove(name + _PART)


def _remove(name):
    try:
        os.remove(name)
    except OSError:
        pass


# replace(new, old): rename new to old, which may exist. Raises OSError, and then old is as it was.
# POSIX and littlefs do it in one step. FAT cannot: VfsFat.rename (extmod/vfs_fat.c) removes the old file first, so a
# power cut between its two writes leaves the new file whole, but under its first name only.
replace = os.rename
