"""Code on the board. It interrupts the program that runs there."""

from pathlib import Path

from ansible.errors import AnsibleActionFail
from ansible_collections.wssctl.boards.plugins.plugin_utils.board import BoardAction


class ActionModule(BoardAction):
    ARGUMENTS = {"code": False, "src": False, "timeout": False}

    def act(self, given):
        if (given.get("src") is None) == (given.get("code") is None):
            raise AnsibleActionFail("give either code or src")
        code = given.get("code")
        if code is None:
            code = Path(self._find_needle("files", given["src"])).read_bytes()
        if self._task.check_mode:  # what code would change, nobody can tell
            return {"skipped": True, "msg": "code is not run in check mode"}
        with self.board() as client:
            done = client.exec(code, timeout=float(given.get("timeout", 60)))
        out = done.output.decode("utf-8", "replace").replace("\r\n", "\n")
        result = {"changed": True, "stdout": out.rstrip("\n"), "stdout_lines": out.splitlines(), "stderr": done.error}
        return result | ({"failed": True, "msg": done.error.strip().splitlines()[-1]} if done.error else {})
