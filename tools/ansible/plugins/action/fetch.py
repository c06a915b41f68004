"""A file from the board, to DEST/HOST/NAME here as with Ansible's own fetch, or to DEST itself with flat."""

import os
from pathlib import Path

from ansible.errors import AnsibleActionFail
from ansible.module_utils.parsing.convert_bool import boolean
from ansible_collections.wssctl.boards.plugins.plugin_utils.board import BoardAction, diff
from wssctl.tools.local import replacing


class ActionModule(BoardAction):
    ARGUMENTS = {"src": True, "dest": True, "flat": False, "fail_on_missing": False}

    def act(self, given):
        parts = [p for p in given["src"].split("/") if p not in ("", ".")]
        if not parts or ".." in parts:
            raise AnsibleActionFail(f"{given['src']!r} names no file of the board")
        to = Path(os.path.expanduser(given["dest"]))
        if not boolean(given.get("flat", False)):
            to = to / self.vars["inventory_hostname"] / Path(*parts)
        elif given["dest"].endswith("/"):
            to = to / parts[-1]
        with self.board() as client:
            data = client.get_if_there(given["src"])
        if data is None:
            if boolean(given.get("fail_on_missing", True)):
                return {"failed": True, "msg": f"there is no {given['src']} on the board"}
            return {"changed": False, "msg": f"there is no {given['src']} on the board"}
        before = to.read_bytes() if to.is_file() else None
        if before != data and not self._task.check_mode:
            to.parent.mkdir(parents=True, exist_ok=True)
            with replacing(to) as f:
                f.write(data)
        return {"changed": before != data, "dest": str(to), "size": len(data)} | (
            {"diff": diff(before, data, str(to))} if self._task.diff and before != data else {}
        )
