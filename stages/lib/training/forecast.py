"""From the first steps of a run to all of it: pure arithmetic on what a trial left in its run folder. Seconds and bytes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from stages.lib.training.plan import Plan

WARM = 4
"""Steps that are no measure: kernels are compiled or chosen, and batches were made while nobody waited."""
STEADY = 10
"""Steps after those, which are."""
ROW = 2
"""Steps between two rows of a trial's metrics."""
LOOKING = 3.0
"""Validating shows images this many times as fast as training: one pass of three. Where a look was not measured."""
Rows = Sequence[Mapping[str, float]]


@dataclass(frozen=True)
class Pace:
    """How fast the steady steps went; images a second of all processes."""

    images_per_second: float
    slowest: float
    fastest: float
    steady_steps: float
    waiting_share: float
    peak_bytes: float
    """Of one process."""
    warm_seconds: float
    """What the first steps took beyond that pace."""


def pace(rows: Rows, batch_size: int, processes: int = 1) -> Pace:
    """rows: {"step", "images_per_second", "waiting_share", "peak_bytes"} as `fit` writes them, or with "images" in place of
    "step" as `label` does; processes: that work beside the one whose rows these are, itself counted.

    Where a run has no more than WARM steps, its last row has to do.
    """
    ends = [row["step"] * batch_size if "step" in row else row["images"] for row in rows]
    images = [end - start for start, end in zip([0.0, *ends], ends, strict=False)]
    seconds = [count / row["images_per_second"] for count, row in zip(images, rows, strict=True)]
    first = next(
        (place for place, end in enumerate(ends) if place and ends[place - 1] >= WARM * batch_size), len(rows) - 1
    )
    spent = sum(seconds[first:])
    rate = sum(images[first:]) / spent
    rates = [row["images_per_second"] * processes for row in rows[first:]]
    waited = sum(row["waiting_share"] * share for row, share in zip(rows[first:], seconds[first:], strict=True))
    return Pace(
        rate * processes,
        min(rates),
        max(rates),
        sum(images[first:]) / batch_size,
        waited / spent,
        max(row["peak_bytes"] for row in rows),
        max(0.0, sum(seconds[:first]) - sum(images[:first]) / rate),
    )


def looks(epochs: int) -> int:
    """How often a run of so many epochs validates."""
    plan = Plan(epochs, 1, 1, lambda _: 0.0)
    return sum(plan.looks(epoch) for epoch in range(epochs))


def course(
    found: Pace,
    took: Mapping[str, float],
    epochs: int,
    val_images: int,
    checkpoint_seconds: float,
) -> dict[str, Any]:
    """What the whole run takes, part by part, in seconds. val_images: that one look shows, 0 where the stage never looks.

    checkpoint_seconds: between two checkpoints, as `system` has it.
    """
    images = epochs * took["steps_per_epoch"] * took["batch_size"]
    training = images / found.images_per_second
    measured = took["validations"] > 0
    one_look = (
        took["validation_seconds"] / took["validations"]
        if measured
        else val_images / (LOOKING * found.images_per_second)
    )
    saves = (
        min(epochs * took["steps_per_epoch"], 1 + training // max(checkpoint_seconds, 1e-9)) if took["savings"] else 0
    )
    parts = {
        "startup_seconds": took["startup_seconds"] + found.warm_seconds,
        "training_seconds": training,
        "validation_seconds": one_look * looks(epochs) if val_images else 0.0,
        "saving_seconds": saves * took["saving_seconds"] / max(1.0, took["savings"]),
    }
    return {
        "epochs": epochs,
        "steps_per_epoch": took["steps_per_epoch"],
        "batch_size": took["batch_size"],
        **{name: value for name, value in asdict(found).items() if name != "warm_seconds"},
        **parts,
        "validation": ("measured" if measured else "estimated") if val_images else "none",
        "hours": sum(parts.values()) / 3600,
    }


def label_bytes(epochs: int, positions: int, top_k: int) -> int:
    """Of a store of labels (stages/lib/data/label_store.py), headers left out."""
    return epochs * positions * (2 + (4 * top_k + 2 if top_k else 0))


def kept_bytes(checkpoint: int, keep: int, best: bool) -> int:
    """Most that checkpoints of one run take: the newest is written before the oldest goes. best: those of the best look are
    kept in each as well, a third of weights and two moments."""
    return (keep + 1) * checkpoint * (4 if best else 3) // 3


def total_cost(hours: float, gpus: int, price: float) -> float | None:
    """In the currency of the price; None where there is no price or no GPU."""
    return hours * gpus * price if price and gpus else None


def over(needed: Iterable[tuple[int, int, str]], free: Mapping[int, int]) -> list[str]:
    """One sentence for each disk that will not do. needed: (disk, bytes, what for); free: bytes of each disk."""
    said = []
    for disk, left in free.items():
        mine = sorted(((size, what) for where, size, what in needed if where == disk and size), reverse=True)
        if (total := sum(size for size, _ in mine)) > left:
            most = ", ".join(f"{what} {size / 1e9:.3g} GB" for size, what in mine[:4])
            said.append(f"{total / 1e9:.3g} GB will be written where {left / 1e9:.3g} GB are free: {most}")
    return said
