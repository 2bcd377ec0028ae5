"""Does a model know what it knows? How often it is right when it says how sure it is."""

from typing import Any

from stages.lib.reporting import charts, markup, tables
from stages.lib.reporting.material import Material, Model

HUES = {"class": "student", "dist": "teacher", "fused_logits": "ink", "fused_probs": "published"}


def section(found: Material) -> str:
    """A diagram for each model trained on the main set."""
    intro = markup.paragraph(
        "A calibrated model that says four in five is right in four of five such images: its points lie on the dashed line. Below "
        "the line it is too sure of itself. Larger points stand for more images."
    )
    parts = [_diagram(found, model) for model in found.trained() if model.name != "mae"]
    return markup.section("calibration", "Calibration", intro + markup.grid(parts, "panels"))


def _diagram(found: Material, model: Model) -> str:
    heading = markup.element("h3", markup.text(model.title))
    name = f"plots/{model.name}-reliability.csv"
    table = found.folder.table(name, ["head", "low", "high", "images", "confidence", "accuracy"])
    if table is None:
        return markup.element("div", heading + markup.missing(found.folder.label(name)))
    rows: list[dict[str, Any]] = []
    for line, row in enumerate(table, 2):
        numbers = {
            column: found.folder.number(name, line, row, column)
            for column in ("low", "high", "images", "confidence", "accuracy")
        }
        if numbers["images"] and numbers["accuracy"] is not None:  # an empty bin says nothing
            rows.append({"head": tables.HEADS.get(row["head"], row["head"])} | numbers)
    heads = [
        (tables.HEADS[head], hue)
        for head, hue in HUES.items()
        if any(tables.HEADS[head] == row["head"] for row in rows)
    ]
    lines = [
        [
            markup.text(row["head"]),
            f"{row['low']:.0%} to {row['high']:.0%}",
            f"{row['images']:,.0f}",
            f"{row['confidence']:.1%}",
            f"{row['accuracy']:.1%}",
        ]
        for row in rows
    ]
    whole = markup.table("Images by how sure the model is.", ["Head", "Says", "Images", "Mean said", "Right"], lines)
    chart = charts.reliability(rows, heads, f"{model.title}: accuracy over confidence", whole)
    return markup.element(
        "div", heading + markup.figure(chart, "Every head, in bins of equal width.", found.folder.label(name))
    )
