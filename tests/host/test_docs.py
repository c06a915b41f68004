"""What README, SECURITY, CONTRIBUTING and docs/ say: their links lead somewhere, and their commands are ones."""

import re
import shlex
from xml.etree import ElementTree

import pytest
from targets import ROOT
from wssctl.cli import build_parser
from wssctl.tools.shell_commands import COMMANDS

PAGES = [ROOT / n for n in ("README.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md", "tools/ansible/README.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))


def test_the_front_page_is_short():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 120 and max(map(len, lines)) <= 120


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        assert "://" in link or (page.parent / link).exists(), link


def test_pictures_are_small_and_ask_nobody_for_anything():
    for name, most in (("run.svg", 60_000), ("page.png", 60_000)):
        assert (ROOT / "docs" / name).stat().st_size < most and f"docs/{name}" in (ROOT / "README.md").read_text()
    picture = (ROOT / "docs/run.svg").read_text()
    ElementTree.fromstring(picture)
    assert "url(http" not in picture and "href" not in picture and "<script" not in picture


def test_what_security_promises_has_its_test():
    """Each test that SECURITY.md names is there: `test_x.py` in tests/host, or in tests/evidence, and in it each
    `test_name` that follows, of which `…` leaves the end out."""
    file, seen = None, 0
    for name, end in re.findall(r"`((?:evidence/)?test_\w+(?:\.py)?)(…?)`", (ROOT / "SECURITY.md").read_text()):
        seen += 1
        if name.endswith(".py"):
            file = ROOT / "tests" / (name if "/" in name else f"host/{name}")
            assert file.exists(), name
        else:
            assert re.search(rf"^def {name}{'' if end else '[(]'}", file.read_text(), re.M), (file.name, name)
    assert seen > 40


def commands(parser, words=()):
    """(words, parser) of all commands."""
    yield words, parser
    for action in parser._actions:
        for name, below in (action.choices or {}).items() if hasattr(action, "_parser_class") else ():
            yield from commands(below, (*words, name))


HELP = list(commands(build_parser()))


@pytest.mark.parametrize("words, parser", HELP, ids=[" ".join(words) or "wssctl" for words, _ in HELP])
def test_help_is_a_screen_and_says_what_each_thing_is_for(words, parser, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = parser.format_help().splitlines()
    assert len(lines) <= (45 if words else 55)
    assert (parser.description or "")[:1].isupper()
    assert all(line[:1] == " " or len(line) <= 80 for line in lines)
    for action in parser._actions:
        if action.metavar not in ("COMMAND", "ACTION"):
            assert action.help, action


def test_the_shells_commands_are_listed():
    said = re.search(r"`help` lists, beside `keys` and `exit`,\s+`([^`]+)`", (ROOT / "docs/tools.md").read_text())[1]
    assert set(said.split()) == set(COMMANDS) - {"help", "keys", "exit"}


def test_contributing_names_each_stage():
    said = (ROOT / "CONTRIBUTING.md").read_text()
    stages = [p.name for p in (ROOT / "lib/wss").glob("*.py")]
    assert len(stages) > 20 and [name for name in stages if not re.search(rf"^ .*\b{name}", said, re.M)] == []


def test_the_protocols_page_has_each_code_that_is_sent_and_no_other():
    """HTTP statuses of the upgrade, and WebSocket close codes."""
    code = "".join(p.read_text() for p in (ROOT / "lib/wss").glob("*.py"))
    sent = set(re.findall(r"(?:Refused|closing)\((\d{3,})", code))
    told = set(re.findall(r"^\| (\d{3,4}) \|", (ROOT / "docs/protocol.md").read_text(), re.M))
    assert told == sent and len(sent) > 8


KNOWN = {words for words, _ in commands(build_parser())}
assert len(KNOWN) > 30


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_commands_are_ones(page):
    """Every `wssctl WORD WORD` in code names a command that there is, as far as it names one."""
    for said in re.findall(r"(?:^|[`$(] ?| {4})wssctl ([^`#\n|&]+)", page.read_text(), re.M):
        try:
            words = shlex.split(said)
        except ValueError:
            words = said.split()
        words = [w for w in words if not w.startswith(("-", "$"))]
        if not words or not re.fullmatch(r"[a-z]+", words[0]):
            continue
        assert (words[0],) in KNOWN, said
        deeper = {k[1] for k in KNOWN if len(k) == 2 and k[0] == words[0]}
        if deeper and len(words) > 1 and re.fullmatch(r"[a-z]+", words[1]):
            for word in words[1].split("|"):
                assert word in deeper, said
