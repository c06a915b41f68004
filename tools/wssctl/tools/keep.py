"""`wssctl keep`: the connections that are kept for the commands that come (wire/kept.py): list, always keep, stop."""

import argparse
import contextlib
import json
import os
import signal
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..keys.store import Store
from ..text import shown
from ..wire import kept

_END = 10.0  # s in which a holder has to end

def keep(args: argparse.Namespace) -> int:
    """`wssctl keep`, `wssctl keep 5m [BOARD]`, `wssctl keep stop [BOARD]`."""
    store = Store(args.keys)
    if args.what is None:
        for _, info in _held():
            state = f"used by {info['user']}" if info.get("user") else "idle"
            print(shown(f"{info['target']:<32} {state}, process {info['pid']}, for {info['keep']:g} s after its use"))
        return 0
    if args.what == "stop":
        return _stop(store, args.board)
    value = kept.seconds(args.what)
    with store.record.change() as db:
        what = f"keep:{args.board or ''}"
        if value or args.board:  # 0 for one board goes before what is said for all
            db.execute("INSERT OR REPLACE INTO state VALUES(?, ?)", (what, str(value)))
        else:
            db.execute("DELETE FROM state WHERE what = ?", (what,))
    return 0


def _stop(store: Store, board: str | None) -> int:
    wanted = ""
    if board:
        from ..boards.registry import Registry
        from ..wire.link import parse_target

        known = Registry(store).find(board)
        wanted = kept.path_of(parse_target(known.url if known else board), None).name[:8]
    found = False
    for path, info in _held():
        if path.name.startswith(wanted) and (end := kept.dial(path)) is not None:
            found = True
            with end, contextlib.suppress(OSError):
                # one that is stopped takes no other signal
                os.kill(info["pid"], signal.SIGKILL if info["target"] == "?" else signal.SIGTERM)
                end.settimeout(_END)
                while end.recv(4096):  # until it is gone, and the board with it
                    pass
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
    if not found:
        raise UsageError("No such connection is kept; `wssctl keep` lists them.")
    return 0


def _held() -> list[tuple[Path, dict[str, Any]]]:
    """The holders of this user; target "?" of one that does not answer."""
    found: list[tuple[Path, dict[str, Any]]] = []
    try:
        paths = sorted(kept.folder().iterdir())
    except kept.NoPlace:
        return found
    for path in paths:
        if path.suffix or (sock := kept.dial(path)) is None:
            continue
        with sock:
            info = {"target": "?", "pid": kept.peer(sock)[1], "keep": 0.0}
            sock.settimeout(2.0)
            buffer = bytearray()
            with contextlib.suppress(OSError, ValueError):
                sock.sendall(kept.message(b"L", b""))
                while data := sock.recv(4096):
                    buffer += data
                    for _, body in kept.messages(buffer):
                        info |= json.loads(body)
            found.append((path, info))
    return found
