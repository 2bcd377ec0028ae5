"""The pipeline as a picture: boxes with how far each stage got, lines between them; on a phone the boxes alone, in order."""

from collections.abc import Sequence
from dataclasses import dataclass

from stages.lib.reporting import gates, markup
from stages.lib.reporting.material import Material, Model

COLUMNS, ROWS = 6, 3
PLACES = {  # box: (column, row) of the picture
    "data": (0, 1),
    "gates": (1, 1),
    "teacher": (2, 0),
    "mae": (2, 2),
    "student": (3, 1),
    "finetuned": (4, 1),
    "results": (5, 0),
    "load": (5, 1),
    "transfer": (5, 2),
}
FLOW = {  # box: what it is made of
    "gates": ["data"],
    "teacher": ["gates"],
    "mae": ["gates"],
    "student": ["gates", "teacher", "mae"],
    "finetuned": ["student"],
    "results": ["finetuned"],
    "load": ["finetuned"],
    "transfer": ["finetuned"],
}


@dataclass(frozen=True)
class Box:
    """A stage: its words, the part of the page that tells more, its colour, how far it got and what it does (markup)."""

    title: str
    place: str
    hue: str
    state: str
    what: str


def picture(found: Material) -> str:
    """The whole of it, a list of links for whoever does not see the lines."""
    items = "".join(_item(box) for box in boxes(found))
    lines = "".join(_line(one, other) for other, ones in FLOW.items() for one in ones)
    drawing = (
        f'<svg viewBox="0 0 {100 * COLUMNS} {100 * ROWS}" preserveAspectRatio="none" aria-hidden="true">{lines}</svg>'
    )
    listed = markup.element("ol", items, class_="strip")
    return markup.element("nav", drawing + listed, aria_label="The pipeline", class_="pipeline")


def boxes(found: Material) -> list[Box]:
    """In the order of the pipeline."""
    what = {
        "teacher": "from labels alone",
        "mae": "paints hidden patches, no labels",
        "student": "a transformer, from both",
        "finetuned": "the same on larger images",
    }
    return [
        Box(
            "Images", "data", "muted", gates.state(found, gates.of_sets(found, "manifest")), "raw, looked at once each"
        ),
        Box("Shards", "gates", "muted", gates.state(found, gates.of_sets(found, "shards")), "checked tar files"),
        *(
            Box(model.title, model.name, model.colour, gates.state(found, [f"model-{model.name}"]), what[model.name])
            for model in found.trained()
        ),
        Box(
            "Evaluation",
            "results",
            "ink",
            _measured([one for one in found.trained() if one.name != "mae"]),
            "every head",
        ),
        Box("Export", "load", "ink", "", "timm, ONNX, torch"),
        Box("Transfer", "transfer", "transfer", _measured(found.transferred()), "other sets"),
    ]


def _item(box: Box) -> str:
    column, row = PLACES[box.place]
    what = markup.element("small", box.what, class_="muted")
    link = markup.element("a", box.title + what + box.state, href=f"#{box.place}", style=f"--hue:var(--{box.hue})")
    return markup.element("li", link, style=f"--column:{column + 1};--row:{row + 1}")


def _line(one: str, other: str) -> str:
    """From the middle of one box to that of another; the boxes hide its ends, and all lead to the right."""
    (x1, y1), (x2, y2) = ((100 * column + 50, 100 * row + 50) for column, row in (PLACES[one], PLACES[other]))
    bend = x2 - 50  # the border between two columns, where no box lies
    path = f"M{x1} {y1}C{bend} {y1} {bend} {y2} {x2} {y2}"
    return f'<path d="{path}"/>'


def _measured(models: Sequence[Model]) -> str:
    """How many of some models have metrics, in a word."""
    count = sum(model.metrics is not None for model in models)
    if not count:
        return markup.element("small", "absent", class_="muted")
    return markup.element("small", "✓ measured" if count == len(models) else "measured in part", class_="good")
