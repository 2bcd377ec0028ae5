"""Tables that compare experiments: for flows/experiment.py. Pure functions; numbers in, rows out."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """How one experiment of a grid ended."""

    name: str
    values: Mapping[str, Any]
    """What it varied."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    saved: str | None = None
    """Name of the DVC experiment; None where there is none."""
    problem: str | None = None
    """Why it failed; None where it did not."""


def flatten(metrics: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """Numbers of a metrics file by dotted names such as student.heads.fused.top1; what is no number is left out."""
    flat: dict[str, float] = {}
    for key, value in metrics.items():
        name = f"{prefix}.{key}"
        if isinstance(value, Mapping):
            flat |= flatten(value, name)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            flat[name] = value
    return flat


def each(outcomes: Sequence[Outcome]) -> list[Row]:
    """One row per experiment: what it varied, how it ended, every metric any of them has, accuracies first."""
    keys = _ordered(outcome.values for outcome in outcomes)
    names = sorted(_ordered(outcome.metrics for outcome in outcomes), key=lambda name: not name.endswith("top1"))
    return [
        {"experiment": outcome.saved or outcome.name}
        | {key: _cell(outcome.values.get(key)) for key in keys}
        | {"result": f"failed: {outcome.problem}" if outcome.problem else "saved"}
        | {name: _cell(outcome.metrics.get(name)) for name in names}
        for outcome in outcomes
    ]


def over(outcomes: Sequence[Outcome], seeds: str) -> list[Row]:
    """Mean and spread over `seeds` of every metric: one row per group of experiments that differ in nothing else, and metric.

    sd is the sample standard deviation (n - 1); a single value has none. n counts the experiments that have the metric.
    """
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        rest = {key: value for key, value in outcome.values.items() if key != seeds}
        groups.setdefault(repr(rest), []).append(outcome)
    keys = [key for key in _ordered(outcome.values for outcome in outcomes) if key != seeds]
    rows = []
    for group in groups.values():
        for name in _ordered(outcome.metrics for outcome in group):
            values = [float(outcome.metrics[name]) for outcome in group if name in outcome.metrics]
            spread = statistics.stdev(values) if len(values) > 1 else None
            row = {key: _cell(group[0].values.get(key)) for key in keys}
            rows.append(
                row | {"metric": name, "mean": _cell(statistics.fmean(values)), "sd": _cell(spread), "n": len(values)}
            )
    return rows


def _ordered(mappings: Any) -> list[str]:
    """Keys of all, each once, in the order they are first met."""
    return list(dict.fromkeys(key for mapping in mappings for key in mapping))


def _cell(value: Any) -> Any:
    """A value as a table holds it: nothing as an empty place, NaN and infinity in words since JSON has none."""
    if value is None:
        return ""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
