"""The web page in a real browser: a headless Chromium, and pages that this process serves to it."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

import pytest

# Read when gradio is imported: it would report to its makers over the network.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

DESKTOP = {"width": 1280, "height": 900}
PATIENCE_MS = 90_000
"""How long an action or an expectation waits: the machine may be busy."""
AT_HOME = "127.0.0.1"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium; skips where playwright or Chromium is missing.

    One for each test file and not for the whole session: while playwright runs, its event loop is the one of this
    thread, and `asyncio.run`, which Orbax calls, is refused.
    """
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if chromium is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="needs playwright: pip install -r requirements-dev.txt"
    )
    with playwright.sync_playwright() as driver:
        # Root, as in containers, may not use Chromium's sandbox.
        opened = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


class Visit:
    """What a page of the browser asked for and what went wrong in it."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        """Every address that was asked for, those that were refused, too."""
        self.errors: list[str] = []
        """Uncaught errors of the page's scripts."""

    @property
    def strays(self) -> list[str]:
        """Addresses that are not on this machine."""
        return [url for url in self.asked if not _is_at_home(url)]

    def check(self) -> None:
        """Fail the test for an uncaught error and for a request to the network."""
        assert not self.errors, self.errors
        assert not self.strays, f"the page asked for {self.strays}"


@pytest.fixture
def visits() -> Iterator[list[Visit]]:
    """One for each tab that the test opened. After the test each is checked."""
    made: list[Visit] = []
    yield made
    for visit in made:
        visit.check()


@contextlib.contextmanager
def opener(browser: Any, visits: list[Visit]) -> Iterator[Callable[..., Any]]:
    """A function that opens one more tab with cookies and storage of its own; takes the `viewport`.

    Requests to the network are refused, and noted in `visits`, as uncaught errors are.
    """
    contexts = []

    def open_one(viewport: Mapping[str, int] = MappingProxyType(DESKTOP)) -> Any:
        context = browser.new_context(viewport=dict(viewport))
        context.set_default_timeout(PATIENCE_MS)
        context.route(lambda url: not _is_at_home(url), lambda route: route.abort())
        tab, visit = context.new_page(), Visit()
        tab.on("request", lambda request: visit.asked.append(request.url))
        tab.on("websocket", lambda socket: visit.asked.append(socket.url))
        tab.on("pageerror", lambda error: visit.errors.append(str(error)))
        contexts.append(context)
        visits.append(visit)
        return tab

    yield open_one
    for context in contexts:
        context.close()


@pytest.fixture
def open_tab(browser, visits) -> Iterator[Callable[..., Any]]:
    """Opens tabs that are closed and checked (`visits`) after the test."""
    with opener(browser, visits) as open_one:
        yield open_one


@pytest.fixture(scope="module")
def lasting_tab(browser) -> Iterator[Any]:
    """One tab for all tests of a file: scripts of the page are fetched and read once."""
    visits: list[Visit] = []
    with opener(browser, visits) as open_one:
        yield open_one()
    for visit in visits:
        visit.check()


@pytest.fixture
def page(open_tab) -> Any:
    """One tab of the size of a desktop."""
    return open_tab()


@pytest.fixture
def expect(browser) -> Any:
    """Playwright's `expect`, which waits until what is expected is so."""
    from playwright.sync_api import expect

    expect.set_options(timeout=PATIENCE_MS)
    return expect


@pytest.fixture
def serve_blocks(free_port) -> Iterator[Callable[..., str]]:
    """A function that serves Gradio Blocks from this process and returns their address.

    `launch` holds further arguments of `Blocks.launch`. The server ends with the test.
    """
    served = []

    def start(blocks: Any, launch: Mapping[str, Any] = MappingProxyType({})) -> str:
        _, address, _ = blocks.launch(
            prevent_thread_lock=True,
            server_name=AT_HOME,
            server_port=free_port,
            quiet=True,
            **launch,
        )
        served.append(blocks)
        return address

    yield start
    for blocks in served:
        blocks.close()


def _is_at_home(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme in ("data", "blob", "about") or parts.hostname == AT_HOME
