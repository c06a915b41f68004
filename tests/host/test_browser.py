"""The page at https://board:8833/ in a real Chromium that holds the host's certificate, and one that does not."""

import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time

import pytest
from browser import Browser, NoBrowser, install
from desk import WSSCTL, Desk, far
from targets import ROOT, Unix

sys.path.insert(0, str(ROOT / "tools/dev"))
import page

SHOTS = ROOT / "build" / "screenshots"
OUT = "document.getElementById('out').textContent"
ASKED = "document.querySelector('form')?.style.display == 'flex'"
STATE = "document.getElementById('state').textContent"


def test_the_module_is_made_from_the_source_and_fits_the_budget():
    assert page.RESULT.read_text() == page.module(), "run tools/dev/page.py"
    head, body = page.response(page.SOURCE.read_text()).split(b"\r\n\r\n", 1)
    assert len(body) <= 8192 and b"Content-Length: %d\r\n" % len(body) in head
    html = gzip.decompress(body).decode()
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", html), "nothing from elsewhere"
    assert b"default-src 'none'" in head and b"unsafe" not in head


def test_a_plain_get_and_what_is_none(desk, keys):
    from peers import Peer

    def get(request):
        peer = Peer(("127.0.0.1", desk.port), keys.host)
        try:
            head = peer.upgrade(request=request)
            length = int(re.search(rb"Content-Length: (\d+)", head)[1])
            while len(peer._buffer) < length:
                peer._buffer += peer.recv()
            return head, peer._buffer
        finally:
            peer.close()

    head, body = get(b"GET / HTTP/1.1\r\nHost: x\r\nAccept: text/html\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK") and b"<title>MicroPython" in gzip.decompress(body)
    for path in (b"/favicon.ico", b"/x", b"/takeover"):
        head, _ = get(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path)
        assert head.startswith(b"HTTP/1.1 426 "), path
    # a page is no session and no refusal
    assert b"{}" in desk.board_says("print(wss_repl.status()['refused'].get('page', {}))")


class PagedDesk(Desk):
    def board_says(self, line):
        self.board.write(line.encode() + b"\r")
        self.board.read_until(line.encode())
        return self.board.read_until(b">>> ")


@pytest.fixture(scope="module")
def desk(keys, tmp_path_factory):
    folder = tmp_path_factory.mktemp("desk")
    shutil.copytree(keys.board, folder / "board")
    with PagedDesk(keys, Unix("unix32"), folder / "board") as running:
        yield running


@pytest.fixture
def home(keys, tmp_path):
    """A home folder whose browser has imported what `wssctl host export --p12` made."""
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "word").write_text("for the browser\n")
    command = [*WSSCTL, "host", "export", "--p12", "--new-passphrase-file", folder / "word", folder / "host.p12"]
    env = os.environ | {"WSSCTL_KEYS": str(keys.directory), "WSSCTL_PASSPHRASE": keys.passphrase}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done
    try:
        install(folder, keys.ca_file, folder / "host.p12", "for the browser")
    except NoBrowser as e:
        pytest.skip(str(e))
    return folder


def logged_in(browser, desk):
    assert browser.go(desk.url.replace("wss:", "https:") + "/") == ""
    browser.until(ASKED)
    browser.type("secret\r")
    browser.until("document.querySelector('#list').children.length > 0")


def click(browser, name):
    browser.until(f"[...document.querySelectorAll('#list span')].some(s => s.textContent == {name!r})")
    browser.js(f"[...document.querySelectorAll('#list button')].find(b => b.textContent.startsWith({name!r})).click()")


def test_a_browser_works_on_the_board(desk, home):
    data = os.urandom(1_000_000)
    (home / "mega.bin").write_bytes(data)
    (desk.directory / "folder").mkdir()
    (desk.directory / "folder" / "inner.txt").write_text("inside\n")
    SHOTS.mkdir(parents=True, exist_ok=True)
    with Browser(home) as browser:
        browser.go(desk.url.replace("wss:", "https:") + "/")
        browser.until(ASKED)
        browser.type("wrong\r")
        browser.until("document.querySelector('form p').textContent.includes('Wrong password')")
        browser.type("secret\r")
        browser.until("document.querySelector('#list').children.length > 0")
        browser.type("print(6*7)\r")
        browser.until(rf"/\n42\n>>> /.test({OUT})")
        browser.type("exec(\"print('go' + 'es')\\nwhile True: pass\")\r")
        browser.until(rf"/\ngoes\n/.test({OUT})")
        browser.control("c")
        browser.until(f"{OUT}.includes('KeyboardInterrupt')")
        # a paste of many lines arrives as it is, not indented twice
        browser.paste("def f(x):\n    if x:\n        return 'pasted'\n    return 0\n\nprint(f(1) * 2)\n")
        browser.until(f"{OUT}.includes('pastedpasted')")
        browser.type("impo\tosx\b; print(99)\r")
        browser.until(rf"/\n99\n>>> $/.test({OUT}.trimEnd() + ' ')")
        # what is no character is shown as such, and the connection goes on
        browser.type("import sys; n = sys.stdout.buffer.write(bytes([65, 255, 66, 10]))\r")
        browser.until(rf"/\nA\ufffdB\n/.test({OUT})")
        # what is typed while the page asks for the file list goes to the board after it
        for _ in range(3):
            browser.js("document.getElementById('refresh').click()")
            browser.js("document.getElementById('keys').focus()")
            browser.type("print('ke' + 'pt')\r")
        browser.until(rf"/(kept\n>>> [^]*){{3}}$/.test({OUT})")
        browser.drop(home / "mega.bin")
        browser.until(f"{STATE} == 'mega.bin: done'", 60)
        assert hashlib.sha256((desk.directory / "mega.bin").read_bytes()).digest() == hashlib.sha256(data).digest()
        browser.js("document.getElementById('state').textContent = ''")
        click(browser, "mega.bin")
        browser.until(f"{STATE} == 'mega.bin: done'", 60)
        deadline = time.monotonic() + 60
        while not (home / "down/mega.bin").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert (home / "down/mega.bin").read_bytes() == data
        click(browser, "folder/")
        browser.until("document.getElementById('where').textContent == '/folder/'")
        click(browser, "inner.txt")
        browser.until(f"{STATE} == 'inner.txt: done'")
        browser.screenshot(SHOTS / "wide.png")
        browser.resize(390, 844, phone=True)
        time.sleep(0.3)
        assert browser.js("document.documentElement.scrollWidth <= innerWidth"), "a phone scrolls sideways"
        browser.screenshot(SHOTS / "phone.png")
        browser.resize(1200, 800)
        # a reset takes the connection; the page comes back by itself
        browser.js("document.getElementById('keys').focus()")
        browser.type("kept = 1\r")
        browser.until(rf"/kept = 1\n>>> $/.test({OUT}.trimEnd() + ' ')")
        browser.control("d")
        browser.until(f"({OUT}.match(/WebREPL connected/g) || []).length == 2", 60)
        browser.type("kept\r")
        browser.until(f"{OUT}.includes('NameError')")
        assert not [e for e in browser.errors if "Content Security" in e or "exceptionDetails" in e], browser.errors


def test_a_browser_without_the_certificate_gets_nothing(desk, keys, tmp_path):
    folder = tmp_path / "home"
    folder.mkdir()
    try:
        install(folder, keys.ca_file)
    except NoBrowser as e:
        pytest.skip(str(e))
    with Browser(folder) as browser:
        error = browser.go(desk.url.replace("wss:", "https:") + "/")
        assert error.startswith("net::ERR_"), error
        assert "MicroPython" not in browser.js("document.documentElement?.outerHTML || ''")
    assert desk.wssctl("exec", "print(1)").stdout == "1\n"


def test_unplugged_under_a_browser_and_back(keys, home, tmp_path):
    with far(keys, tmp_path) as desk, Browser(home) as browser:
        (tmp_path / "big.bin").write_bytes(bytes(30_000_000))
        logged_in(browser, desk)
        browser.drop(tmp_path / "big.bin")
        browser.until("document.querySelector('progress').value > 100000")
        desk.cable.unplug()
        browser.until(f"{STATE}.includes('connecting again')", 60)
        desk.cable.replug()
        browser.until(f"({OUT}.match(/WebREPL connected/g) || []).length == 2", 60)
        assert not (desk.directory / "big.bin").exists()
        browser.js("document.getElementById('keys').focus()")
        browser.type("print(6*7)\r")
        browser.until(rf"/\n42\n>>> /.test({OUT})")
