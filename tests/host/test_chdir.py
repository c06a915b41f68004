"""The server's own files stay where they are when a program changes the current folder, as `mpremote mount` does."""

import pytest
from cryptography import x509
from peers import Ended


def test_a_revoked_host_stays_out_after_chdir(board, connect, keys):
    serial = x509.load_pem_x509_certificate(keys.second.cert.read_bytes()).serial_number
    assert connect(keys.second).login().command("1+1") == b"2\r\n"
    (board.directory / "wss_trust.txt").write_text(f"revoked {serial:x}\nend\n")
    board.run("import os; os.mkdir('elsewhere'); os.chdir('elsewhere')")
    with pytest.raises((Ended, OSError)):
        connect(keys.second).login(path=b"/takeover")
    assert board.run("print(wss_repl.status()['refused'])") != "{}"
    assert not (board.directory / "elsewhere" / "wss_time.txt").exists()
    assert connect(keys.host).login(path=b"/takeover").command("1+1") == b"2\r\n"
