"""Does memory stay flat? Resident memory of a training loader for indexes of two lengths, and from epoch to epoch.

Each measurement is a fresh process that reads an index and draws batches, so that nothing of the measuring weighs in. What counts
is Pss_Anon of /proc/self/smaps_rollup, the process's own pages: pages of mapped files belong to the page cache and leave when
memory is short. The long index is simulated: rows of distinct keys as long as ImageNet's that point to the same few images.
"""

import gc
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from benchmarks import machine, ours
from benchmarks.pictures import CLASSES, Pictures
from stages.lib.core.ranks import Rank
from stages.lib.data.batches import batches
from stages.lib.data.index import read_index
from stages.lib.data.shards import ShardReader
from stages.lib.ingestion import index_writer
from stages.lib.ingestion.index_writer import Place
from stages.pretrain import stream_of

ROWS = (10_000, 1_281_167)
"""The second is ImageNet-1k's training split."""
BATCHES = 8
"""Drawn before memory is read: more than are prepared ahead."""
EPOCH = 2
"""Batches an epoch has where epochs are counted."""
WARM, COUNTED = 4, 12
"""Epochs that fill caches and pools, then the fewest a slope is drawn through."""
Result = TypeVar("Result")


@dataclass(frozen=True)
class Growth:
    """MB are 10^6 bytes."""

    few_mb: float
    """Resident with the shorter index."""
    many_mb: float
    rows: tuple[int, int]
    """Of the shorter and the longer index."""
    epoch_mb: list[float]
    """Resident after each epoch, those that warm up left out."""

    @property
    def bytes_per_row(self) -> float:
        """What a further image costs."""
        return (self.many_mb - self.few_mb) * 1e6 / (self.rows[1] - self.rows[0])

    @property
    def slope_kb(self) -> float:
        """Kilobytes that an epoch adds: least squares."""
        return float(np.polyfit(np.arange(len(self.epoch_mb)), self.epoch_mb, 1)[0]) * 1e3


def measure(pictures: Pictures, folder: Path, batch: int, cores: int, seconds: float) -> Growth:
    """Three processes, one after the other; `folder` receives the indexes, `seconds` go to the epochs."""
    lengths = {"few": ROWS[0], "many": ROWS[1], "epochs": EPOCH * batch}
    for name, length in lengths.items():
        write_index(folder / f"{name}.parquet", pictures, length)
    few, many = (
        _alone(resident, folder / f"{name}.parquet", pictures.folder, batch, cores) for name in ("few", "many")
    )
    epochs = _alone(over_epochs, folder / "epochs.parquet", pictures.folder, batch, cores, seconds)
    return Growth(few, many, ROWS, epochs)


def write_index(path: Path, pictures: Pictures, rows: int) -> None:
    """An index of `rows` rows, in shard order, over the images there are."""
    index = pictures.index
    places = [
        Place(
            f"train/n{row % 1000:08d}/n{row % 1000:08d}_{row}", "train", 0, index.shards[index.shard_of[there]],
            int(index.offset[there]), int(index.size[there]), "0" * 64, int(index.width[there]), int(index.height[there]), 1,
        )
        for row, there in enumerate(np.sort(np.arange(rows) % len(index)).tolist())
    ]  # fmt: skip
    facts = {
        name: {"sha256": sha256, "bytes": size, "images": 0, "split": "train"}
        for name, sha256, size in zip(index.shards, index.shard_sha256, index.shard_bytes, strict=True)
    }
    index_writer.write(path, places, CLASSES, facts)


def resident(path: Path, shards: Path, batch: int, cores: int) -> float:
    """MB of this process once it has read the index and drawn some batches."""
    machine.pin(cores)
    index = read_index(path, "train")
    stream = stream_of(ours.pretraining(batch), index, ShardReader(index, shards))
    for _ in batches(stream, 0, BATCHES, Rank(), cores, ours.PREFETCH):
        pass
    return _resident_mb()


def over_epochs(path: Path, shards: Path, batch: int, cores: int, seconds: float) -> list[float]:
    """MB of this process after each of the epochs that fill `seconds`."""
    machine.pin(cores)
    index = read_index(path, "train")
    stream = stream_of(ours.pretraining(batch), index, ShardReader(index, shards))
    found: list[float] = []
    end = time.monotonic() + seconds
    source = ours.endless(stream, cores)
    while time.monotonic() < end or len(found) < WARM + COUNTED:
        for _ in range(stream.steps_per_epoch):
            next(source)
        found.append(_resident_mb())
    return found[WARM:]


def _resident_mb() -> float:
    """Pss_Anon, MB."""
    gc.collect()
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "Pss_Anon":
            return int(value.split()[0]) * 1024 / 1e6
    raise RuntimeError("/proc/self/smaps_rollup names no Pss_Anon: Linux 5.4 or newer is needed")


def _alone(measured: Callable[..., Result], *arguments: object) -> Result:
    """The function's result, out of a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measured, *arguments).result()
