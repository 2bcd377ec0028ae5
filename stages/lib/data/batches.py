"""Training batches: the same bytes for every number of ranks, loader threads and restarts.

Everything random about the image at position p of epoch e is drawn here from (seed, e, p), also what the model needs (MAE's
noise, stochastic depth), so nothing stochastic happens on the device and no generator state needs saving (design law 2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from stages.lib.core.outcome import Refusal
from stages.lib.core.ranks import Rank
from stages.lib.data import photo
from stages.lib.data.ahead import Lap, Meter, made, portions
from stages.lib.data.batch import Batch
from stages.lib.data.index import Index
from stages.lib.data.order import steps_per_epoch
from stages.lib.data.randomness import Purpose, generator
from stages.lib.data.recycled import Recycled
from stages.lib.data.shards import ShardReader
from stages.lib.data.view import Drawn

if TYPE_CHECKING:  # pretraining neither augments, erases, mixes nor asks a teacher: no reason to pretrain again
    from stages.lib.data.answers import Answers
    from stages.lib.data.mixing import Mix


@dataclass(frozen=True)
class Stream:
    """What a training run reads: a pure function of (seed, epoch, position)."""

    index: Index
    reader: ShardReader
    order: Callable[[int], np.ndarray]
    """epoch -> i64[positions]: the image at each position; views of one image are adjacent."""
    view: Callable[[int, int, np.random.Generator], Drawn]
    """(width, height, generator) -> what will be seen of an image of that size."""
    size: int
    """Side of a view in pixels."""
    batch_size: int
    """Global."""
    seed: int
    noise: Callable[[np.random.Generator], np.ndarray] | None = None
    """generator -> f32[L], MAE's noise."""
    depth: int = 0
    """Blocks with stochastic depth; 0: none."""
    arrangement: np.ndarray | None = None
    """i64[batch_size]: order within a batch that puts distinct images into each mixing group."""
    mix_group: int = 0
    mix: Callable[[np.random.Generator], Mix] | None = None
    augment: Callable[[np.ndarray, Sequence[Any]], None] | None = None
    """(u8[3, size, size], the view's steps): in place."""
    answers: Callable[[int, np.ndarray], Answers] | None = None
    """(epoch, positions i64[b]) -> what a teacher said of their views; called in order, by one thread."""
    pinned: bool = False
    """Pixels lie where a GPU can fetch them by itself."""
    meter: Meter = field(default_factory=Meter, compare=False)

    @property
    def steps_per_epoch(self) -> int:
        """floor(positions / batch_size). Raises Refusal naming the largest valid batch when that is 0."""
        try:
            return steps_per_epoch(len(self.order(0)), self.batch_size, max(1, self.mix_group))
        except Refusal as refusal:
            part = "" if self.index.percent == 100 else f", data.subset {self.index.percent}"
            raise Refusal(f"{self.index.set_name} ({self.index.split}{part}): {refusal}") from None

    def keys(self, epoch: int, positions: Sequence[int]) -> list[str]:
        """Of the images that stand at these places of an epoch."""
        order, keys = self.order(epoch), self.index.keys
        return [keys[order[position]] for position in positions]


def batches(stream: Stream, first: int, last: int, rank: Rank, workers: int, prefetch: int) -> Iterator[Batch]:
    """Batches of steps first <= step < last; `workers` threads (0: none) prepare up to `prefetch` of them ahead."""
    part = rank.slice(stream.batch_size)
    if stream.mix is not None and (part.stop - part.start) % stream.mix_group:
        raise Refusal(
            f"{part.stop - part.start} images a rank are no whole mixing groups of {stream.mix_group}; "
            f"take a number of ranks that divides {stream.batch_size // stream.mix_group}"
        )
    places = _Places(stream, part)
    return made((_Task(stream, *places.of(step)) for step in range(first, last)), workers, prefetch)


_pixels = Recycled()


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

    def announce(self) -> None:
        """The system may begin to read."""
        self.stream.reader.announce(np.unique(self.images))

    def expect(self) -> None:
        """Tell the reader how far the epoch has come."""
        self.stream.reader.expect(self.order, int(self.positions.min()))

    def jobs(self) -> list[Callable[[], None]]:
        """A few images each, with all their views: an image is decoded once for all of them."""
        stream, count = self.stream, len(self.positions)
        shape = (count, 3, stream.size, stream.size)
        if stream.pinned:  # torch keeps such memory for its next use
            self.tensor = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        else:
            self.tensor = torch.from_numpy(_pixels.take(shape, np.uint8))
        self.pixels = self.tensor.numpy()
        self.noise: list[np.ndarray | None] = [None] * count
        self.keep = np.empty((count, stream.depth, 2), np.float32) if stream.depth else None
        self.drawn: list[Drawn | None] = [None] * count
        work: dict[int, list[int]] = {}
        for place, image in enumerate(self.images.tolist()):
            work.setdefault(image, []).append(place)
        return [partial(self.fill, portion) for portion in portions(list(work.items()))]

    def fill(self, work: Sequence[tuple[int, Sequence[int]]]) -> None:
        """Every view of some images: (row of the index, places in the batch)."""
        stream, lap, spent = self.stream, Lap(), [0.0, 0.0, 0.0]
        for image, places in work:
            drawn = [self.draw(image, place) for place in places]
            spent[2] += lap()
            data = stream.reader.read(image)
            spent[0] += lap()
            photo.show(
                data,
                stream.index.orientation.item(image),
                stream.index.sides(image),
                [one.frame for one in drawn],
                [self.pixels[place] for place in places],
            )
            spent[1] += lap()
            for place, one in zip(places, drawn, strict=True):
                if one.steps and stream.augment:
                    stream.augment(self.pixels[place], one.steps)
            spent[2] += lap()
        stream.meter.add(sum(len(places) for _, places in work), *spent)

    def draw(self, image: int, place: int) -> Drawn:
        """All that is random about one place; the pixels follow from it."""
        stream, key = self.stream, (self.stream.seed, self.epoch, int(self.positions[place]))
        if stream.noise is not None:
            self.noise[place] = stream.noise(generator(*key, Purpose.NOISE))
        if self.keep is not None:
            self.keep[place] = generator(*key, Purpose.DROP_PATH).random((stream.depth, 2), np.float32)
        drawn = self.drawn[place] = stream.view(*stream.index.sides(image), generator(*key, Purpose.AUGMENT))
        return drawn

    def batch(self) -> Batch:
        """The finished batch."""
        mixes: tuple[Mix, ...] = ()
        if self.stream.mix is not None:
            groups = range(self.group, self.group + len(self.positions) // self.stream.mix_group)
            mixes = tuple(self.stream.mix(generator(self.stream.seed, self.epoch, g, Purpose.MIX)) for g in groups)
        made = Batch(
            images=self.tensor,
            labels=torch.from_numpy(self.stream.index.labels[self.images].astype(np.int64)),
            positions=torch.from_numpy(self.positions.astype(np.int64)),
            noise=None
            if self.stream.noise is None
            else torch.from_numpy(np.stack([one for one in self.noise if one is not None])),
            keep=None if self.keep is None else torch.from_numpy(self.keep),
            erasures=tuple((place, one.erasure) for place, one in enumerate(self.drawn) if one and one.erasure),
            mixes=mixes,
            answers=self.stream.answers(self.epoch, self.positions) if self.stream.answers else None,
        )
        return made.pin() if self.stream.pinned else made
