"""`wssctl update`: another bundle on a board over the network, which the board takes back by itself if it fails.

The new bundle's files lie beside those of the old one, in a folder of their own, and onboard/loader.py, which stands in
the board's root as wss_repl.py, tries them at the next start. A login over wss within the deadline proves them.
Otherwise, and at the second start, the old ones are back. Until that login nothing of the old bundle is touched.
"""

import argparse
import contextlib
import dataclasses
import functools
import hashlib
import json
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import (
    BoardError,
    ConnectionLost,
    KeyFileError,
    LoginError,
    NotHere,
    NotNow,
    TrustError,
    Unreachable,
    UsageError,
)
from ..keys.signing import UpdateKey, now, signed
from ..keys.store import write_files
from ..text import brief, say, shown
from ..wire.client import Client
from ..wire.remote import HEAP, Remote, has_room
from . import foreign, modules
from .dialler import BOOT, Dialler
from .engine import Engine, Outcome
from .many import named, on_each

LOADER = "wss_repl.py"
SIGNED = "wss_signed"
_STATES = ("wss_state0", "wss_state1")
UPDATE_FILES = (*_STATES, SIGNED)  # as onboard/loader.py calls them
UPDATE_FOLDERS = ("wss_a", "wss_b")
_CHECK = 60.0  # seconds that a board may take to check a signature and all that is signed
_PAUSE = 0.3  # seconds between attempts to log in
_ROOM = 36 << 10  # bytes of heap in which a board of 32 bits compiles the loader
_LITTLE_ROOM = 5632  # and in which it runs what is asked of it here, one thing after the other
_TOGETHER = 8  # files whose hashes are asked for in one go: a small board has to compile their names
_SPARE_BLOCKS = 8  # for folders, the state's two files and the file system's own use

# What a board may do without, and gets only if it has it now (manifest.py)
OPTIONAL = ("ussl", "wss_helper", "wss/page", "wss/about", "wss/log")

# On the board: what there is. `bundle` is where wss_repl runs from: an entry of sys.path. In pieces, because the memory
# that a small board has for compiling is small.
_SURVEY = (
    """\
def _wssctl_survey():
 import sys,wss
 u=sys.modules.get('wss_update')
 p=wss.__path__
 b=u.active if u else p[:-4] if p[-4:]=='/wss' else ''
 _wssctl_json({'home':u.HOME if u else wss.port.home or '/','path':sys.path,'bundle':b,
  'trial':bool(u and u.trial)})
_wssctl_survey()
""",
    """\
def _wssctl_survey():
 import sys,wss
 _wssctl_json({'mpy':getattr(sys.implementation,'_mpy',0)&255,'version':getattr(sys.modules['wss_repl'],'VERSION','0'),
  'note':getattr(wss.port,'update_note',''),'signed':bool(getattr(wss.port,'update_keys',None))})
_wssctl_survey()
""",
    """\
def _wssctl_survey():
 import os,sys,wss
 u=sys.modules.get('wss_update')
 h=u.HOME if u else wss.port.home or '/'
 s=os.statvfs(h)
 def text(n):
  try:
   with open(h+n) as f:
    return 'wss_repl' in f.read()
  except (OSError,UnicodeError):
   return False
 _wssctl_json({'block':s[0],'free':s[0]*s[3],'starts':text('boot.py') or text('main.py')})
_wssctl_survey()
""",
)
# What a board answers is one JSON text
_JSON = """\
def _wssctl_json(a):
 import json
 _wssctl_say(_wssctl_hex(json.dumps(a)))
"""
_FROZEN = """\
a=[]
for n in {names!r}:
 try:
  __import__(n)
  a.append(n)
 except ImportError:
  pass
_wssctl_json(a)
"""
# The loader's functions, also before it has been started: `u`
LOADER_CODE = """\
import os,sys
os.chdir({home!r})
u={{'__name__':'wss_update'}}
with open('wss_repl.py') as f:
 exec(f.read(),u)
"""
# Also before the loader has been started, which is what a restart that did not come to pass leaves
_STATE = """\
def _wssctl_state():
 import sys
 u=sys.modules.get('wss_update')
 g=u.__dict__ if u else {{'__name__':'wss_update'}}
 try:
  if not u:
   import os
   d=os.getcwd()
   os.chdir({home!r})
   try:
    with open('wss_repl.py') as f:
     exec(f.read(),g)
   finally:
    os.chdir(d)
  s=g['read']() or {{}}
 except OSError:
  s={{}}
 t=g.get('trial') or {{}}
 _wssctl_json([g.get('active') or '',t.get('mark',''),s.get('note',''),s.get('mark',''),bool(s.get('trial') and not t),
  bool(s.get('to')),bool(g.get('needs_reset'))])
_wssctl_state()
"""
# The same without the state
_LITTLE_STATE = """\
import sys
u=sys.modules.get('wss_update')
_wssctl_json([u and u.active or '',u and u.trial and u.trial['mark'] or '',bool(u and u.needs_reset)])
"""


@dataclass(frozen=True)
class Survey:
    """What a board has. home: the folder of its boot.py. bundle: where the wss_repl that runs is, an entry of sys.path.
    base: where one is that came by cable. block, free: of its file system, in bytes. signed: whether it takes signed
    updates alone. is_small: whether it has no memory for the loader beside a session."""

    home: str
    path: list[str]
    bundle: str
    mpy: int
    version: str
    block: int
    free: int
    note: str
    trial: bool
    starts: bool
    signed: bool
    base: str = ""
    is_small: bool = False


def update(args: argparse.Namespace) -> int:
    modules.version()  # before anybody is connected to: an installation without it can't do this
    return run(args, lambda dial: _update(args, dial), "update")


def run(args: argparse.Namespace, work: Callable[[Dialler], str], what: str) -> int:
    """work() on each board named; of several, the first has to be well before the others are begun."""

    def one(dial: Dialler) -> str:
        if not dial.target.secure:
            raise UsageError(f"`wssctl {what}` goes over wss alone: plain ws proves nobody.")
        return work(dial)

    if args.sign:
        args.update_key = UpdateKey.load(args)
    boards = named(args)
    if boards is not None:
        return on_each(args, boards, one, Engine(canary=True))
    try:
        outcome = Outcome(args.url, 0, one(Dialler(args)))
    except BoardError as e:  # which says "It ..." of a board that the others' table names
        raise type(e)(f"{args.url}: {e}") from e
    print(outcome.as_json() if args.json else f"{args.url}: {shown(outcome.words)}")
    return 0


def _update(args: argparse.Namespace, dial: Dialler) -> str:
    new = modules.version()
    with dial() as client:
        remote = Remote(client)
        is_small = _is_small(client)
        board = survey(client)
        base = _stored(client, board.home).get("base", board.bundle)
        board = dataclasses.replace(board, is_small=is_small, base=base)
        foreign.refuse(foreign.find(client), "then update it.")
        if done := _refuse(args, board, new):
            return done
        loader = _loader(board)
        state = _state(remote, board)
        if state.is_to_come and state.is_firmware:  # begun, and the bootloader is told already
            raise NotNow("New firmware starts there at the next reset: reset it, or end that by `wssctl firmware`.")
        files = _wanted(remote, board)
        signature = signature_for(args, board, lambda: _signed(_compiled(board.mpy)))
        if board.bundle != ".frozen" and not args.force and _is_there(remote, board.bundle, files):
            _forget(remote, board) if board.note else None
            return f"has {new} already"
        slot = _slot(board)
        _send(remote, board, slot, files, sum(-(-len(data) // board.block) for data in loader.values()))
        place_loader(remote, board, loader)
        mark = secrets.token_hex(8)
        words = board.bundle, slot, new, round(args.deadline), mark
        begun = _begun(board, *words) if board.is_small else None
        trial = Trial(new, board.version, f"u['begin']{words!r}", mark, args.deadline, "soft_reset", begun)
        return try_out(dial, client, board, signature, trial)


@dataclass(frozen=True)
class Trial:
    """new, old: the versions. begin: code by which the board's loader takes note. mark: by which it is known. seconds:
    in which a login has to prove it. how: the reset that starts it. state: of a small board, which goes there in place
    of that code."""

    new: str
    old: str
    begin: str
    mark: str
    seconds: float
    how: str
    state: dict[str, Any] | None = None


def try_out(dial: Dialler, client: Client, board: Survey, signature: bytes | None, trial: Trial) -> str:
    """The change-over, the restart and the proof. Returns "OLD -> NEW"; raises as prove() does."""
    try:
        if trial.state:
            _store(client, board.home, _stored(client, board.home) | trial.state)
        else:
            change_over(Remote(client), board, signature, trial.begin)
        restart(client, trial.how)
        prove(dial, board, trial)
    except KeyboardInterrupt:  # whoever pressed Ctrl-C is to know what the board does
        say(
            f"NOTE: nobody proves {trial.new} there now: if the board was told to try it, {trial.old} is back "
            f"{trial.seconds:g} s after its start."
        )
        raise
    return f"{trial.old} -> {trial.new}"


def change_over(remote: Remote, board: Survey, signature: bytes | None, code: str) -> None:
    """From the board's next start on. It looks at the signature first, if it was told to."""
    if signature:
        remote.board.put(signature, board.home + SIGNED)
    remote.run(LOADER_CODE.format(home=board.home) + code, "change over", seconds=_CHECK)


def sign(args: argparse.Namespace) -> int:
    """`wssctl sign` of the bundle of this wssctl."""
    path = Path(args.out or f"wss_repl-{modules.version()}.signed")
    try:
        data = _signed(_compiled(None))
    except modules.NoCompiler as e:
        raise KeyFileError(f"There are no .mpy files to sign: {e}.") from None
    write_files({path: UpdateKey.load(args).sign(data)}, args.force)
    print(f"Wrote {path}. With the same wssctl and mpy-cross: `wssctl update BOARD --signed {path}`.")
    return 0


def _signed(files: dict[str, bytes]) -> str:
    """What is signed of a bundle (lib/wss/signed.py)."""
    lines = "".join(f"{_sum(data)} {name}\n" for name, data in sorted(files.items()))
    return f"bundle {modules.version()} {now()}\n{lines}"


def signature_for(args: argparse.Namespace, board: Survey, what: Callable[[], str]) -> bytes | None:
    """The signature to send, None where the board asks for none and none is given: one that is made now, of what
    what() says, or that of --signed, which has to be of the same but for its time."""
    if args.sign:
        key: UpdateKey = args.update_key
        return key.sign(what())
    if not args.signed:
        if board.signed:
            raise BoardError("It takes signed updates alone: sign this one with --sign, or give --signed FILE.")
        return None
    data = read_signature(args.signed)

    def untimed(text: str) -> list[str]:
        words = text.split(" ")
        return words[:2] + words[2].split("\n")[1:] + words[3:] if len(words) > 2 else words

    if untimed(signed(data)) != untimed(what()):
        raise KeyFileError(
            f"{args.signed} is a signature of something else; a bundle has to be signed by the same wssctl with the "
            "same mpy-cross."
        )
    return data


def read_signature(file: str) -> bytes:
    """Raises NotHere."""
    try:
        return Path(file).read_bytes()
    except OSError as e:
        raise NotHere(f"Cannot read {file} ({e.strerror}).") from None


def survey(client: Client) -> Survey:
    """Raises BoardError when the board does not say what has to be known."""
    said: dict[str, Any] = {}
    try:
        for code in _SURVEY:
            said |= ask(Remote(client), code, "say what it has")
        kinds: dict[str, Any] = {n: getattr(kind, "__origin__", kind) for n, kind in Survey.__annotations__.items()}
        del kinds["base"], kinds["is_small"]  # which _update() finds out
        if not all(isinstance(said[name], kind) for name, kind in kinds.items()) or said["block"] <= 0:
            raise TypeError
        return Survey(**{name: said[name] for name in kinds} | {"version": brief(said["version"])})
    except (KeyError, TypeError, ValueError):
        raise BoardError("It does not say what it has in a form that is understood; is that wss_repl?") from None


def ask(remote: Remote, code: str, what: str, attempts: int = 3) -> Any:
    """What code tells by a call of _wssctl_json(). Raises BoardError."""
    [words] = remote.run(_JSON + code, what, answers=1, attempts=attempts)
    try:
        return json.loads(bytes.fromhex("".join(words)))
    except (ValueError, RecursionError):
        raise BoardError(f"The board cannot {what}: its answer is not understood; is that wss_repl?") from None


def number(version: str) -> tuple[int, ...]:
    """For comparing: 0.10.2 is newer than 0.9, and that than 0.9-rc1."""
    parts = [int(part) if re.fullmatch("[0-9]{1,9}", part) else -1 for part in re.split("[.-]", version)[:6]]
    return tuple(parts + [0] * (6 - len(parts)))


def _refuse(args: argparse.Namespace, board: Survey, new: str) -> str | None:
    """Raises what is against it; returns the words when there is nothing to do."""
    if board.trial:
        raise NotNow("Another update is on trial there; it is proved or taken back within minutes.")
    if board.bundle == ".frozen":
        if board.version == new and not args.force:
            return f"has {new} already, in its firmware"
        if not args.overlay:
            raise BoardError(
                f"Its bundle {board.version} is part of the firmware: `wssctl firmware` brings another, or --overlay "
                f"puts {new} in front of it, in its file system."
            )
    refuse_loader(board)
    if number(new) < number(board.version) and not args.force:
        raise BoardError(f"It has {board.version}, which is newer than {new}; --force takes the older one.")
    refuse_unstarted(args, board)
    return None


def refuse_unstarted(args: argparse.Namespace, board: Survey) -> None:
    if not board.starts and not args.force:
        raise BoardError(
            "Neither boot.py nor main.py there names wss_repl: who starts it after a reset? --force if something does."
        )


def refuse_loader(board: Survey) -> None:
    """Where the loader would not be found before the bundle, or would take its place."""
    if not board.bundle:
        raise BoardError("Its bundle lies in the root, where nothing can stand in front of it: install it in lib.")
    before = board.path[: board.path.index(board.bundle)] if board.bundle in board.path else []
    if "" not in before and board.bundle not in slots(board):
        where = brief(board.bundle)
        raise BoardError(f"Its sys.path has {where} before the root, so nothing can stand in front of it.")


def refuse_without_room(client: Client) -> None:
    """Where the board cannot compile the loader, now and at each start. Where MicroPython's heap grows for that into
    what TLS needs (ESP32 without PSRAM, bundle not frozen), nobody gets in any more, whatever runs behind it."""
    if not has_room(_heap(client), _ROOM):
        raise BoardError(
            f"Its memory is too small for new firmware over the network, {_ROOM >> 10} KB of heap in a session: flash "
            "it by its cable, or freeze the bundle into the firmware."
        )


def _is_small(client: Client) -> bool:
    """Whether the board has no memory to compile the loader. Raises BoardError where there is too little even for what
    is asked of it here: what asks for more ends the session, or lets the heap grow, as above."""
    said = _heap(client)
    if not has_room(said, _LITTLE_ROOM):
        raise BoardError(
            f"Its memory is too small for an update over the network, {_LITTLE_ROOM / 1024:g} KB of heap in a session: "
            "end the program there, or bring the bundle by its cable (`wssctl setup`)."
        )
    return not has_room(said, _ROOM)


def _heap(client: Client) -> bytes:
    said = bytearray()
    client.exec(HEAP, said.extend, client.timeout)
    return bytes(said)


def _loader(board: Survey) -> dict[str, bytes]:
    """The loader's files, in the order in which they have to get there: as source, which any MicroPython reads, or as
    bytecode where the board has no memory to compile that."""
    if not board.is_small:
        return {LOADER: modules.loader()}
    if board.signed:
        raise BoardError(
            f"It takes signed updates alone, and has no memory to look at a signature, {_ROOM >> 10} KB of heap in a "
            "session: bring the bundle by its cable (`wssctl setup`), or freeze it into the firmware."
        )
    try:
        return {modules.LOADER_BYTECODE: modules.loader_bytecode(board.mpy), LOADER: modules.loader_front()}
    except modules.NoCompiler as e:
        raise NotHere(f"There are no .mpy files for its MicroPython: {e}.") from None


# The loader's own state, for a board that has no memory for the loader beside a session: read(), begin(), confirm() and
# forget() of onboard/loader.py are made here, on the files that it keeps.


def _stored(client: Client, home: str) -> dict[str, Any]:
    """{} for none."""
    found: list[dict[str, Any]] = [{"n": 0}]
    for name in _STATES:
        data = client.get_if_there(home + name) or b""
        with contextlib.suppress(ValueError, RecursionError, KeyError, TypeError):
            state = json.loads(data[16:])
            if data[:16] == _check(data[16:]) and isinstance(state["n"], int) and isinstance(state["base"], str):
                found.append(state)
    latest = max(found, key=lambda state: state["n"])
    return latest if latest["n"] else {}


def _store(client: Client, home: str, state: dict[str, Any]) -> None:
    state = state | {"n": state.get("n", 0) + 1}
    data = json.dumps(state).encode()
    data = _check(data) + data
    name = home + _STATES[state["n"] & 1]
    client.put(data, name)
    if client.get_if_there(name) != data:
        raise BoardError("What was sent is not what lies there; is its flash worn? The old bundle goes on.")


def _check(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest()[:16].encode()


def _begun(board: Survey, good: str, where: str, new: str, seconds: int, mark: str) -> dict[str, Any]:
    return {
        "base": board.base if good in slots(board) else good, "good": good, "trial": where, "new": new, "boots": 0,
        "s": seconds, "to": None, "from": None, "at": None, "note": "", "mark": mark, "version": board.version,
    }  # fmt: skip


def _confirm(remote: Remote, board: Survey, mark: str) -> bool:
    """Returns whether it has to be reset after it."""
    code = f"import wss_update as u\nu.confirm({mark!r})\n_wssctl_json(u.needs_reset)"
    if board.is_small:
        state = _stored(remote.board, board.home)
        proved = {"good": state.get("trial"), "trial": None, "version": state.get("new"), "at": None}
        _store(remote.board, board.home, state | proved)
        code = "import wss,wss_update as u\nu.trial=None\nwss.port.update_note=''\n_wssctl_json(u.needs_reset)"
    return bool(ask(remote, code, "take the login for a proof", 1))


def _forget(remote: Remote, board: Survey) -> None:
    if board.is_small:
        _store(remote.board, board.home, _stored(remote.board, board.home) | {"note": ""})
    else:
        remote.run(LOADER_CODE.format(home=board.home) + "u['forget']()")


def slots(board: Survey) -> list[str]:
    return [board.home + name for name in UPDATE_FOLDERS]


def _slot(board: Survey) -> str:
    """The folder for the new one: lib and one of ours take turns, or two of ours where a third is in the firmware."""
    a, b = slots(board)
    if board.bundle != a:
        return a
    return board.base if board.base in board.path and board.base.endswith("lib") else b


def _wanted(remote: Remote, board: Survey) -> dict[str, bytes]:
    """The new bundle's files for this board's MicroPython, without parts that it does not have now."""
    try:
        files = _compiled(board.mpy)
    except modules.NoCompiler as e:
        raise NotHere(f"There are no .mpy files for its MicroPython: {e}.") from None
    parts = [f"{name}.mpy" for name in OPTIONAL]
    if board.bundle == ".frozen":
        code = _FROZEN.format(names=[name.replace("/", ".") for name in OPTIONAL])
        said = ask(remote, code, "say what it has")
        has = {f"{name}.mpy" for name in OPTIONAL if isinstance(said, list) and name.replace("/", ".") in said}
    else:
        either = [*parts, *map(modules.other, parts)]
        has = {name[:-3].rstrip(".") + ".mpy" for name in remote.sums(board.bundle, either, _TOGETHER)}
    return {name: data for name, data in files.items() if name not in parts or name in has}


_compiled = functools.lru_cache(modules.compiled)


def _sum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _is_there(remote: Remote, folder: str, files: dict[str, bytes]) -> bool:
    return remote.sums(folder, list(files), _TOGETHER) == {name: _sum(data) for name, data in files.items()}


def _send(remote: Remote, board: Survey, slot: str, files: dict[str, bytes], more: int) -> None:
    """Make the slot hold these files and no other of a bundle. What is there, or can be copied from the running
    bundle, is not sent. more: blocks of flash that are needed beside. Raises BoardError, before anything is changed,
    when there is no room."""
    there = remote.sums(slot, list(files), _TOGETHER)
    running = {} if board.bundle == ".frozen" else remote.sums(board.bundle, list(files), _TOGETHER)
    missing = {name: data for name, data in files.items() if there.get(name) != _sum(data)}
    listing = _bundle_files(remote, slot, board)
    old = {name: size for name, size in listing.items() if name not in files or name in missing}

    def blocks(size: int) -> int:
        return -(-size // board.block)

    need = sum(blocks(len(data)) for data in missing.values()) - sum(map(blocks, old.values()))
    need += more + _SPARE_BLOCKS
    if need * board.block > board.free:
        raise BoardError(
            f"The new bundle needs {need * board.block >> 10} KB, and {board.free >> 10} KB are free: "
            "delete files there. Nothing was changed."
        )
    for name in old:
        remote.remove(f"{slot}/{name}")
    remote.mkdir(f"{slot}/wss", parents=True)
    for name, data in missing.items():
        if running.get(name) == _sum(data):
            remote.copy(f"{board.bundle}/{name}", f"{slot}/{name}")
        else:
            remote.board.put(data, f"{slot}/{name}")
    if not _is_there(remote, slot, files):
        raise BoardError("What was sent is not what lies there; is its flash worn? The old bundle goes on.")


def _bundle_files(remote: Remote, folder: str, board: Survey) -> dict[str, int]:
    """{name: size} of what lies there of any bundle; in lib there may be files of others."""
    found = {}
    for part in ("", "wss/"):
        path = f"{folder}/{part}".rstrip("/")
        if remote.is_dir(path):
            for entry in remote.walk(path):
                if not entry.is_dir and (part or folder in slots(board) or entry.name.split(".")[0] in _TOP):
                    found[part + entry.name] = entry.size
    return found


_TOP = ("wss_repl", "wss_helper", "ussl")


def place_loader(remote: Remote, board: Survey, files: dict[str, bytes]) -> None:
    """Before the change-over. Without a state it starts what runs now."""
    there = remote.sums(board.home.rstrip("/"), list(files))
    for name, data in files.items():
        if there.get(name) != _sum(data):
            remote.board.put(data, board.home + name)
            if remote.sha256(board.home + name) != _sum(data):
                raise BoardError("What was sent is not what lies there; is its flash worn? The old bundle goes on.")


def restart(client: Client, how: str) -> None:
    """By machine.soft_reset() or machine.reset(); the session is over then."""
    with contextlib.suppress(ConnectionLost):
        client.exec(f"import machine\nmachine.{how}()", timeout=2)
    client.link.close()


def prove(dial: Dialler, board: Survey, trial: Trial) -> None:
    """Log in under the new one and tell the board so. Raises BoardError when the board has gone back, or another update
    is on trial there: another board has the address now, or another host was quicker."""
    dial = dial.takeover()
    dial.told = None
    end = time.monotonic() + trial.seconds + BOOT
    while True:
        try:
            with dial() as client:
                remote = Remote(client)
                state = _state(remote, board)
                if state.on_trial and state.on_trial != trial.mark:
                    raise NotNow("Another update is on trial there, which is not this one; nothing was proved.")
                needs_reset = state.needs_reset
                if state.on_trial:
                    needs_reset = _confirm(remote, board, trial.mark)
                elif state.note:
                    raise BoardError(f"{state.note}." + f" {trial.old} runs again." * ("was taken back" in state.note))
                elif state.latest != trial.mark:
                    where = state.active or "its firmware"
                    raise NotNow(f"It runs {trial.old} from {where} and does not say why; try again.")
                if not needs_reset and not state.is_to_come:  # proved, now or before with its answer lost
                    return
                if time.monotonic() > end:
                    raise NotNow("It does not restart; do that by hand.")
                # The connection broke before it was told to; or that stops its watchdog, which has no other end
                restart(client, trial.how if state.is_to_come else "reset")
        except (Unreachable, ConnectionLost, TrustError, LoginError) as e:
            if time.monotonic() > end:
                raise type(e)(f"It was to start {trial.new} and takes no login since: {e}") from None
            time.sleep(_PAUSE)


@dataclass(frozen=True)
class _State:
    """active: where the bundle runs from. on_trial: the mark of what is. note: what became of the latest update.
    latest: that one's mark. is_to_come: whether its trial is at the next start. is_firmware: whether that, or what is
    on trial, is firmware. "" for none."""

    active: str
    on_trial: str
    note: str
    latest: str
    is_to_come: bool
    is_firmware: bool
    needs_reset: bool


def _state(remote: Remote, board: Survey) -> _State:
    code = _LITTLE_STATE if board.is_small else _STATE.format(home=board.home)
    said = ask(remote, code, "say what it runs")
    if board.is_small and isinstance(said, list) and len(said) == 3:
        state = _stored(remote.board, board.home)
        to_come, to = bool(state.get("trial") and not said[1]), bool(state.get("to"))
        said[2:2] = [state.get("note", ""), state.get("mark", ""), to_come, to]
    if not isinstance(said, list) or list(map(type, said)) != [str, str, str, str, bool, bool, bool]:
        raise BoardError("It does not say what it runs in a form that is understood.")
    return _State(brief(said[0]), said[1], brief(said[2]), *said[3:])
