"""The bundle of this controller's wssctl onto the board, as `wssctl update`: the board takes it back if it fails."""

from ansible.module_utils.parsing.convert_bool import boolean
from ansible_collections.wssctl.boards.plugins.plugin_utils.board import BoardAction
from wssctl.boards import apply, modules
from wssctl.keys.signing import UpdateKey


class ActionModule(BoardAction):
    ARGUMENTS = {"overlay": False, "force": False, "deadline": False, "sign": False, "signed": False}

    def act(self, given):
        options = [f"--{name}" for name in ("overlay", "force", "sign") if boolean(given.get(name, False))]
        if given.get("deadline") is not None:
            options += ["--deadline", str(given["deadline"])]
        if given.get("signed"):
            options += ["--signed", self._find_needle("files", given["signed"])]
        args, dial = self.command("update", *options)
        if args.sign:
            args.update_key = UpdateKey.load(args, self.secret("update_passphrase") or self.secret("passphrase"))
        version = modules.version()
        if self._task.check_mode:
            with dial() as client:
                before = client.link.bundle[0]
            words, changed = f"{before} -> {version}", before != version or args.force
        else:
            words = apply.bring_bundle(args, dial)
            changed = " -> " in words
        result = {"changed": changed, "msg": words, "version": version}
        if self._task.diff and changed:
            before, _, after = words.partition(" -> ")
            result["diff"] = {"before": f"{before}\n", "after": f"{after}\n", "before_header": "bundle"}
        return result
