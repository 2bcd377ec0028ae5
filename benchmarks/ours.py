"""Our side: the streams a stage trains on, with the parameters of the presets, drawn by the stages' own calls."""

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.interleaved import settle
from benchmarks.pictures import Pictures
from stages import pretrain
from stages.lib.core import load
from stages.lib.core.ranks import Rank
from stages.lib.data.batch import Batch
from stages.lib.data.batches import Stream, batches
from stages.lib.data.classifier_stream import stream_of
from stages.lib.data.each_once import each_once
from stages.lib.data.normalise import normalise
from stages.lib.data.pixels import classifier_pixels
from stages.lib.data.preparation import Preparation
from stages.lib.data.shards import ShardReader
from stages.lib.params.everything import Everything
from stages.lib.params.pretrain import Pretrain
from stages.lib.params.views import Views

PRESETS = Path(__file__).parents[1] / "presets"
PREFETCH = 4
"""Batches prepared ahead, as in the presets' block `system`."""
ENDLESS = 10**9
"""Steps."""
TIMINGS = 7
READ_CHUNK = 200
"""Samples drawn at a time where only reading is timed."""

Finish = Callable[[Batch], Tensor]
"""u8 batch -> what the model sees, f32[B, 3, size, size]."""


def pretraining(batch: int) -> Pretrain:
    """MAE's recipe with another batch size."""
    block = load.whole(Everything, PRESETS / "imagenet-mae-base.yaml").pretrain
    return Pretrain.model_validate({**block.model_dump(), "batch_size": batch}, strict=False)


def classifying(batch: int, repeats: int) -> Views:
    """DeiT's recipe with another batch size, for one process, without mixing (the reference does not mix in its loader)."""
    views = load.whole(Everything, PRESETS / "imagenet-deit-small.yaml").train.views
    ours = {"batch_size": batch, "repeats": repeats, "order": "permutation", "replicas": 1, "mixup": 0.0, "cutmix": 0.0}
    return Views.model_validate({**views.model_dump(), **ours}, strict=False)


def mae_stream(pictures: Pictures, cfg: Pretrain) -> Stream:
    """Crops, flips and masking noise."""
    return pretrain.stream_of(cfg, pictures.index, ShardReader(pictures.index, pictures.folder))


def classifier_stream(pictures: Pictures, views: Views, depth: int = 12) -> Stream:
    """Crops, flips, RandAugment, erasing, and the numbers behind stochastic depth."""
    return stream_of(views, pictures.index, ShardReader(pictures.index, pictures.folder), depth)


def endless(stream: Stream, cores: int) -> Iterator[Batch]:
    """Epoch after epoch, `cores` threads."""
    return batches(stream, 0, ENDLESS, Rank(), cores, PREFETCH)


def evaluated(pictures: Pictures, batch: int, cores: int) -> Iterator[Batch]:
    """Passes over the whole index as validation makes them; the one place that calls each_once."""
    frame, reader = Preparation(224, 0.875).frame, ShardReader(pictures.index, pictures.folder)
    while True:
        yield from each_once(pictures.index, reader, frame, batch, cores)


def normalised(batch: Batch) -> Tensor:
    """f32[B, 3, H, W]."""
    return normalise(batch.images)


def erased(batch: Batch) -> Tensor:
    """f32[B, 3, H, W] as a classifier sees it: normalised and erased."""
    return classifier_pixels(batch)


class Ours:
    """Our loader under the clock (benchmarks.interleaved.Side)."""

    ahead = PREFETCH

    def __init__(self, source: Iterator[Batch], finish: Finish | None, extra: float = 0.0) -> None:
        """finish: part of every batch's time; None: u8 batches, `extra` seconds are added to each."""
        self.extra = extra
        self._batches, self._finish = source, finish
        self._last: Tensor | None = None

    def draw(self) -> int:
        """Take a batch."""
        self._last = None
        batch = next(self._batches)
        self._last = self._finish(batch) if self._finish else batch.images
        return len(batch.images)

    def close(self) -> None:
        """Stop the threads, and wait for them: the next path forks workers."""
        self._last = None
        self._batches.close()  # type: ignore[attr-defined]
        settle()


class Read:
    """ShardReader under the clock: payloads copied, in random order, by one thread."""

    extra = 0.0
    ahead = 0

    def __init__(self, pictures: Pictures) -> None:
        self._reader = ShardReader(pictures.index, pictures.folder)
        self._rows = len(pictures.index)
        self._rng = np.random.default_rng(0)

    def draw(self) -> int:
        """Read the next samples."""
        for row in self._rng.integers(self._rows, size=READ_CHUNK).tolist():
            assert self._reader.read(row)
        return READ_CHUNK

    def close(self) -> None:
        """Nothing runs."""


def device() -> torch.device:
    """Where a training run would normalise."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def seconds_on_device(source: Iterator[Batch], finish: Finish) -> float:
    """What `finish` costs a batch on `device()`, its way there included: the median of a few, all else at rest."""
    batch, where = next(source), device()
    settle()
    seconds = []
    for _ in range(TIMINGS):
        start = time.perf_counter()
        finish(batch.to(where))
        if where.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])  # the first one allocates
