"""A file onto the board, unless it holds the same one."""

from pathlib import Path

from ansible.errors import AnsibleActionFail
from ansible_collections.wssctl.boards.plugins.plugin_utils.board import BoardAction, diff


class ActionModule(BoardAction):
    ARGUMENTS = {"src": False, "content": False, "dest": True}

    def act(self, given):
        if (given.get("src") is None) == (given.get("content") is None):
            raise AnsibleActionFail("give either src or content")
        if given.get("src") is not None:
            source = Path(self._find_needle("files", given["src"]))
            if source.is_dir():
                raise AnsibleActionFail(f"{source} is a folder; name a file")
            data = source.read_bytes()
        else:
            data = str(given["content"]).encode()
        name = given["dest"] + (source.name if given["dest"].endswith("/") and given.get("src") else "")
        with self.board() as client:
            before = client.get_if_there(name)
            if before != data and not self._task.check_mode:
                client.put(data, name)
        return {"changed": before != data, "dest": name, "size": len(data)} | (
            {"diff": diff(before, data, name)} if self._task.diff and before != data else {}
        )
