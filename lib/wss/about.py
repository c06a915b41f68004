# What a board says of itself when somebody who is logged in asks for its status.
# In: nothing.  Out: JSON, as a file to read.  Loaded for one question and unloaded again (files.py).
import gc
import io
import json
import os
import sys
import time

from wss import port


def document():
    """A binary stream of one JSON object; `wssctl status` shows it (tools/wssctl/tools/status.py).

    firmware: [name, version, machine]; bundle: version; frozen; clock: [year .. second], UTC; heap: [free, used] bytes
    after a collection; flash: [free, all] bytes; running: how long the server does,
    in s by the clock, which may have been set since, and in ms by the ticks, which begin anew after 2**30 (after 2**29
    they seem negative); status: what wss_repl.status() returns.
    """
    gc.collect()
    wss_repl = sys.modules["wss_repl"]  # which imports us: an import back would be a circle
    implementation = sys.implementation
    began = wss_repl.began
    about = {
        "firmware": [implementation[0], "%d.%d.%d" % implementation[1][:3], getattr(implementation, "_machine", "")],
        "bundle": getattr(wss_repl, "VERSION", ""),
        "frozen": port.frozen,
        "clock": time.gmtime()[:6],
        "heap": [gc.mem_free(), gc.mem_alloc()],
        "running": [time.time() - began[0], port.ticks_diff(port.ticks_ms(), began[1])],
        "status": wss_repl.status(),
    }
    try:
        s = os.statvfs("/")
        about["flash"] = [s[0] * s[3], s[0] * s[2]]
    except OSError:
        pass  # there is no file system
    return io.BytesIO(json.dumps(about).encode())
