"""Every image of a split exactly once, in index order: validation and evaluation."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image

from stages.lib.data.batch import Batch
from stages.lib.data.decode import decode
from stages.lib.data.index import Index
from stages.lib.data.shards import ShardReader


def each_once(
    index: Index, reader: ShardReader, view: Callable[[Image.Image], np.ndarray], batch_size: int, workers: int
) -> Iterator[Batch]:
    """Batches of at most `batch_size` images; positions are rows of the index. view: RGB image -> u8[3, H, W]."""

    def pixels(row: int) -> np.ndarray:
        return view(decode(reader.read(row), int(index.orientation[row])))

    order = np.arange(len(index))
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for start in range(0, len(index), batch_size):
            reader.expect(order, start)
            rows = range(start, min(start + batch_size, len(index)))
            images = np.stack(list(pool.map(pixels, rows) if workers else map(pixels, rows)))
            labels = index.labels[rows.start : rows.stop].astype(np.int64)
            yield Batch(torch.from_numpy(images), torch.from_numpy(labels), torch.arange(rows.start, rows.stop))
