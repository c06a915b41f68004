"""Where secrets come from: a file named on the command line, the environment, else a question without echo. Never
argv."""

import os
import sys
from collections.abc import Callable

from ..errors import KeyFileError, UsageError
from .store import expanded

MAX_PASSWORD = 64  # lib/wss/login.py
# Shorter ones fall to guessing in minutes once the key file is copied: PKCS #8 slows a guess by 2048 hashes only.
MIN_PASSPHRASE = 8


def from_file(path: str) -> str:
    """The first line of a file, without its end."""
    try:
        text = expanded(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise KeyFileError(f"Cannot read the secret in {path} ({getattr(e, 'strerror', None) or e}).") from None
    secret = text.split("\n", 1)[0].rstrip("\r")
    if not secret:
        raise KeyFileError(f"The first line of {path} is empty; put the secret there.")
    return secret


def secret(question: str, file: str | None, *variables: str, option: str) -> str:
    """Raises UsageError when there is nobody to ask."""
    if (known := given(file, *variables)) is not None:
        return known
    try:
        return _typed(question)
    except EOFError:
        raise UsageError(
            f"{question} is needed and there is no terminal to ask on: give {option} FILE or set {variables[0]}."
        ) from None


def given(file: str | None, *variables: str) -> str | None:
    if file:
        return from_file(file)
    return next((os.environ[v] for v in variables if os.environ.get(v)), None)


def new_secret(question: str, file: str | None, *variables: str, option: str) -> str:
    """As secret(), typed twice, and not too short."""
    known = given(file, *variables)
    chosen = known or secret(question, file, *variables, option=option)
    if len(chosen) < MIN_PASSPHRASE:
        raise UsageError(f"{question}: {len(chosen)} characters are too few, take {MIN_PASSPHRASE} or more.")
    if known is None and _typed(f"{question}, again") != chosen:
        raise UsageError("The two passphrases differ; nothing was made, try again.")
    return chosen


def deferred(question: str, file: str | None, *variables: str, option: str) -> Callable[[], str]:
    """A function that asks when called and remembers, for keys that may turn out not to be encrypted."""
    answers: list[str] = []

    def answer() -> str:
        if not answers:
            answers.append(secret(question, file, *variables, option=option))
        return answers[0]

    return answer


def yes(question: str, option: str) -> bool:
    """Raises UsageError when there is nobody to ask."""
    if not sys.stdin.isatty():
        raise UsageError(f"{question} There is no terminal to ask on: {option} says yes.")
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


def _typed(question: str) -> str:
    if not (sys.stdin and sys.stdin.isatty()) and not os.path.exists("/dev/tty"):
        raise EOFError
    try:
        with open("/dev/tty", "rb") if os.path.exists("/dev/tty") else sys.stdin:
            pass
    except OSError:  # no controlling terminal: getpass would fall back to echoing standard input
        raise EOFError from None
    import getpass

    return getpass.getpass(f"{question}: ")


def check_password(password: str) -> str:
    if not 0 < len(password.encode()) <= MAX_PASSWORD or any(c in password for c in "\r\n\0"):
        raise UsageError(f"A board's password has 1 to {MAX_PASSWORD} bytes and no line end. Nothing was changed.")
    return password
