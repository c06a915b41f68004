"""What every room says on standard error: a sentence, or how far something is. And how a board's words are shown."""

import sys
import unicodedata
from typing import Self

# Control characters (C0, DEL, C1), format characters (bidirectional overrides, zero-width ones), halves of surrogate
# pairs, line and paragraph separators: what moves a cursor, hides text, turns its order around or begins a line.
_UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_LONGEST = 300  # characters of a board's words in a sentence of ours


def shown(text: str, keep: str = "") -> str:
    """`text` for a terminal: what is not seen, or does something, as Python writes it (\\x1b, \\u202e), but for the
    characters in `keep`. GNU ls does the same with file names."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c) in _UNSEEN and c not in keep else c
        for c in text
    )


def brief(said: bytes | str) -> str:
    """A board's words for the middle of a sentence: on one line, not longer than a person reads, no full stop."""
    text = said if isinstance(said, str) else said.decode("utf-8", "replace")
    line = " ".join(text[: 4 * _LONGEST].split())
    line = shown(line if len(line) <= _LONGEST else line[:_LONGEST] + "...")
    return line.rstrip(".") or line


def say(text: str) -> None:
    print(shown(text, "\n\t"), file=sys.stderr, flush=True)


class steps:
    """A line that grows on a terminal, one line before and nothing else in a file."""

    def __init__(self, text: str, total: int):
        self.text, self.total, self.done = text, total, 0
        self.live = sys.stderr.isatty()

    def __enter__(self) -> Self:
        print(f"{self.text} ...", end="" if self.live else "\n", file=sys.stderr, flush=True)
        return self

    def __call__(self, _name: str) -> None:
        self.done += 1
        if self.live:
            print(f"\r{self.text} ... {min(self.done, self.total)}/{self.total}", end="", file=sys.stderr, flush=True)

    def __exit__(self, *exc: object) -> None:
        if self.live:
            print(file=sys.stderr, flush=True)
