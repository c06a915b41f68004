"""What the board says of itself: as `wssctl status --json`. Its program goes on."""

from ansible_collections.wssctl.boards.plugins.plugin_utils.board import BoardAction


class ActionModule(BoardAction):
    def act(self, given):
        with self.board() as client:
            return {"changed": False, "board": client.about()}
