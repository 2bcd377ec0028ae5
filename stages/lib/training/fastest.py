"""Which of several ways to do one thing takes the least time, here and now."""

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch

CLEARLY = 1.15
"""The first stays unless another takes less than 1 / CLEARLY of its time, so that noise does not choose."""
ROUNDS = 5
"""Timed runs of each, in turns; the shortest counts."""
NEGLIGIBLE = 1e-3
"""Seconds: where the first takes less than this there is nothing to gain."""
Name = TypeVar("Name", bound=str)


def fastest(steps: Mapping[Name, Callable[[], object]], device: torch.device, turns: bool = True) -> tuple[Name, float]:
    """The first, unless another is clearly faster; and its seconds. turns: to and fro, else one after the other."""
    first = next(iter(steps))
    timed(steps[first], device)  # what is set up once counts for nobody
    spent = {first: [timed(steps[first], device)]}
    if spent[first][0] < NEGLIGIBLE:
        return first, spent[first][0]
    for name in steps:
        timed(steps[name], device)
    order = [name for _ in range(ROUNDS) for name in steps] if turns else [n for n in steps for _ in range(ROUNDS)]
    for name in order:
        spent.setdefault(name, []).append(timed(steps[name], device))
    best = min(steps, key=lambda name: min(spent[name]))
    if min(spent[best]) * CLEARLY >= min(spent[first]):
        best = first
    return best, min(spent[best])


def timed(step: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call, the device's work included."""
    _finish(device)
    began = time.perf_counter()
    step()
    _finish(device)
    return time.perf_counter() - began


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
