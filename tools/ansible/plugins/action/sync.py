"""A folder of the controller onto the board: what differs is sent. It interrupts the program that runs there."""

from pathlib import Path

from ansible.errors import AnsibleActionFail
from ansible.module_utils.parsing.convert_bool import boolean
from ansible_collections.wssctl.boards.plugins.plugin_utils.board import BoardAction
from wssctl.tools import local, sync
from wssctl.tools.files import Files


class ActionModule(BoardAction):
    ARGUMENTS = {"src": True, "dest": False, "delete": False, "mpy": False}

    def act(self, given):
        source = Path(self._find_needle("files", given["src"]))
        if not source.is_dir():
            raise AnsibleActionFail(f"{source} is no folder; wssctl.boards.copy copies a file")
        delete, mpy = (boolean(given.get(name, False)) for name in ("delete", "mpy"))
        with self.board() as client:
            files = Files(client)
            plan = sync.to_board(files, source, given.get("dest") or "/", delete=delete, mpy=mpy)
            if not self._task.check_mode:
                sync.carry_out(files, plan, lambda step: None, local.no_bar)
        names = {f"{verb}_names": [s.name for s in plan.steps if s.verb == verb] for verb in ("make", "send", "delete")}
        result = {"changed": bool(plan.steps), "same": plan.same, "msg": plan.summary()} | names
        if self._task.diff and plan.steps:
            result["diff"] = {"prepared": "".join(f"{s.words(self._task.check_mode)}\n" for s in plan.steps)}
        return result
