"""How the tests are dealt out to processes side by side (pytest-xdist): a file in one piece, or one piece a target, and
first what takes longest, or the last one would run for minutes alone."""

import re

from xdist.scheduler import LoadScopeScheduling

# Tests of a file on different ones share nothing. (Those at a pseudo-terminal do: port_target.KEPT.)
APART = {"unix", "unix32", "stock", "pull", "slow"}


def piece(nodeid: str) -> str:
    """What of a file one process runs. A target's name is one of the words in brackets."""
    file, _, name = nodeid.partition("::")
    words = re.fullmatch(r"[^[]*\[(.*)\]", name, re.S)
    apart = [word for word in words[1].split("-") if word in APART] if words else []
    return f"{file} {apart[0]}" if apart else file


class Pieces(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        return piece(nodeid)


_LONGEST = """
host/test_firmware host/test_mpremote_wss host/test_lwip host/test_setup host/test_keys_fleet host/test_keep_states
host/test_hostile interop/test_ussl_upstream host/test_bridge host/test_port host/test_trust host/test_update_firmware
host/test_update evidence/test_faults evidence/test_memory evidence/test_backpressure host/test_keep host/test_refusals
host/test_packaging host/test_bench evidence/test_load evidence/test_update_faults evidence/test_update_many
host/test_interrupts host/test_ussl_time host/test_printing host/test_storm host/test_session host/test_update_signed
interop/test_ansible host/test_browser host/test_shell host/test_sync evidence/test_day host/test_board
"""
_PLACES = {f"tests/{name}.py": i for i, name in enumerate(_LONGEST.split())}


def place(nodeid: str) -> int:
    """Of a file among those that take longest, the longest first; all others come after them."""
    return _PLACES.get(nodeid.partition("::")[0], len(_PLACES))
