"""Figures as inline SVG: the same bytes on every run, text as text, colours taken from the page so that both themes work."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stages.lib.reporting import markup

# matplotlib wants colours, the page has CSS variables: each variable is drawn in a colour nobody else uses, then put back.
NAMES = ("ink", "muted", "line", "teacher", "mae", "student", "finetuned", "transfer")
COLOURS = {name: f"#0102{number:02x}" for number, name in enumerate(NAMES, 16)}
SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tutelage",
    "font.size": 8.0,
    "text.parse_math": False,
    "axes.edgecolor": COLOURS["line"],
    "axes.labelcolor": COLOURS["muted"],
    "axes.titlecolor": COLOURS["ink"],
    "axes.titlelocation": "left",
    "axes.titlesize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": COLOURS["line"],
    "grid.linewidth": 0.6,
    "xtick.color": COLOURS["line"],
    "ytick.color": COLOURS["line"],
    "xtick.labelcolor": COLOURS["muted"],
    "ytick.labelcolor": COLOURS["muted"],
    "legend.frameon": False,
    "legend.labelcolor": COLOURS["ink"],
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
}
NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}


@dataclass(frozen=True)
class Line:
    """One curve: (epoch, value) points, drawn in a colour of the page."""

    label: str
    points: Sequence[tuple[float, float]]
    colour: str
    style: str = "-"


@dataclass(frozen=True)
class Mark:
    """One measured accuracy: percent, its 95 % interval, filled for a model's own answer, hollow for one of its heads."""

    label: str
    value: float
    interval: tuple[float, float]
    colour: str
    filled: bool


def curves(title: str, unit: str, lines: Sequence[Line]) -> str:
    """Curves over epochs as SVG; "" where no line has a point."""
    lines = [line for line in lines if line.points]
    return _draw((3.5, 2.3), f"{title} by epoch", lambda axes: _curves(axes, title, unit, lines)) if lines else ""


def _curves(axes: Any, title: str, unit: str, lines: Sequence[Line]) -> None:
    from matplotlib.ticker import MaxNLocator

    for line in lines:
        epochs, values = zip(*line.points, strict=True)
        dots = "o" if len(epochs) == 1 else None  # a line of one point is invisible
        axes.plot(epochs, values, line.style, label=line.label, color=COLOURS[line.colour], marker=dots, markersize=4)
    axes.set(title=title, xlabel="epoch", ylabel=unit)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    if len(lines) > 1:
        axes.legend(handlelength=1.6, borderaxespad=0.2, labelspacing=0.3)


def accuracies(marks: Sequence[Mark]) -> str:
    """Top-1 of every model and head with its interval as SVG, a row each; "" without marks."""
    height = 0.62 + 0.24 * len(marks)
    return _draw((4.2, height), "Top-1 of every model and head", lambda axes: _accuracies(axes, marks)) if marks else ""


def _accuracies(axes: Any, marks: Sequence[Mark]) -> None:
    rows = range(len(marks))
    for row, mark in zip(rows, marks, strict=True):
        colour = COLOURS[mark.colour]
        axes.plot(mark.interval, (row, row), color=colour, linewidth=1.4)
        axes.plot([mark.value], [row], "o", color=colour, markersize=6, fillstyle="full" if mark.filled else "none")
    axes.set_yticks(list(rows), [mark.label for mark in marks])
    axes.set(ylim=(len(marks) - 0.4, -0.6), xlabel="top-1, percent of images")
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0, labelcolor=COLOURS["ink"])
    axes.spines["left"].set_visible(False)


def _draw(inches: tuple[float, float], alternative: str, paint: Any) -> str:
    """A figure with one pair of axes, painted and put into the words of the page."""
    import matplotlib
    from matplotlib.figure import Figure

    salt = f"tutelage {alternative}"  # the ids inside a figure come from salt and content
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a matplotlibrc of the user's must not change the page
        matplotlib.rcParams.update(SETTINGS | {"svg.hashsalt": salt})
        canvas = Figure(figsize=inches, layout="constrained")
        paint(canvas.add_subplot())
        file = io.StringIO()
        canvas.savefig(file, format="svg", transparent=True, metadata=NO_METADATA)
    return inline(file.getvalue(), alternative)


def inline(svg: str, alternative: str) -> str:
    """A matplotlib SVG file as part of an HTML page: scales with its column, in the page's font and colours."""
    svg = svg[svg.index("<svg") :]
    box = re.search(r'viewBox="[^"]*"', svg)
    assert box
    body = svg[svg.index(">") + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[a-z0-9._]+_\d+">', "<g>", body)  # figure_1, line2d_7: twice on a page with two figures
    body = body.replace("xlink:href", "href")
    body = re.sub(r"font-family: [^;\"]*; ", "", body)  # the page's own
    body = re.sub(r' transform="rotate\(-0 [^"]*"', "", body)
    for name, colour in COLOURS.items():
        body = body.replace(colour, f"var(--{name})")
    body = re.sub(r"\n\s*", "\n", body).strip()
    return f'<svg {box[0]} role="img" aria-label="{markup.text(alternative)}">{body}'
