"""Charts: the right numbers in the right places, in the page's colours, the same text on every run."""

import itertools
import json
import re
from typing import Any

import pytest

from stages.lib.reporting import charts, style
from stages.lib.reporting.charts import Line, Mark
from stages.lib.reporting.markup import DASH
from tests.reporting.reading import read

FALLING = [(0.0, 2.0), (1.0, 1.0), (2.0, 0.5)]
MARKS = [Mark("Teacher", 96.0, (93.0, 98.0), "teacher", True), Mark("class head", 80.0, (75.0, 85.0), "student", False)]
LINES = [Line("training", FALLING, "muted"), Line("validation", FALLING[1:], "mae", (2, 3))]
CELLS = [
    {"actual": "cat", "predicted": "cat", "images": 3, "of": 4},
    {"actual": "cat", "predicted": "dog", "images": 1, "of": 4},
]


def spec(chart: str) -> dict[str, Any]:
    """The specification inside a chart."""
    ((kind, content),) = read(chart).scripts
    assert kind == "application/json"
    return json.loads(content)


def test_curves__hold_every_point_and_name_axes_with_units() -> None:
    drawn = spec(charts.curves("Loss", "nats", LINES))
    points = {(row["line"], row["epoch"], row["value"]) for row in drawn["data"]["values"]}
    assert points == {("training", *point) for point in FALLING} | {("validation", *point) for point in FALLING[1:]}
    curve = drawn["layer"][0]["encoding"]
    assert drawn["encoding"]["x"]["title"] == "epoch" and curve["y"]["title"] == "nats" and drawn["title"] == "Loss"
    assert curve["color"]["scale"] == {"domain": ["training", "validation"], "range": ["var(--muted)", "var(--mae)"]}
    assert curve["strokeDash"]["scale"]["range"] == [[1, 0], [2, 3]]


def test_curves__say_every_value_under_the_pointer() -> None:
    pointer = spec(charts.curves("Loss", "nats", LINES))["layer"][1]
    told = {one["title"] for one in pointer["encoding"]["tooltip"] if "title" in one}
    assert told == {"training", "validation"} and pointer["params"][0]["select"]["nearest"] is True


def test_curves__the_same_numbers_stand_in_a_table() -> None:
    chart = charts.curves("Loss", "nats", LINES)
    cells = re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", chart[chart.index("<tbody>") :])
    assert cells == ["0", "2", DASH, "1", "1", "1", "2", "0.5", "0.5"]


def test_curves__a_line_without_points_is_left_out_and_none_draws_nothing() -> None:
    assert charts.curves("Loss", "nats", [Line("vacant", [], "mae")]) == ""
    assert "vacant" not in charts.curves("Loss", "nats", [Line("vacant", [], "mae"), Line("full", FALLING, "muted")])


def test_curves__a_single_point_can_be_seen() -> None:
    one, many = (spec(charts.curves("Loss", "nats", [Line("", points, "mae")])) for points in (FALLING[:1], FALLING))
    assert one["layer"][0]["mark"]["point"] and not many["layer"][0]["mark"]["point"]


def test_accuracies__a_row_a_mark_and_the_interval() -> None:
    rows = spec(charts.accuracies(MARKS))["data"]["values"]
    assert [(row["name"], row["low"], row["top1"], row["high"]) for row in rows] == [
        ("Teacher", 93.0, 96.0, 98.0),
        ("class head", 75.0, 80.0, 85.0),
    ]
    assert [row["fill"] for row in rows] == ["var(--teacher)", "var(--paper)"]  # filled: its own answer
    assert charts.accuracies([]) == ""


def test_balance__every_class_and_split() -> None:
    rows = [("ant", "train", 8), ("ant", "val", 4), ("bee", "train", 7)]
    chart = charts.balance(rows, "Images")
    assert [tuple(row.values()) for row in spec(chart)["data"]["values"]] == rows
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", chart)
    assert cells == ["8", "7", "4", DASH]


def test_matrix__right_and_wrong_have_hues_and_shades_by_share() -> None:
    drawn = spec(charts.matrix(CELLS, ["cat", "dog"], "Confusion", "<table></table>", True))
    assert [(row["hue"], row["share"]) for row in drawn["data"]["values"]] == [
        ("var(--right)", 0.75),
        ("var(--wrong)", 0.25),
    ]
    assert drawn["encoding"]["x"]["scale"]["domain"] == ["cat", "dog"] and len(drawn["layer"]) == 2
    assert len(spec(charts.matrix(CELLS, ["cat", "dog"], "Confusion", "<table></table>", False))["layer"]) == 1


@pytest.mark.parametrize("count", [0, 1, 59, 60, 61, 300, 1600])
def test_thinned__is_short_even_and_keeps_the_last(count: int) -> None:
    rows = list(range(count))
    kept = charts.thinned(rows, 60)
    steps = {after - before for before, after in itertools.pairwise(kept)}
    assert len(kept) <= 60 and kept[-1:] == rows[-1:] and len(steps) <= 1 and (count > 60 or kept == rows)


def test_charts__same_text_twice_and_another_for_other_data() -> None:
    assert charts.accuracies(MARKS) == charts.accuracies(MARKS) != charts.accuracies(MARKS[:1])
    assert (
        charts.curves("A", "nats", LINES) == charts.curves("A", "nats", LINES) != charts.curves("A", "nats", LINES[:1])
    )


def test_charts__know_only_colours_of_the_page() -> None:
    text = charts.accuracies(MARKS) + charts.curves("A", "nats", LINES) + json.dumps(charts.CONFIG)
    text += charts.matrix(CELLS, ["cat", "dog"], "Confusion", "", True) + charts.balance([("a", "val", 1)], "Images")
    assert set(re.findall(r"var\(--(\w+)\)", text)) <= set(style.HUES)
    assert not re.search(r"://|#[0-9a-f]{6}\b", text)


def test_charts__a_name_cannot_end_the_data_or_become_markup() -> None:
    evil = "</script><script>alert(1)</script><!--"
    chart = charts.curves(evil, "nats", [Line(evil, FALLING, "mae"), Line("x", FALLING, "muted")])
    assert chart.count("<script") == 1 and chart.count("</script") == 1 and "<!--" not in chart
    assert {row["line"] for row in spec(chart)["data"]["values"]} == {evil, "x"}


def test_sheet__themes_and_charts_know_the_same_colours() -> None:
    assert style.sheet().count("--student:") == 3  # light, dark, print
