# For a board's manifest that names packages instead of paths:
#     add_library("wss-repl", "path/to/this/checkout/boards")
#     require("wss-repl")                       # parts are left out as in include(): require("wss-repl", page=False)
with open("../../lib/wss/port.py") as f:
    version = [line.split('"')[1] for line in f if line.startswith("VERSION = ")][0]
metadata(description="WebREPL over TLS with mutual authentication", version=version, license="MIT")
options.defaults(ussl=True, helper=True, page=True, enrol=True, about=True, log=True, signed=True)
include(
    "../../manifest.py",
    ussl=options.ussl,
    helper=options.helper,
    page=options.page,
    enrol=options.enrol,
    about=options.about,
    log=options.log,
    signed=options.signed,
)
