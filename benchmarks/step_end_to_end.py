"""A step fed from shards, as a training run is: our loader, the way to the device, our step (a side of benchmarks.interleaved)."""

import time
from collections.abc import Callable
from dataclasses import replace

import torch

from benchmarks.interleaved import settle
from benchmarks.ours import ENDLESS, PREFETCH
from benchmarks.pictures import Pictures
from benchmarks.step_ours import Work
from stages.lib.core.ranks import Rank
from stages.lib.data.batch import Batch
from stages.lib.data.batches import batches
from stages.lib.training.arrival import arriving

UNDERWAY = PREFETCH + 2
"""Batches between shards and step at most: those made ahead, the one on its way to a GPU and the one that has arrived."""


class FromShards:
    """Steps under the clock, on batches made of `pictures` by `workers` threads; epoch follows epoch."""

    ahead, extra = 0, 0.0
    held = 0
    """Bytes of a GPU, as a step's on a batch that lies ready."""

    def __init__(
        self, work: Work, pictures: Pictures, workers: int, device: torch.device, steps: int, begin: Callable[[], None]
    ) -> None:
        """steps: in a draw, after which the host waits for a GPU. begin: called before each draw."""
        stream = replace(work.stream(pictures), pinned=device.type == "cuda")
        self._loader = batches(stream, 0, ENDLESS, Rank(), workers, PREFETCH)
        self._arriving = arriving(self._loader, device)
        self._work, self._device, self._steps, self._begin = work, device, steps, begin
        self.spent: list[tuple[float, float]] = []
        """Of each draw: seconds that the host waited for batches, and all its seconds."""

    def first(self) -> Batch:
        """A batch, on the device: what the same step takes without a loader."""
        return next(self._arriving)

    def drain(self) -> None:
        """Into the steady state, whoever is faster: nothing that was made while the clock stood still is left, and a loader faster
        than the step is ahead again after a few steps."""
        for _ in range(UNDERWAY):
            next(self._arriving)
        self._draw()

    def draw(self) -> int:
        """Run; the device has finished when it returns."""
        began = time.perf_counter()
        images, waited = self._draw()
        self.spent.append((waited, time.perf_counter() - began))
        return images

    @property
    def waiting_share(self) -> float:
        """Of the time of all draws but the first, which compiles: what the host waited for batches."""
        waited, spent = (sum(column) for column in zip(*(self.spent[1:] or self.spent), strict=True))
        return waited / spent

    def close(self) -> None:
        """Stop the threads, and wait for them."""
        for source in (self._arriving, self._loader):
            source.close()  # type: ignore[attr-defined]
        settle()

    def _draw(self) -> tuple[int, float]:
        """Images, and the seconds the host waited for them."""
        self._begin()
        images, waited = 0, 0.0
        for _ in range(self._steps):
            asked = time.perf_counter()
            batch = next(self._arriving)
            waited += time.perf_counter() - asked
            self._work.step(batch)
            images += len(batch.images)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return images, waited
