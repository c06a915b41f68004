"""A board's file system, by code that runs in its raw REPL. Paths are the board's; relative ones are from its current
folder."""

import os
import re
import struct
from pathlib import PurePosixPath
from typing import NamedTuple

from ..errors import BoardError, NotNow
from ..text import brief
from .client import Client
from .files import errno_words
from .link import Deadline

# Each answer of ours is one write of one line between two markers, by which it is found among what timers and threads
# print. Names go in hexadecimal: whatever a board calls a file, an answer stays one.
_SAY = """\
def _wssctl_say(*a):
 print('<%s:'+' '.join(map(str,a))+':%s>')
def _wssctl_hex(s):
 import binascii
 return binascii.hexlify(s if isinstance(s,bytes) else s.encode()).decode() or '-'
"""
# What os.ilistdir leaves out on some file systems (VfsPosix: the size) os.stat tells.
_WALK = """\
def _wssctl_walk(p, r, deep, sums):
 import os
 for f in sorted(os.ilistdir(p or '.')):
  n = p + '/' + f[0] if p and p != '/' else p + f[0]
  d = f[1] & 0x4000
  s = 0
  h = '-'
  if not d:
   s = f[3] if len(f) > 3 else os.stat(n)[6]
   if sums:
    h = _wssctl_sum(n)
  _wssctl_say(d and 1, s, h, _wssctl_hex(r + f[0]))
  if d and deep:
   _wssctl_walk(n, r + f[0] + '/', deep, sums)
"""
_SUM = """\
def _wssctl_sum(n):
 import hashlib, binascii
 h = hashlib.sha256()
 b = bytearray(512)
 m = memoryview(b)
 t = 0
 with open(n, 'rb') as f:
  while True:
   k = f.readinto(b)
   if not k:
    return binascii.hexlify(h.digest()).decode()
   h.update(m[:k])
   t += 1
   if t & 7 == 0:
    _wssctl_say()
"""
# Beside its name first: what was there stays until all of it has been written.
_COPY = """\
def _wssctl_copy(a, b):
 import os
 p = b + '.part'
 t = 0
 try:
  with open(a, 'rb') as f, open(p, 'wb') as g:
   while True:
    d = f.read(512)
    if not d:
     break
    g.write(d)
    t += 1
    if t & 7 == 0:
     _wssctl_say()
  os.rename(p, b)
 except BaseException:
  try:
   os.remove(p)
  except OSError:
   pass
  raise
"""
_REMOVE = """\
def _wssctl_remove(p):
 import os
 if os.stat(p)[0] & 0x4000:
  for f in list(os.ilistdir(p)):
   _wssctl_remove(p + '/' + f[0])
  os.rmdir(p)
 else:
  os.remove(p)
 _wssctl_say()
"""
_MAX_ANSWERS = 20_000  # files in a listing
_MAX_ANSWER = 4096  # bytes
# What an answer that is no end gives the rest more time by: a listing may take as long as it goes on, and a board that
# drips one shall not hold us for ever.
_PER_ANSWER = 0.2
_ATTEMPTS = 3  # of reading: on a board with threads a print may fall into an answer
_RAISED = re.compile(r"[A-Za-z_][\w.]*(Error|Exception|Interrupt|Exit|Iteration)\b")
RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|$)")
# What a board's answer that is none raises in mpremote's parsers
NONSENSE = (
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
)


def component(name: str, windows: bool = os.name == "nt") -> str:
    """A file's name as a board tells it, if it is one component of a path, here as there. Raises BoardError for what
    would lead elsewhere: with a separator, `..`, a zero byte, a drive letter or a device's name on Windows."""
    bad = name in ("", ".", "..") or "/" in name or "\0" in name
    if windows:
        bad = bad or bool(re.search(r'[<>:"\\|?*\x00-\x1f]', name) or RESERVED.match(name)) or name[-1] in ". "
    if bad:
        raise BoardError(f"The board names a file {brief(repr(name))}, which is no name here; nothing of it was used.")
    return name


class Entry(NamedTuple):
    path: str
    is_dir: bool
    size: int = 0
    sha256: str = ""

    @property
    def name(self) -> str:
        return self.path.rsplit("/", 1)[-1]


# What MicroPython must leave to Wi-Fi and TLS where its heap can grow into theirs (ESP32): a board without that is off
# the network until a reset.
_SYSTEM = 48 << 10
HEAP = "import gc, micropython\ngc.collect()\nmicropython.mem_info()"


def has_room(said: bytes, need: int) -> bool:
    """Whether what HEAP prints (py/gc.c) tells of `need` bytes for the heap. What it says besides is for nobody."""
    found = re.search(rb"total: (\d{1,12}), used: \d+, free: (\d{1,12})(?:, max new split: (\d{1,12}))?", said)
    if not found:
        return True
    total, free, more = (int(n or 0) for n in found.groups())
    return free >= need or more - max(total, need) >= _SYSTEM  # it grows by as much as it has, at least


class Remote:
    def __init__(self, board: Client):
        self.board = board

    def run(
        self, code: str, what: str = "do that", *, answers: int = 0, attempts: int = 1, seconds: float = 0.0
    ) -> list[list[str]]:
        """Runs `code`, which answers by calls of _wssctl_say(): their words. `answers`: how many there must be, 0 for
        any number. `seconds`: what it may take, if that is more than the client's time-out. Raises BoardError with the
        board's errno in words or its traceback's last line, ConnectionLost when no answer comes for as long as the
        client waits."""
        for left in reversed(range(attempts)):
            try:
                found = self._run(code, what, max(seconds, self.board.timeout))
                if answers and len(found) != answers:
                    raise _Garbled
                return found
            except _Garbled:
                if not left:
                    break
        raise NotNow(f"The board cannot {what}: what it answers is none; does something there print all the time?")

    def _run(self, code: str, what: str, seconds: float) -> list[list[str]]:
        mark = os.urandom(6).hex()
        answer = re.compile(f"<{mark}:(.*?):{mark}>".encode(), re.S)
        heard, found, deadline = bytearray(), [], Deadline(seconds)

        def listen(data: bytes) -> None:
            heard.extend(data)
            done = 0
            for match in answer.finditer(heard):
                done = match.end()
                if not re.fullmatch(rb"[\x21-\x7e]*( [\x21-\x7e]+)*", match[1]):
                    raise _Garbled
                if match[1]:
                    found.append(match[1].decode().split(" "))
                deadline.extend(_PER_ANSWER, self.board.timeout)
                if len(found) > _MAX_ANSWERS:
                    raise BoardError(f"The board cannot {what}: it answers more than {_MAX_ANSWERS} times.")
            del heard[: max(done, len(heard) - _MAX_ANSWER)]

        names = re.findall(r"^def (\w+)", _SAY + code, re.M)
        result = self.board.exec(
            _SAY % (mark, mark) + code + f"\ndel {','.join(dict.fromkeys(names))}", listen, deadline
        )
        if result.error:
            lines = [line.strip() for line in result.error.strip().splitlines()]
            last = next((line for line in reversed(lines) if _RAISED.match(line)), lines[-1])
            if last.startswith("OSError:"):
                digits = "".join(c if c.isdigit() else " " for c in last.partition("]")[0]).split()
                if digits:
                    raise BoardError(f"The board cannot {what}: {errno_words(int(digits[0][:6]))}.")
            kind = NotNow if last.startswith("MemoryError") else BoardError  # a program there holds it
            raise kind(f"The board cannot {what} ({brief(last)}).")
        return found

    def _read(self, code: str, what: str, pattern: str) -> re.Match[str]:
        """The one answer of code that changes nothing."""
        for _ in range(_ATTEMPTS):
            words = " ".join(self.run(code, what, answers=1, attempts=_ATTEMPTS)[0])
            if match := re.fullmatch(pattern, words):
                return match
        raise BoardError(f"The board cannot {what}: its answer is none ({brief(words)}).")

    def ask(self, expression: str, what: str, before: str = "") -> str:
        """The value of an expression that is a str, after the statements `before`. It changes nothing: it may be asked
        for more than once."""
        code = f"{before}\n_wssctl_say(_wssctl_hex({expression}))"
        return _text(self._read(code, what, "((?:[0-9a-f]{2})+|-)")[1].strip("-"))

    def cwd(self) -> str:
        return self.ask("os.getcwd()", "say where it is", "import os")

    def system(self) -> str:
        """What it runs, and on what."""
        return self.ask("sys.version+'; '+sys.implementation._machine", "say what it is", "import sys")

    def chdir(self, path: str) -> str:
        self.run(f"import os;os.chdir({path!r})", f"go to {path}")
        return self.cwd()

    def stat(self, path: str) -> Entry | None:
        """None when there is nothing of that name."""
        code = (
            f"import os\ntry:\n s=os.stat({path!r});_wssctl_say(s[0]&0x4000,s[6])\n"
            "except OSError:\n _wssctl_say('-')"
        )
        said = self._read(code, f"look at {path}", r"(-)|(\d{1,9}) (\d{1,19})")
        return None if said[1] else Entry(path, said[2] != "0", int(said[3]))

    def is_dir(self, path: str) -> bool:
        if path.strip("/") in ("", ".", ".."):
            return True
        entry = self.stat(path)
        return bool(entry and entry.is_dir)

    def walk(self, path: str = "", deep: bool = False, sums: bool = False) -> list[Entry]:
        """What is in a folder, and below it. `sums`: with SHA-256, computed there."""
        code = (_SUM if sums else "") + _WALK + f"_wssctl_walk({path!r},'',{deep},{sums})"
        what = f"list {path or 'this folder'}"
        base = path if not path or path == "/" else path.rstrip("/") + "/"
        pattern = re.compile(r"([01]) (\d{1,19}) ([0-9a-f]{64}|-) ((?:[0-9a-f]{2})+)")
        for _ in range(_ATTEMPTS):
            rows = [pattern.fullmatch(" ".join(words)) for words in self.run(code, what, attempts=_ATTEMPTS)]
            if all(rows):
                return _entries(base, [row for row in rows if row])
        raise BoardError(f"The board cannot {what}: what it sends is no list.")

    def sha256(self, path: str) -> str:
        return str(self._read(f"{_SUM}_wssctl_say(_wssctl_sum({path!r}))", f"read {path}", "[0-9a-f]{64}")[0])

    def sums(self, folder: str, names: list[str], together: int = 50) -> dict[str, str]:
        """SHA-256 of those that are there, by name below the folder. together: how many are asked for in one piece of
        code, which the board has to compile."""
        found = {}
        for at in range(0, len(names), together):
            found.update(self._sums(folder, names[at : at + together]))
        return found

    def _sums(self, folder: str, names: list[str]) -> dict[str, str]:
        code = (
            f"{_SUM}i=-1\nfor n in {names!r}:\n i+=1\n try:\n  _wssctl_say(i,_wssctl_sum({folder!r}+'/'+n))\n"
            " except OSError:\n  _wssctl_say(i,'-')\n"
        )
        found = {}
        for words in self.run(code, f"read {folder}", answers=len(names), attempts=_ATTEMPTS):
            match = re.fullmatch(r"(\d{1,6}) (-|[0-9a-f]{64})", " ".join(words))
            if not match or int(match[1]) >= len(names):
                raise BoardError(f"The board cannot read {folder}: its answer is none ({brief(' '.join(words))}).")
            if match[2] != "-":
                found[names[int(match[1])]] = match[2]
        return found

    def head(self, path: str, count: int) -> bytes:
        """Its first lines."""
        code = (
            f"with open({path!r},'rb') as f:\n i=0\n while i<{count}:\n  l=f.readline(256)\n  if not l:break\n"
            "  i+=l[-1]==10\n  _wssctl_say(_wssctl_hex(l))"
        )
        for _ in range(_ATTEMPTS):
            pieces = ["".join(words) for words in self.run(code, f"read {path}", attempts=_ATTEMPTS)]
            if all(re.fullmatch("([0-9a-f]{2})+", piece) for piece in pieces):
                return b"".join(map(bytes.fromhex, pieces))
        raise BoardError(f"The board cannot read {path}: what it answers is none.")

    def copy(self, source: str, to: str) -> None:
        self.run(f"{_COPY}_wssctl_copy({source!r},{to!r})", f"copy {source} to {to}")

    def rename(self, old: str, new: str) -> None:
        self.run(f"import os;os.rename({old!r},{new!r})", f"rename {old} to {new}")

    def remove(self, path: str, deep: bool = False) -> None:
        if deep:
            self.run(f"{_REMOVE}_wssctl_remove({path!r})", f"remove {path}")
        else:
            self.run(f"import os;os.remove({path!r})", f"remove {path}")

    def mkdir(self, path: str, parents: bool = False) -> None:
        """`parents`: what is there already is well."""
        if not parents:
            self.run(f"import os;os.mkdir({path!r})", f"make the folder {path}")
            return
        pure = PurePosixPath(path)
        for folder in [*reversed(pure.parents), pure]:
            if str(folder) not in ("/", ".") and not self.is_dir(str(folder)):
                self.mkdir(str(folder))

    def rmdir(self, path: str) -> None:
        self.run(f"import os;os.rmdir({path!r})", f"remove {path}")

    def df(self, path: str = "") -> tuple[int, int]:
        """(bytes in all, bytes free)."""
        code = f"import os;s=os.statvfs({path or '/'!r});_wssctl_say(s[1]*s[2],s[1]*s[3])"
        said = self._read(code, "say how full it is", r"(\d{1,19}) (\d{1,19})")
        return int(said[1]), int(said[2])


class _Garbled(Exception):
    """What another printed fell into an answer."""


def _text(hexadecimal: str) -> str:
    return bytes.fromhex(hexadecimal).decode("utf-8", "surrogateescape")


def _entries(base: str, rows: list[re.Match[str]]) -> list[Entry]:
    """Raises BoardError for names that are none, or in a folder that was not listed."""
    found: list[Entry] = []
    folders = {""}
    for row in rows:
        path = _text(row[4])
        folder, _, name = path.rpartition("/")
        if folder not in folders:
            name = path  # in no folder that was listed
        component(name, windows=False)
        if row[1] == "1":
            folders.add(path)
        found.append(Entry(base + path, row[1] == "1", int(row[2]), row[3].strip("-")))
    return found
