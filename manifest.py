# What goes into firmware: include("path/to/this/manifest.py") in a board's own manifest, or FROZEN_MANIFEST=path.
# Paths in it are relative to it. Parts can be left out: include("path/to/this/manifest.py", ussl=False, page=False)
#   ussl     old ssl programs               helper   wss_helper, for programs of your own
#   page     what a browser gets, 6 KB      enrol    the board makes its own key (`wssctl enrol` brings it otherwise)
#   about    what `wssctl status` asks for  log      what `wssctl log` shows: start(log=4096)
#   signed   start(update_key=True), which needs enrol, too
# Compiled as the .mpy files are: a traceback names our functions, and no lines in them (5 % of what it all takes).
# makemanifest.py compiles again what has changed, not what is to be compiled in another way: then delete frozen_mpy.
import os

options.defaults(ussl=True, helper=True, page=True, enrol=True, about=True, log=True, signed=True)

stages = sorted(f for f in os.listdir("lib/wss") if f.endswith(".py"))
for part in ("page", "enrol", "about", "log", "signed"):
    if not getattr(options, part):
        stages.remove(part + ".py")
package("wss", files=stages, base_path="lib", opt=3)
module("wss_repl.py", base_path="lib", opt=3)
if options.helper:
    module("wss_helper.py", base_path="lib", opt=3)
if options.ussl:
    module("ussl.py", base_path="lib", opt=3)
