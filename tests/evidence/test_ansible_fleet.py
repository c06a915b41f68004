"""One playbook on twenty boards with real ansible-playbook: killed in the middle, run again, and once more.

Its short cut, on two boards, is tests/interop/test_ansible.py, whose playbook and Ansible this takes.
"""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import bench_fleet
import pytest
from evidence_common import LONG

sys.path.insert(0, str(Path(__file__).parent.parent / "interop"))

from test_ansible import PLAYBOOK, ansible  # noqa: F401

BOARDS = int(os.environ.get("ANSIBLE_BOARDS", "20"))
pytestmark = pytest.mark.skipif(not LONG, reason="its short cut is tests/interop/test_ansible.py")


def test_a_playbook_on_many_boards_that_is_killed_in_the_middle(ansible, tmp_path, row):  # noqa: F811
    bin, env = ansible
    here = tmp_path / "play"
    (here / "app").mkdir(parents=True)
    (here / "boards.yml").write_text("plugin: wssctl.boards.boards\n")
    (here / "play.yml").write_text(PLAYBOOK.replace("hosts: home", f"hosts: n{BOARDS}"))
    (here / "app.py").write_text("print('app')\n")
    (here / "app/thing.py").write_text("VALUE = 42\n")
    command = [bin / "ansible-playbook", "-i", "boards.yml", "--forks", "8", "play.yml"]
    with bench_fleet.Site(tmp_path, BOARDS, [BOARDS], login=0.1) as site, site.way():
        env = env | {k: v for k, v in site.env.items() if k.startswith("WSSCTL")} | {"USER": "ana"}

        def changed():
            start = time.monotonic()
            words = [*command, "-e", "wssctl_takeover=true", "-e", "wssctl_timeout=60"]
            done = subprocess.run(words, env=env, cwd=here, capture_output=True, text=True, timeout=3000)
            found = dict(re.findall(r"^(b\d+) +: .*?changed=(\d+)", done.stdout, re.M))
            assert done.returncode == 0 and len(found) == BOARDS, done.stdout[-3000:] + done.stderr[-1000:]
            return sum(map(int, found.values())), time.monotonic() - start

        process = subprocess.Popen(command, env=env, cwd=here, stdout=subprocess.DEVNULL, start_new_session=True)
        while not any((tmp_path / name / "app/thing.mpy").exists() for name in site.boards):
            assert process.poll() is None
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        reached = sum((tmp_path / name / "app/thing.mpy").exists() for name in site.boards)
        assert reached < BOARDS
        first, seconds = changed()
        for name in site.boards:
            assert (tmp_path / name / "room.py").read_text() == f"room = '{name}'\n"
            assert (tmp_path / name / "app/thing.mpy").exists()
        assert first > 0
        second, again = changed()
        assert second == 0
    row(
        "Ansible",
        f"a playbook of 7 tasks on {BOARDS} boards, killed when {reached} had their folder; again; once more",
        f"{first} changes in {seconds:.0f} s, then 0 in {again:.0f} s",
    )
