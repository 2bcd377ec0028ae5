"""`dvc plots show` of our plots: the page holds Vega itself, fetches nothing and draws every plot."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stages.lib.reporting import plots_page
from tests import closure
from tests.browser.opened import READY_SECONDS, chromium, opened
from tests.e2e.browser import CHROMIUM, MISSING
from tests.reporting import fabricate

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason=MISSING)]


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """(page, number of plots) of our plots section and configuration over fabricated files."""
    root = tmp_path_factory.mktemp("plots")
    fabricate.whole(root)
    plots = closure.YML.load(closure.ROOT / "dvc.yaml")["plots"]
    dvc(root, "init", "--no-scm", "--quiet")
    with (root / "dvc.yaml").open("w") as file:
        closure.YML.dump({"plots": plots}, file)
    (root / ".dvc/config").write_text((closure.ROOT / ".dvc/config").read_text())
    shutil.copytree(closure.ROOT / ".dvc/plots", root / ".dvc/plots", ignore=shutil.ignore_patterns("page.html"))
    (root / plots_page.TEMPLATE).write_text(plots_page.template())
    dvc(root, "plots", "show", "--out", "shown")
    return root / "shown/index.html", len(plots)


def dvc(root: Path, *words: str) -> None:
    """Run DVC there."""
    subprocess.run([sys.executable, "-m", "dvc", *words], cwd=root, check=True, capture_output=True, timeout=120)


def test_plots__are_all_drawn_without_network(shown: tuple[Path, int]) -> None:
    path, count = shown
    with chromium() as browser, opened(browser, path, "") as page:
        page.page.wait_for_function(
            "count => document.querySelectorAll('.vega-embed :is(svg, canvas)').length >= count",
            arg=count,
            timeout=READY_SECONDS * 1000,
        )
        assert page.count(".vega-embed") == count > 5
        assert page.asked == [path.as_uri()]
        assert [words for words in page.complaints if not words.startswith("warning")] == []


def test_plots__a_cell_that_was_not_measured_is_no_zero(shown: tuple[Path, int]) -> None:
    """Validation is measured every other epoch: DVC's own template draws a zero between."""
    text = shown[0].read_text()
    (found,) = [spec for spec in re.findall(r"var spec = (.*);\n", text) if '"Validation top-1"' in spec]
    spec = json.loads(found)
    assert spec["transform"] == [{"filter": {"not": {"field": "val_top1", "equal": ""}}}]
    assert any(row["val_top1"] == "" for row in spec["data"]["values"])


def test_template__names_no_host_and_has_a_place_for_plots() -> None:
    text = plots_page.template()
    assert text.count("{plot_divs}") == 1 and "{scripts}" not in text and "<script src" not in text
