"""How many images a second a model answers, at a batch size: the median of repeated passes after some that do not count.

Protocol of DeiT's Table 5: the model alone, images already on the device, single precision unless asked otherwise, 30 repetitions.
What Python's clock sees: on a GPU a pass ends when its work is done.
"""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from stages.lib.models.precision import autocast
from stages.lib.params.precision import Precision

WARM, REPEATS, LEAST = 3, 30, 5
SECONDS = 20.0
"""After so long no more than LEAST repetitions are made of one batch size."""
NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")
"""What torch says when a CPU has none left; a GPU has an exception of its own."""


@dataclass(frozen=True)
class Speed:
    """Of one batch size in one precision."""

    images_per_second: float
    """At the median pass."""
    slowest: float
    """Images a second of the slowest pass that counts."""
    repeats: int
    """Passes that count."""
    peak_bytes: int
    """Most memory: of tensors on a GPU, of the whole process (resident) on a CPU."""


def measured(network: nn.Module, image_size: int, batch_size: int, precision: Precision) -> Speed | None:
    """Of a model in eval mode on its device; None where its memory does not hold the batch."""
    device = next(network.parameters()).device
    try:
        with _peak(device) as peak, torch.inference_mode(), autocast(device, precision):
            images = torch.randn(batch_size, 3, image_size, image_size, generator=_generator()).to(device)
            seconds = list(_passes(lambda: network(images), device))
            return Speed(batch_size / statistics.median(seconds), batch_size / max(seconds), len(seconds), peak())
    except (torch.OutOfMemoryError, MemoryError):
        pass
    except RuntimeError as error:
        if not any(words in str(error) for words in NO_MEMORY):
            raise
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return None


def _passes(run: Callable[[], object], device: torch.device) -> Iterator[float]:
    """Seconds of each pass that counts."""
    for _ in range(WARM):
        _timed(run, device)
    began = time.perf_counter()
    for number in range(REPEATS):
        if number >= LEAST and time.perf_counter() - began > SECONDS:
            return
        yield _timed(run, device)


def _timed(run: Callable[[], object], device: torch.device) -> float:
    began = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@contextlib.contextmanager
def _peak(device: torch.device) -> Iterator[Callable[[], int]]:
    """Count the most memory from here on; yields what reads it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield lambda: int(torch.cuda.max_memory_allocated(device))
        return
    with contextlib.suppress(
        OSError
    ):  # 5: forget the highest resident size so far (proc(5)); some containers forbid it
        Path("/proc/self/clear_refs").write_text("5")
    yield _resident


def _resident() -> int:
    """VmHWM of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
