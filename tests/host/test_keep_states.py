"""What a command leaves behind on a kept connection, politely or killed, and what the next one finds; and the ends of
such a connection."""

import contextlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from desk import WSSCTL, Desk, Terminal
from keeping import End, exec_, holder, its_socket, keeping, start
from site_of_boards import PASSWORD, Site
from targets import UID
from wssctl.boards.dialler import open_board
from wssctl.wire.kept import KeptLink


@pytest.fixture(scope="module")
def board(keys, tmp_path_factory):
    with Desk.new(keys, tmp_path_factory.mktemp("keep"), "unix") as desk:
        yield desk


@pytest.fixture
def desk(board, tmp_path):
    with keeping(board, tmp_path) as desk:
        yield desk


@pytest.fixture
def lend(desk, monkeypatch):
    """lend() is the kept connection, in this process."""
    for name, value in desk.env.items():
        monkeypatch.setenv(name, value)

    def connect(keep=300.0, timeout=60.0):
        client = open_board(desk.at, keep=keep, timeout=timeout)
        assert isinstance(client.link, KeptLink)
        return client

    return connect


def die(client):
    """As a process that is killed does."""
    client.link.closed = True
    client.link._sock.close()


def see(lend, **more):
    """What the next command finds: it is told of nothing but its own."""
    with lend() as client:
        assert client.exec("print(6*7)").output == b"42\r\n"
        assert client.exec("print('boom' in globals())").output == b"False\r\n"


RAW = b"\r\x03\x03\r\x01"
LEFT = {
    "a program": b"while True: pass\r\r\r",
    "a program that prints": b"while True: print('x' * 100)\r\r\r",
    "one that takes Ctrl-C for itself": b"try:\r    while True: pass\rexcept KeyboardInterrupt: print('not yet')\r"
    b"\r\r\rwhile True: pass\r\r\r",
    "one that prints a prompt": b"while True: print('>>> ', end='')\r\r\r",
    "one that reads": b"import sys; sys.stdin.read(100)\r",
    "half a line": b"boom = ",
    "a line, and half a line that is typed ahead": b"sum(range(100000))\rboom = 1",
    "half a string": b'boom = """\rand so on\r',
    "half a character": b"boom = '\xc3",
    "raw mode": RAW,
    "raw mode, half a program": RAW + b"boom = 1\rboom = ",
    "raw paste": RAW + b"\x05A\x01",
    "raw paste, half a program": RAW + b"\x05A\x01boom = 1\nboom = ",
    "raw paste, refused and not acknowledged": RAW + b"\x05A\x01boom = = 1\nprint(",
    "raw mode, a program": RAW + b"while True: pass\x04",
    "paste mode": b"\x05boom = 1\r",
}


@pytest.mark.parametrize("politely", [False, True], ids=["killed", "left"])
def test_what_is_left_is_not_found(lend, politely):
    with lend() as client:
        client.exec("pass")
    for what, typed in LEFT.items():
        client = lend()
        client.write(typed)
        client.read(0.02)  # some of it may have been answered, and some not
        if politely:
            client.close()
        else:
            die(client)
        try:
            see(lend)
        except Exception as e:
            raise AssertionError(what) from e


def test_killed_at_any_point_of_a_command(lend):
    """Each prefix of what an exec sends, by lot."""
    whole = b"\r\x03\x03\r\x01\x05A\x01" + b"boom = 1\nprint('x' * 300)\ndel boom\n" * 3 + b"\x04\r\x02"
    points = random.Random(18).sample(range(len(whole)), min(len(whole), int(os.environ.get("POINTS", "12"))))
    for point in points:
        client = lend()
        client.write(whole[:point])
        if point % 2:
            client.read(0.02)
        die(client)
        try:
            with lend() as client:
                assert client.exec("print(6*7)").output == b"42\r\n"
                client.exec("globals().pop('boom', 0)")
        except Exception as e:
            raise AssertionError(point) from e


def test_half_a_file_is_not_found_either(desk, lend):
    (desk.directory / "old").write_bytes(b"old")
    data = os.urandom(200_000)
    (desk.directory / "large").write_bytes(data)
    for leave in (die, lambda client: client.close()):
        client = lend()
        client._request(1, "old", 100_000)
        client._answer("write old")
        client.link.send_binary(bytes(5000))
        leave(client)
        see(lend)
        assert (desk.directory / "old").read_bytes() == b"old"
        client = lend()
        client._request(2, "large", 0)
        client._answer("read large")
        client.link.send_binary(b"\0")
        leave(client)
        with lend() as client:
            assert client.get("large") == data
        see(lend)


def test_what_code_changed_stays_as_after_any_login(desk, lend):
    here = "import os; print(os.getcwd())"
    with lend() as client:
        root = client.exec(here).output
        client.exec("import os; os.mkdir('/elsewhere') if 'elsewhere' not in os.listdir('/') else 0")
        client.exec("os.chdir('/elsewhere')")
    with lend() as client:
        kept = client.exec(here).output
    plain = desk.run(*WSSCTL, "exec", "--keep", "0", desk.at, here)
    assert plain.stdout.strip() == kept.decode().strip() == "/elsewhere"
    with lend() as client:
        client.exec(f"os.chdir({root.decode().strip()!r})")


def test_a_mount_whose_host_was_killed(desk, tmp_path):
    (tmp_path / "here").mkdir()
    p = subprocess.Popen(
        [*WSSCTL, "mpremote", "--keep", "5m", desk.at, "mount", ".", "exec", "print('there')\nwhile True: pass"],
        env=desk.env, cwd=tmp_path / "here", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    seen = b""
    while b"there" not in seen:
        assert (data := p.stdout.readline()), seen
        seen += data
    p.kill()
    p.communicate()
    assert exec_(desk, "print(6*7)").stdout == "42\n"
    done = desk.run(*WSSCTL, "mpremote", "--keep", "5m", desk.at, "exec", "import os; print(os.getcwd())")
    assert done.stdout.strip() == "/", done


def test_a_program_that_runs_at_login_is_seen_to(desk, lend):
    """After the login nothing is known of the board: the first command through it stops what runs, and looking at the
    board's status does not."""
    with lend() as client:
        client.exec("import machine; runs = 0")
        client.write(b"while True: runs += 1\r\r\r")
        client.read_until(b"runs += 1\r\n", 60)
    desk.network.cut()  # the board goes on
    for _ in range(2):
        with lend() as client:
            assert client.about()["running"]
    with lend() as client:
        assert client.exec("print(runs > 0)").output == b"True\r\n"


# Ends


def test_it_ends_when_it_has_been_idle(desk, lend):
    with lend(keep=600.0) as client:
        client.exec("pass")
    pid = holder(desk)
    assert f"idle, process {pid}, for 600 s" in desk.run(*WSSCTL, "keep").stdout
    with lend(keep=1.0) as client:
        assert f"used by {Path(sys.argv[0]).name}"[:8] in desk.run(*WSSCTL, "keep").stdout
        client.exec("pass")
        end = End(pid)
    assert end.wait()
    assert desk.run(*WSSCTL, "keep").stdout == "" and not list((desk.run_folder / "wssctl").glob("*[!k]"))


def test_for_good(desk, keys, tmp_path):
    copy = tmp_path / "keys"
    shutil.copytree(keys.directory, copy)
    env = {"WSSCTL_KEYS": str(copy)}
    plain = lambda *more, at=desk.at: desk.run(*WSSCTL, "exec", *more, at, "print(1)", env=env).stdout  # noqa: E731
    listed = lambda: desk.run(*WSSCTL, "keep", env=env).stdout.count("\n")  # noqa: E731
    desk.run(*WSSCTL, "boards", "add", "kitchen", desk.at, env=env)
    assert plain() == "1\n" and listed() == 0
    assert desk.run(*WSSCTL, "keep", "5m", env=env).returncode == 0
    assert plain() == "1\n" and listed() == 1
    assert plain("--keep", "0") == "1\n"
    # by name, and another value for one board than for all
    assert desk.run(*WSSCTL, "keep", "stop", "kitchen", env=env).returncode == 0 and listed() == 0
    desk.run(*WSSCTL, "keep", "0", "kitchen", env=env)
    assert plain(at="kitchen") == "1\n" and listed() == 0
    desk.run(*WSSCTL, "keep", "90s", "kitchen", env=env)
    assert plain(at="kitchen") == "1\n" and "for 90 s" in desk.run(*WSSCTL, "keep", env=env).stdout
    done = desk.run(*WSSCTL, "keep", "stop", "wss://somewhere.else", env=env)
    assert done.returncode == 2 and "No such connection" in done.stderr and listed() == 1
    done = desk.run(*WSSCTL, "keep", "soon", env=env)
    assert done.returncode == 2 and "is no time to keep a connection" in done.stderr
    assert desk.run(*WSSCTL, "keep", "stop", env=env).returncode == 0 and listed() == 0


def test_what_is_known_of_the_board_changes(desk, keys, tmp_path):
    """Each by the command that does it."""
    copy = tmp_path / "keys"
    shutil.copytree(keys.directory, copy)
    env = {"WSSCTL_KEYS": str(copy)}
    add = (*WSSCTL, "boards", "add", "kitchen", desk.at)
    for change in (
        ("boards", "add", "kitchen", f"localhost:{desk.network.port}"),
        ("boards", "add", "garden", desk.at),
        ("boards", "forget", "kitchen"),
        ("host", "init", "--force"),
    ):
        assert desk.run(*add, env=env).returncode == 0
        done = desk.run(*WSSCTL, "exec", "--keep", "5m", "kitchen", "print(1)", env=env)
        assert done.stdout == "1\n", done
        end = End(holder(desk))
        done = desk.run(*WSSCTL, *change, env=env | {"WSSCTL_CA_PASSPHRASE": keys.passphrase})
        if change[0] == "host" and done.returncode:  # without the CA's key here it makes none
            os.utime(next(copy.glob("HOST_cert@*.pem")))
        assert end.wait(), (change, done)


def test_keys_and_passwords_that_change_on_the_board(tmp_path):
    """Renewal, a new password, a revocation and a rotation, each by the command: the connection from before is not used
    again, and the next command comes in with what counts now."""
    (tmp_path / "run").mkdir(0o700)
    with Site(tmp_path, 64) as site:
        site.env |= {"XDG_RUNTIME_DIR": str(tmp_path / "run")}
        site.add("room1", UID)
        env, folder = site.other_host()
        other = next(folder.glob("HOST_cert@*.pem"))
        try:
            for change in (
                ("boards", "renew", "--all", "room1"),
                ("password", "room1"),
                ("host", "revoke", other),
                ("ca", "rotate"),
            ):
                said = {"WSSCTL_PASSWORD": "" if site.remembered() else PASSWORD}
                assert site.run("exec", "--keep", "5m", "room1", "print(1)", env=said) == "1\n"
                end = End(int(re.search(r"process (\d+)", site.run("keep"))[1]))
                site.run(*change, env=said)
                assert end.wait(), change
                said = {"WSSCTL_PASSWORD": "" if site.remembered() else PASSWORD}
                assert site.run("exec", "--keep", "5m", "room1", "print(2)", env=said) == "2\n", change
        finally:
            site.run("keep", "stop")


def test_a_soft_reset_by_code_and_a_power_cut(desk, lend):
    with lend() as client:
        client.exec("pass")
    pid = holder(desk)
    done = exec_(desk, "import machine; machine.soft_reset()")
    assert done.returncode in (0, 6), done
    desk.ready(prompt=False)  # it stays in raw mode
    assert exec_(desk, "print(1)").stdout == "1\n"
    desk.board.restart()
    desk.ready()
    done = exec_(desk, "print(2)", env={"WSSCTL_PASSWORD": "", "WSSCTL_PASSPHRASE": ""})
    assert done.stdout == "2\n" and holder(desk) == pid, done


def test_the_holder_killed_in_the_middle_of_a_command(desk):
    exec_(desk, "pass")
    pid = holder(desk)
    one = start(desk, "exec", "--keep", "5m", desk.at, "print('runs')\nwhile True: pass")
    assert one.stdout.readline() == b"runs\n"
    os.kill(pid, signal.SIGKILL)
    _, err = one.communicate(timeout=120)
    assert one.returncode == 6 and err.count(b"\n") == 1 and b"has ended; try again" in err, err
    assert exec_(desk, "print(1)").stdout == "1\n"


def test_who_waits_for_a_login_is_told_at_once(desk):
    os.kill(desk.board.pid, signal.SIGSTOP)  # the login takes as long as we like
    try:
        one = start(desk, "exec", "--keep", "5m", "--timeout", "300", desk.at, "print(1)")
        while not (folder := desk.run_folder / "wssctl").exists() or not [p for p in folder.iterdir() if not p.suffix]:
            assert one.poll() is None
        two = start(desk, "exec", "--keep", "5m", "--timeout", "300", desk.at, "print(2)")
        assert two.stderr.readline() == f"waiting for wssctl exec, process {one.pid}\n".encode()
    finally:
        os.kill(desk.board.pid, signal.SIGCONT)
    assert one.communicate(timeout=300) == (b"1\n", b"") and two.communicate(timeout=300) == (b"2\n", b"")


def test_a_board_that_does_not_answer_is_said_to_be_that(desk):
    """Not the process that connects to it: that one waits as long as the command would."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        at = f"wss://127.0.0.1:{silent.getsockname()[1]}"
        done = desk.run(*WSSCTL, "exec", "--keep", "5m", "--timeout", "1", at, "print(1)")
    assert done.returncode == 3 and "accepts connections but does not start TLS" in done.stderr, done
    done = desk.run(*WSSCTL, "exec", "--keep", "5m", at, "print(1)")
    assert done.returncode == 3 and "refuses connections" in done.stderr, done


def test_a_holder_that_ends_while_somebody_comes(desk, lend, tmp_path):
    """Its socket takes the connection, and nobody will: the next holder is started, and nobody sees any of it."""
    with lend() as client:
        client.exec("pass")
    path = its_socket(desk)
    desk.run(*WSSCTL, "keep", "stop")
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(path))
        old.listen()

        def end():
            with old.accept()[0] as taken:
                taken.recv(1)
                path.unlink()

        thread = threading.Thread(target=end)
        thread.start()
        with lend() as client:
            assert client.exec("print(6*7)").output == b"42\r\n"
        thread.join()


def test_a_command_that_is_stopped_while_it_has_the_connection(desk):
    exec_(desk, "pass")
    one = start(desk, "exec", "--keep", "5m", desk.at, "for i in range(20000): print('0123456789' * 10)")
    assert one.stdout.readline()
    one.send_signal(signal.SIGSTOP)
    two = exec_(desk, "print(2)", "--timeout", "1")
    assert two.returncode == 5 and f"in use by wssctl exec, process {one.pid}" in two.stderr, two
    one.send_signal(signal.SIGCONT)
    out, err = one.communicate(timeout=120)
    assert one.returncode == 0 and out.count(b"\n") == 19_999, err
    assert exec_(desk, "print(3)").stdout == "3\n"


# The tools


def test_every_tool_goes_through_it(desk, tmp_path):
    exec_(desk, "pass")
    env = {"WSSCTL_KEEP": "5m", "WSSCTL_PASSWORD": "", "WSSCTL_PASSPHRASE": ""}
    source = tmp_path / "src"
    source.mkdir()
    (source / "a.py").write_text("A = 1\n")
    run = lambda *words, **more: desk.run(*WSSCTL, *words, env=env, **more)  # noqa: E731
    assert run("repl", desk.at, stdin="print(6*7)").stdout == "42\n"
    assert run("shell", desk.at, "sync", source).returncode == 0
    assert "a.py" in run("shell", desk.at, "ls").stdout
    assert run("mpremote", desk.at, "resume", "exec", "import a; print(a.A)").stdout.strip() == "1"
    assert "firmware" in run("status", desk.at).stdout
    handler = (
        "import serial, sys; from wssctl.tools import serial_handler; serial_handler.install(keep='5m')\n"
        f"with serial.serial_for_url({desk.at!r}, timeout=30) as s:\n"
        " s.write(b'6*7\\r\\n'); print(s.read_until(b'42'))"
    )
    done = desk.run(sys.executable, "-c", handler, env=env)
    assert "42" in done.stdout, done
    with Terminal(*WSSCTL, "repl", desk.at, env=desk.env | env) as t:
        t.until("Ctrl-] leaves")
        t.prompt()
        t.type("6*7\r")
        t.until("42\r\n>>> ")
        t.type(b"\x1d")
        assert t.wait() == 0
    bridge = subprocess.Popen([*WSSCTL, "bridge", desk.at], env=desk.env | env, stdout=subprocess.PIPE, stderr=-3)
    tty = bridge.stdout.readline().split()[-1].decode()
    done = desk.run(sys.executable, "-m", "mpremote", "connect", tty, "resume", "exec", "print(6*7)")
    assert done.stdout.strip() == "42", done
    bridge.send_signal(signal.SIGINT)
    bridge.communicate(timeout=120)
    assert run("exec", desk.at, "print(1)").stdout == "1\n"
    assert desk.network.connections == 1
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(desk.directory / "src")
