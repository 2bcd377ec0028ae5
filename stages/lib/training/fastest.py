"""Which of several ways to do one thing takes the least time, here and now."""

import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

import torch

CLEARLY = 1.15
"""The first stays unless another takes less than 1 / CLEARLY of its time, so that noise does not choose."""
ROUNDS = 5
"""Timed calls of each, in turns; the shortest counts."""
NEGLIGIBLE = 1e-3
"""Seconds: where the first takes less than this there is nothing to gain."""
Name = TypeVar("Name", bound=Hashable)


def shortest(steps: Mapping[Name, Callable[[], object]], device: torch.device, turns: bool = True) -> dict[Name, float]:
    """Seconds of each, or of the first alone where that is negligible. turns: one after the other, again and again; else a row
    of calls of each."""
    first = next(iter(steps))
    timed(steps[first], device)  # what is set up once counts for nobody
    spent = timed(steps[first], device)
    if spent < NEGLIGIBLE:
        return {first: spent}
    least = {name: timed(step, device) + float("inf") for name, step in steps.items()}
    order = [name for _ in range(ROUNDS) for name in steps] if turns else [n for n in steps for _ in range(ROUNDS)]
    for name in order:
        least[name] = min(least[name], timed(steps[name], device))
    return least


def preferred(seconds: Mapping[Name, float]) -> Name:
    """The first, unless another is clearly faster."""
    first, best = next(iter(seconds)), min(seconds, key=lambda name: seconds[name])
    return best if seconds[best] * CLEARLY < seconds[first] else first


def timed(step: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call: of a GPU until its work is done, of a CPU those its threads worked, which others there disturb less."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        began = time.perf_counter()
        step()
        torch.cuda.synchronize(device)
        return time.perf_counter() - began
    began = time.process_time()
    step()
    return time.process_time() - began
