# What ports/esp32 freezes into every board, and the bundle: FROZEN_MANIFEST for any board of that port.
include("$(PORT_DIR)/boards/manifest.py")
include("../manifest.py")
