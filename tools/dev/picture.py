#!/usr/bin/env python3
"""make picture: docs/run.svg, what `make run` shows on a terminal, and docs/page.png, the board's page in Chromium.

Both are of a real run with keys of its own, in build/picture. The paths of this machine are cut off at the checkout.
"""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "host")]

from board import Board  # noqa: E402
from browser import Browser, NoBrowser, install  # noqa: E402
from desk import Terminal  # noqa: E402

PLACE = ROOT / "build" / "picture"
MOST = 60_000  # bytes of a picture
TYPED = ("import wss_repl", "wss_repl.status()['host']", "sum(range(1_000_000))")


def session() -> str:
    """What a terminal shows from `make run` to its end, with a few lines typed at the board's prompt."""
    shutil.rmtree(PLACE, ignore_errors=True)
    begin = f"import pathlib, sys, run; run.DEMO = pathlib.Path({str(PLACE)!r}); sys.exit(run.main())"
    env = os.environ | {"TERM": "xterm", "USER": "ana", "PYTHONPATH": str(ROOT / "tools/dev")}
    env = {n: v for n, v in env.items() if not n.startswith("WSSCTL")}
    with Terminal(sys.executable, "-c", begin, env=env, cwd=ROOT) as terminal:
        terminal.until(">>> ", 120)
        for line in TYPED:
            terminal.type(line + "\r")
            terminal.until(">>> ", 60)
        terminal.type("\x1d")
        terminal.wait(60)
    text = terminal.seen.decode().replace(f"{ROOT}/", "").replace("\r", "")
    return "$ make run\n" + text.rstrip() + "\n"


def cast(text: str) -> str:
    console = Console(record=True, width=112, file=open(os.devnull, "w"), force_terminal=True)  # noqa: SIM115
    for line in text.splitlines():
        words = Text.from_ansi(line)
        if line.startswith("$ "):
            words.stylize("bold green")
        console.print(words, soft_wrap=False)
    svg = console.export_svg(title="make run")
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.S)  # nothing from elsewhere: any monospace font will do


def page() -> bytes:
    """A PNG of the page of the same board, after a login."""
    secret = {name: (PLACE / name).read_text() for name in ("passphrase", "password")}
    port = re.search(r"port=(\d+)", (PLACE / "board/boot.py").read_text())
    assert port, "boot.py names no port"
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        (home / "word").write_text("for the browser\n")
        words: list[str | Path] = ["host", "export", "--p12", "--new-passphrase-file", home / "word", home / "host.p12"]
        env = os.environ | {"USER": "ana", "WSSCTL_KEYS": str(PLACE / "keys")}
        env["WSSCTL_PASSPHRASE"] = secret["passphrase"]
        subprocess.run([sys.executable, "-m", "wssctl", *words], env=env, check=True, stdout=subprocess.DEVNULL)
        install(home, PLACE / "keys/ROOT_CA_cert.pem", home / "host.p12", "for the browser")
        with Board(PLACE / "board") as board, contextlib.closing(Browser(home, 900, 480)) as browser:
            board.read_until(b"wss_repl: listening", 30)
            if error := browser.go(f"https://localhost:{port[1]}/"):
                raise NoBrowser(error)
            browser.until("document.querySelector('form')?.style.display == 'flex'", 60)
            browser.type(secret["password"] + "\r")
            out = "document.getElementById('out').textContent"
            browser.until(f"/>>> $/.test({out}.trimEnd() + ' ')", 60)
            for line in TYPED:
                browser.type(line + "\r")
            browser.until(f"{out}.includes('499999500000')", 60)
            browser.screenshot(home / "page.png")
            return (home / "page.png").read_bytes()


def write(name: str, data: bytes) -> None:
    if len(data) > MOST:
        sys.exit(f"picture: {name} has {len(data)} bytes, more than {MOST}")
    (ROOT / "docs" / name).write_bytes(data)
    print(f"docs/{name}: {len(data)} bytes")


def main() -> int:
    write("run.svg", cast(session()).encode())
    try:
        write("page.png", page())
    except NoBrowser as e:
        sys.exit(f"picture: no page.png: {e}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
