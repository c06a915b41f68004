# In front of wss_repl on a board that is updated without a cable: starts what has proved itself, tries what is new, and
# takes that back by itself.
#
# wssctl puts this file into the board's root as wss_repl.py, where `import wss_repl` finds it before any other: "" is
# the first entry of sys.path. It is source and not bytecode, and needs nothing of a bundle, because it has to run on
# whatever firmware and beside whatever bundle comes next. Where the board has no memory to compile it, it is there as
# wss_update.mpy, and front.py as wss_repl.py.
import json

# Now, because later there may be no memory left for an import
import machine
import os
import sys
import time
from binascii import hexlify
from hashlib import sha256

HOME = os.getcwd().rstrip("/") + "/"
SLOTS = HOME + "wss_a", HOME + "wss_b"
_STATES = HOME + "wss_state0", HOME + "wss_state1"

_real = None  # the wss_repl that runs
active = None  # where that is: an entry of sys.path
trial = None  # the state, while what it names is on trial
needs_reset = False  # whether a watchdog runs that only a reset stops


# The state: {n: its number, good: where the proved bundle is, base: where one is that came by cable, trial: where the
# new one is or None, new: what it is called, boots: how often it was started, s: seconds it has, to and from: labels of
# the new and the old firmware's partitions or None, back: that to which it went back, until it starts, note: what
# became of the latest one, signed: {what: when the latest one that was kept was signed}, at: (what, when) of the new
# one, mark: whose update it is, version: of the proved one, frozen: of the firmware's when the latest one was first
# started}. Two files take turns, so that a loss of power in the middle of a write leaves the state before it. (A rename
# would not: on FAT it removes the old file first.)


def _check(data):
    return hexlify(sha256(data).digest()[:8])


def _parse(name):
    try:
        with open(name, "rb") as f:
            data = f.read(2048)
        state = json.loads(data[16:])
        return state if _check(data[16:]) == data[:16] else None
    except (OSError, ValueError):
        return None


def read():
    """The state, None where there is none."""
    a, b = [_parse(name) for name in _STATES]
    return max(a, b, key=lambda s: s["n"]) if a and b else a or b


def write(state):
    """Store the state. Raises OSError, and then the one before is in force."""
    state["n"] += 1
    data = json.dumps(state).encode()
    name = _STATES[state["n"] & 1]
    with open(name, "wb") as f:
        f.write(_check(data) + data)
    if _parse(name) != state:
        raise OSError(5)


def begin(good, where, new, seconds, mark, to=None, back=None):
    """From the next start on, try what is in the folder `where`. The only step that changes over.

    good: where the proved bundle is. new: its version, for messages. seconds: the time until a login has to prove it.
    mark: what confirm() is to be told. to, back: with new firmware, the labels of its partition and of the present one.
    Raises ValueError when start() was told an update_key and what lies there is not signed by it (wss/signed.py).
    """
    state = read() or {"n": 0, "base": good}
    state["at"] = _signed(state, where, to)
    if good not in SLOTS:
        state["base"] = good
    state.update({"good": good, "trial": where, "new": new, "boots": 0, "s": seconds, "to": to, "from": back})
    state.update({"note": "", "mark": mark, "version": getattr(sys.modules.get("wss_repl"), "VERSION", "0")})
    write(state)


def _signed(state, where, to):
    # (what, when) it was signed, None where nobody asks for that
    keys = getattr(getattr(sys.modules.get("wss"), "port", None), "update_keys", None)
    if not keys:
        return None
    from wss.signed import check

    what = "firmware" if to else "bundle"
    floor = state.get("signed", {}).get(what, "")
    return [what, check(keys, HOME + "wss_signed", to or where, to, floor)]


def confirm(mark):
    """The new one has proved itself: call this from a login over wss. Where needs_reset is set a reset has to follow.
    Raises OSError, RuntimeError, and ValueError when what lies there has changed since begin() looked at its signature.
    """
    global trial
    if not trial or trial.get("mark") != mark:
        raise RuntimeError("no such update is on trial")
    status = _real.status()
    if not status["client"] or not status["listening"][0].startswith("wss:"):
        raise RuntimeError("only a login over wss proves it")
    trial["at"] = _signed(trial, active, trial["to"])
    if trial["to"]:
        import esp32

        esp32.Partition.mark_app_valid_cancel_rollback()
    trial["good"] = active
    trial["version"] = _real.VERSION
    trial["trial"] = trial["to"] = None
    if trial["at"]:
        what, when = trial["at"]
        trial.setdefault("signed", {})[what] = when
    write(trial)
    trial = None
    _tell("")


def forget():
    """Tell no longer what became of the latest one."""
    state = read()
    state["note"] = ""
    write(state)


def _take_back(state, why, what="was taken back"):
    # The last step ends the trial: without memory for those before it, the deadline is still there.
    global trial
    state["note"] = _plain("%s %s: %s" % (state["new"], what, why))[:200]
    state["trial"] = state["to"] = None
    print("wss_repl:", state["note"])
    _keep(state)
    trial = None


def _keep(state):
    try:
        write(state)
    except OSError:
        pass  # the next start comes to the same end


def _tell(note):
    # To status() and whoever connects
    try:
        sys.modules["wss"].port.update_note = note
    except AttributeError:
        pass


def _plain(text):
    # It goes into the answer to who connects, where a line's end or a bracket would end it. `new` may be anything: it
    # comes out of an image.
    return "".join([c for c in text if " " <= c <= "~" and c not in "()"])


def _words(e):
    return "%s %s" % (type(e).__name__, e)


def _running():
    import esp32

    return esp32.Partition(esp32.Partition.RUNNING).info()[4]


def _limit(seconds):
    # A program that hangs inside of a callback lets neither other callbacks nor threads run (py/vm.c): a watchdog does.
    # Only a reset stops that again. RP2's takes 8 s at most; its timers can call from the interrupt instead, and its
    # other processor is the program's.
    global _timer, _left, needs_reset
    _left = seconds
    try:
        machine.WDT(timeout=(seconds + 2) * 1000)
        needs_reset = True
    except (AttributeError, TypeError, ValueError, OSError):
        pass
    if sys.platform != "rp2":
        try:
            from _thread import start_new_thread

            start_new_thread(_wait, ())
            return
        except (ImportError, OSError):
            pass
    try:
        _timer = machine.Timer(-1, mode=machine.Timer.PERIODIC, period=1000, callback=_tick, hard=True)
    except TypeError:
        _timer = machine.Timer(-1)
        _timer.init(mode=machine.Timer.PERIODIC, period=1000, callback=_tick)


def _wait():
    while trial:
        time.sleep(1)
        _tick(None)


def _tick(timer):
    global _left
    _left -= 1
    if not trial:
        if timer:
            timer.deinit()
    elif _left <= 0:
        machine.reset()


def _begin_trial(state):
    # Counts this start before it is made.
    global trial
    if state["boots"]:
        why = "no login proved it in %d s, or before the next reset" % state["s"]
        if not state["to"] or state["to"] != _running():
            _take_back(state, why)
            return
        # The bootloader does not go back by itself
        try:
            import esp32

            esp32.Partition.find(esp32.Partition.TYPE_APP, label=state["from"])[0].set_boot()
        except Exception as e:
            # That partition was written to, or there is none any more: better this one than none.
            _take_back(state, "%s, and the one before it cannot start: %s" % (why, _words(e)), "stays without a proof")
            return
        state["back"] = state["from"]
        _take_back(state, why)
        machine.reset()
    try:
        if state["to"] and state["to"] != _running():
            _take_back(state, "the bootloader does not start it")
            return
        state["boots"] = 1
        write(state)
        trial = state
        _limit(state["s"])
    except Exception as e:
        _take_back(state, "it cannot be tried: " + _words(e))


def _stay(state):
    # The bootloader takes what set_boot() named for new, also the old one, and would leave it at the next reset.
    try:
        if state["back"] == _running():
            import esp32

            esp32.Partition.mark_app_valid_cancel_rollback()
    except Exception:  # a bootloader that keeps no such marks
        pass
    state["back"] = None
    _keep(state)


def _import(name, path):
    # From there and nowhere else: this very file would be found again.
    everywhere = sys.path[:]
    sys.path[:] = [path]
    for n in list(sys.modules):
        if n == "wss_repl" or n == "wss" or n.startswith("wss."):
            del sys.modules[n]
    try:
        __import__(name)
    finally:
        sys.path[:] = everywhere
    return sys.modules[name]


def _load(path):
    module = _import("wss_repl", path)
    if path in SLOTS:  # ussl and wss_helper belong to it
        sys.path.insert(0, path)
    return module


def _number(version):
    parts = [int(n) if n.isdigit() else -1 for n in version.replace("-", ".").split(".")]
    return (parts + [0] * 6)[:6]


def _look_at_firmware(state):
    # Firmware that came by cable may have a newer bundle than the one that was put in front of it. Not what was there
    # when that was tried: then it was meant.
    try:
        frozen = _import("wss.port", ".frozen").VERSION
    except Exception:  # there is none in it, or it does not start
        frozen = ""
    if trial:
        trial["frozen"] = frozen
    elif frozen != state.get("frozen") and _number(frozen) > _number(state.get("version", "")):
        state["note"] = _plain("%s is over: the firmware has %s" % (state.get("version", ""), frozen))
        state["good"] = ".frozen"
        state["version"] = frozen
        _keep(state)


def _start():
    global _real, active
    state = read()
    if state and state.get("back"):
        _stay(state)
    if state and state["trial"]:
        _begin_trial(state)
    if state and ".frozen" in sys.path and (trial["trial"] if trial else state["good"]) != ".frozen":
        _look_at_firmware(state)
    places = [trial["trial"]] if trial else []
    if state:
        places.append(state["good"])
    for path in [p for p in sys.path if p] + list(SLOTS):
        if path not in places:
            places.append(path)
    error = None
    for path in places:
        try:
            _real = _load(path)
            active = path
            break
        except Exception as e:
            error = error or e
            if trial and path == trial["trial"] and not trial["to"]:
                _take_back(state, "its import fails: " + _words(e))
    else:
        raise error
    if needs_reset and not trial:
        machine.reset()  # now, or the watchdog does it later, in the middle of something
    _tell(_plain(trial["new"] + " is on trial") if trial else state["note"] if state else "")


def __getattr__(name):
    # For who has imported this file: boot.py. All others find the real one in sys.modules.
    value = getattr(_real, name)
    return _watched(value) if trial and name in ("start", "start_foreground") else value


def _watched(start):
    def call(*args, **options):
        try:
            return start(*args, **options)
        except Exception as e:
            if trial:
                try:
                    _take_back(trial, "start raises " + _words(e))
                finally:
                    machine.reset()
            raise

    return call


if __name__ == "wss_repl":
    if "wss_update" in sys.modules:  # sys.path names this folder, too: what is looked for comes after it
        raise ImportError("this is the loader")
    sys.modules["wss_update"] = sys.modules["wss_repl"]
    _start()
