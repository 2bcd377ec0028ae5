"""Which classes a model takes for which: a heat map or the most confused pairs, and its worst classes."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from stages.lib.reporting import charts, markup
from stages.lib.reporting.inputs import Folder

WIDEST_MATRIX = 40  # classes; a wider matrix is unreadable, the confused pairs are listed instead
NUMBERED_MATRIX = 15  # classes; a wider matrix is shades only, its counts in tooltips
PAIRS = 15  # confused pairs listed


@dataclass(frozen=True)
class OneClass:
    """A class, its images in the measured split, and the percent of them the model gets right."""

    name: str
    images: float
    top1: float | None  # None: the split has no image of it


@dataclass(frozen=True)
class Confusion:
    """Images by (what it is, what the model says), and the classes in label order."""

    file: str
    classes: list[str]
    counts: Counter[tuple[str, str]]

    def total(self, actual: str) -> int:
        """Images of a class."""
        return sum(self.counts[actual, predicted] for predicted in self.classes)

    def pairs(self) -> list[tuple[str, str, int]]:
        """(actual, predicted, images) of every mistake made, most frequent first, then by name."""
        wrong = [(a, p, n) for (a, p), n in self.counts.items() if a != p]
        return sorted(wrong, key=lambda pair: (-pair[2], pair[0], pair[1]))


def read_classes(folder: Folder, model: str) -> list[OneClass]:
    """plots/<model>-classes.csv in label order; empty where there is none. Raises Refusal."""
    name = f"plots/{model}-classes.csv"
    rows = enumerate(folder.table(name, ["class", "images", "top1"]) or [], 2)
    return [
        OneClass(row["class"], folder.number(name, line, row, "images") or 0, folder.number(name, line, row, "top1"))
        for line, row in rows
    ]


def read_confusion(folder: Folder, model: str, classes: Sequence[OneClass]) -> Confusion | None:
    """plots/<model>-confusion.csv, one row an image; None where there is none. Raises Refusal."""
    name = f"plots/{model}-confusion.csv"
    rows = folder.table(name, ["actual", "predicted"])
    if rows is None:
        return None
    counts = Counter((row["actual"], row["predicted"]) for row in rows)
    known = [one.name for one in classes]
    rest = sorted({label for pair in counts for label in pair} - set(known))
    return Confusion(folder.label(name), known + rest, counts)


def confusion(found: Confusion) -> str:
    """A heat map up to 40 classes, the most confused pairs above."""
    return _matrix(found) if len(found.classes) <= WIDEST_MATRIX else _pairs(found)


def _matrix(found: Confusion) -> str:
    """A heat map whose cells tell themselves under the pointer, and the same as a table."""
    cells = [
        {"actual": actual, "predicted": predicted, "images": count, "of": found.total(actual)}
        for (actual, predicted), count in sorted(found.counts.items())
    ]
    caption = "Images by what they are (row) and what the model says (column)."
    numbered = len(found.classes) <= NUMBERED_MATRIX
    chart = charts.matrix(cells, found.classes, f"Confusion matrix, {found.file}", _matrix_table(found), numbered)
    return markup.figure(chart, caption, found.file)


def _matrix_table(found: Confusion) -> str:
    """Right answers in one hue, mistakes in another, by their share of the row."""
    axis = "".join(markup.element("th", markup.name(one), scope="col") for one in found.classes)
    rows = "".join(_matrix_row(found, actual) for actual in found.classes)
    caption = f"Images by what they are (row) and what the model says (column). {markup.origin(found.file)}"
    whole = f"<caption>{caption}</caption><thead><tr><td></td>{axis}</tr></thead><tbody>{rows}</tbody>"
    kind = "confusion" if len(found.classes) <= NUMBERED_MATRIX else "confusion many"
    return markup.scroll(markup.element("table", whole, class_=kind, data_source=found.file))


def _matrix_row(found: Confusion, actual: str) -> str:
    total, cells = found.total(actual), [markup.element("th", markup.name(actual), scope="row")]
    for predicted in found.classes:
        count = found.counts[actual, predicted]
        if not count:
            cells.append("<td></td>")
            continue
        kind = f"{'right' if actual == predicted else 'wrong'} h{math.ceil(10 * count / total)}"
        shown = markup.element("span", str(count), class_=None if len(found.classes) <= NUMBERED_MATRIX else "unseen")
        cells.append(
            markup.element("td", shown, class_=kind, title=f"{actual} taken for {predicted}: {count} of {total}")
        )
    return markup.element("tr", "".join(cells))


def _pairs(found: Confusion) -> str:
    rows = [
        [markup.name(actual), markup.name(predicted), str(count), f"{100 * count / found.total(actual):.2f} %"]
        for actual, predicted, count in found.pairs()[:PAIRS]
    ]
    caption = f"The {len(rows)} most confused pairs of {len(found.classes)} classes."
    return markup.table(caption, ["It is", "The model says", "Images", "Of the class"], rows, found.file)


def worst(classes: Sequence[OneClass], source: str, found: Confusion | None, count: int) -> str:
    """The classes with the lowest top-1, ties by name, and what each is most often taken for."""
    chosen = sorted((one.top1, one.name, one.images) for one in classes if one.top1 is not None)[:count]
    rows = [
        [markup.name(name), f"{images:,.0f}", f"{top1:.2f} %", _taken_for(found, name) if found else markup.DASH]
        for top1, name, images in chosen
    ]
    caption = f"The {len(rows)} worst of {len(classes)} classes."
    return markup.table(caption, ["Class", "Images", "Top-1", "Most often taken for"], rows, source)


def _taken_for(found: Confusion, actual: str) -> str:
    """A class's commonest mistake and how often it was made."""
    mistakes = [(predicted, count) for name, predicted, count in found.pairs() if name == actual]
    return f"{markup.name(mistakes[0][0])} ({mistakes[0][1]})" if mistakes else markup.DASH
