"""Fixtures of the page's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.addons.web import chromium
from tests.addons.web.chromium import Page


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium.page(tmp_path_factory.mktemp("chromium")) as page:
        yield page


@pytest.fixture
def page(browser: Page) -> Iterator[Page]:
    browser.size(1280, 900)
    browser.errors.clear()
    yield browser
    assert browser.errors == []
