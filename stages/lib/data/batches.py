"""Training batches: the same bytes for every number of ranks, loader threads and restarts.

Everything random about the image at position p of epoch e is drawn here from (seed, e, p), also what the model needs (MAE's
noise, stochastic depth), so nothing stochastic happens on the device and no generator state needs saving (design law 2).
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from stages.lib.core.outcome import Refusal
from stages.lib.core.ranks import Rank
from stages.lib.data.batch import Batch
from stages.lib.data.decode import decode
from stages.lib.data.index import Index
from stages.lib.data.order import steps_per_epoch
from stages.lib.data.randomness import Purpose, generator
from stages.lib.data.shards import ShardReader

if TYPE_CHECKING:  # pretraining neither erases nor mixes: those files are no reason to pretrain again
    from stages.lib.data.erasing import Erasure
    from stages.lib.data.mixing import Mix

View = Callable[[Image.Image, np.random.Generator], "tuple[np.ndarray, Erasure | None]"]


@dataclass(frozen=True)
class Stream:
    """What a training run reads: a pure function of (seed, epoch, position)."""

    index: Index
    reader: ShardReader
    order: Callable[[int], np.ndarray]
    """epoch -> i64[positions]: the image at each position; views of one image are adjacent."""
    view: View
    """(RGB image, its generator) -> (u8[3, size, size], erasure or None)."""
    size: int
    """Side of a view in pixels."""
    batch_size: int
    """Global."""
    seed: int
    patches: int = 0
    """Length of MAE's noise; 0: none."""
    depth: int = 0
    """Blocks with stochastic depth; 0: none."""
    arrangement: np.ndarray | None = None
    """i64[batch_size]: order within a batch that puts distinct images into each mixing group."""
    mix_group: int = 0
    mix: Callable[[np.random.Generator], Mix] | None = None

    @property
    def steps_per_epoch(self) -> int:
        """floor(positions / batch_size). Raises Refusal naming the largest valid batch when that is 0."""
        try:
            return steps_per_epoch(len(self.order(0)), self.batch_size)
        except Refusal as refusal:
            raise Refusal(f"{self.index.set_name} ({self.index.split}): {refusal}") from None


def batches(stream: Stream, first: int, last: int, rank: Rank, workers: int, prefetch: int) -> Iterator[Batch]:
    """Batches of steps first <= step < last; `workers` threads (0: none) prepare up to `prefetch` of them ahead."""
    part = rank.slice(stream.batch_size)
    if stream.mix is not None and (part.stop - part.start) % stream.mix_group:
        raise Refusal(
            f"{part.stop - part.start} images a rank are no whole mixing groups of {stream.mix_group}; "
            f"take a number of ranks that divides {stream.batch_size // stream.mix_group}"
        )
    places = _Places(stream, part)
    if not workers:
        for step in range(first, last):
            task = _Task(stream, *places.of(step))
            task.expect()
            for image in task.work:
                task.fill(image)
            yield task.batch()
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="loader") as pool:
        ahead: collections.deque[tuple[_Task, list[Future[None]]]] = collections.deque()
        try:
            for step in range(first, last + prefetch):
                if step < last:
                    task = _Task(stream, *places.of(step))
                    if step == first:
                        task.expect()
                    ahead.append((task, [pool.submit(task.fill, image) for image in task.work]))
                if step >= first + prefetch and ahead:
                    task, futures = ahead.popleft()
                    task.expect()  # from the oldest batch that is still read, not from the newest
                    for future in futures:
                        future.result()
                    yield task.batch()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


class _Places:
    """Positions and images of a step; keeps the current epoch's order."""

    def __init__(self, stream: Stream, part: slice) -> None:
        self.stream, self.part, self.epoch = stream, part, -1
        self.steps_per_epoch = stream.steps_per_epoch
        self.order = np.empty(0, np.int64)

    def of(self, step: int) -> tuple[int, np.ndarray, np.ndarray, int]:
        """(epoch, its order, positions i64[b], number of the first mixing group in the epoch)."""
        epoch, within = divmod(step, self.steps_per_epoch)
        if epoch != self.epoch:
            self.epoch, self.order = epoch, self.stream.order(epoch)
        positions = within * self.stream.batch_size + np.arange(self.stream.batch_size)
        if self.stream.arrangement is not None:
            positions = positions[self.stream.arrangement]
        positions = positions[self.part]
        group = (within * self.stream.batch_size + self.part.start) // max(1, self.stream.mix_group)
        return epoch, self.order, positions, group


class _Task:
    """One batch in the making; threads fill disjoint places of its arrays."""

    def __init__(self, stream: Stream, epoch: int, order: np.ndarray, positions: np.ndarray, group: int) -> None:
        self.stream, self.epoch, self.order, self.positions, self.group = stream, epoch, order, positions, group
        self.images = order[positions]
        self.pixels = np.empty((len(positions), 3, stream.size, stream.size), np.uint8)
        self.noise = np.empty((len(positions), stream.patches), np.float32) if stream.patches else None
        self.keep = np.empty((len(positions), stream.depth, 2), np.float32) if stream.depth else None
        self.erasures: list[Any] = [None] * len(positions)
        self.work: dict[int, list[int]] = {}
        for place, image in enumerate(self.images.tolist()):
            self.work.setdefault(image, []).append(place)

    def expect(self) -> None:
        """Tell the reader how far the epoch has come."""
        self.stream.reader.expect(self.order, int(self.positions.min()))

    def fill(self, image: int) -> None:
        """Every view of one image: it is decoded once for all of them."""
        stream = self.stream
        picture = decode(stream.reader.read(image), int(stream.index.orientation[image]))
        for place in self.work[image]:
            key = (stream.seed, self.epoch, int(self.positions[place]))
            self.pixels[place], self.erasures[place] = stream.view(picture, generator(*key, Purpose.AUGMENT))
            if self.noise is not None:
                self.noise[place] = generator(*key, Purpose.NOISE).random(stream.patches, np.float32)
            if self.keep is not None:
                self.keep[place] = generator(*key, Purpose.DROP_PATH).random((stream.depth, 2), np.float32)

    def batch(self) -> Batch:
        """The finished batch."""
        mixes: tuple[Mix, ...] = ()
        if self.stream.mix is not None:
            groups = range(self.group, self.group + len(self.positions) // self.stream.mix_group)
            mixes = tuple(self.stream.mix(generator(self.stream.seed, self.epoch, g, Purpose.MIX)) for g in groups)
        return Batch(
            images=torch.from_numpy(self.pixels),
            labels=torch.from_numpy(self.stream.index.labels[self.images].astype(np.int64)),
            positions=torch.from_numpy(self.positions.astype(np.int64)),
            noise=None if self.noise is None else torch.from_numpy(self.noise),
            keep=None if self.keep is None else torch.from_numpy(self.keep),
            erasures=tuple((place, erasure) for place, erasure in enumerate(self.erasures) if erasure is not None),
            mixes=mixes,
        )
