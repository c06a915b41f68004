# The bundle as users freeze it, and what only the stand-in needs.
include("../../manifest.py")
include("manifest_bare.py")
