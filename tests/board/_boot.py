# ruff: noqa: E402, I001
# What a board's own _boot.py does: find the file system and mount it.
def boot():
    import os
    import sys
    import vfs

    os.umount("/")
    vfs.mount(vfs.VfsPosix(os.getenv("BOARD_DIR")), "/")
    os.chdir("/")
    sys.path[:] = ["", ".frozen", "/lib"]
    if os.getenv("BOARD_BARE"):
        sys.path.remove(".frozen")  # a firmware that has nothing frozen in
    lib = os.getenv("BOARD_LIB")
    if lib:
        # Modules from a directory of the host, before the frozen ones.
        vfs.mount(vfs.VfsPosix(lib), "/_lib")
        sys.path.insert(0, "/_lib")
    sys.argv[:] = []


boot()
del boot
import gc

gc.collect()
