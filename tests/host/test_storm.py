"""Some hundred Ctrl-C at random moments; ten thousand are in tests/evidence."""

import pytest
from storm import Client, Storm

pytestmark = [pytest.mark.needs("heap", "quick"), pytest.mark.targets("unix", "unix32", "pull", "slow")]


def test_a_storm_of_ctrl_c_into_programs_of_all_kinds(board, keys, target):
    with Client(board.address, keys.host, timeout=30).login() as client:
        storm = Storm(client, board)
        storm.prepare()
        storm.run(100)
        client.text("print(6 * 7)\r")
        client.wait_for(rb"\r\n42\r\n", 20)
