"""Prefect's UI as a person meets it: the distribution's Chromium, driven by Playwright, which downloads no browser of its own.

Used by test_browser.py, and for pictures in docs: `python -m tests.e2e.browser http://127.0.0.1:4200/dashboard docs/dashboard.png`.
"""

import contextlib
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MISSING = "there is no chromium on this machine (Debian: apt-get install chromium)"
SWITCHES = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]  # root in a container, as CI is
WAIT_SECONDS = 30.0  # for anything to appear; two busy cores


class Window:
    """One page of the browser at one server; remembers what it asked of other hosts and what its scripts complained about."""

    def __init__(self, page: Any, server: str) -> None:
        self.page, self.server = page, server.rstrip("/")
        self.elsewhere: list[str] = []
        self.complaints: list[str] = []
        page.set_default_timeout(WAIT_SECONDS * 1000)
        page.on("request", lambda request: self._note(request.url))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _note(self, url: str) -> None:
        if urlsplit(url).hostname not in (urlsplit(self.server).hostname, None):
            self.elsewhere.append(url)

    def go(self, path: str) -> None:
        """Open a path of the server and wait for the page to stand still."""
        self.page.goto(self.server + path)
        self.page.wait_for_load_state("networkidle")

    def open_form(self, deployment: str) -> None:
        """From the list of deployments to a deployment's form for a run with other parameters."""
        self.go("/deployments")
        self.page.get_by_text(deployment, exact=True).first.click()
        self.page.get_by_role("button", name="Run", exact=True).click()
        form = self.page.get_by_role("button", name="Submit")
        item = self.page.get_by_text(
            "Custom run"
        )  # where no parameter is required there is a menu: quick run, custom run
        item.or_(form).first.wait_for()
        if item.count():
            item.first.click()
        form.wait_for()

    def field(self, title: str) -> Any:
        """The form's field with this title, as it stands above it, without `(Optional)`."""
        label = (
            self.page.locator("label").filter(has_text=re.compile(rf"^\s*{re.escape(title)}( \(Optional\))?\s*$")).first
        )
        return self.page.locator(".schema-form-property", has=label).last

    def choose(self, title: str, option: str) -> None:
        """Choose from a drop-down (of one or of several values)."""
        control = self.field(title).locator(".p-select-button__control").first
        control.focus()
        control.press("ArrowDown")
        self.page.locator("[class*=p-select-option]").get_by_text(option, exact=True).first.click()
        self.page.keyboard.press("Escape")

    def add(self, title: str) -> None:
        """Add a value to a list; again where a menu that was just closing took the click."""
        field = self.field(title)
        for _ in range(5):
            field.get_by_role("button", name="Add item").click()
            self.page.wait_for_timeout(1000)
            if field.locator("input, textarea").count():
                return

    def fill(self, title: str, text: str) -> None:
        """Write into a field of text or a number."""
        self.field(title).locator("input, textarea").first.fill(text)

    def submit(self) -> None:
        """Send the form."""
        self.page.get_by_role("button", name="Submit").click()

    def sees(self, text: str, seconds: float = WAIT_SECONDS) -> None:
        """Wait until the text is to be seen somewhere. Raises Playwright's TimeoutError."""
        self.page.get_by_text(text).first.wait_for(timeout=seconds * 1000)

    def picture(self, path: Path) -> None:
        """Write what is to be seen as a PNG."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.wait_for_timeout(1000)  # what has just appeared is still fading in
        self.page.screenshot(path=str(path))


@contextlib.contextmanager
def window(server: str, width: int = 1280, height: int = 900) -> Iterator[Window]:
    """A window of width x height pixels at `server` (http://host:port)."""
    from playwright.sync_api import sync_playwright

    assert CHROMIUM, MISSING
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)
        try:
            yield Window(browser.new_page(viewport={"width": width, "height": height}), server)
        finally:
            browser.close()


def main(url: str, path: str) -> None:
    """Take a picture of the page at `url`."""
    parts = urlsplit(url)
    with window(f"{parts.scheme}://{parts.netloc}") as one:
        one.go(parts.path + (f"?{parts.query}" if parts.query else ""))
        one.page.wait_for_timeout(2000)
        one.picture(Path(path))


if __name__ == "__main__":
    main(*sys.argv[1:])
