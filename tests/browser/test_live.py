"""The live page in a browser: it moves by itself, says when its server has gone, and its one-file form opens without a server."""

import threading
from pathlib import Path

import pytest

from stages import live
from stages.lib.core import loopback
from stages.lib.reporting import live_page, live_runs
from tests.e2e.browser import CHROMIUM, MISSING, window
from tests.test_live import held, now, repository, run_root, write

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason=MISSING)]
__all__ = ["repository"]  # a fixture


def test_page__follows_a_run_and_says_when_the_server_has_gone(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    monkeypatch.setenv("TUTELAGE_RUNS", str(run_root(tmp_path / "runs")))
    write(repository / "data/metrics/student.json", {"heads": {"class": {"top1": 77.5}}})
    folder = tmp_path / "runs" / "distill" / "0123456789abcdef"
    server = loopback.Server(live.Page().respond, 0)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    with window(server.address, width=390, height=840) as seen, held(folder):
        page = seen.page
        page.on("console", lambda message: seen.complaints.append(message.text) if message.type == "error" else None)
        seen.go("/")
        seen.sees("step 120 of 200")
        seen.sees("4 of 4 stages have nothing to do")
        assert float(page.locator("progress").get_attribute("value")) == 0.6
        write(folder / "metrics.jsonl", b'{"step": 150, "loss": 1.5, "images_per_second": 128.0}\n')
        seen.sees("step 150 of 200")
        assert not page.locator("#gone").is_visible() and not seen.complaints and not seen.elsewhere
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert page.locator(".points circle").count() == 1 and page.locator("h1").count() == 1
        server.shutdown()
        server.server_close()
        page.locator("#gone").wait_for()
        assert page.get_by_text("step 150 of 200").is_visible()  # what was known stays


def test_file__opens_without_a_server(tmp_path: Path) -> None:
    place = tmp_path / "live.html"
    place.write_text(live_page.document(now(live_runs.read(run_root(tmp_path / "runs")), {}), live=False))
    with window("file://") as seen:
        page = seen.page
        page.on("console", lambda message: seen.complaints.append(message.text))
        page.goto(place.as_uri())
        seen.sees("Tutelage, now")
        assert not seen.complaints
        assert page.evaluate("getComputedStyle(document.querySelector('h1')).fontWeight") == "700"  # styles are let in
