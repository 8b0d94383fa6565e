"""One JupyterLab, one Chromium and one page for all browser tests: `python -m pytest tests/browser`.

They are a pytest process of their own: Playwright keeps an event loop running, and `asyncio.run` fails beside it.
Pictures of what the tests saw go to the folder named in `DREAMO_SCREENSHOTS`, else to a temporary one.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.browser.lab import CHROMIUM, FLAGS, Lab, what_is_missing
from tests.browser.notebook_page import NotebookPage
from tests.browser.screen import Screen
from tests.browser.shop import Shop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FIGURES = pytest.StashKey[list[str]]()
FAILED = pytest.StashKey[bool]()


# A bound that is only reached where something is broken, whatever else the machine does.
expect.set_options(timeout=30_000)


def pytest_configure(config):
    config.stash[FIGURES] = []


def pytest_collection_modifyitems(items):
    for item in items:
        item.add_marker(pytest.mark.slow)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed and "screen" in item.funcargs:  # now: afterwards the notebook is closed
        item.stash[FAILED] = True
        screen = item.funcargs["screen"]
        path = screen.take(f"{item.name}-{call.when}")
        report.sections.append(("Screenshot", f"{path}\n{screen.errors or 'no script failed'}"))
    return report


def pytest_terminal_summary(terminalreporter, config):
    """Print what was measured; nothing else shows it when all tests pass."""
    for figure in config.stash[FIGURES]:
        terminalreporter.write_line(figure)


@pytest.fixture(scope="session")
def lab(tmp_path_factory) -> Iterator[Lab]:
    missing = what_is_missing()
    if missing and os.environ.get("CI"):
        pytest.fail(missing)  # a skipped test would look like a passed one there
    if missing:
        pytest.skip(missing)
    # Also when the tests are cut short, by a time limit say, no server and no kernel is left behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with Lab(tmp_path_factory.mktemp("lab")) as lab:
        yield lab


@pytest.fixture(scope="session")
def browser(lab) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    return Path(os.environ.get("DREAMO_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))


@pytest.fixture(scope="session")
def screen(lab, browser, pictures) -> Screen:
    """JupyterLab's page, once for all tests: a page for each takes three times as long."""
    return Screen(browser.new_context().new_page(), lab, pictures)


@pytest.fixture
def tab(request, browser, pictures) -> Iterator[Page]:
    """A page of its own; its last look is kept as a picture."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    yield page
    page.screenshot(path=pictures / f"{request.node.name}.png")
    context.close()


@pytest.fixture
def page(request, screen) -> Iterator[Page]:
    """The page; afterwards it is as it was, and no script in it may have failed."""
    screen.reset()
    yield screen.page
    assert screen.errors == [] or request.node.stash.get(FAILED, False)


@pytest.fixture
def notebook(request, page, lab) -> Iterator[Callable[..., NotebookPage]]:
    """Open a notebook with the given cells; it is closed when the test is over."""
    opened: list[NotebookPage] = []

    def open_(*cells: str) -> NotebookPage:
        opened.append(NotebookPage(page, lab.root / f"{request.node.name}-{len(opened)}.ipynb", *cells))
        opened[-1].open()
        return opened[-1]

    yield open_
    for notebook in opened:
        notebook.close()


@pytest.fixture
def shop(tmp_path) -> Iterator[Shop]:
    with Shop(tmp_path) as shop:
        yield shop


@pytest.fixture
def measured(request) -> Callable[[str], None]:
    """Keep a figure for the end of the session's report."""
    return request.config.stash[FIGURES].append
