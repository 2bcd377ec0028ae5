"""A part of the training images: the same share of every class, and smaller parts within larger ones.

Which images, follows from their keys alone: neither the seed, the layout of the shards nor the order of the rows has a say, so
that two runs at 10 % see the same images and one at 25 % sees those and more.
"""

import hashlib
from dataclasses import replace

import numpy as np

from stages.lib.data.index import Index


def part(index: Index, percent: int) -> Index:
    """The `percent` of each class whose keys come first by their sha256, in the order of the index; 100: the index itself.

    Of n images of a class ceil(n * percent / 100), so at least one. Shards that none of them lies in are left out.
    """
    if percent == 100:
        return index
    chosen = rows(index.keys, index.labels, percent)
    used, shard_of = np.unique(index.shard_of[chosen], return_inverse=True)
    return replace(
        index,
        rows=chosen if index.rows is None else index.rows[chosen],
        percent=percent,
        labels=index.labels[chosen],
        shard_of=shard_of.astype(np.int32),
        shards=tuple(index.shards[number] for number in used),
        shard_sha256=tuple(index.shard_sha256[number] for number in used),
        shard_bytes=tuple(index.shard_bytes[number] for number in used),
        offset=index.offset[chosen],
        size=index.size[chosen],
        width=index.width[chosen],
        height=index.height[chosen],
        orientation=index.orientation[chosen],
    )


def rows(keys: list[str], labels: np.ndarray, percent: int) -> np.ndarray:
    """i64[kept], rising: of each class the first ceil(n * percent / 100) by the sha256 of their keys."""
    digests = [hashlib.sha256(key.encode()).digest() for key in keys]
    ranked = np.array(sorted(range(len(keys)), key=digests.__getitem__), np.int64)
    ranked = ranked[np.argsort(labels[ranked], kind="stable")]  # class after class, each by its digests
    _, first, counts = np.unique(labels[ranked], return_index=True, return_counts=True)
    place = np.arange(len(ranked)) - np.repeat(first, counts)
    kept: np.ndarray = np.sort(ranked[place < np.repeat(-(-counts * percent // 100), counts)])
    return kept
