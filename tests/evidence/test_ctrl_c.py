"""Ten thousand Ctrl-C at random moments into programs of all kinds, while the client types and transfers."""

import os

from evidence_common import LONG
from storm import Client, Storm

KEYS = int(os.environ.get("EVIDENCE_KEYS", "10000" if LONG else "60"))


def test_ten_thousand_ctrl_c(board, keys, target, row):
    with Client(board.address, keys.host, timeout=60).login() as client:
        storm = Storm(client, board, seed=17)
        storm.prepare()
        storm.run(KEYS)
        client.text("print(6 * 7)\r")
        client.wait_for(rb"\r\n42\r\n", 20)
    row(
        "Terminal",
        f"{storm.keys:,} Ctrl-C into {storm.rounds:,} programs ({target.name}): printing, allocating, recursing, "
        "importing, with timers and threads, beside typing and transfers",
        "no session without a terminal, no byte of output lost or doubled",
    )
