# Parts can be left out: see ../../manifest.py
include("../manifest_esp32.py")
