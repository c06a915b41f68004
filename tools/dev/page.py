#!/usr/bin/env python3
"""Write lib/wss/page.py from tools/dev/page/index.html: stripped of what a browser does not need, compressed, with the
headers that allow it its own script and style and nothing else."""

import base64
import gzip
import hashlib
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
SOURCE, RESULT = ROOT / "tools/dev/page/index.html", ROOT / "lib/wss/page.py"
BUDGET = 8192  # bytes of flash for the body

TEMPLATE = """\
# The page a browser gets, made by tools/dev/page.py from tools/dev/page/index.html. Do not edit.
# In: nothing.  Out: the HTTP response.  Next: the browser.

RESPONSE = (
%s
)
"""


def strip(html: str) -> str:
    """Without indentation, empty lines and lines that are comments: index.html has no strings of many lines."""
    lines = (line.strip() for line in html.splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("//")) + "\n"


def response(html: str) -> bytes:
    page = strip(html)
    body = gzip.compress(page.encode(), 9, mtime=0)

    def allowed(tag: str) -> str:
        found = re.search(f"<{tag}>(.*?)</{tag}>", page, re.S)
        assert found, f"the page has no <{tag}>"
        return "'sha256-%s'" % base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()

    policy = (
        f"default-src 'none'; script-src {allowed('script')}; style-src {allowed('style')}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    head = (
        "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Encoding: gzip\r\n"
        f"Content-Length: {len(body)}\r\nContent-Security-Policy: {policy}\r\n"
        "X-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\nCache-Control: no-store\r\n"
        "Connection: close\r\n\r\n"
    )
    if len(body) > BUDGET:
        raise SystemExit(f"page: {len(body)} bytes are over the budget of {BUDGET}")
    return head.encode() + body


def module() -> str:
    data = response(SOURCE.read_text(encoding="utf-8"))
    return TEMPLATE % "\n".join(f"    {data[i : i + 26]!r}" for i in range(0, len(data), 26))


if __name__ == "__main__":
    RESULT.write_text(module(), encoding="ascii")
    sys.exit(0)
