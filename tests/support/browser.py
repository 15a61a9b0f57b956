"""Pages in the system's Chromium, driven by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

EXECUTABLE = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WIDE = (1200, 900)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start Chromium without a window, and end it afterwards."""
    with sync_playwright() as playwright:
        # The sandbox does not work for root in a container.
        browser = playwright.chromium.launch(executable_path=EXECUTABLE, chromium_sandbox=False)
        try:
            yield browser
        finally:
            browser.close()


def open_page(browser: Browser, path: Path) -> tuple[Page, list[str], list[str]]:
    """Open a file. Return the page, and lists that grow: the lines of its console, and the addresses it requests."""
    console: list[str] = []
    requests: list[str] = []
    page = browser.new_page()
    resize(page, *WIDE)
    page.on("console", lambda message: console.append(message.text))
    page.on("pageerror", lambda error: console.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri())
    return page, console, requests


def resize(page: Page, width: int, height: int) -> None:
    """Give the window of a page a size in pixels."""
    page.set_viewport_size({"width": width, "height": height})


def middle(page: Page, expression: str) -> tuple[float, float]:
    """Scroll the element of an expression into view, and return its middle in the window."""
    page.evaluate(f"{expression}.scrollIntoView({{block: 'center'}})")
    x, y, width, height = page.evaluate(
        f"(() => {{ const b = {expression}.getBoundingClientRect(); return [b.x, b.y, b.width, b.height] }})()"
    )
    return x + width / 2, y + height / 2
