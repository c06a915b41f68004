# What goes into firmware: include("path/to/this/manifest.py") in a board's own manifest, or FROZEN_MANIFEST=path.
# Paths in it are relative to it. Parts can be left out: include("path/to/this/manifest.py", ussl=False, helper=False)
import os

options.defaults(ussl=True, helper=True, page=True)

stages = sorted(f for f in os.listdir("lib/wss") if f.endswith(".py"))
if not options.page:  # what a browser gets: 6 KB of flash
    stages.remove("page.py")
package("wss", files=stages, base_path="lib")
module("wss_repl.py", base_path="lib")
if options.helper:
    module("wss_helper.py", base_path="lib")
if options.ussl:
    module("ussl.py", base_path="lib")
