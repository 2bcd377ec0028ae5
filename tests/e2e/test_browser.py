"""The form and the artifacts as a person meets them, in a browser without a network.

$TUTELAGE_PICTURES names a folder that gets pictures of what the test saw, for docs.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import browser, standins
from tests.e2e.started import Started

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(not browser.CHROMIUM, reason=browser.MISSING)]


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    one = Started(standins.clone(tmp_path_factory.mktemp("browser") / "clone"), "--bare")
    yield one
    one.service.stop(100)
    assert one.server.errors() == []


def test_an_experiment_is_started_through_the_form_and_its_artifacts_are_seen(started: Started, tmp_path: Path) -> None:
    pictures = Path(os.environ.get("TUTELAGE_PICTURES", tmp_path))
    with browser.window(started.url, height=1500) as window:
        window.open_form("form")
        window.fill("name", "try")
        window.choose("Kinds", "hard")
        window.choose("Kinds", "soft")
        window.choose("Model", "deit-small")
        window.field("Alpha").get_by_role("button", name="Add item").click()
        window.fill("Alpha", "7")
        window.submit()
        window.sees("7 is greater than the maximum of 1")  # refused in the form, before anything runs
        assert started.server.post("/flow_runs/filter", flows={"name": {"any_": ["experiment"]}}) == []
        window.fill("Alpha", "0.5")
        window.picture(pictures / "form.png")
        window.submit()

        window.sees("scheduled to start")
        [run] = started.server.post("/flow_runs/filter", flows={"name": {"any_": ["experiment"]}})
        window.go(f"/runs/flow-run/{run['id']}")
        window.sees("Completed", 90)
        assert run["parameters"]["vary"] == {
            **run["parameters"]["vary"],
            "kinds": ["hard", "soft"],
            "model": "deit-small",
            "alpha": [0.5],
        }
        window.page.get_by_text("Artifacts", exact=True).click()
        for key in ("comparison", "picture-markdown", "progress", "report"):
            window.sees(key)
        window.picture(pictures / "artifacts.png")
        window.page.get_by_text("picture-markdown", exact=True).last.click()
        window.sees("below the picture")
        drawn = "[...document.querySelectorAll('img[src^=\"data:image/png\"]')].map(i => i.complete && i.naturalWidth)"
        assert window.page.evaluate(drawn) == [256]
        window.picture(pictures / "picture.png")
        assert window.elsewhere == [] and window.complaints == []
