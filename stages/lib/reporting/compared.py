"""Accuracy against what a model costs, with the papers' models as points of reference."""

from typing import Any

from stages.lib.reporting import charts, markup, results
from stages.lib.reporting.material import Material
from stages.lib.reporting.papers import PUBLISHED

COSTS = (
    ("gmacs", "multiply-accumulates an image, thousands of millions"),
    ("millions", "parameters, millions"),
    ("images_per_second", "images a second on one V100, as published"),
)
FAMILIES = (
    ("this run", "ink"),
    ("RegNetY", "teacher"),
    ("DeiT", "published"),
    ("DeiT distilled", "student"),
    ("DeiT III", "finetuned"),
    ("MAE", "mae"),
    ("ViT", "transfer"),
)
SOURCE = "stages/lib/reporting/papers.py"


def section(found: Material) -> str:
    """The chart with its choice of axis, and the published numbers."""
    intro = markup.paragraph(
        "Published models were measured on ImageNet. This run's models stand where their own set and size put them: only a run on "
        "ImageNet can be compared with them. How fast this run's models are is no result and stands on the live page."
    )
    rows = [*_own(found), *_published()]
    chart = charts.scatter(rows, FAMILIES, COSTS, "Top-1 against cost, published models and this run's", _table())
    choice = markup.element(
        "div", markup.choice("Across", COSTS, data_signal="cost"), class_="controls", hidden="hidden"
    )
    files = ", ".join([*(metrics.file for _, metrics in found.measured()), SOURCE])
    caption = "Diamonds: this run. A family in the legend can be shown alone by a click."
    return markup.section(
        "cost", "Accuracy against cost", intro + markup.figure(choice + chart, caption, files, "plot")
    )


def _own(found: Material) -> list[dict[str, Any]]:
    """This run's models as far as they were measured."""
    rows = []
    for model, metrics in found.measured():
        top1, parameters, macs = results.top1(metrics), metrics.number("parameters"), metrics.number("macs")
        if top1 is None:
            continue
        row = {
            "name": f"{model.title} on {metrics.values['set']}",
            "family": "this run",
            "top1": top1.value,
            "own": True,
        }
        row["millions"] = None if parameters is None else charts.rounded(parameters / 1e6)
        row["gmacs"] = None if macs is None else charts.rounded(macs / 1e9)
        rows.append(row)
    return rows


def _published() -> list[dict[str, Any]]:
    return [
        {
            "name": one.name,
            "family": one.family,
            "top1": one.top1,
            "own": False,
            "millions": one.millions,
            "gmacs": one.gmacs,
            "images_per_second": one.images_per_second,
        }
        for one in PUBLISHED
    ]


def _table() -> str:
    rows = [
        [
            markup.name(one.name),
            f"{one.top1:g} %",
            f"{one.millions:g}",
            f"{one.gmacs:g}",
            markup.DASH if one.images_per_second is None else f"{one.images_per_second:,}",
            markup.text(one.source),
        ]
        for one in PUBLISHED
    ]
    head = ["Model", "Top-1", "Parameters, millions", "GMACs an image", "Images a second, V100", "From"]
    return markup.table("Published models on ImageNet-1k.", head, rows, SOURCE)
