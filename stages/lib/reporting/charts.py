"""Charts as Vega-Lite specifications inside the page: colours are the page's own, the same numbers stand in a table beneath."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stages.lib.reporting import markup

Spec = dict[str, Any]
Row = dict[str, Any]
LONGEST = 60  # rows of the table beneath a chart; a longer course is thinned evenly, first and last kept
FONT = 'system-ui, -apple-system, "Segoe UI", sans-serif'
CONFIG: Spec = {
    "background": "transparent",
    "font": FONT,
    "aria": False,  # the element around a chart names it, and the table holds its numbers
    "view": {"stroke": None},
    "title": {"anchor": "start", "color": "var(--ink)", "fontSize": 13, "fontWeight": 600},
    "axis": {
        "domainColor": "var(--line)",
        "gridColor": "var(--line)",
        "tickColor": "var(--line)",
        "labelColor": "var(--muted)",
        "titleColor": "var(--muted)",
        "titleFontWeight": "normal",
        "labelFontSize": 11,
        "titleFontSize": 11,
    },
    "legend": {
        "labelColor": "var(--ink)",
        "titleColor": "var(--muted)",
        "titleFontWeight": "normal",
        "labelFontSize": 11,
        "orient": "bottom",
        "symbolStrokeWidth": 2,
    },
}
"""One look for every chart. A colour is a variable of the page's style sheet, so both themes work without drawing anew."""


@dataclass(frozen=True)
class Line:
    """One curve: (epoch, value) points, drawn in a colour of the page."""

    label: str
    points: Sequence[tuple[float, float]]
    colour: str
    dash: Sequence[int] = (1, 0)


@dataclass(frozen=True)
class Mark:
    """One measured accuracy: percent, its 95 % interval, filled for a model's own answer, hollow for one of its heads."""

    label: str
    value: float
    interval: tuple[float, float]
    colour: str
    filled: bool


def hue(colour: str) -> str:
    """A colour of the page as a chart names it."""
    return f"var(--{colour})"


def drawn(spec: Spec, alternative: str, table: str) -> str:
    """A chart's place in the page: what JavaScript draws, and the same numbers for whoever has none or does not see."""
    whole = {"width": "container", "autosize": {"type": "fit", "contains": "padding"}, **spec}
    data = json.dumps(whole, separators=(",", ":"), allow_nan=False)
    for sign in "<>&":  # nothing in a name may end the element or open another
        data = data.replace(sign, f"\\u{ord(sign):04x}")
    script = f'<script type="application/json">{data}</script>'
    canvas = markup.element("div", class_="canvas", role="img", aria_label=alternative)
    folded = markup.element("details", markup.element("summary", f"Numbers: {markup.text(alternative)}") + table)
    return markup.element("div", f"{canvas}{script}{folded}", class_="chart")


def rounded(value: float) -> float:
    """Six significant digits: more than a screen can show, less than a float's seventeen."""
    return float(f"{value:.6g}")


def thinned(rows: Sequence[Any], longest: int = LONGEST) -> list[Any]:
    """At most `longest` rows, evenly spaced, the last always among them."""
    step = -(-len(rows) // longest)
    return [row for place, row in enumerate(rows) if (len(rows) - 1 - place) % max(1, step) == 0]


def curves(title: str, unit: str, lines: Sequence[Line]) -> str:
    """Curves over epochs, their values under the pointer; "" where no line has a point."""
    lines = [line for line in lines if line.points]
    if not lines:
        return ""
    rows = [
        {"epoch": epoch, "line": line.label or unit, "value": rounded(value), "id": f"line{place}"}
        for place, line in enumerate(lines)
        for epoch, value in line.points
    ]
    names = [line.label or unit for line in lines]
    x = {
        "field": "epoch",
        "type": "quantitative",
        "title": "epoch",
        "scale": {"nice": False, "zero": False},
        "axis": {"tickMinStep": 1, "tickCount": 6, "grid": False},
    }
    spec = {
        "title": title,
        "height": 190,
        "data": {"values": rows},
        "encoding": {"x": x},
        "layer": [_course(lines, names, unit), _under_pointer(names)],
    }
    return drawn(spec, f"{title} by epoch", _course_table(title, names, lines))


def _course(lines: Sequence[Line], names: Sequence[str], unit: str) -> Spec:
    """The curves; a click in the legend shows one alone."""
    only = len(lines) == 1
    colours = {"domain": names, "range": [hue(line.colour) for line in lines]}
    dashes = {"domain": names, "range": [list(line.dash) for line in lines]}
    legend = None if only else {"title": None, "columns": 2}
    encoding: Spec = {
        "y": {
            "field": "value",
            "type": "quantitative",
            "title": unit,
            "scale": {"zero": False},
            "axis": {"tickCount": 5},
        },
        "color": {"field": "line", "type": "nominal", "scale": colours, "legend": legend},
        "strokeDash": {"field": "line", "type": "nominal", "scale": dashes, "legend": legend},
    }
    single = any(len(line.points) == 1 for line in lines)  # a line of one point is invisible
    layer: Spec = {"mark": {"type": "line", "strokeWidth": 2, "point": {"filled": True} if single else False}}
    if not only:
        layer["params"] = [{"name": "chosen", "select": {"type": "point", "fields": ["line"]}, "bind": "legend"}]
        encoding["opacity"] = {"condition": {"param": "chosen", "value": 1}, "value": 0.15}
    return layer | {"encoding": encoding}


def _under_pointer(names: Sequence[str]) -> Spec:
    """A rule at the epoch nearest to the pointer, and every curve's value there."""
    told = [
        {"field": f"line{place}", "title": name, "type": "quantitative", "format": ".4~g"}
        for place, name in enumerate(names)
    ]
    return {
        "transform": [{"pivot": "id", "value": "value", "groupby": ["epoch"]}],
        "params": [
            {
                "name": "near",
                "select": {
                    "type": "point",
                    "fields": ["epoch"],
                    "nearest": True,
                    "on": "pointerover",
                    "clear": "pointerout",
                },
            }
        ],
        "mark": {"type": "rule", "color": hue("muted")},
        "encoding": {
            "opacity": {"condition": {"param": "near", "empty": False, "value": 0.7}, "value": 0},
            "tooltip": [{"field": "epoch", "type": "quantitative"}, *told],
        },
    }


def _course_table(title: str, names: Sequence[str], lines: Sequence[Line]) -> str:
    """A row an epoch, at most LONGEST."""
    values = [dict(line.points) for line in lines]
    epochs = thinned(sorted({epoch for line in lines for epoch, _ in line.points}))
    rows = [
        [f"{epoch:.0f}", *(f"{one[epoch]:.4g}" if epoch in one else markup.DASH for one in values)] for epoch in epochs
    ]
    return markup.table(markup.text(f"{title} by epoch."), ["Epoch", *map(markup.text, names)], rows)


def accuracies(marks: Sequence[Mark]) -> str:
    """Top-1 of every model and head with its interval, a row each; "" without marks."""
    if not marks:
        return ""
    rows = [
        {
            "name": mark.label,
            "top1": rounded(mark.value),
            "low": rounded(mark.interval[0]),
            "high": rounded(mark.interval[1]),
            "line": hue(mark.colour),
            "fill": hue(mark.colour if mark.filled else "paper"),
        }
        for mark in marks
    ]
    x = {"type": "quantitative", "title": "top-1, percent of images", "scale": {"zero": False, "nice": True}}
    told = [{"field": "name", "type": "nominal", "title": "model"}]
    told += [{"field": one, "type": "quantitative", "format": ".2f"} for one in ("top1", "low", "high")]
    spec = {
        "height": 40 + 24 * len(marks),
        "data": {"values": rows},
        "encoding": {
            "y": {
                "field": "name",
                "type": "nominal",
                "sort": None,
                "title": None,
                "axis": {
                    "labelLimit": 220,
                    "ticks": False,
                    "domain": False,
                    "labelColor": hue("ink"),
                    "labelFontSize": 12,
                },
            },
            "tooltip": told,
        },
        "layer": [
            {
                "mark": {"type": "rule", "strokeWidth": 2},
                "encoding": {"x": x | {"field": "low"}, "x2": {"field": "high"}, "color": _raw("line")},
            },
            {
                "mark": {"type": "point", "size": 80, "strokeWidth": 2, "opacity": 1},
                "encoding": {"x": x | {"field": "top1"}, "stroke": _raw("line"), "fill": _raw("fill")},
            },
        ],
    }
    lines = [
        [markup.name(mark.label), f"{mark.value:.2f} %", f"{mark.interval[0]:.2f} to {mark.interval[1]:.2f} %"]
        for mark in marks
    ]
    table = markup.table("Top-1 with its 95 % interval.", ["Model", "Top-1", "95 % interval"], lines)
    return drawn(spec, "Top-1 of every model and head", table)


def _raw(field: str) -> Spec:
    """A channel whose data are colours already."""
    return {"field": field, "type": "nominal", "scale": None, "legend": None}


def balance(rows: Sequence[tuple[str, str, int]], alternative: str) -> str:
    """Images by (class, split, images) as stacked bars, classes in the order given."""
    splits = list(dict.fromkeys(split for _, split, _ in rows))
    classes = list(dict.fromkeys(name for name, _, _ in rows))
    colours = {"train": "student", "val": "finetuned", "test": "transfer"}
    scale = {"domain": splits, "range": [hue(colours.get(split, "muted")) for split in splits]}
    few = len(classes) <= 25
    spec = {
        "height": 170,
        "data": {"values": [{"class": name, "split": split, "images": images} for name, split, images in rows]},
        "mark": {"type": "bar"},
        "encoding": {
            "x": {
                "field": "class",
                "type": "nominal",
                "sort": None,
                "title": "class",
                "axis": {"labels": few, "ticks": few, "labelAngle": 0 if len(classes) <= 12 else -60, "labelLimit": 90},
            },
            "y": {"field": "images", "type": "quantitative", "title": "images", "axis": {"tickCount": 4}},
            "color": {"field": "split", "type": "nominal", "scale": scale, "legend": {"title": None}},
            "tooltip": [{"field": one} for one in ("class", "split", "images")],
        },
    }
    counts = {(name, split): images for name, split, images in rows}
    lines = [
        [markup.text(split), *(markup.text(counts.get((name, split), markup.DASH)) for name in classes)]
        for split in splits
    ]
    if few:
        table = markup.table("Images by split and class.", ["Split", *map(markup.name, classes)], lines)
    else:
        upright = [[markup.name(name), markup.text(split), f"{images:,}"] for name, split, images in rows]
        table = markup.table("Images by class and split.", ["Class", "Split", "Images"], upright)
    return drawn(spec, alternative, table)


def matrix(cells: Sequence[Row], classes: Sequence[str], alternative: str, table: str, numbered: bool) -> str:
    """A confusion matrix of rows {actual, predicted, images, of}: right in one hue, wrong in another, by share of the row."""
    rows = [
        cell
        | {
            "share": rounded(cell["images"] / cell["of"]),
            "hue": hue("right" if cell["actual"] == cell["predicted"] else "wrong"),
        }
        for cell in cells
    ]
    axis = {"labelLimit": 90, "labelAngle": 0 if len(classes) <= 12 else -90, "ticks": False, "domain": False}
    sides: Spec = {
        "x": {"field": "predicted", "title": "the model says", "axis": {**axis, "orient": "top"}},
        "y": {"field": "actual", "title": "it is", "axis": {**axis, "labelAngle": 0}},
    }
    for side in sides.values():
        side |= {"type": "nominal", "scale": {"domain": list(classes)}}
    told = [{"field": "actual", "title": "it is"}, {"field": "predicted", "title": "the model says"}]
    told += [
        {"field": "images"},
        {"field": "of", "title": "of"},
        {"field": "share", "format": ".1%", "type": "quantitative"},
    ]
    shade = {
        "field": "share",
        "type": "quantitative",
        "legend": None,
        "scale": {"domain": [0, 1], "range": [0.15, 0.75]},
    }
    layers: list[Spec] = [
        {"mark": {"type": "rect"}, "encoding": {"color": _raw("hue"), "opacity": shade, "tooltip": told}},
    ]
    if numbered:
        text = {"text": {"field": "images"}, "tooltip": told}
        layers.append({"mark": {"type": "text", "fontSize": 11, "color": hue("ink")}, "encoding": text})
    spec = {
        "height": max(160, min(30 * len(classes), 420)),
        "data": {"values": rows},
        "encoding": sides,
        "layer": layers,
    }
    return drawn(spec, alternative, table)


def band(
    rows: Sequence[Row], x: str, y: str, titles: tuple[str, str], colour: str, alternative: str, table: str
) -> str:
    """A line through rows {x, y, low, high} with a band from low to high."""
    ends: Spec = {"field": y, "type": "quantitative", "title": titles[1]}
    told = [{"field": one, "type": "quantitative", "format": ".4~g"} for one in (x, y, "low", "high")]
    spec = {
        "height": 200,
        "data": {"values": list(rows)},
        "encoding": {
            "x": {
                "field": x,
                "type": "quantitative",
                "title": titles[0],
                "axis": {"tickMinStep": 1, "grid": False},
                "scale": {"nice": False},
            },
            "tooltip": told,
        },
        "layer": [
            {
                "mark": {"type": "area", "opacity": 0.2, "color": hue(colour)},
                "encoding": {"y": ends | {"field": "low"}, "y2": {"field": "high"}},
            },
            {
                "mark": {"type": "line", "strokeWidth": 2, "color": hue(colour), "point": {"color": hue(colour)}},
                "encoding": {"y": ends},
            },
        ],
    }
    return drawn(spec, alternative, table)


def reliability(rows: Sequence[Row], heads: Sequence[tuple[str, str]], alternative: str, table: str) -> str:
    """Accuracy over confidence of rows {head, confidence, accuracy, images}, the diagonal where they are equal.

    heads: (head, colour) in the order of the legend.
    """
    scale = {"domain": [head for head, _ in heads], "range": [hue(colour) for _, colour in heads]}
    unit = {"domain": [0, 1]}
    axis = {"format": "%", "tickCount": 5}
    points: Spec = {
        "x": {
            "field": "confidence",
            "type": "quantitative",
            "title": "it says it is sure to",
            "scale": unit,
            "axis": axis,
        },
        "y": {"field": "accuracy", "type": "quantitative", "title": "it is right in", "scale": unit, "axis": axis},
        "color": {"field": "head", "type": "nominal", "scale": scale, "legend": {"title": None, "columns": 2}},
    }
    only = {"condition": {"param": "chosen", "value": 1}, "value": 0.12}
    told: list[Spec] = [{"field": "head", "type": "nominal"}, {"field": "images", "type": "quantitative"}]
    told += [{"field": one, "type": "quantitative", "format": ".1%"} for one in ("confidence", "accuracy")]
    size = {"field": "images", "type": "quantitative", "legend": None, "scale": {"type": "sqrt", "range": [20, 260]}}
    spec = {
        "height": 260,
        "layer": [
            {
                "data": {"values": [{"at": 0}, {"at": 1}]},
                "mark": {"type": "line", "color": hue("muted"), "strokeDash": [4, 4]},
                "encoding": {
                    "x": {"field": "at", "type": "quantitative"},
                    "y": {"field": "at", "type": "quantitative"},
                },
            },
            {
                "params": [{"name": "chosen", "select": {"type": "point", "fields": ["head"]}, "bind": "legend"}],
                "mark": {"type": "line", "strokeWidth": 1.5},
                "encoding": points | {"opacity": only},
            },
            {
                "mark": {"type": "point", "filled": True},
                "encoding": points | {"opacity": only, "size": size, "tooltip": told},
            },
        ],
        "data": {"values": list(rows)},
    }
    return drawn(spec, alternative, table)


def scatter(
    rows: Sequence[Row],
    families: Sequence[tuple[str, str]],
    costs: Sequence[tuple[str, str]],
    alternative: str,
    table: str,
) -> str:
    """Top-1 of rows {name, family, top1, own, ...costs} over a cost on a logarithmic axis; the signal `cost` names which.

    families: (family, colour); costs: (key of a row, its title), the first is drawn at first. A row without that cost is left out.
    """
    scale = {"domain": [name for name, _ in families], "range": [hue(colour) for _, colour in families]}
    told: list[Spec] = [
        {"field": "name", "type": "nominal"},
        {"field": "top1", "type": "quantitative", "title": "top-1, %"},
    ]
    told += [{"field": key, "type": "quantitative", "title": title, "format": ",.5~g"} for key, title in costs]
    shapes = {"domain": [False, True], "range": ["circle", "diamond"]}
    spec = {
        "height": 340,
        "data": {"values": list(rows)},
        "params": [
            {"name": "cost", "value": costs[0][0]},
            {"name": "chosen", "select": {"type": "point", "fields": ["family"]}, "bind": "legend"},
        ],
        "transform": [{"calculate": "datum[cost]", "as": "at"}, {"filter": "isValid(datum.at)"}],
        "mark": {"type": "point", "filled": True, "size": 90},
        "encoding": {
            "x": {
                "field": "at",
                "type": "quantitative",
                "title": None,
                "scale": {"type": "log", "nice": False, "padding": 14},
                "axis": {"format": "~g", "tickCount": 6, "grid": False},
            },
            "y": {
                "field": "top1",
                "type": "quantitative",
                "title": "top-1, percent",
                "scale": {"zero": False, "nice": True},
            },
            "color": {"field": "family", "type": "nominal", "scale": scale, "legend": {"title": None, "columns": 3}},
            "shape": {"field": "own", "type": "nominal", "scale": shapes, "legend": None},
            "opacity": {"condition": {"param": "chosen", "value": 0.95}, "value": 0.12},
            "tooltip": told,
        },
    }
    return drawn(spec, alternative, table)


def bars(
    rows: Sequence[Row], of: str, who: str, value: str, colours: dict[str, str], alternative: str, table: str
) -> str:
    """Bars of rows {of, who, value}: a group for each `of`, in the order given, a bar for each `who`, coloured by it."""
    scale = {"domain": list(colours), "range": [hue(colour) for colour in colours.values()]}
    groups = len({row[of] for row in rows})
    spec = {
        "height": 40 + 34 * groups,
        "data": {"values": list(rows)},
        "mark": {"type": "bar"},
        "encoding": {
            "y": {
                "field": of,
                "type": "nominal",
                "sort": None,
                "title": None,
                "axis": {"labelLimit": 240, "ticks": False, "domain": False, "labelColor": hue("ink")},
            },
            "yOffset": {"field": who, "type": "nominal", "sort": list(colours)},
            "x": {"field": value, "type": "quantitative", "title": value},
            "color": {"field": who, "type": "nominal", "scale": scale, "legend": {"title": None}},
            "tooltip": [{"field": of}, {"field": who}, {"field": value, "type": "quantitative", "format": ".2f"}],
        },
    }
    return drawn(spec, alternative, table)
