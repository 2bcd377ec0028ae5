"""The report as a person meets it: it opens without network, draws everything, answers mouse and keyboard, and reads well aloud."""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stages.lib.params.report import Report
from stages.lib.params.sets import Sets
from stages.lib.reporting.inputs import Folder
from stages.lib.reporting.page import page
from tests.browser.opened import Opened, chromium, opened
from tests.e2e.browser import CHROMIUM, MISSING
from tests.reporting import fabricate

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason=MISSING)]
PHONE = {"viewport": {"width": 390, "height": 800}}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as one:
        yield one


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a whole fabricated run."""
    root = tmp_path_factory.mktemp("run")
    fabricate.whole(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        text = page(
            Report(title="Digits", worst_classes=3),
            Sets(main="digits-0-6", transfer=["digits-7-9"]),
            Folder(Path("data")),
        )
    (root / "index.html").write_text(text, encoding="utf-8")
    return root / "index.html"


@pytest.fixture
def report(browser: Any, file: Path) -> Iterator[Opened]:
    with opened(browser, file) as one:
        yield one


def test_report__asks_for_nothing_and_complains_of_nothing(report: Opened, file: Path) -> None:
    assert report.asked == [file.as_uri()] and report.complaints == []


def test_report__every_chart_is_drawn_with_marks(report: Opened) -> None:
    charts = report.count(".chart")
    assert charts > 20 and report.count(".chart[data-drawn]") == charts
    marks = report.page.eval_on_selector_all(
        ".chart .canvas",
        "all => all.map(one => one.querySelectorAll('svg [class*=mark-] :is(path, line, text, rect):not(.background)').length)",
    )
    assert len(marks) == charts and min(marks) > 3


def test_report__the_policy_stops_any_other_script(report: Opened) -> None:
    """Control of the policy: the same browser, the same page, a script whose hash it does not know."""
    report.page.evaluate(
        "() => { const one = document.createElement('script'); one.text = 'window.ran = 1'; document.body.append(one); }"
    )
    assert report.page.evaluate("() => window.ran") is None
    assert any("Content Security Policy" in one or "content security policy" in one for one in report.complaints)


def test_report__a_chart_tells_its_values_under_the_pointer(report: Opened) -> None:
    canvas = report.page.locator("section[aria-labelledby=student] .canvas").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    report.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 90)
    report.page.mouse.move(box["x"] + box["width"] / 2 + 2, box["y"] + 91)
    tooltip = report.page.locator("#vg-tooltip-element.visible")
    tooltip.wait_for()
    assert {"epoch", "training", "validation", "from the teacher"} <= set(
        re.findall(r"[a-z][a-z ]+", tooltip.inner_text())
    )


def test_report__colours_follow_the_theme(browser: Any, file: Path) -> None:
    seen = []
    for scheme in ("light", "dark"):
        with opened(browser, file, color_scheme=scheme) as one:
            curve = one.page.locator("section[aria-labelledby=teacher] .canvas svg .mark-line path").last
            seen.append(
                (
                    curve.evaluate("one => getComputedStyle(one).stroke"),
                    one.page.evaluate("getComputedStyle(document.body).backgroundColor"),
                )
            )
    assert seen[0][0] != seen[1][0] and seen[0][1] != seen[1][1] and "none" not in (seen[0][0], seen[1][0])


def test_report__fits_a_phone(browser: Any, file: Path) -> None:
    with opened(browser, file, **PHONE) as one:
        assert one.page.evaluate("document.documentElement.scrollWidth") <= 390
        assert one.count(".chart[data-drawn]") == one.count(".chart") and one.complaints == []


def test_report__motion_only_for_who_likes_it(browser: Any, file: Path) -> None:
    seen = []
    for motion in ("reduce", "no-preference"):
        with opened(browser, file, "", reduced_motion=motion) as one:
            seen.append(one.page.evaluate("getComputedStyle(document.documentElement).scrollBehavior"))
    assert seen == ["auto", "smooth"]


def test_report__the_slider_moves_by_keyboard(report: Opened) -> None:
    slider = report.page.get_by_role("slider", name="Patches hidden")
    visible = report.page.locator(".slide:visible")
    assert (slider.get_attribute("aria-valuetext"), visible.get_attribute("data-name"), visible.count()) == (
        "75 %",
        "75 %",
        1,
    )
    slider.press("ArrowRight")
    assert (slider.get_attribute("aria-valuetext"), visible.get_attribute("data-name"), visible.count()) == (
        "90 %",
        "90 %",
        1,
    )


def test_report__a_table_is_sorted_by_keyboard_and_says_so(report: Opened) -> None:
    table = report.page.locator("section[aria-labelledby=heads] table").first
    button = table.get_by_role("button", name="Student")
    for state, way in (("descending", -1), ("ascending", 1)):
        button.press("Enter")
        assert table.locator("th[aria-sort]").get_attribute("aria-sort") == state
        cells = [float(cell.split()[0]) for cell in table.locator("tbody tr td:nth-child(2)").all_inner_texts()]
        assert cells == sorted(cells, key=lambda value: way * value) and len(cells) == 10


def test_report__an_album_is_filtered_and_ordered(report: Opened) -> None:
    album = report.page.locator(".albums").first
    album.get_by_label("Show").select_option("worst")
    assert album.locator("li:visible").count() == 3 and album.locator("output").inner_text() == "3 images"
    album.get_by_label("Show").select_option("")
    album.get_by_label("Order").select_option("probability up")
    sure = [
        float(value) for value in album.locator("li").evaluate_all("all => all.map(one => one.dataset.probability)")
    ]
    assert len(sure) == 27 and sure == sorted(sure)


def test_report__the_axis_of_costs_is_chosen(report: Opened) -> None:
    section = report.page.locator("section[aria-labelledby=cost]")
    points = section.locator(".canvas svg .mark-symbol.role-mark path")
    before = points.count()
    section.get_by_label("Across").select_option("images_per_second")
    report.page.wait_for_timeout(500)
    assert before > 30 and points.count() == 15  # 3 RegNetY, 4 DeiT, 8 distilled; nobody else published theirs alike


def test_report__a_number_is_found(report: Opened) -> None:
    report.page.get_by_text("Every number, its file and its place in it").click()
    report.page.get_by_label("Find a number").fill("student nll")
    rows = report.page.locator(".find + .wide tbody tr:visible")
    assert 0 < rows.count() < 10 and all("student" in one and "nll" in one for one in rows.all_inner_texts())


def test_report__headings_landmarks_and_names_are_in_order(report: Opened) -> None:
    levels = report.page.eval_on_selector_all("h1, h2, h3, h4", "all => all.map(one => Number(one.tagName[1]))")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    for role in ("banner", "main", "contentinfo"):
        assert report.page.get_by_role(role).count() == 1, role
    assert report.page.get_by_role("navigation", name="The pipeline").count() == 1
    nameless = report.page.evaluate(
        """() => [...document.querySelectorAll("img, [role=img], input, select, button, nav, section")].filter((one) =>
        !(one.getAttribute("aria-label") || one.getAttribute("alt") || one.getAttribute("aria-labelledby")
          || one.labels?.length || one.textContent.trim())).map((one) => one.outerHTML.slice(0, 80))"""
    )
    assert nameless == []


def test_report__the_keyboard_starts_at_the_skip_link_and_is_seen(report: Opened) -> None:
    report.page.keyboard.press("Tab")
    assert report.page.evaluate("document.activeElement.className") == "skip"
    for _ in range(12):
        report.page.keyboard.press("Tab")
        assert report.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_report__without_javascript_every_number_can_be_read(browser: Any, file: Path) -> None:
    with opened(browser, file, "", java_script_enabled=False) as one:
        assert one.count(".slide:visible") == 3 and one.count(".controls:visible") == 0
        one.page.get_by_text("Numbers: Student: loss by epoch").click()
        assert one.page.locator("section[aria-labelledby=student] .chart table").first.is_visible()
        assert one.page.get_by_text("97.74 %").first.is_visible()
