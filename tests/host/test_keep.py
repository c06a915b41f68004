"""One login, many commands (wssctl --keep): on a board, through a network that counts."""

import contextlib
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading

import pytest
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)
from desk import PASSWORD, WSSCTL, Desk
from keeping import End, exec_, holder, its_socket, keeping, start
from targets import ROOT, UID
from wssctl.boards.dialler import open_board
from wssctl.errors import KeyFileError
from wssctl.keys.ca import Authority
from wssctl.wire import kept


@pytest.fixture(scope="module")
def board(keys, tmp_path_factory):
    with Desk.new(keys, tmp_path_factory.mktemp("keep"), "unix") as desk:
        yield desk


@pytest.fixture
def desk(board, tmp_path):
    with keeping(board, tmp_path) as desk:
        yield desk


def test_ten_commands_one_login(desk):
    first = exec_(desk, "print(0)")
    assert (first.returncode, first.stdout) == (0, "0\n"), first
    assert desk.network.connections == 1
    env = {"WSSCTL_PASSWORD": "", "WSSCTL_PASSPHRASE": ""}  # nobody is asked again
    before = desk.network.trips
    for i in range(1, 10):
        done = exec_(desk, f"print({i})", env=env)
        assert (done.returncode, done.stdout, done.stderr) == (0, f"{i}\n", ""), done
    # Two each, and one that the holder sees to when a command has gone; the first one's may be among them
    assert desk.network.trips - before <= 9 * 3 + 1
    assert desk.network.connections == 1


def test_what_a_command_through_it_imports(desk):
    exec_(desk, "pass")
    done = desk.run(sys.executable, "-X", "importtime", "-m", "wssctl", "exec", "--keep", "5m", desk.at, "print(1)")
    assert done.stdout == "1\n"
    names = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "socket" in names  # the list is one
    assert not names & {"cryptography", "rich", "ssl", "websockets", "prompt_toolkit", "mpremote", "dataclasses"}


def test_a_file_goes_and_comes(desk, tmp_path):
    data = os.urandom(70_000)
    (tmp_path / "a").write_bytes(data)
    for words in (("put", desk.at, tmp_path / "a", ":kept.bin"), ("get", desk.at, "kept.bin", tmp_path / "b")):
        done = desk.run(*WSSCTL, words[0], "--keep", "5m", *words[1:])
        assert done.returncode == 0, done
    assert (tmp_path / "b").read_bytes() == data
    assert desk.run(*WSSCTL, "status", "--keep", "5m", desk.at).returncode == 0
    assert desk.network.connections == 1


def test_the_next_one_waits_and_is_told_for_whom(desk):
    exec_(desk, "pass")
    one = start(desk, "exec", "--keep", "5m", desk.at, "print('runs')\nwhile True: pass")
    assert one.stdout.readline() == b"runs\n"
    two = exec_(desk, "print(2)", "--timeout", "1")
    assert two.returncode == 5 and f"waiting for wssctl exec, process {one.pid}" in two.stderr, two
    three = start(desk, "exec", "--keep", "5m", "--timeout", "60", desk.at, "print(3)")
    assert b"waiting for" in three.stderr.readline()
    one.kill()
    out, err = three.communicate(timeout=120)
    assert (three.returncode, out) == (0, b"3\n"), err
    one.communicate()


def test_many_at_once_and_some_are_killed(desk):
    processes, commands = map(int, os.environ.get("CROWD", "6x8").split("x"))
    exec_(desk, "pass")
    wrong = []

    def work(n):
        for i in range(commands):
            mark = f"{n}-{i}"
            code = f"for k in range(50): print({mark!r}, k)"
            p = start(desk, "exec", "--keep", "5m", "--timeout", "600", desk.at, code)
            if (n + i) % 5 == 0:
                p.stdout.read(4)
                p.kill()
                p.communicate()
                continue
            out, err = p.communicate(timeout=900)
            if p.returncode or out.decode().split("\n") != [f"{mark} {k}" for k in range(50)] + [""]:
                wrong.append((mark, p.returncode, out, err))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(processes)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_a_connection_that_broke_is_made_again_unasked(desk):
    exec_(desk, "pass")
    desk.network.cut()
    done = exec_(desk, "print(1)", env={"WSSCTL_PASSWORD": "", "WSSCTL_PASSPHRASE": ""})
    assert (done.returncode, done.stdout) == (0, "1\n"), done
    assert desk.network.connections == 2


def test_a_takeover_ends_it(desk):
    exec_(desk, "pass")
    pid = holder(desk)
    end = End(pid)
    other = desk.run(*WSSCTL, "exec", "--takeover", desk.url, "print(5)")
    assert other.stdout == "5\n"
    assert end.wait()
    assert desk.network.connections == 1


def test_a_login_of_ones_own_goes_around_it(desk):
    exec_(desk, "pass")
    done = desk.run(*WSSCTL, "exec", "--keep", "0", desk.at, "print(1)")
    assert (done.returncode, done.stdout) == (0, "1\n"), done
    assert exec_(desk, "print(2)").stdout == "2\n"
    assert desk.network.connections == 3


def test_secrets_that_are_given_are_not_ignored(desk):
    """A holder lends its connection to who could have made it: the board judges every other secret."""
    exec_(desk, "pass")
    for secret, code in (("WSSCTL_PASSWORD", 5), ("WSSCTL_PASSPHRASE", 7)):
        done = exec_(desk, "print(1)", env={secret: "wrong guess"})
        assert (done.returncode, done.stdout) == (code, "") and "Wrong pass" in done.stderr, done
    done = exec_(desk, "print(1)", "--server-name", "other.example")
    assert done.returncode == 4 and "not for other.example" in done.stderr, done
    assert exec_(desk, "print(2)", "--server-name", "kitchen").stdout == "2\n"
    logins = desk.network.connections
    assert exec_(desk, "print(3)", env={"WSSCTL_PASSWORD": "", "WSSCTL_PASSPHRASE": ""}).stdout == "3\n"
    assert desk.network.connections == logins


def test_other_key_files_never_use_a_connection_that_is_kept(desk, keys, tmp_path):
    """Neither a certificate that the board refuses nor one of a ROOT CA that did not sign the board's."""
    exec_(desk, "pass")
    copy = tmp_path / "keys"
    shutil.copytree(keys.directory, copy)
    shutil.copy(keys.foreign.cert, copy / "HOST_cert@66.pem")
    shutil.copy(keys.foreign.key, copy / "HOST_key@66.pem")
    done = exec_(desk, "print(1)", "--host-id", "66", "--keys", copy)
    assert done.returncode == 4 and "refuses this HOST certificate" in done.stderr, done
    (copy / "ROOT_CA_cert.pem").write_bytes(Authority.create("Another ROOT CA").cert_pem)
    done = exec_(desk, "print(1)", "--keys", copy)
    assert done.returncode == 4 and "did not sign" in done.stderr, done
    shutil.copy(keys.second.cert, copy / "HOST_cert@67.pem")
    shutil.copy(keys.second.key, copy / "HOST_key@67.pem")
    shutil.copy(keys.ca_file, copy)
    # one that may come in gets a connection of its own, for which the other one gives way
    done = exec_(desk, "import wss_repl; print(wss_repl.status()['host'])", "--host-id", "67", "--keys", copy)
    assert done.returncode == 0, done
    assert exec_(desk, "import wss_repl; print(wss_repl.status()['host'])").stdout != done.stdout
    with contextlib.suppress(FileNotFoundError):
        assert len(desk.run(*WSSCTL, "keep").stdout.splitlines()) == 2


def test_a_holder_that_is_stopped_does_not_hang_anybody(desk):
    exec_(desk, "pass")
    pid = holder(desk)
    os.kill(pid, signal.SIGSTOP)
    done = exec_(desk, "print(1)", "--timeout", "1")
    assert done.returncode == 6 and "wssctl keep stop" in done.stderr, done
    assert desk.run(*WSSCTL, "keep", "stop").returncode == 0
    desk.network.cut()
    assert exec_(desk, "print(2)").stdout == "2\n"


def test_what_others_put_there(desk):
    folder = desk.run_folder / "wssctl"
    elsewhere = desk.run_folder / "elsewhere"
    elsewhere.mkdir(0o700)
    folder.symlink_to(elsewhere)
    done = exec_(desk, "print(1)")
    assert done.returncode == 7 and "not a folder of yours alone" in done.stderr
    folder.unlink()
    folder.mkdir(0o755)
    assert exec_(desk, "print(1)").returncode == 7
    folder.chmod(0o700)
    assert exec_(desk, "print(1)").stdout == "1\n"
    path = its_socket(desk)
    pid = holder(desk)
    end = End(pid)
    os.kill(pid, signal.SIGKILL)  # what it leaves is a stale socket
    assert end.wait()
    assert path.exists()
    assert exec_(desk, "print(2)").stdout == "2\n"
    desk.run(*WSSCTL, "keep", "stop")
    path.unlink(missing_ok=True)
    path.symlink_to(folder / "other")
    done = exec_(desk, "print(1)")
    assert done.returncode == 7 and "no socket of yours" in done.stderr
    path.unlink()


@pytest.fixture
def here(desk, monkeypatch):
    """The desk's operator is this process."""
    for name, value in desk.env.items():
        monkeypatch.setenv(name, value)
    return desk


def connected(desk):
    """Logs in with keep; whether the connection is one that is kept."""
    with open_board(desk.at, keep=60.0, timeout=60.0) as client:
        assert client.exec("print(6*7)").output == b"42\r\n"
        return isinstance(client.link, kept.KeptLink)


def test_where_no_connection_can_be_kept_it_is_said_and_none_is(here, monkeypatch, tmp_path, capsys):
    with monkeypatch.context() as m:
        m.delattr(socket, "AF_UNIX")  # Windows
        assert not connected(here)
    assert "this system has no sockets between its processes" in capsys.readouterr().err
    long = tmp_path / ("x" * 100)
    long.mkdir(0o700)
    for value in (str(tmp_path / "missing"), "relative", str(long)):
        monkeypatch.setenv("XDG_RUNTIME_DIR", value)
        monkeypatch.chdir(tmp_path)
        (tmp_path / "relative").mkdir(exist_ok=True)
        if value != "relative" or not os.path.isdir(f"/run/user/{os.geteuid()}"):
            assert not connected(here)
            assert "NOTE: The connection is not kept: " in capsys.readouterr().err
        assert not list((tmp_path / "relative").iterdir())
    desk_ran = here.run(*WSSCTL, "keep", env={"XDG_RUNTIME_DIR": str(tmp_path / "missing")})
    assert (desk_ran.returncode, desk_ran.stdout) == (0, "")


def test_a_runtime_folder_that_others_can_change_is_refused(here, monkeypatch, tmp_path):
    base = tmp_path / "shared"
    base.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(base))
    for mode in (0o770, 0o707):
        base.chmod(mode)
        with pytest.raises(KeyFileError, match="can be changed by others"):
            connected(here)
    base.chmod(0o1777)  # as /tmp: nobody can take away what is another's
    assert connected(here)
    here.run(*WSSCTL, "keep", "stop", env={"XDG_RUNTIME_DIR": str(base)})
    if os.geteuid() == 0:
        base.chmod(0o700)
        os.chown(base, 65534, 65534)
        with pytest.raises(KeyFileError, match="can be changed by others"):
            connected(here)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a file system")
@pytest.mark.parametrize("files", [1, 2, 3])
def test_a_full_disk(here, monkeypatch, tmp_path, capsys, files):
    """A runtime folder in which so many files can be made: none, a folder, and its lock file."""
    base = tmp_path / "full"
    base.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size=4k,nr_inodes={files},mode=0700", "tmpfs", str(base)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(base))
        assert not connected(here)
        assert "NOTE: The connection is not kept: " in capsys.readouterr().err
    finally:
        subprocess.run(["umount", str(base)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be another user")
def test_another_user_gets_nothing(desk):
    exec_(desk, "pass")
    path = its_socket(desk)
    assert as_nobody(path) == "no way"
    folders = [path, *path.parents]
    modes = {p: p.stat().st_mode for p in folders}
    try:
        for p in folders:  # even if the folders let him in, the peer is checked
            p.chmod(modes[p] | (0o007 if p == path else 0o001))
        assert as_nobody(path) == "b''"
    finally:
        for p in folders:
            p.chmod(modes[p])


def as_nobody(path) -> str:
    """What another user hears there who asks what is held."""
    here, there = os.pipe()
    if not (pid := os.fork()):
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            with socket.socket(socket.AF_UNIX) as s:
                s.settimeout(20)
                try:
                    s.connect(str(path))
                except PermissionError:
                    os.write(there, b"no way")
                    return ""
                try:
                    s.sendall(b"L\0\0\0\0")
                    said = s.recv(100)
                except OSError as e:
                    said = b"" if isinstance(e, ConnectionError) else repr(e).encode()
                os.write(there, repr(said).encode())
        finally:
            os._exit(0)
    os.close(there)
    os.waitpid(pid, 0)
    with open(here, "rb") as f:
        return f.read().decode()


def test_another_board_at_the_same_address_is_refused(desk, keys):
    exec_(desk, "pass")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    foreign = Authority.create("Another ROOT CA").device(UID, names=["board"], addresses=["127.0.0.1"], ports=[8833])
    pem = desk.run_folder / "foreign.pem"
    key = load_der_private_key(foreign.key_der, None)
    pem.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + foreign.cert_pem)
    context.load_cert_chain(pem)
    with socket.create_server(("127.0.0.1", 0)) as server:
        heard = []

        def serve():
            with contextlib.suppress(OSError):
                sock, _ = server.accept()
                with context.wrap_socket(sock, server_side=True) as s:
                    heard.append(s.recv(1000))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        desk.network.to = server.getsockname()[1]
        desk.network.cut()
        done = exec_(desk, "print(1)")
        assert done.returncode == 4 and "did not sign" in done.stderr, done
        thread.join(60)
        assert not heard or heard == [b""]  # no word of the password


def test_mpremote_through_it_with_soft_resets(desk, tmp_path):
    (tmp_path / "f").write_text("over a kept connection")
    for words, said in (
        (("exec", "print(6*7)"), "42"),  # begins with a soft reset
        (("fs", "cp", str(tmp_path / "f"), ":f"), ""),
        (("resume", "fs", "cat", ":f"), "over a kept connection"),
        (("soft-reset", "exec", "print(1)"), "1"),
    ):
        done = desk.run(*WSSCTL, "mpremote", "--keep", "5m", desk.at, *words)
        assert done.returncode == 0 and said in done.stdout, done
    assert exec_(desk, "print(2)").stdout == "2\n"
    assert len(desk.run(*WSSCTL, "keep").stdout.splitlines()) == 1


def test_a_program_can_keep_it_too(desk, keys, monkeypatch):
    for name, value in desk.env.items():
        monkeypatch.setenv(name, value)
    for n in range(2):
        with open_board(desk.at, keep=60.0) as client:
            assert client.exec(f"print({n})").output == b"%d\r\n" % n
            assert client.exec("print(9)").output == b"9\r\n"
    assert desk.network.connections == 1


def test_the_library_as_its_page_shows_it(here, keys):
    """docs/client.md: its programs, on this board."""
    page = (ROOT / "docs" / "client.md").read_text()
    first, second = re.findall(r"```python\n(.*?)```", page, re.S)
    found = {}
    first = first.replace('"room1"', repr(here.at)).replace("print(board.exec", "done = (board.exec")
    (here.directory / "name.bin").unlink(missing_ok=True)
    exec(compile(first, "docs/client.md", "exec"), found)
    assert (found["done"], found["data"]) == (b"42\r\n", b"data")
    files = {"ROOT_CA_cert.pem": keys.ca_file, "HOST_cert.pem": keys.host.cert, "HOST_key.pem": keys.host.key}
    for name, path in files.items():
        second = second.replace(f'Path("{name}")', f"Path({str(path)!r})")
    for said, true in (("passphrase", keys.passphrase), ("password", PASSWORD), ("wss://192.168.1.20", here.at)):
        second = second.replace(f'"{said}"', repr(true))
    second = second.replace("    ...", "    done = board.exec('print(1)').output")
    exec(compile(second, "docs/client.md", "exec"), found)
    assert found["done"] == b"1\r\n" and isinstance(found["board"].link, kept.KeptLink)
    assert here.network.connections == 1  # the same board, and the same key files


def test_no_secret_is_to_be_seen(desk):
    exec_(desk, "pass")
    pid = holder(desk)
    seen = b""
    for name in ("cmdline", "environ"):
        with contextlib.suppress(PermissionError), open(f"/proc/{pid}/{name}", "rb") as f:
            seen += f.read()
    assert b"wire.holder" in seen
    assert desk.keys.passphrase.encode() not in seen and b"WSSCTL_PASS" not in seen
    with open(f"/proc/{pid}/limits") as f:
        assert "Max core file size        0                    0" in f.read()
    dumpable = "import ctypes; from wssctl.wire import holder; print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)); "
    dumpable += "holder.private(); print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))"
    assert desk.run(sys.executable, "-c", dumpable).stdout.split() == ["1", "0"]


def test_it_ends_with_its_socket_and_with_new_keys(desk, keys, tmp_path):
    copy = tmp_path / "keys"
    shutil.copytree(keys.directory, copy)
    for change in ("socket", "certificate"):
        exec_(desk, "pass", env={"WSSCTL_KEYS": str(copy)})
        path = its_socket(desk)
        end = End(holder(desk))
        if change == "socket":
            path.unlink()
        else:
            (cert,) = copy.glob("HOST_cert@*.pem")
            cert.write_bytes(cert.read_bytes())
        assert end.wait()


def test_json_of_the_protocol_is_checked(desk):
    """What is no message costs its sender the connection, and nobody else."""
    exec_(desk, "pass")
    path = its_socket(desk)
    request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    for nonsense in (request, b"H\0\0\0\x02[]", b"H\0\0\0\x01{", b"T\0\0\0\x01x", b"Q\0\0\0\0"):
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(30)
            s.connect(str(path))
            s.sendall(nonsense)
            with contextlib.suppress(ConnectionResetError):
                s.recv(100)
    assert exec_(desk, "print(7)").stdout == "7\n"
