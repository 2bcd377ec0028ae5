"""The demo page in a browser: take an image, see bars, attention and a painting; nothing leaves for another host."""

import contextlib
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from stages.demo_page import Page
from stages.lib.core import loopback
from stages.lib.reporting import demo_answers
from tests.e2e.browser import CHROMIUM, MISSING, window
from tests.test_demo_page import lay_out, png
from tests.workspace import edit

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason=MISSING)]


@pytest.fixture(scope="module")
def server(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[loopback.Server]:
    """A student with two heads, an autoencoder, and images to choose from."""
    place = tmp_path_factory.mktemp("demo")
    lay_out(place)
    for name in ("index", "shards"):
        (place / "data" / name).symlink_to(project / "data" / name)
    edit(place, {"sets.main": "digits-7-9", "sets.transfer": ["digits-0-6"]})
    with contextlib.chdir(place):
        one = loopback.Server(Page("student").respond, 0, demo_answers.LARGEST_BYTES)
    threading.Thread(target=one.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield one
    one.shutdown()
    one.server_close()


def test_page__a_sample_by_keyboard_then_an_image_of_ones_own_then_a_broken_one(
    server: loopback.Server, tmp_path: Path
) -> None:
    with window(server.address) as seen:
        page = seen.page
        page.on("console", lambda message: seen.complaints.append(message.text) if message.type == "error" else None)
        seen.go("/")
        assert not page.locator("#results").is_visible()
        page.get_by_role("button", name="8", exact=True).first.focus()
        page.keyboard.press("Enter")
        page.locator("#painted img").nth(1).wait_for()
        assert page.locator("#heads section").count() == 3 and page.locator("#heads li").count() == 9
        widths = page.eval_on_selector_all("#heads .bar i", "all => all.map(one => one.getBoundingClientRect().width)")
        assert widths[0] > widths[1] > widths[2] > 0  # drawn in spite of the policy, the most likely the longest
        assert page.locator("#tokens img").count() == 3
        assert page.eval_on_selector_all(
            "img", "all => all.every(one => one.complete && one.naturalWidth > 0 && one.alt)"
        )
        assert page.get_by_role("button", name="8", exact=True).first.get_attribute("aria-pressed") == "true"
        first = page.locator("#said").inner_text()

        before = page.locator("#painted img").first.get_attribute("src")
        page.get_by_label("Share of patches hidden").focus()
        page.keyboard.press("Home")
        page.get_by_text("What it saw: 16 of 16 patches").or_(
            page.get_by_text("What it saw: 15 of 16 patches")
        ).wait_for()
        assert page.locator("#percent").inner_text() == "5 %"
        assert page.locator("#painted img").first.get_attribute("src") != before

        own = tmp_path / "own.png"
        own.write_bytes(png(60, 40, seed=7))
        page.get_by_label("An image of yours:").set_input_files(str(own))
        page.locator("#said").filter(has_not_text=re.compile(f"^({re.escape(first)}|Asking.*)$")).wait_for()
        assert page.locator("[aria-pressed=true]").count() == 0

        broken = tmp_path / "broken.png"
        broken.write_bytes(b"no image")
        assert not seen.complaints and not seen.elsewhere
        page.get_by_label("An image of yours:").set_input_files(str(broken))
        page.get_by_text("no image that can be read").wait_for()
        assert not page.locator("#results").is_visible() and not seen.elsewhere


def test_page__on_a_phone_is_no_wider_than_the_phone(server: loopback.Server) -> None:
    with window(server.address, width=360, height=740) as seen:
        seen.go("/")
        seen.page.locator("[data-sample]").first.click()
        seen.page.locator("#painted img").nth(1).wait_for()
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= 360
