"""What every room says on standard error: a sentence, or how far something is."""

import sys


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class steps:
    """A line that grows on a terminal, one line before and nothing else in a file."""

    def __init__(self, text: str, total: int):
        self.text, self.total, self.done = text, total, 0
        self.live = sys.stderr.isatty()

    def __enter__(self):
        print(f"{self.text} ...", end="" if self.live else "\n", file=sys.stderr, flush=True)
        return self

    def __call__(self, _name: str) -> None:
        self.done += 1
        if self.live:
            print(f"\r{self.text} ... {min(self.done, self.total)}/{self.total}", end="", file=sys.stderr, flush=True)

    def __exit__(self, kind, *exc) -> None:
        if self.live:
            print(file=sys.stderr, flush=True)
