# The loader's beginning on a board without the memory to compile all of it: the rest is bytecode, wss_update.mpy
# (onboard/loader.py), of which nothing stays in memory but while an update is on trial.
#
# wssctl puts this file into the board's root as wss_repl.py. It is source: where that bytecode is missing (FAT removes
# an old file before it has the new one) or is another MicroPython's, the bundle starts that came by cable.
import sys

# For its functions, before it has been started or after (LOADER_CODE in boards/update.py)
if __name__ != "wss_repl":
    _rest = sys.modules.pop("wss_update", None)  # of a trial (bytecode.py): what is no module must not be imported from
    from wss_update import *  # noqa: F403

    del sys.modules["wss_update"]
    if _rest:
        sys.modules["wss_update"] = _rest
elif "wss_update" in sys.modules:
    # sys.path names this folder, too: what is looked for comes after it
    raise ImportError("this is the loader")
else:
    try:
        import wss_update
    except Exception as e:
        print("wss_repl: no loader:", e)
        _path = sys.path[:]
        sys.path[:] = [p for p in _path if p]
        del sys.modules["wss_repl"]
        try:
            __import__("wss_repl")
        finally:
            sys.path[:] = _path
        _real = sys.modules["wss_repl"]
        _on_trial = False
    else:
        _real, _on_trial = wss_update.begun()
        del wss_update

    # For who has imported this file: boot.py. All others find the real one in sys.modules.
    if not _on_trial:

        def __getattr__(name):
            return getattr(_real, name)

    else:

        def __getattr__(name):
            value = getattr(_real, name)
            return _watched(value) if name in ("start", "start_foreground") else value

        def _watched(start):
            def call(*args, **options):
                try:
                    return start(*args, **options)
                except Exception as e:
                    try:
                        del sys.modules["wss_update"]
                        from wss_update import failed
                    except Exception:  # without memory: the next start takes it back, and says less
                        from machine import reset

                        reset()
                    failed(e)

            return call
