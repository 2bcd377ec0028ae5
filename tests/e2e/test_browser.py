"""The form, a run and its artifacts as a person meets them: `make prefect` in a clone, a browser without a network.

$TUTELAGE_PICTURES names a folder that gets pictures of what the test saw, for docs.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import workspace
from tests.e2e import browser, fleet
from tests.e2e.server import until
from tests.e2e.started import Started

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(not browser.CHROMIUM, reason=browser.MISSING)]
RUN_SECONDS = 600  # a small experiment, on two cores that others use too


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    clone = tmp_path_factory.mktemp("browser") / "clone"
    fleet.copy(clone)
    workspace.edit(clone, fleet.QUICK)
    for words in (
        ("config", "user.name", "Tester"),
        ("config", "user.email", "t@localhost"),
        ("commit", "-aqm", "quick"),
    ):
        fleet.git(clone, *words)
    (clone / ".venv/bin").mkdir(parents=True)
    (clone / ".venv/bin/python").symlink_to(sys.executable)
    one = Started(clone)
    yield one
    one.service.stop(100)
    assert one.server.errors() == []


def test_an_experiment_is_started_through_the_form_and_its_artifacts_are_seen(started: Started, tmp_path: Path) -> None:
    pictures = Path(os.environ.get("TUTELAGE_PICTURES", tmp_path))
    with browser.window(started.url, height=1400) as window:
        window.open_form("form")
        window.fill("name", "first-look")
        window.choose("distill", "hard")
        window.add("alpha")
        window.fill("alpha", "7")
        window.submit()
        window.sees("7 is greater than the maximum of 1")  # refused in the form, before anything runs
        assert started.server.post("/flow_runs/filter", flows={"name": {"any_": ["experiment"]}}) == []
        window.fill("alpha", "0.5")
        window.field("distill").scroll_into_view_if_needed()
        window.picture(pictures / "form.png")
        assert window.complaints == []  # later Prefect's timeline complains of being left while it draws itself
        window.submit()

        window.sees("scheduled to start")
        [run] = started.server.post("/flow_runs/filter", flows={"name": {"any_": ["experiment"]}})
        until(lambda: started.server.state(run["id"]) in ("Completed", "Failed", "Crashed"), RUN_SECONDS)
        window.go(f"/runs/flow-run/{run['id']}")
        window.sees("Completed")
        [run] = started.server.post("/flow_runs/filter", flows={"name": {"any_": ["experiment"]}})
        assert run["name"] == "first-look" and run["state_name"] == "Completed"
        vary = run["parameters"]["vary"]
        assert (vary["distill"], vary["alpha"]) == (["hard"], [0.5])
        window.picture(pictures / "run.png")
        window.page.get_by_text("Artifacts", exact=True).click()
        for key in ("experiment-first-look", "images-pretrain", "metrics-evaluate-student", "gate-model-student"):
            window.sees(key)
        window.picture(pictures / "artifacts.png")
        window.page.get_by_text("images-pretrain", exact=True).last.click()
        drawn = "[...document.querySelectorAll('img[src^=\"data:image/png\"]')].map(i => i.complete && i.naturalWidth > 100)"
        window.page.wait_for_function(f"{drawn}.some(Boolean)")
        window.picture(pictures / "reconstructions.png")
        window.go(f"/runs/flow-run/{run['id']}")
        window.page.get_by_text("Artifacts", exact=True).click()
        window.page.get_by_text("experiment-first-look", exact=True).last.click()
        window.sees("student.heads.class.top1")
        window.picture(pictures / "comparison.png")
        assert window.elsewhere == []

    saved = workspace.run(started.clone, "dvc", "exp", "show", "--md")
    assert "first-look_distill-hard_alpha-0.5" in saved
    assert fleet.git(started.clone, "status", "--porcelain") == ""
