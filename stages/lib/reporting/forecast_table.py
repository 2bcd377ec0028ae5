"""What `python -m stages.preflight` found, as a table for people, and beside it what runs really took."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Found = Mapping[str, Any]
HEAD = ("stage", "images/s", "slowest..fastest", "waiting", "GB a process", "disk GB", "hours", "cost")
COMPARED = ("stage", "predicted h", "actual h", "actual/predicted", "starts", "steps")
PARTS = ("startup", "training", "validation", "saving")


def table(found: Sequence[Found]) -> str:
    """A line a measured stage, then what is to be said of the others."""
    rows: list[tuple[str, ...]] = [HEAD, *(_row(one) for one in found if one["status"] == "measured")]
    lines = _aligned(rows) if len(rows) > 1 else []
    lines += [f"{one['name']}: {one['status']}: {one['reason']}" for one in found if one["status"] != "measured"]
    return "\n".join(lines) + "\n"


def compared(found: Sequence[Found], root: Path) -> str:
    """Predicted and actual, for every stage whose recipe has run since. root: of run folders."""
    rows: list[tuple[str, ...]] = [COMPARED]
    for one in found:
        if one["status"] == "measured":
            rows.append(_against(one, actual(one, root)))
    return "\n".join(_aligned(rows)) + "\n" if len(rows) > 1 else ""


def actual(one: Found, root: Path) -> dict[str, float] | None:
    """took.json of the newest run of this very recipe on this very index; None: there is none."""
    newest: tuple[float, dict[str, float]] | None = None
    for path in root.glob(f"{one['name']}/*/took.json"):
        identity = json.loads((path.parent / "identity.json").read_text())
        same = identity["params"] == one["params"] and one["index_sha256"] in identity["inputs"].values()
        if same and (newest is None or path.stat().st_mtime > newest[0]):
            newest = path.stat().st_mtime, json.loads(path.read_text())
    return newest[1] if newest else None


def seconds(took: Mapping[str, float]) -> float:
    """All that was spent up to the end of training."""
    return sum(took[f"{part}_seconds"] for part in PARTS)


def _row(one: Found) -> tuple[str, ...]:
    spread = f"{one['slowest']:.0f}..{one['fastest']:.0f}"
    disk = sum(one["disk"].values()) / 1e9
    cost = "-" if one["cost"] is None else f"{one['cost']:.2f}"
    memory, hours = f"{one['peak_bytes'] / 1e9:.2f}", _hours(one["hours"])
    return (
        one["name"],
        f"{one['images_per_second']:.0f}",
        spread,
        f"{one['waiting_share']:.0%}",
        memory,
        f"{disk:.3g}",
        hours,
        cost,
    )


def _against(one: Found, took: Mapping[str, float] | None) -> tuple[str, ...]:
    if took is None:
        return one["name"], _hours(one["hours"]), "not run", "-", "-", "-"
    hours, whole = seconds(took) / 3600, one["epochs"] * one["steps_per_epoch"]
    done = min(took["steps"] * (one["processes"] if one["stage"] == "label" else 1), whole)
    ratio = f"{hours / one['hours']:.2f}" if done >= whole else "not done"
    return one["name"], _hours(one["hours"]), _hours(hours), ratio, f"{took['starts']:.0f}", f"{done:.0f}/{whole:.0f}"


def _hours(hours: float) -> str:
    return f"{hours:.3g}"


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Names flush left, numbers flush right."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = (
        [row[0].ljust(widths[0]), *(cell.rjust(wide) for cell, wide in zip(row[1:], widths[1:], strict=True))]
        for row in rows
    )
    return ["  ".join(cells).rstrip() for cells in lines]
