# The end of loader.py where that is bytecode, for front.py: a board with so little memory keeps nothing of it.
_limit_by_all = _limit


def _limit(seconds):
    # A watchdog alone has to do, so that begun() can let go of all of this.
    global needs_reset
    try:
        machine.WDT(timeout=(seconds + 2) * 1000)
        needs_reset = True
    except (AttributeError, TypeError, ValueError, OSError):
        _limit_by_all(seconds)


class _OnTrial:  # what stays then: what is asked for from afar
    pass


def begun():
    """Start, for front.py. Returns (that whose attributes are wss_repl's, whether front.py has to watch its start).
    Where a watchdog limits the trial, nothing of this file stays in memory, and its state is written from afar."""
    _start()
    if trial and not needs_reset:
        return sys.modules["wss_update"], False
    del sys.modules["wss_update"]
    if trial:
        rest = sys.modules["wss_update"] = _OnTrial()
        rest.HOME = HOME
        rest.active = active
        rest.trial = {"mark": trial["mark"]}
        rest.needs_reset = True
    return _real, bool(trial)


def failed(e):
    """The start that front.py watched has raised e. Never returns."""
    try:
        _take_back(read(), "start raises " + _words(e))
    finally:
        machine.reset()
