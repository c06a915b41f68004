import pytest


@pytest.fixture(scope="module")
def standing(target, keys, tmp_path_factory):
    """One start for the whole list: a board's boot takes seconds."""
    import shutil

    directory = tmp_path_factory.mktemp("board") / "files"
    shutil.copytree(keys.board, directory)
    with target.board(directory) as running:
        running.suspect = False
        yield running


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if (report.failed or hasattr(report, "wasxfail")) and (board := item.funcargs.get("board")):
        board.suspect = True
        report.sections.append(("the board's console", board.console.log[-2000:].decode(errors="replace")))
    return report


@pytest.fixture
def board(standing):
    """The running board, restarted if the test before failed on it."""
    if standing.suspect:
        standing.restart()
        standing.suspect = False
    return standing
