"""Accuracy against throughput, of what `python -m stages.throughput` measured: a picture for the live page."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stages.lib.reporting import markup
from stages.lib.reporting.live_runs import number

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 560, 320, 56, 90, 28, 44
"""Pixels: of the picture, and around the plot."""


@dataclass(frozen=True)
class Point:
    """A model."""

    model: str
    images_per_second: float
    how: str
    """Batch size, precision, memory and machine of that measurement."""
    top1: float | None
    """Percent; None where it was not evaluated."""


def points(throughput: Mapping[str, Mapping[str, Any]], metrics: Mapping[str, Mapping[str, Any]]) -> list[Point]:
    """The fastest row of each model that has one (docs/formats.md), the fastest model first."""
    found = []
    for model, content in throughput.items():
        rows = content.get("rows")
        rates = [
            (rate, row)
            for row in (rows if isinstance(rows, list) else [])
            if isinstance(row, dict) and (rate := number(row.get("images_per_second"))) is not None and rate > 0
        ]
        if rates:
            rate, row = max(rates, key=lambda one: one[0])
            found.append(Point(model, rate, how(row, content.get("machine")), top1(metrics.get(model, {}))))
    return sorted(found, key=lambda point: -point.images_per_second)


def how(row: Mapping[str, Any], machine: object) -> str:
    """Batch, precision, memory and machine of a measurement, as far as they are said."""
    words = [f"batches of {row['batch_size']}" if "batch_size" in row else "", str(row.get("precision", ""))]
    memory = number(row.get("peak_bytes"))
    words.append("" if memory is None else f"{memory / 1e9:.2f} GB")
    words.append(str(machine.get("device", "")) if isinstance(machine, dict) else "")
    return ", ".join(word for word in words if word)


def top1(metrics: Mapping[str, Any]) -> float | None:
    """Of what the model's own forward gives: both heads fused, or the only one."""
    heads = metrics.get("heads")
    if not isinstance(heads, dict):
        return None
    head = heads.get("fused_logits", heads.get("class"))
    return number(head.get("top1")) if isinstance(head, dict) else None


def picture(found: Sequence[Point]) -> str:
    """An SVG: images a second to the right, on a logarithmic scale, top-1 upwards."""
    rates, accuracies = [point.images_per_second for point in found], [point.top1 or 0.0 for point in found]
    low, high = math.log10(min(rates)) - 0.15, math.log10(max(rates)) + 0.15
    bottom, top = math.floor(min(accuracies) - 1), min(100, math.ceil(max(accuracies) + 1))

    def x(rate: float) -> float:
        return LEFT + (math.log10(rate) - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(accuracy: float) -> float:
        return HEIGHT - BOTTOM - (accuracy - bottom) / (top - bottom) * (HEIGHT - TOP - BOTTOM)

    parts = []
    for value in ticks(low, high):
        parts += [
            _line(x(value), TOP, x(value), HEIGHT - BOTTOM, "grid"),
            _text(x(value), HEIGHT - BOTTOM + 16, f"{value:,.0f}", "middle"),
        ]
    for value in levels(bottom, top):
        parts += [
            _line(LEFT, y(value), WIDTH - RIGHT, y(value), "grid"),
            _text(LEFT - 6, y(value) + 4, f"{value:g}", "end"),
        ]
    parts += [
        _line(LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM, "axis"),
        _line(LEFT, TOP, LEFT, HEIGHT - BOTTOM, "axis"),
    ]
    parts += [
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, "images/s", "middle"),
        _text(4, TOP - 14, "top-1 %", "start"),
    ]
    for point in found:
        about = f"{point.model}: {point.images_per_second:,.0f} images/s, top-1 {point.top1:.2f} %"
        at = x(point.images_per_second), y(point.top1 or 0.0)
        circle = markup.element(
            "circle", markup.element("title", markup.text(about)), cx=f"{at[0]:.1f}", cy=f"{at[1]:.1f}", r=6
        )
        parts += [circle, _text(at[0] + 10, at[1] + 4, point.model, "start")]
    label = "Top-1 accuracy against images a second: " + "; ".join(point.model for point in found)
    return markup.element("svg", "".join(parts), viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=label)


def ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times a power of ten, between two powers of ten."""
    found = [factor * 10.0**power for power in range(math.floor(low), math.ceil(high) + 1) for factor in (1, 2, 5)]
    return [value for value in found if low <= math.log10(value) <= high]


def levels(bottom: float, top: float) -> list[float]:
    """Round numbers, five or so."""
    step = next((one for one in (0.5, 1, 2, 5, 10, 20) if (top - bottom) / one <= 6), 20)
    first = math.ceil(bottom / step)
    return [step * place for place in range(first, math.floor(top / step) + 1)]


def _line(x: float, y: float, to_x: float, to_y: float, kind: str) -> str:
    return markup.element("line", x1=f"{x:.1f}", y1=f"{y:.1f}", x2=f"{to_x:.1f}", y2=f"{to_y:.1f}", class_=kind)


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return markup.element("text", markup.text(words), x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor)
