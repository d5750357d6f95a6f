"""A page in Debian's Chromium, without a screen, driven by playwright; what is missing of them is said in one line."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_QUIET = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync")


def needs_browser() -> None:
    """Skips the test that asks, where there is no browser or nothing to drive it with."""
    pytest.importorskip(
        "playwright.sync_api", reason='playwright is not installed (pip install ".[test-long]"): pages are unverified'
    )
    if CHROMIUM is None:
        pytest.skip("no chromium found (apt-get install chromium): pages are unverified")


@contextmanager
def chromium() -> Iterator[Any]:
    """The browser, for any number of pages."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(_QUIET))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser: Any, file: Path, width: int = 1440, height: int = 900, **context: Any) -> Iterator[Any]:
    """The page of `file` in a window of that size; at the end it must have raised no error and asked for nothing."""
    phone = width < 500
    window = browser.new_context(
        viewport={"width": width, "height": height}, has_touch=phone, is_mobile=phone, **context
    )
    page = window.new_page()
    page.set_default_timeout(60_000)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: errors.append(request.url) if request.url != file.as_uri() else None)
    try:
        page.goto(file.as_uri())
        yield page
        assert errors == []
    finally:
        window.close()
