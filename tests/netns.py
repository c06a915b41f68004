"""A network namespace of this process's own, in which boards with lwIP's sockets have their TUN devices.

As root a network namespace does; anybody else gets a user namespace with it, where the system allows that.
"""

import ctypes
import fcntl
import os
import socket
import struct

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
ENTERED = "WSS_TEST_NETNS"  # set in this process and its children once they are in: "" or why it was not possible


def enter() -> None:
    """Move this process, which has to have no other thread yet, to a namespace with nothing but lo in it.

    For good, and its children with it. If that is not possible, reason() says why.
    """
    if ENTERED not in os.environ:
        os.environ[ENTERED] = _enter()


def reason() -> str:
    """Why boards with lwIP's sockets cannot run here; "" if they can."""
    return os.environ.get(ENTERED, "no network namespace was entered: run pytest with --target lwip")


def _enter() -> str:
    libc = ctypes.CDLL(None, use_errno=True)
    uid, gid = os.geteuid(), os.getegid()
    if not hasattr(libc, "unshare"):
        return "network namespaces need Linux"
    if uid == 0 and not libc.unshare(CLONE_NEWNET):
        pass
    elif libc.unshare(CLONE_NEWUSER | CLONE_NEWNET):
        return f"no network namespace can be had: unshare: {os.strerror(ctypes.get_errno())}"
    else:
        for file, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
            with open(f"/proc/self/{file}", "w") as map_file:
                map_file.write(text)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR))
    except OSError as e:
        return f"no TUN device can be had: /dev/net/tun: {e.strerror}"
    return ""
