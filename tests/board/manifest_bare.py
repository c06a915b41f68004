# What the stand-in needs: a board that gets the bundle as .mpy files.
include("$(MPY_DIR)/extmod/asyncio")
module("_boot.py")
