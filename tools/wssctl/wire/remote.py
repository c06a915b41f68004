"""A board's file system, by code that runs in its raw REPL. Paths are the board's; relative ones are from its current
folder."""

import ast
from dataclasses import dataclass
from pathlib import PurePosixPath

from ..errors import BoardError
from .client import Client, errno_words

# What os.ilistdir leaves out on some file systems (VfsPosix: the size) os.stat tells.
_WALK = """\
def _wssctl_walk(p, deep, sums):
 import os
 for f in sorted(os.ilistdir(p or '.')):
  n = p + '/' + f[0] if p and p != '/' else p + f[0]
  d = f[1] & 0x4000
  s = h = 0
  if not d:
   s = f[3] if len(f) > 3 else os.stat(n)[6]
   if sums:
    h = _wssctl_sum(n)
  print(repr((n, bool(d), s, h)))
  if d and deep:
   _wssctl_walk(n, deep, sums)
"""
_SUM = """\
def _wssctl_sum(n):
 import hashlib, binascii
 h = hashlib.sha256()
 b = bytearray(512)
 m = memoryview(b)
 with open(n, 'rb') as f:
  while True:
   k = f.readinto(b)
   if not k:
    return binascii.hexlify(h.digest()).decode()
   h.update(m[:k])
"""
_COPY = """\
def _wssctl_copy(a, b):
 with open(a, 'rb') as f, open(b, 'wb') as g:
  while True:
   d = f.read(512)
   if not d:
    break
   g.write(d)
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
"""


@dataclass(frozen=True)
class Entry:
    path: str
    is_dir: bool
    size: int = 0
    sha256: str = ""

    @property
    def name(self) -> str:
        return self.path.rsplit("/", 1)[-1]


class Remote:
    def __init__(self, board: Client):
        self.board = board

    def run(self, code: str, what: str = "do that", timeout: float | None = 60) -> bytes:
        """Output of `code`. Raises BoardError with the board's errno in words, or its traceback's last line."""
        result = self.board.exec(code, timeout=timeout)
        if result.error:
            last = result.error.strip().splitlines()[-1]
            if last.startswith("OSError:"):
                digits = "".join(c if c.isdigit() else " " for c in last.partition("]")[0]).split()
                if digits:
                    raise BoardError(f"The board cannot {what}: {errno_words(int(digits[0]))}.")
            raise BoardError(f"The board cannot {what} ({last}).")
        return result.output

    def cwd(self) -> str:
        return self.run("import os;print(os.getcwd(),end='')", "say where it is").decode()

    def chdir(self, path: str) -> str:
        self.run(f"import os;os.chdir({path!r})", f"go to {path}")
        return self.cwd()

    def stat(self, path: str) -> Entry | None:
        """None when there is nothing of that name."""
        code = f"import os\ntry:\n s=os.stat({path!r});print(s[0]&0x4000,s[6])\nexcept OSError:\n print('-')"
        said = self.run(code).split()
        return None if said == [b"-"] else Entry(path, said[0] != b"0", int(said[1]))

    def is_dir(self, path: str) -> bool:
        if path.strip("/") in ("", ".", ".."):
            return True
        entry = self.stat(path)
        return bool(entry and entry.is_dir)

    def walk(self, path: str = "", deep: bool = False, sums: bool = False) -> list[Entry]:
        """What is in a folder, and below it. `sums`: with SHA-256, computed there."""
        code = _WALK + (_SUM if sums else "") + f"_wssctl_walk({path!r},{deep},{sums})\ndel _wssctl_walk"
        lines = self.run(code, f"list {path or 'this folder'}", None).decode().splitlines()
        return [Entry(n, d, s, h or "") for n, d, s, h in map(ast.literal_eval, lines)]

    def sha256(self, path: str) -> str:
        return self.run(f"{_SUM}print(_wssctl_sum({path!r}),end='')", f"read {path}", None).decode()

    def head(self, path: str, count: int) -> bytes:
        """Its first lines."""
        code = (
            f"with open({path!r},'rb') as f:\n for i in range({count}):\n  l=f.readline()\n  if not l:break\n  print(l)"
        )
        lines = self.run(code, f"read {path}").decode().splitlines()
        return b"".join(map(ast.literal_eval, lines))

    def copy(self, source: str, to: str) -> None:
        self.run(f"{_COPY}_wssctl_copy({source!r},{to!r})", f"copy {source} to {to}", None)

    def rename(self, old: str, new: str) -> None:
        self.run(f"import os;os.rename({old!r},{new!r})", f"rename {old} to {new}")

    def remove(self, path: str, deep: bool = False) -> None:
        if deep:
            self.run(f"{_REMOVE}_wssctl_remove({path!r})", f"remove {path}", None)
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
        said = self.run(f"import os;s=os.statvfs({path or '/'!r});print(s[1]*s[2],s[1]*s[3])").split()
        return int(said[0]), int(said[1])
