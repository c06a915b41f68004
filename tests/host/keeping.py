"""A desk for kept connections: its board behind a network that counts, and a runtime folder of its own."""

import contextlib
import os
import select
import subprocess

from desk import WSSCTL
from network import Network


@contextlib.contextmanager
def keeping(desk, tmp_path):
    """`at` is the board's address on that network. Every connection that is kept ends with the block."""
    run = tmp_path / "run"
    run.mkdir(0o700)
    old = dict(desk.env)
    with Network(desk.port) as network:
        desk.env |= {"XDG_RUNTIME_DIR": str(run)}
        desk.network, desk.run_folder, desk.at = network, run, f"wss://127.0.0.1:{network.port}"
        yield desk
        desk.run(*WSSCTL, "keep", "stop")
    desk.env.clear()
    desk.env |= old


def exec_(desk, code, *options, **more):
    return desk.run(*WSSCTL, "exec", "--keep", "5m", *options, desk.at, code, **more)


def start(desk, *words):
    return subprocess.Popen(
        [*WSSCTL, *words],
        env=desk.env,
        bufsize=0,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def holder(desk):
    """The process id of the only one."""
    (line,) = desk.run(*WSSCTL, "keep").stdout.splitlines()
    return int(line.split("process ")[-1].split(",")[0])


def its_socket(desk):
    (path,) = [p for p in (desk.run_folder / "wssctl").iterdir() if not p.suffix]
    return path


class End:
    """Of a process: wait() for it."""

    def __init__(self, pid):
        self.fd = os.pidfd_open(pid)

    def wait(self, seconds=30):
        try:
            return bool(select.select([self.fd], [], [], seconds)[0])
        finally:
            os.close(self.fd)
