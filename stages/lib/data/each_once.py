"""Every image of a split exactly once, in index order: validation and evaluation."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from stages.lib.core.ranks import Rank
from stages.lib.data import photo
from stages.lib.data.ahead import made, portions
from stages.lib.data.batch import Batch
from stages.lib.data.crop import Frame
from stages.lib.data.index import Index
from stages.lib.data.recycled import Recycled
from stages.lib.data.shards import ShardReader

_pixels = Recycled()
ALONE = Rank()
PREFETCH = 2  # batches ready while one is in use


def each_once(
    index: Index,
    reader: ShardReader,
    frame: Callable[[int, int], Frame],
    batch_size: int,
    workers: int,
    rank: Rank = ALONE,
) -> Iterator[Batch]:
    """Batches of at most `batch_size` images; positions are rows of the index. frame: (width, height) -> what is shown.

    Whole batches are shared out, a run of neighbours to each rank: so every image comes once, in a batch of the same images for
    any number of ranks. Some ranks may get a batch more than others, or none: no collective belongs into their loop.
    """
    source = _Source(index, reader, frame, np.arange(len(index)))
    starts = range(0, len(index), batch_size)
    starts = starts[(mine := rank.share(len(starts))).start : mine.stop]
    return made(
        (_Task(source, range(start, min(start + batch_size, len(index)))) for start in starts), workers, PREFETCH
    )


@dataclass(frozen=True)
class _Source:
    """What all batches share."""

    index: Index
    reader: ShardReader
    frame: Callable[[int, int], Frame]
    order: np.ndarray

    def frame_of(self, row: int) -> Frame:
        """Where to look in one image."""
        return self.frame(*self.index.sides(row))


class _Task:
    """One batch in the making."""

    def __init__(self, source: _Source, rows: range) -> None:
        self.source, self.rows = source, rows

    def announce(self) -> None:
        """The system may begin to read."""
        self.source.reader.announce(self.source.order[self.rows.start : self.rows.stop])

    def expect(self) -> None:
        """Tell the reader how far the split has come."""
        self.source.reader.expect(self.source.order, self.rows.start)

    def jobs(self) -> list[Callable[[], None]]:
        """A few images each."""
        width, height = self.source.frame_of(self.rows.start).window[2:]
        self.images = torch.from_numpy(_pixels.take((len(self.rows), 3, height, width), np.uint8))
        self.pixels = self.images.numpy()
        return [partial(self.fill, rows) for rows in portions(self.rows)]

    def fill(self, rows: Sequence[int]) -> None:
        """Some rows."""
        index, reader = self.source.index, self.source.reader
        for row in rows:
            frame, place = self.source.frame_of(row), self.pixels[row - self.rows.start]
            photo.show(reader.read(row), index.orientation.item(row), index.sides(row), [frame], [place])

    def batch(self) -> Batch:
        """When all is filled."""
        labels = torch.from_numpy(self.source.index.labels[self.rows.start : self.rows.stop].astype(np.int64))
        return Batch(self.images, labels, torch.arange(self.rows.start, self.rows.stop))
