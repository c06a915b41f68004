"""Another program that is called wss_repl on a board: ViperIDE's viper-tools installs one that dials out to a relay
without checking it. MicroPython imports it in place of ours, from the board's next start on. Here it is only read."""

from ..errors import BoardError, ConnectionLost
from ..text import brief
from ..wire.client import Client

# Ours names one of its modules, as source and as bytecode; what `wssctl update` puts in front of it names itself
_MARKS = (b"wss.server", b"wss_update")
# Where MicroPython's ports look for modules; py/builtinimport.c takes a folder first, then .py, then .mpy
_NAMES = [f"{folder}/wss_repl{end}" for folder in ("", "/lib") for end in ("/__init__.py", ".py", ".mpy")]
_LARGEST = 1 << 20  # bytes of a module

# The same on a cable, where no bundle of ours is needed, and with the path that the board has
CODE = f"""
def _wssctl_foreign():
    import os, sys
    for p in sys.path:
        if p.startswith(".frozen"):
            continue
        for end in ("", ".py", ".mpy"):
            n = (p or os.getcwd()).rstrip("/") + "/wss_repl" + end
            try:
                if os.stat(n)[0] & 0x4000:
                    if end:
                        continue
                    return n
                with open(n, "rb") as f:
                    seen = last = f.read(256)
                    while last and not any([mark in seen for mark in {_MARKS!r}]):
                        last = f.read(256)
                        seen = seen[-16:] + last
                    if seen and not last:
                        return n
            except OSError:
                pass
    return ""
"""


def find(client: Client) -> str:
    """What it is called, by reading files over an open session, which interrupts no program; "" when there is none."""
    for name in _NAMES:
        try:
            data = client.get(name, limit=_LARGEST)
        except ConnectionLost:
            raise
        except BoardError:  # there is none
            continue
        if data and not any(mark in data for mark in _MARKS):
            return name
    return ""


def words(name: str) -> str:
    """What is said of it."""
    name = brief(name)
    return (
        f"{name} is another program of that name (ViperIDE's viper-tools has one that lets a relay in, "
        f"unchecked), which takes the place of this one: `mpremote rm :{name}`"
    )


def refuse(name: str, then: str) -> None:
    """Raises BoardError when there is one."""
    if name:
        raise BoardError(f"On the board {words(name)}, {then}")
