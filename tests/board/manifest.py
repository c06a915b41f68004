# The bundle as users freeze it, and what only the stand-in needs.
include("../../manifest.py")
include("$(MPY_DIR)/extmod/asyncio")
module("_boot.py")
