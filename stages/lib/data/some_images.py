"""A few images of a split, picked by row: what pages and pictures show."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stages.lib.data import photo
from stages.lib.data.crop import Frame
from stages.lib.data.index import Index
from stages.lib.data.shards import ShardReader

if TYPE_CHECKING:
    from stages.lib.data.published import Published


def sample(keys: Sequence[str], count: int) -> list[int]:
    """Rows of the `count` keys of least sha256, or of all: an image stays in the sample whatever else comes or goes."""
    order = sorted(range(len(keys)), key=lambda row: hashlib.sha256(keys[row].encode()).digest())
    return order[:count]


def seen(
    index: Index, shards: "Path | Published", rows: Sequence[int], frame: Callable[[int, int], Frame]
) -> np.ndarray:
    """u8[len(rows), 3, H, W] in the order of `rows`; frame: (width, height) -> what is shown of an image of that size.

    Each file is read once, in the order of the shards. Raises Refusal where a shard is missing.
    """
    reader, once = ShardReader(index, shards), np.unique(np.array(rows, np.int64))
    reader.announce(once)
    found: dict[int, np.ndarray] = {}
    for place, row in enumerate(once.tolist()):
        reader.expect(once, place)
        look = frame(*index.sides(row))
        pixels = np.empty((3, look.window[3], look.window[2]), np.uint8)
        photo.show(reader.read(row), index.orientation.item(row), index.sides(row), [look], [pixels])
        found[row] = pixels
    return np.stack([found[row] for row in rows])
