"""Student and fine-tuned model on other sets of the same classes: how much of an accuracy survives other photographs."""

from stages.lib.reporting import markup, tables
from stages.lib.reporting.inputs import Record
from stages.lib.reporting.material import Material

MEASURED = ("student", "finetuned")
NUMBERS = ("top1", "top1_low", "top1_high")


def section(found: Material) -> str:
    """A table a set; "" where params name none."""
    names = [*(f"robust-{name}" for name in found.sets.robust), *(f"real-{name}" for name in found.sets.real)]
    if not names:
        return ""
    intro = markup.paragraph(
        "The same models, untouched, on other sets whose classes the main set has too; only those classes compete. "
        "<code>real-</code>: on the main set's own images by ReaL labels (Beyer et al., arXiv 2006.07159), where any class "
        "an image shows is right."
    )
    parts = "".join(_one(found, name) for name in names)
    return markup.section("robust", "Other sets and other labels", intro + parts)


def _one(found: Material, name: str) -> str:
    file = f"metrics/{name}.json"
    record = found.folder.record(file)
    heading = markup.element("h3", markup.name(name))
    if record is None:
        return heading + markup.missing(found.folder.label(file))
    counts = [("Images", record.fact("images")), ("Classes that compete", record.fact("classes"))]
    rows = [row for model in MEASURED for row in _rows(found, record, model)]
    head = ["Model", "Head", "Top-1", "95 %, from", "to"]
    return (
        heading
        + found.ledger.facts("What was asked.", counts)
        + markup.table("Top-1 by head.", head, rows, record.file)
    )


def _rows(found: Material, record: Record, model: str) -> list[list[str]]:
    return [
        [
            found.models[model].title,
            words,
            *(found.ledger.percent(record.fact(f"{model}.heads.{head}.{number}")) for number in NUMBERS),
        ]
        for head, words in tables.HEADS.items()
        if record.fact(f"{model}.heads.{head}.top1")
    ]
