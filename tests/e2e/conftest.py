"""A real browser in front of a real service."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from app.registry.source import BUNDLED
from tests.conftest import serving

PHOTOS = Path(__import__("skimage").__file__).parent / "data"
CHELSEA = PHOTOS / "chelsea.png"
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # A camera with a moving test picture, and nobody who has to allow its use.
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]
PHONE, DESKTOP = {"width": 375, "height": 812}, {"width": 1280, "height": 860}


def find_browser() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome")
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


@contextlib.contextmanager
def launch():
    """Chromium with an empty profile."""
    from playwright.sync_api import expect, sync_playwright

    # What is waited for comes; on a busy machine it takes longer than the five seconds that are usual.
    expect.set_options(timeout=60_000)
    path = find_browser()
    if path is None:
        said = "no browser: apt-get install chromium, or say where one is with CHROMIUM=<path>"
        (pytest.fail if os.environ.get("REQUIRE_BROWSER") == "1" else pytest.skip)(said)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


# Not longer: while it runs, so does an event loop in the tests' thread.
@pytest.fixture(scope="module")
def browser():
    with launch() as browser:
        yield browser


@pytest.fixture(scope="module")
def box() -> Iterator:
    """The service with the bundled model."""
    (model,) = BUNDLED.glob("*.onnx")
    with serving(model) as client:
        yield client


class Tab:
    """A page that is opened in a fresh context, and what it did."""

    def __init__(self, context, base_url):
        self.context = context
        self.host = urlsplit(str(base_url)).netloc
        self.requests, self.refused, self.complaints = [], [], []
        context.on("request", lambda request: self.requests.append(request.url))
        context.on("response", lambda response: response.ok or self.refused.append(response.status))
        context.on("console", self._heard)
        context.on("weberror", lambda error: self.complaints.append(str(error.error)))
        context.add_init_script(
            "document.addEventListener('securitypolicyviolation',"
            "e => console.error('policy', e.violatedDirective, e.blockedURI))"
        )
        self.page = context.new_page()
        self.page.set_default_timeout(15_000)
        # Switches the browser's own dialog off before a test is in a hurry.
        self.page.on("filechooser", lambda _: None)
        self.page.goto(str(base_url))

    def _heard(self, message):
        # The browser's own line about an answer that is no success; ``refused`` has those.
        if message.type in ("error", "warning") and not message.text.startswith("Failed to load resource"):
            self.complaints.append(message.text)

    def check(self, *statuses):
        """Nothing left the host, nothing was blocked, nothing failed but what had to."""
        assert self.requests
        assert {urlsplit(url).netloc for url in self.requests if url[:5] not in ("blob:", "data:")} == {self.host}
        assert self.complaints == []
        assert set(self.refused) <= {304, *statuses}


@pytest.fixture
def opened(browser):
    """``opened(client, *expected statuses, **context options)``: a tab; what it did is checked when the test ends."""
    with contextlib.ExitStack() as ends:
        tabs = []

        def opening(client, *statuses, path="/", **options):
            context = browser.new_context(**{"viewport": DESKTOP, "accept_downloads": True, **options})
            ends.callback(context.close)
            tab = Tab(context, client.base_url.join(path))
            tabs.append((tab, statuses))
            return tab.page

        yield opening
        for tab, statuses in tabs:
            tab.check(*statuses)
