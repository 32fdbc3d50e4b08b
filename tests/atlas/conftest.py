"""The drawn atlas, opened in a browser."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from residual_lens.atlas.page import render
from tests.atlas.browser import Opener, WatchedPage, headless_chromium
from tests.atlas.drawn_atlas import drawn_atlas


@pytest.fixture(scope="module")
def watched() -> Iterator[WatchedPage]:
    with headless_chromium() as browser:
        yield WatchedPage(browser)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("atlas") / "index.html"
    path.write_text(render(drawn_atlas()), encoding="utf-8")
    return path


@pytest.fixture
def opened(watched: WatchedPage, file: Path) -> Iterator[Opener]:
    """Opens the page at an address; no test passes if the page complained."""

    def open_page(address: str = "", *, path: Path = file, **how: Any) -> Page:
        return watched.open(path, address, **how)

    yield open_page
    watched.require_peace()
