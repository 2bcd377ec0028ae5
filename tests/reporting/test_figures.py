"""Figures: the right curves, in the page's colours, the same bytes on every run."""

import re

import pytest

from stages.lib.reporting import figures, style
from stages.lib.reporting.figures import Line, Mark

FALLING = [(0.0, 2.0), (1.0, 1.0), (2.0, 0.5)]
MARKS = [Mark("Teacher", 96.0, (93.0, 98.0), "teacher", True), Mark("class head", 80.0, (75.0, 85.0), "student", False)]


def test_curves__name_axes_with_units_and_every_line() -> None:
    svg = figures.curves(
        "Loss", "nats", [Line("training", FALLING, "muted"), Line("validation", FALLING[1:], "mae", ":")]
    )
    words = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    assert {"Loss", "nats", "epoch", "training", "validation"} <= set(words)
    assert 'role="img" aria-label="Loss by epoch"' in svg


def test_curves__draw_the_points_given() -> None:
    """Three points an octave apart lie at heights 4 : 2 : 1 above where zero would be."""
    svg = figures.curves("Loss", "nats", [Line("", FALLING, "mae")])
    (path,) = re.findall(r'<path d="([^"]*)"[^>]*stroke: var\(--mae\)', svg)
    (x0, y0), (x1, y1), (x2, y2) = [(float(x), float(y)) for x, y in re.findall(r"([\d.]+) ([\d.]+)", path)]
    assert (
        x1 - x0 == pytest.approx(x2 - x1, abs=1e-3) and (y1 - y0) == pytest.approx(2 * (y2 - y1), abs=1e-3) and y0 < y1
    )


def test_curves__a_line_without_points_is_left_out_and_none_draws_nothing() -> None:
    assert figures.curves("Loss", "nats", [Line("empty", [], "mae")]) == ""
    assert "empty" not in figures.curves("Loss", "nats", [Line("empty", [], "mae"), Line("full", FALLING, "muted")])


def test_curves__a_single_point_can_be_seen() -> None:
    one, many = (figures.curves("Loss", "nats", [Line("", points, "mae")]) for points in (FALLING[:1], FALLING))
    dot = re.compile(r"<use[^>]*fill: var\(--mae\)")
    assert dot.search(one) and not dot.search(many)


def test_accuracies__a_row_a_mark_and_the_interval() -> None:
    svg = figures.accuracies(MARKS)
    assert {"Teacher", "class head"} <= set(re.findall(r"<text[^>]*>([^<]*)</text>", svg))
    assert "var(--teacher)" in svg and "var(--student)" in svg
    assert figures.accuracies([]) == ""


def test_figures__same_bytes_twice_and_other_bytes_for_other_data() -> None:
    assert figures.accuracies(MARKS) == figures.accuracies(MARKS) != figures.accuracies(MARKS[:1])
    lines = [Line("a", FALLING, "mae")]
    assert figures.curves("A", "nats", lines) == figures.curves("A", "nats", lines)
    assert figures.curves("A", "nats", lines) != figures.curves("A", "nats", [Line("a", FALLING[:2], "mae")])


def test_figures__hold_no_date_address_or_colour_of_their_own() -> None:
    for svg in (figures.accuracies(MARKS), figures.curves("A", "nats", [Line("a", FALLING, "mae")])):
        assert not re.search(r"metadata|matplotlib|://|<style|font-family|xmlns|#[0-9a-f]{6}\b", svg)
        assert set(re.findall(r"var\(--(\w+)\)", svg)) <= set(style.HUES)
        assert svg.startswith("<svg viewBox=") and svg.endswith("</svg>")


def test_figures__words_are_escaped() -> None:
    svg = figures.curves("<b>&", "nats", [Line("<i>", FALLING, "mae"), Line("x", FALLING, "muted")])
    assert "<b>" not in svg and "<i>" not in svg and "&lt;b&gt;&amp;" in svg


def test_figures__a_formula_in_a_name_is_no_formula() -> None:
    assert "price_$1$" in figures.accuracies([Mark("price_$1$", 50.0, (40.0, 60.0), "mae", True)])


def test_sheet__themes_and_figures_know_the_same_colours() -> None:
    assert set(figures.COLOURS) <= set(style.HUES)
    assert style.sheet().count("--student:") == 3  # light, dark, print
