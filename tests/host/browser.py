"""Chromium, headless, with a certificate store of its own, driven over its DevTools protocol."""

import base64
import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from pathlib import Path

from websockets.sync.client import connect

CONFIG = Path("/etc/chromium")


class NoBrowser(Exception):
    """This machine has none; the message says what to install."""


def install(home: Path, ca: Path, p12: Path | None = None, password: str = "") -> None:
    """Gives `home` a certificate store that trusts `ca` and holds the client certificate in the file `p12`."""
    missing = [c for c in ("chromium", "certutil", "pk12util") if not shutil.which(c)]
    if missing or os.geteuid():
        raise NoBrowser(f"needs root, chromium and libnss3-tools (missing: {', '.join(missing) or 'root'})")
    store = home / ".pki" / "nssdb"
    store.mkdir(parents=True)
    where = ["-d", f"sql:{store}"]
    for command in (
        ["certutil", "-N", *where, "--empty-password"],
        ["certutil", "-A", *where, "-n", "ROOT CA", "-t", "C,,", "-i", ca],
    ):
        subprocess.run(command, check=True, capture_output=True)
    if p12 is not None:
        subprocess.run(["pk12util", "-i", p12, *where, "-W", password, "-K", ""], check=True, capture_output=True)


class Browser:
    """One browser with one page. A policy picks the client certificate, where a person would click on it."""

    def __init__(self, home: Path, width=1200, height=800):
        self.home = home
        policies = home / "etc" / "policies" / "managed"
        policies.mkdir(parents=True)
        chosen = json.dumps({"pattern": "https://[*.]", "filter": {}})
        rules = [json.dumps({"pattern": p, "filter": {}}) for p in ("*", "https://127.0.0.1", "https://localhost")]
        (policies / "test.json").write_text(json.dumps({"AutoSelectCertificateForUrls": [*rules, chosen]}))
        (home / "down").mkdir()
        CONFIG.mkdir(exist_ok=True)
        command = (
            f"mount --bind '{home}/etc' {CONFIG} && exec chromium --headless=new --no-sandbox --disable-gpu "
            f"--disable-dev-shm-usage --no-first-run --disable-background-networking --remote-debugging-port=0 "
            f"--user-data-dir='{home}/profile' --window-size={width},{height} about:blank"
        )
        self.log = open(home / "chromium.log", "wb")  # noqa: SIM115
        self.process = subprocess.Popen(
            ["unshare", "-m", "sh", "-c", command],
            env=os.environ | {"HOME": str(home)},
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )
        self._ids = itertools.count(1)
        self.errors = []
        self._open = contextlib.ExitStack()
        try:
            self._attach()
        except BaseException:
            self.close()
            raise

    def _attach(self):
        file = self.home / "profile" / "DevToolsActivePort"
        deadline = time.monotonic() + 120
        while not (file.exists() and len(lines := file.read_text().split("\n")) > 1):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise NoBrowser(f"Chromium does not start: {(self.home / 'chromium.log').read_text()[-1000:]}")
            time.sleep(0.1)
        with urllib.request.urlopen(f"http://127.0.0.1:{lines[0]}/json/list") as answer:
            page = next(t for t in json.load(answer) if t["type"] == "page")
        self.ws = self._open.enter_context(connect(page["webSocketDebuggerUrl"], max_size=None, open_timeout=60))
        for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
            self.call(f"{domain}.enable")
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(self.home / "down"))

    def call(self, method: str, **params):
        number = next(self._ids)
        self.ws.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self.ws.recv(timeout=60))
            if message.get("id") == number:
                assert "error" not in message, (method, message["error"])
                return message["result"]
            if message.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown"):
                self.errors.append(json.dumps(message["params"]))

    def go(self, url: str) -> str:
        """Opens `url`; returns Chromium's error ("net::ERR_..."), "" when the page came. It tries again where an
        interface of this machine came or went meanwhile, as those of other tests' cables do."""
        for _ in range(5):
            error = self.call("Page.navigate", url=url).get("errorText", "")
            if error != "net::ERR_NETWORK_CHANGED":
                break
        return error

    def js(self, expression: str):
        """The value of an expression in the page; a promise is waited for."""
        result = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def until(self, expression: str, timeout=60.0):
        """Waits until an expression in the page is true; returns its value."""
        deadline = time.monotonic() + timeout
        while not (value := self.js(expression)):
            if time.monotonic() > deadline:
                state = "[document.title, document.body?.innerText.slice(-1500)]"
                raise AssertionError(f"{expression} did not become true: {self.js(state)} {self.errors[-3:]}")
            time.sleep(0.05)
        return value

    def type(self, text: str):
        """Keys, as a person types them."""
        named = {"\r": ("Enter", 13), "\t": ("Tab", 9), "\b": ("Backspace", 8)}
        for c in text:
            if c in named:
                key, code = named[c]
                self.call("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, text=c)
                self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)
            else:
                self.call("Input.insertText", text=c)

    def control(self, letter: str):
        for kind in ("keyDown", "keyUp"):
            code = ord(letter.upper())
            self.call("Input.dispatchKeyEvent", type=kind, key=letter, windowsVirtualKeyCode=code, modifiers=2)

    def paste(self, text: str):
        self.js(
            f"(() => {{ const clipboardData = new DataTransfer(); clipboardData.setData('text', {json.dumps(text)});"
            "document.dispatchEvent(new ClipboardEvent('paste', {clipboardData, bubbles: true})) })()"
        )

    def drop(self, *files: Path):
        """Files dragged from the desktop onto the middle of the page."""
        data = {"items": [], "files": [str(f) for f in files], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, x=200, y=200, data=data)

    def resize(self, width: int, height: int, phone=False):
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )

    def screenshot(self, file: Path):
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def close(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._open.close()
        self.log.close()

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_):
        self.close()
