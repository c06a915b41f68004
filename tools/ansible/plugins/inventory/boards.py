"""Ansible's inventory of the boards that wssctl knows."""

DOCUMENTATION = """
name: boards
short_description: The boards and groups that wssctl knows
description:
  - Reads the boards of a key folder, as C(wssctl boards list) does. A group of boards is a group of hosts.
  - The source is a file whose name ends in C(boards.yml), which holds the options.
options:
  plugin:
    description: wssctl.boards.boards
    required: true
    choices: [wssctl.boards.boards]
  keys:
    description: The key folder; the user's own where it is left out.
    type: path
    env: [{name: WSSCTL_KEYS}]
"""

from ansible.errors import AnsibleParserError
from ansible.plugins.inventory import BaseInventoryPlugin
from wssctl.boards.registry import Registry
from wssctl.errors import WssctlError
from wssctl.keys.store import Store


class InventoryModule(BaseInventoryPlugin):
    NAME = "wssctl.boards.boards"

    def verify_file(self, path):
        return super().verify_file(path) and path.endswith(("boards.yml", "boards.yaml"))

    def parse(self, inventory, loader, path, cache=True):
        super().parse(inventory, loader, path, cache)
        self._read_config_data(path)
        keys = self.get_option("keys")
        try:
            boards = Registry(Store(keys)).select([])
        except WssctlError as e:
            raise AnsibleParserError(str(e)) from None
        for board in boards:
            inventory.add_host(board.name)
            # nothing is run on the board by Ansible itself: the actions of this collection talk to it from here
            inventory.set_variable(board.name, "ansible_connection", "local")
            inventory.set_variable(board.name, "ansible_host", board.host)
            inventory.set_variable(board.name, "wssctl_uid", board.uid)
            if keys:
                inventory.set_variable(board.name, "wssctl_keys", keys)
            for group in board.groups:
                inventory.add_host(board.name, inventory.add_group(self._sanitize_group_name(group)))
