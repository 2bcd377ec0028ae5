"""A file opened in the distribution's headless Chromium, with everything it asked for and complained about."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.e2e.browser import CHROMIUM, SWITCHES

READY_SECONDS = 60.0  # for every chart to be drawn; two busy cores


@dataclass
class Opened:
    """One page of the browser."""

    page: Any
    asked: list[str] = field(default_factory=list)  # every address but data:, the file's own among them
    complaints: list[str] = field(default_factory=list)  # what was written to the console, and errors nobody caught

    def count(self, selector: str) -> int:
        """How many elements a selector finds."""
        return int(self.page.locator(selector).count())


@contextmanager
def chromium() -> Iterator[Any]:
    """The browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser: Any, path: Path, ready: str = "html[data-ready]", **context: Any) -> Iterator[Opened]:
    """The file at `path`, once `ready` is there ("": at once); context: width, theme, JavaScript, as Playwright has them."""
    settings: dict[str, Any] = {"viewport": {"width": 1200, "height": 900}, "offline": True} | context
    with browser.new_context(**settings) as one:
        found = Opened(one.new_page())
        found.page.on(
            "request", lambda request: None if request.url.startswith("data:") else found.asked.append(request.url)
        )
        found.page.on("console", lambda message: found.complaints.append(f"{message.type}: {message.text}"))
        found.page.on("pageerror", lambda error: found.complaints.append(str(error)))
        found.page.goto(path.as_uri())
        if ready:
            found.page.wait_for_selector(ready, state="attached", timeout=READY_SECONDS * 1000)
        yield found
