"""The main numbers as a few lines of text, for the end of `make demo`."""

from pathlib import Path

from stages.lib.params.report import Report
from stages.lib.params.sets import Sets
from stages.lib.reporting import tables
from stages.lib.reporting.inputs import Folder, Record

HEAD = ("top-1, percent", "set", "images", "class", "distillation", "both", "guessing")


def summary(report: Report, sets: Sets, folder: Folder, page: Path) -> str:
    """Where the page is, and a row a measured model. Reads data/metrics alone. Raises Refusal at a damaged file."""
    names = ["teacher", "student", "finetuned", *(f"transfer-{name}" for name in sets.transfer)]
    records = {name: folder.record(f"metrics/{name}.json") for name in names}
    rows = [HEAD, *(_row(name, record) for name, record in records.items() if record)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(HEAD))]
    lines = (
        [_line(row, widths) for row in rows]
        if len(rows) > 1
        else ["Nothing has been measured yet: `dvc repro` does it."]
    )
    where = f"Report: {page}" if page.is_file() else f"Report: not made yet; `dvc repro` writes {page}"
    return "\n".join([report.title, "", *lines, "", where, ""])


def _row(name: str, metrics: Record) -> tuple[str, ...]:
    heads = [_percent(metrics.number(f"heads.{head}.top1")) for head in tables.TOPS]
    images, classes = metrics.number("images"), metrics.number("classes")
    where = metrics.fact("set")
    guessing = _percent(100 / classes if classes else None)
    return (name, str(where.value) if where else "-", f"{images:,.0f}" if images else "-", *heads, guessing)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    """Names flush left, numbers flush right."""
    names = [cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True)]
    numbers = [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
    return "  ".join([*names, *numbers]).rstrip()
