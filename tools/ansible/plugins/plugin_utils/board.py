"""What the actions share: a login to the board that is the host of a task, and its errors as Ansible reports them."""

import contextlib
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from wssctl.boards.dialler import Dialler
from wssctl.cli import build_parser
from wssctl.errors import WssctlError


class BoardAction(ActionBase):
    """An action that runs here, on the controller. A subclass has ARGUMENTS (names of what a task may give, True for
    what it must) and act(given) -> result."""

    ARGUMENTS: dict[str, bool] = {}
    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        self.vars: dict[str, Any] = task_vars or {}
        given = dict(self._task.args)
        for name in given:
            if name not in self.ARGUMENTS:
                raise AnsibleActionFail(f"{self._task.action} has no {name!r}; it takes {', '.join(self.ARGUMENTS)}")
        for name, needed in self.ARGUMENTS.items():
            if needed and given.get(name) in (None, ""):
                raise AnsibleActionFail(f"{self._task.action} needs {name}")
        try:
            return result | self.act(given)
        except WssctlError as e:
            # What can't be reached is no failure of the task: Ansible goes on without that host, and says so
            down = "unreachable" if e.exit_code in (3, 4, 5, 6) else "failed"
            return result | {down: True, "msg": str(e), "exit_code": e.exit_code}

    def command(self, *words: str):
        """(what `wssctl` would have parsed of this command on the board, a Dialler for it): by the secrets in the
        host's variables (wssctl_password, wssctl_passphrase; a vault is their place), else as wssctl finds them."""
        template = self._templar.template
        args = build_parser().parse_args([words[0], self.vars["inventory_hostname"], *words[1:]])
        args.keys = template(self.vars.get("wssctl_keys"))
        args.timeout = float(template(self.vars.get("wssctl_timeout", 15)))
        args.takeover = bool(template(self.vars.get("wssctl_takeover", False)))
        return args, Dialler(args, self.secret("password"), self.secret("passphrase"))

    def secret(self, what: str) -> str | None:
        """Of the host's variables."""
        return self._templar.template(self.vars.get(f"wssctl_{what}"))

    @contextlib.contextmanager
    def board(self):
        """The board, logged in."""
        with self.command("status")[1]() as client:
            yield client


def diff(before: bytes | None, after: bytes, name: str) -> dict[str, str]:
    """As --diff shows it: text as text, anything else by its size."""

    def shown(data: bytes | None) -> str:
        if data is None:
            return ""
        try:
            return data.decode() if len(data) <= 100_000 and b"\0" not in data else f"{len(data)} bytes\n"
        except UnicodeDecodeError:
            return f"{len(data)} bytes\n"

    return {"before": shown(before), "after": shown(after), "before_header": name, "after_header": name}
