"""Updates while others are at the board: another host, another board at its address, another clock, other firmware."""

import argparse
import contextlib
import re
import shutil

import pytest
from cutter import Cutter
from desk import WSSCTL
from targets import ROOT
from test_update import FROZEN, NEW, desk_of, newer  # noqa: F401
from test_update_fat import fat  # noqa: F401
from test_update_firmware import esp32, image
from wssctl.boards import firmware, modules, update
from wssctl.boards.dialler import Dialler
from wssctl.boards.update import LOADER_CODE
from wssctl.errors import BoardError, WssctlError
from wssctl.keys import hosts, store, trustlist

TRIAL = "u['begin']('.frozen', '/wss_a', '9.9.9', %d, 'of another host')\nimport machine\nmachine.reset()"


def on_trial(desk, seconds):
    """A board with another host's update on trial."""
    for name, data in modules.compiled().items():
        (desk.directory / "wss_a" / name).parent.mkdir(parents=True, exist_ok=True)
        (desk.directory / "wss_a" / name).write_bytes(data)
    (desk.directory / "wss_repl.py").write_bytes(modules.loader())
    desk.wssctl("exec", LOADER_CODE.format(home="/") + TRIAL % seconds)
    desk.ready()
    assert trial(desk) == "True"


def trial(desk):
    code = "import sys; u = sys.modules.get('wss_update'); print(bool(u and u.trial))"
    return desk.wssctl("exec", code).stdout.strip()


def secrets(monkeypatch, keys):
    for name, value in (("PASSPHRASE", keys.passphrase), ("PASSWORD", "secret")):
        monkeypatch.setenv(f"WSSCTL_{name}", value)


def arguments(desk, port, **more):
    return argparse.Namespace(
        url=f"wss://127.0.0.1:{port}", keys=str(desk.keys.directory), takeover=False, timeout=10, server_name=None,
        host_id=None, password_file=None, passphrase_file=None, overlay=True, force=True, deadline=5, keep=None,
        sign=False, signed=None, **more,
    )  # fmt: skip


def test_another_board_at_the_address_is_not_proved(keys, tmp_path, monkeypatch):
    """It answers in the place of the one that is updated, by a new lease or a cable, and has a trial itself."""
    secrets(monkeypatch, keys)
    with desk_of(keys, tmp_path / "a", FROZEN) as ours, desk_of(keys, tmp_path / "b", FROZEN) as other:
        on_trial(other, 600)
        cutter = Cutter(ours.port)
        restart = update.restart

        def restart_and_swap(client, how="soft_reset"):
            restart(client, how)
            cutter._board = other.port

        monkeypatch.setattr(update, "restart", restart_and_swap)
        try:
            args = arguments(ours, cutter.port)
            with pytest.raises(BoardError, match="Another update is on trial there"):
                update._update(args, Dialler(args))
        finally:
            cutter.close()
        assert trial(other) == "True"
        ours.board.read_until(b"was taken back: no login proved it in 5 s", 60)
        ours.ready()
        assert ours.runs()[0] == ".frozen"


def test_a_host_that_comes_during_a_trial_neither_proves_nor_replaces_it(keys, tmp_path, newer):  # noqa: F811
    with desk_of(keys, tmp_path / "a", FROZEN) as desk:
        on_trial(desk, 600)
        said = desk.update(newer(), "--overlay", "--takeover", status=1)
        assert "Another update is on trial there" in said and trial(desk) == "True"
        refused = desk.wssctl("exec", "import wss_update; wss_update.confirm('')")
        assert "no such update is on trial" in refused.stderr and trial(desk) == "True"
        desk.board.restart()
        desk.ready()
        assert desk.runs()[0] == ".frozen"


@pytest.mark.parametrize("moment", ["place_loader", "change_over", "restart"])
def test_of_two_hosts_the_one_that_takes_over_wins(keys, tmp_path, newer, monkeypatch, moment):  # noqa: F811
    """In the middle of the first one's work: all is sent, the loader is there, the change-over is made."""
    secrets(monkeypatch, keys)
    with desk_of(keys, tmp_path / "a", FROZEN) as desk:
        work = getattr(update, moment)

        def then(*words):
            monkeypatch.setattr(update, moment, work)
            said.append(desk.update(newer(), "--overlay", "--takeover"))
            return work(*words)

        said = []
        monkeypatch.setattr(update, moment, then)
        args = arguments(desk, desk.port)
        with pytest.raises(WssctlError):
            update._update(args, Dialler(args))
        assert f"-> {NEW}" in said[0]
        assert desk.runs() == ("/wss_a", NEW) and trial(desk) == "False"
        desk.board.restart()
        desk.ready()
        assert desk.runs() == ("/wss_a", NEW)


def test_the_deadline_is_none_of_the_clocks(keys, tmp_path):
    """NTP sets it while an update is on trial, forth and back."""
    with desk_of(keys, tmp_path / "a", FROZEN) as desk:
        on_trial(desk, 12)
        jumps = "for year in (2035, 2001): machine.RTC().datetime((year, 1, 1, 0, 0, 0, 0, 0))"
        assert desk.wssctl("exec", f"import machine\n{jumps}").returncode in (0, 6)
        desk.board.read_until(b"9.9.9 was taken back: no login proved it in 12 s", 60)
        desk.ready()


DAMAGED = {
    "bytecode of another MicroPython": lambda data: data[:1] + b"\5" + data[2:],
    "machine code for another processor": lambda data: data[:2] + b"\x2e" + data[3:],
    "an empty file": lambda data: b"",
    "cut in the middle, which MicroPython reads for ever": lambda data: data[: len(data) // 2],
    "something else": lambda data: b"<html>" * 100,
}


def test_bytecode_that_this_board_does_not_run_is_taken_back(keys, tmp_path):
    with desk_of(keys, tmp_path / "a", FROZEN) as desk:
        (desk.directory / "wss_repl.py").write_bytes(modules.loader())
        slot = desk.directory / "wss_a"
        for what, damage in DAMAGED.items():
            for_ever = "for ever" in what
            seconds = 5 if for_ever else 600  # or a busy machine is over it before the import fails
            code = LOADER_CODE.format(home="/") + f"u['begin']('.frozen', '/wss_a', '9.9.9', {seconds}, 'x')"
            for name, data in modules.compiled().items():
                (slot / name).parent.mkdir(parents=True, exist_ok=True)
                (slot / name).write_bytes(damage(data) if name == "wss/port.mpy" else data)
            assert desk.wssctl("exec", code).returncode == 0
            desk.board.restart()
            desk.board.read_until(b"9.9.9 was taken back: ", 60)
            desk.ready()
            done = desk.wssctl("exec", "import wss_update as u; print(u.active, u.trial)")
            assert done.stdout.strip() == ".frozen None", (what, done)
            why = "no login proved it" if for_ever else "its import fails"
            assert f"9.9.9 was taken back: {why}" in done.stderr, (what, done)


def test_a_version_with_lines_and_brackets_in_it_locks_nobody_out(keys, tmp_path):
    """It comes out of an image, and what a board tells of it goes into an HTTP header."""
    with desk_of(keys, tmp_path / "a", FROZEN) as desk:
        for name, data in modules.compiled().items():
            (desk.directory / "wss_a" / name).parent.mkdir(parents=True, exist_ok=True)
            (desk.directory / "wss_a" / name).write_bytes(data)
        (desk.directory / "wss_repl.py").write_bytes(modules.loader())
        begin = "u['begin']('.frozen', '/wss_a', '9 (mine)\\r\\n\\r\\n\\x1b[2J\u20ac', 600, 'x')"
        assert desk.wssctl("exec", LOADER_CODE.format(home="/") + begin).returncode == 0
        for told in ("9 mine[2J is on trial", "9 mine[2J was taken back: no login proved it in 600 s, or before"):
            desk.board.restart()
            desk.ready()
            assert f"NOTE: 127.0.0.1: {told}" in desk.wssctl("exec", "pass").stderr
            assert told in desk.run(*WSSCTL, "status", desk.url).stdout


def overlay(desk, version):
    """One that was proved, by who began it."""
    slot = desk.directory / "wss_a"
    shutil.rmtree(slot, ignore_errors=True)
    for name, data in modules.compiled().items():
        (slot / name).parent.mkdir(parents=True, exist_ok=True)
        (slot / name).write_bytes(data)
    (slot / "wss/port.mpy").unlink()
    port = (ROOT / "lib/wss/port.py").read_text()
    (slot / "wss/port.py").write_text(re.sub(r'^VERSION = ".+?"', f'VERSION = "{version}"', port, flags=re.M))
    (desk.directory / "wss_repl.py").write_bytes(modules.loader())
    desk.wssctl("exec", LOADER_CODE.format(home="/") + f"u['begin']('.frozen', '/wss_a', '{version}', 600, 'x')")
    desk.board.restart()
    desk.ready()
    assert desk.wssctl("exec", "import wss_update; wss_update.confirm('x')").returncode == 0
    assert desk.runs() == ("/wss_a", version)


FRESH = modules.version()
# Of the overlay, and of the firmware that it was put in front of; what the firmware that came by cable since does
BY_CABLE = {
    "newer than both": ("0.0.9", "0.0.8", ".frozen"),
    "newer than a candidate": (f"{FRESH}-rc1", "0.0.9", ".frozen"),
    "the same as the overlay": (FRESH, "0.0.9", "/wss_a"),
    "older than the overlay": ("9.8.7", "0.0.9", "/wss_a"),
    "what it was, and the overlay is older on purpose": ("0.0.9", FRESH, "/wss_a"),
}


def test_an_overlay_gives_way_to_newer_firmware_that_came_by_cable(keys, tmp_path):
    """What is in the stand-in's firmware stays; that it was another when the overlay came is written into its state."""
    with desk_of(keys, tmp_path / "a", FROZEN) as desk:
        for what, (version, before, then) in BY_CABLE.items():
            overlay(desk, version)
            code = f"import wss_update as u; s = u.read(); assert s['frozen'] == '{FRESH}'; s['frozen'] = '{before}'"
            assert desk.wssctl("exec", f"{code}; u.write(s)").returncode == 0, what
            for _ in range(1 + (then == ".frozen")):  # what is written down, and what is read then
                desk.board.restart()
                desk.ready()
                done = desk.wssctl("exec", "import wss; print(wss.__path__, wss.port.VERSION)")
                expected = (f"{then}/wss", version if then == "/wss_a" else FRESH)
                assert tuple(done.stdout.split()) == expected, (what, done)
                told = f"{version} is over: the firmware has {FRESH}"
                assert (told in done.stderr) == (then == ".frozen"), (what, done)


def test_firmware_that_came_by_cable_and_whose_bundle_is_broken_or_the_disk_full(keys, tmp_path):
    """The overlay stays in front of what does not start; and what cannot be written down is found again."""
    with desk_of(keys, tmp_path / "a", FROZEN) as desk:
        overlay(desk, "0.0.9")
        loader = desk.directory / "wss_repl.py"
        text = loader.read_text()
        broken = text.replace('__import__(name)', '1 // (name != "wss.port")\n  __import__(name)', 1)
        assert desk.wssctl("exec", "import wss_update as u; s = u.read(); s['frozen'] = ''; u.write(s)").returncode == 0
        for source, runs in (
            (broken, ("/wss_a", "0.0.9")),
            (text.replace('with open(name, "wb") as f:', "if 1:\n  raise OSError(28)", 1), (".frozen", FRESH)),
        ):
            assert source != text
            loader.write_text(source)
            for _ in range(2):
                desk.board.restart()
                desk.ready()
                assert desk.runs() == runs


def test_nothing_of_updates_is_loaded_before_it_is_needed(keys, tmp_path):
    with desk_of(keys, tmp_path / "a", FROZEN) as desk:
        code = "import sys; print([m for m in sys.modules if m in ('wss.signed', 'wss.enrol', 'wss_update')])"
        assert desk.wssctl("exec", code).stdout == "[]\n"


def test_a_loader_that_was_edited_by_hand_is_replaced_by_the_next_update(keys, tmp_path, newer):  # noqa: F811
    with desk_of(keys, tmp_path / "a", FROZEN) as desk:
        (desk.directory / "wss_repl.py").write_bytes(modules.loader() + b"\nprint('mine')\n")
        desk.board.restart()
        desk.ready()
        assert f"-> {NEW}" in desk.update(newer(), "--overlay")
        assert (desk.directory / "wss_repl.py").read_bytes() == modules.loader()


def test_new_firmware_brings_its_own_bundle_and_old_firmware_its_overlay(keys, tmp_path, newer):  # noqa: F811
    with esp32(keys, tmp_path / "board") as desk:
        desk.run(*WSSCTL, "update", "--overlay", "--deadline", "60", desk.url, env=newer(), timeout=150)
        code = "import wss, wss_repl; print(wss.__path__.rpartition('/')[0], wss_repl.VERSION)"
        assert desk.wssctl("exec", code).stdout.split() == ["/wss_a", NEW]
        assert "taken back" in desk.firmware(image("v1.26.0-refuses"), status=1)
        assert desk.wssctl("exec", code).stdout.split() == ["/wss_a", NEW]
        desk.firmware(image("v1.26.1"))
        for _ in range(2):
            assert desk.wssctl("exec", code).stdout.split() == [".frozen", modules.version()]
            desk.board.restart()
            desk.ready()
        shutil.rmtree(desk.directory / "wss_a")
        desk.board.restart()
        desk.ready()
        assert desk.runs() == "v1.26.1"


def test_a_bundle_and_firmware_do_not_come_at_the_same_time(keys, tmp_path, newer, monkeypatch):  # noqa: F811
    """Begun and not yet started, or on trial: in either order, one of them waits."""
    secrets(monkeypatch, keys)
    with esp32(keys, tmp_path / "board") as desk:
        words = [*WSSCTL, "update", "--overlay", "--deadline", "60", desk.url]
        monkeypatch.setattr(update, "restart", lambda client, how: 1 // 0)  # the host dies in front of it
        args = arguments(desk, desk.port, progress=lambda name, size: contextlib.nullcontext())
        with pytest.raises(ZeroDivisionError):
            firmware._firmware(args, Dialler(args), firmware.parse(image("v1.26.0")))
        refused = desk.run(*words, env=newer(), timeout=150)
        assert refused.returncode == 1 and "New firmware starts there at the next reset" in refused.stderr
        assert not (desk.directory / "wss_a").exists() and desk.runs() == "v1.25.0"
        desk.board.restart()  # it is on trial now, and nobody who began it is left
        desk.ready()
        refused = desk.run(*words, env=newer(), timeout=150)
        assert refused.returncode == 1 and "Another update is on trial there" in refused.stderr
        desk.board.restart()
        desk.ready()
        assert desk.runs() == "v1.25.0"
        # the other order: the bundle is on trial; then begun and not yet started, which firmware takes the place of
        on_trial(desk, 600)
        assert "Another update is on trial there" in desk.firmware(image("v1.26.0"), status=1)
        desk.board.restart()
        desk.ready()
        assert desk.wssctl("exec", LOADER_CODE.format(home="/") + TRIAL.partition("\n")[0] % 600).returncode == 0
        assert "v1.25.0 -> v1.26.0" in desk.firmware(image("v1.26.0"))
        code = "import wss, wss_update; print(wss.__path__, wss_update.trial)"
        assert desk.wssctl("exec", code).stdout.split() == [".frozen/wss", "None"] and desk.runs() == "v1.26.0"


def test_firmware_is_resumed_by_another_host(keys, tmp_path, monkeypatch):
    """What one has sent, the other does not send again."""
    secrets(monkeypatch, keys)
    other = shutil.copytree(keys.directory, tmp_path / "other")
    for file in other.glob("HOST_*"):
        file.unlink()
    key, cert = keys.ca.host("bea", keys.passphrase)
    for kind, data in (("key", key), ("cert", cert)):
        (other / f"HOST_{kind}@bea.pem").write_bytes(data)
        (other / f"HOST_{kind}@bea.pem").chmod(0o600)
    data = image("v1.26.0", size=150_000)
    with esp32(keys, tmp_path / "board") as desk:
        for n in range(2):
            file = desk.directory / f"flash_ota_{n}"
            file.write_bytes(file.read_bytes().ljust(0x30000, b"\xff"))
        (desk.directory / "flash_cut").write_text("20")  # in the second piece of 64 KB
        desk.board.restart()
        desk.ready()
        desk.firmware(data, status=6)
        desk.ready()
        before = desk.writes()
        desk.env = desk.env | {"WSSCTL_KEYS": str(other)}
        said = desk.firmware(data)
        assert "64 of 146 KB are there already" in said and "v1.25.0 -> v1.26.0" in said, said
        assert desk.writes() - before == -(-(len(data) - 65536) // 4096) + 1 and desk.runs() == "v1.26.0"


def test_power_is_cut_between_the_bootloaders_mark_and_ours(keys, tmp_path, monkeypatch):
    """The old one is back, and stays: its bootloader takes it for new when it is told to start it."""
    secrets(monkeypatch, keys)
    with esp32(keys, tmp_path / "board") as desk:
        ask = update.ask

        def cut(remote, code, *more):
            if "confirm" in code:
                code = "import esp32, machine\nesp32.Partition.mark_app_valid_cancel_rollback()\nmachine.reset()"
            return ask(remote, code, *more)

        monkeypatch.setattr(update, "ask", cut)
        args = arguments(desk, desk.port, progress=lambda name, size: contextlib.nullcontext())
        with pytest.raises(BoardError, match="v1.26.0 was taken back: no login proved it.*v1.25.0 runs again"):
            firmware._firmware(args, Dialler(args), firmware.parse(image("v1.26.0")))
        for _ in range(2):
            assert desk.runs() == "v1.25.0" and desk.marks()["boot"] == "ota_0" and desk.marks()["ota_0"] == "valid"
            desk.board.restart()
            desk.ready()


def test_a_host_that_is_revoked_during_its_own_trial(keys, tmp_path, monkeypatch):
    """By another host. It can't prove its update then, and the old one is back with the list in force."""
    secrets(monkeypatch, keys)
    with desk_of(keys, tmp_path / "a", FROZEN) as desk:
        args = arguments(desk, desk.port)
        _, cert = store.Store(args.keys).find_host()
        list_ = trustlist.changed({}, "revoked", hosts.of(cert.read_bytes()).fingerprint, "me", False)
        restart = update.restart

        def then(client, how="soft_reset"):
            (desk.directory / "wss_trust.txt").write_bytes(trustlist.render([list_]))
            restart(client, how)

        monkeypatch.setattr(update, "restart", then)
        monkeypatch.setattr(update, "BOOT", 0.0)
        with pytest.raises(WssctlError, match="takes no login since") as e:
            update._update(args, Dialler(args))
        assert not isinstance(e.value, BoardError), e
        desk.board.read_until(b"was taken back: no login proved it in 5 s", 60)
        desk.ready()
        assert desk.wssctl("exec", "pass").returncode in (4, 5)
        (desk.directory / "wss_trust.txt").unlink()
        desk.board.restart()
        desk.ready()
        assert desk.runs()[0] == ".frozen"


def full(remote):
    """Another program on the board writes until nothing is free."""
    remote.run("f=open('x','wb')\ntry:\n while 1:\n  f.write(bytes(512))\nexcept OSError:\n f.close()", "write")


@pytest.mark.parametrize("moment", ["_is_there", "change_over"])
def test_another_program_fills_the_flash_meanwhile(fat, keys, monkeypatch, moment):  # noqa: F811
    secrets(monkeypatch, keys)
    work, remotes = getattr(update, moment), []

    def then(remote, *words, **more):
        if not remotes:
            remotes.append(remote)
            full(remote)
        return work(remote, *words, **more)

    monkeypatch.setattr(update, moment, then)
    args = arguments(fat, fat.port)
    with pytest.raises(BoardError, match="its file system is full"):
        update._update(args, Dialler(args))
    for _ in range(2):
        assert fat.runs() == (".frozen", modules.version()) and trial(fat) == "False"
        fat.board.restart()
        fat.ready()
    assert fat.wssctl("exec", "import os; os.remove('x')").returncode == 0
    args.deadline = 60
    assert "->" in update._update(args, Dialler(args)) and fat.runs()[0] == "/flash/wss_a"


@pytest.mark.parametrize("moment", ["_send", "change_over", "restart", "prove"])
def test_ctrl_c(keys, tmp_path, monkeypatch, capsys, moment):
    """The old one goes on, or is back by itself and that is told; the next attempt succeeds."""
    secrets(monkeypatch, keys)
    with desk_of(keys, tmp_path / "a", FROZEN) as desk:
        work = getattr(update, moment)

        def then(*words):
            if moment in ("_send", "change_over"):  # in the middle: all of it is done, and nobody knows
                work(*words)
            raise KeyboardInterrupt

        monkeypatch.setattr(update, moment, then)
        args = arguments(desk, desk.port)
        with pytest.raises(KeyboardInterrupt):
            update._update(args, Dialler(args))
        told = f"NOTE: nobody proves {modules.version()} there now"
        assert (told in capsys.readouterr().err) == (moment in ("change_over", "restart", "prove"))
        if moment == "prove":
            desk.board.read_until(b"was taken back: no login proved it in 5 s", 60)
            desk.ready()
        assert desk.runs() == (".frozen", modules.version()) and trial(desk) == "False"
        monkeypatch.setattr(update, moment, work)
        args.deadline = 60
        assert update._update(args, Dialler(args)) and desk.runs()[0] == "/wss_a"
