"""A real browser for tests of pages: headless Chromium, which tells of everything that went wrong in it."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.sync_api import Browser, Page, Request, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
Opener = Callable[..., Page]
"""Opens the drawn atlas, or another file, at an address (fixture `opened`)."""
EVERYTHING = (
    "units=L1H1,L2H3,0_mlp_out&pinned=L1H1,L2H3&measure=twonn&task=texture&component=2&search=stripes&attention=30"
)
"""An address of the drawn atlas with all that it can hold."""
MISSING = "there is no Chromium to open pages with: apt-get install chromium"


@contextmanager
def headless_chromium() -> Iterator[Browser]:
    """The distribution's Chromium; where there is none, CI fails and everybody else skips."""
    paths = [path for path in map(shutil.which, NAMES) if path is not None]
    if not paths:
        if os.environ.get("CI"):
            pytest.fail(MISSING)
        pytest.skip(MISSING)
    with sync_playwright() as playwright:
        # Chromium's own sandbox cannot be had by root, which containers run as; these pages are our own.
        browser = playwright.chromium.launch(executable_path=paths[0], args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


class WatchedPage:
    """A page that is opened from disk, and what a reader should never have to see. One serves many tests."""

    def __init__(self, browser: Browser) -> None:
        self._page = browser.new_page(reduced_motion="reduce")
        self._problems: list[str] = []
        # Warnings, and what the content security policy forbade, arrive at the console as well.
        self._page.on("console", lambda message: self._problems.append(f"console: {message.text}"))
        self._page.on("pageerror", lambda error: self._problems.append(f"error: {error}"))
        self._page.on("requestfailed", lambda request: self._problems.append(f"failed: {request.url[:200]}"))
        self._page.on("request", self._hear)

    def _hear(self, request: Request) -> None:
        if not request.url.startswith(("file:", "data:")):
            self._problems.append(f"asked for from elsewhere: {request.url[:200]}")

    def open(
        self, file: Path, address: str = "", *, width: int = 1280, scheme: Literal["light", "dark"] = "light"
    ) -> Page:
        """Open a file anew, with what shall stand behind "#"."""
        self._page.set_viewport_size({"width": width, "height": 900})
        self._page.emulate_media(color_scheme=scheme)
        # Else another address of the same file would be a step within the page.
        self._page.goto("about:blank")
        self._page.goto(f"{file.as_uri()}#{address}")
        return self._page

    def require_peace(self) -> None:
        """Fail if anything went wrong, or was asked for from elsewhere, since this was called last."""
        problems, self._problems = self._problems, []
        assert not problems, problems


def cell(page: Page, unit: str) -> Any:
    """A unit's place in the grid."""
    return page.locator(f'.grid [data-unit="{unit}"]')


def cards(page: Page) -> list[str]:
    """Names of the units that are open."""
    return page.locator(".card h2").all_text_contents()
