"""The Ansible collection (tools/ansible) with real ansible-core: built, installed, two boards brought to a state."""

import json
import os
import re
import shutil
import signal
import subprocess
import time

import pytest
import venvs
from board import Board
from ports import free_port
from targets import ROOT

PASSWORD = "correct horse"
PLAYBOOK = """\
- hosts: home
  gather_facts: false
  tasks:
    - wssctl.boards.copy: {src: app.py, dest: app.py}
    - wssctl.boards.copy: {content: "room = '{{ inventory_hostname }}'\\n", dest: room.py}
    - wssctl.boards.sync: {src: app, dest: /app, mpy: true, delete: true}
    - wssctl.boards.update: {overlay: true}
    - wssctl.boards.fetch: {src: boot.py, dest: "{{ playbook_dir }}/backup"}
    - wssctl.boards.exec: {code: "import room; print(room.room)"}
      register: said
      changed_when: false
    - ansible.builtin.assert: {that: ansible_check_mode or said.stdout == inventory_hostname}
"""


@pytest.fixture(scope="module")
def ansible(tmp_path_factory):
    """(the folder of Ansible's commands, an environment with the collection built and installed)."""
    try:
        bin = venvs.make("ansible", f"ansible-core>=2.17\n-e {ROOT}[mpy]\n")
    except venvs.NoClient as e:
        pytest.skip(f"ansible-core can't be installed here: {e}")
    folder = tmp_path_factory.mktemp("ansible")
    env = os.environ | {"HOME": str(folder), "ANSIBLE_COLLECTIONS_PATH": str(folder), "ANSIBLE_NOCOLOR": "1"}
    env |= {"PATH": f"{bin}:{env['PATH']}", "ANSIBLE_LOCALHOST_WARNING": "0", "ANSIBLE_HOME": str(folder / "home")}
    shutil.copytree(ROOT / "tools/ansible", folder / "source")
    built = folder / "wssctl-boards-0.1.0.tar.gz"
    for words in (["build", folder / "source", "--output-path", folder], ["install", built]):
        done = subprocess.run(
            [bin / "ansible-galaxy", "collection", *words], env=env, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done
    return bin, env


@pytest.fixture
def site(ansible, keys, tmp_path):
    """Two boards, kitchen and garden, in the group home, and a playbook for them. run(*words) runs ansible-playbook."""
    bin, env = ansible
    shutil.copytree(keys.directory, tmp_path / "keys")
    env = env | {"WSSCTL_KEYS": str(tmp_path / "keys")}
    (tmp_path / "boards.yml").write_text("plugin: wssctl.boards.boards\n")
    (tmp_path / "play.yml").write_text(PLAYBOOK)
    (tmp_path / "app.py").write_text("print('app')\n")
    (tmp_path / "app").mkdir()
    (tmp_path / "app/thing.py").write_text("VALUE = 42\n")
    (tmp_path / "app/.wssignore").write_text("*.log\n")
    secrets = f"wssctl_password: {PASSWORD}\nwssctl_passphrase: {keys.passphrase}\n"
    (tmp_path / "group_vars").mkdir()
    (tmp_path / "group_vars/home.yml").write_text(secrets)
    (tmp_path / "vault").write_text("of the vault\n")
    vault = [bin / "ansible-vault", "encrypt", "--vault-password-file", "vault", "group_vars/home.yml"]
    subprocess.run(vault, env=env, cwd=tmp_path, check=True, capture_output=True, timeout=300)
    boards = {}
    try:
        for name in ("kitchen", "garden"):
            port = free_port()
            shutil.copytree(keys.board, tmp_path / name)
            (tmp_path / name / "boot.py").write_text(
                f"import wss_repl\nwss_repl.start(port={port}, password={PASSWORD!r})\n"
            )
            boards[name] = Board(tmp_path / name, 64)
            boards[name].read_until(b">>> ", 60)
            add = [bin / "wssctl", "boards", "add", name, f"127.0.0.1:{port}", "--group", "home"]
            subprocess.run(add, env=env, check=True, capture_output=True, timeout=300)

        def run(*words, start=False, play="play.yml"):
            command = [bin / "ansible-playbook", "-i", "boards.yml", "--vault-password-file", "vault", play]
            here = {"env": env, "cwd": tmp_path}
            if start:
                return subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True, **here)
            done = subprocess.run([*command, *words], capture_output=True, text=True, timeout=300, **here)
            recap = dict(re.findall(r"^(\w+) +: .*?changed=(\d+)", done.stdout, re.M))
            return done, {name: int(n) for name, n in recap.items()}

        yield tmp_path, run, boards
    finally:
        for board in boards.values():
            board.close()


def test_a_playbook_brings_boards_to_a_state_and_then_changes_nothing(site):
    folder, run, boards = site
    done, changed = run("--check", "--diff")
    assert done.returncode == 0 and changed == {"kitchen": 4, "garden": 4}, done
    assert "+print('app')" in done.stdout and not (folder / "kitchen/app.py").exists()
    assert "would send /app/thing.mpy" in done.stdout and not (folder / "kitchen/app").exists()
    done, changed = run()
    assert done.returncode == 0 and changed == {"kitchen": 4, "garden": 4}, done
    assert [p.name for p in (folder / "garden/app").iterdir()] == ["thing.mpy"]
    assert (folder / "garden/room.py").read_text() == "room = 'garden'\n"
    assert (folder / "backup/kitchen/boot.py").read_text() == (folder / "kitchen/boot.py").read_text()
    done, changed = run()
    assert done.returncode == 0 and changed == {"kitchen": 0, "garden": 0}, done
    (folder / "kitchen/app/old.py").write_text("goes")
    (folder / "kitchen/app/of_the_board.log").write_text("stays")
    done, changed = run()
    assert done.returncode == 0 and changed == {"kitchen": 1, "garden": 0}, done
    assert sorted(p.name for p in (folder / "kitchen/app").iterdir()) == ["of_the_board.log", "thing.mpy"]
    boards["garden"].close()
    (folder / "app.py").write_text("print('new')\n")
    done, changed = run()
    assert "garden" in done.stdout and re.search(r"garden +: .*unreachable=1", done.stdout), done
    assert changed["kitchen"] == 1 and (folder / "kitchen/app.py").read_text() == "print('new')\n"


def test_a_playbook_that_was_killed_is_run_again(site):
    folder, run, _ = site
    process = run(start=True)
    deadline = time.monotonic() + 120
    while not any((folder / name / "app.py").exists() for name in ("kitchen", "garden")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done, _ = run("-e", "wssctl_takeover=true")
    assert done.returncode == 0, done
    assert all((folder / n / "room.py").read_text() == f"room = '{n}'\n" for n in ("kitchen", "garden"))


UPDATE = """\
- hosts: kitchen
  gather_facts: false
  tasks:
    - wssctl.boards.update: {overlay: true, force: "{{ forced }}", deadline: 60}
"""
SIGNED = """\
- hosts: kitchen
  gather_facts: false
  tasks:
    - wssctl.boards.update:
        overlay: true
        force: true
        sign: "{{ sign | default(false) }}"
        signed: "{{ file | default('') }}"
"""


def test_an_update_and_its_proof(site):
    folder, run, _ = site
    (folder / "update.yml").write_text(UPDATE)
    done, changed = run("-e", "forced=true", "--check", play="update.yml")
    assert changed == {"kitchen": 1} and not list((folder / "kitchen").glob("wss_[ab]")), done
    done, changed = run("-e", "forced=true", "--diff", play="update.yml")
    assert done.returncode == 0 and changed == {"kitchen": 1} and (folder / "kitchen/wss_a/wss_repl.mpy").exists(), done
    done, changed = run("-e", "forced=false", play="update.yml")
    assert done.returncode == 0 and changed == {"kitchen": 0}, done


def test_an_update_that_has_to_be_signed(site, ansible, keys):
    folder, run, boards = site
    bin, env = ansible
    env = env | {"WSSCTL_KEYS": str(folder / "keys"), "WSSCTL_UPDATE_PASSPHRASE": "of the update key"}
    for name, data in zip(("key", "cert"), keys.ca.update_key("ana", "of the update key"), strict=True):
        (folder / f"keys/UPDATE_{name}.pem").write_bytes(data)
    sign = [bin / "wssctl", "sign", "--out", "bundle.signed"]
    subprocess.run(sign, env=env, cwd=folder, check=True, capture_output=True, timeout=60)
    boot = folder / "kitchen/boot.py"
    boot.write_text(boot.read_text().replace("start(", "start(update_key=True, "))
    boards["kitchen"].restart()
    boards["kitchen"].read_until(b">>> ", 60)
    (folder / "update.yml").write_text(SIGNED)
    done, changed = run(play="update.yml")
    assert done.returncode and changed == {"kitchen": 0} and "takes signed updates alone" in done.stdout, done
    assert not list((folder / "kitchen").glob("wss_[ab]"))
    done, changed = run("-e", "file=bundle.signed", play="update.yml")
    assert done.returncode == 0 and changed == {"kitchen": 1}, done
    done, changed = run("-e", "sign=true wssctl_update_passphrase='of the update key'", play="update.yml")
    assert done.returncode == 0 and changed == {"kitchen": 1} and (folder / "kitchen/wss_b").exists(), done


def test_the_inventory_is_what_wssctl_lists(site, ansible):
    folder, _, _ = site
    bin, env = ansible
    env = env | {"WSSCTL_KEYS": str(folder / "keys")}
    done = subprocess.run(
        [bin / "ansible-inventory", "-i", "boards.yml", "--list", "--vault-password-file", "vault"],
        env=env, cwd=folder, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert sorted(json.loads(done.stdout)["home"]["hosts"]) == ["garden", "kitchen"], done
