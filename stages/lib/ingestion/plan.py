"""Which image goes to which shard and place: a pure function of keys, splits, labels and the params block `shard`.

Classes are interleaved, so that every shard of a split holds each class in proportion, and reading a few shards
together (order: block) comes close to a shuffle of the whole.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

SPLITS = ("train", "val", "test")


class Planned(NamedTuple):
    """One shard."""

    name: str
    """Of the tar."""
    split: str
    images: np.ndarray
    """i64, places in the manifest, in order."""


def plan(
    set_name: str, keys: Sequence[str], splits: Sequence[str], labels: Sequence[int], per_shard: int, seed: int
) -> list[Planned]:
    """Every image once; train, val, test; all shards of a split but the last hold `per_shard` images."""
    mixed = np.array([_hash(seed, key) for key in keys], np.uint64)
    split_of, label_of = np.asarray(splits), np.asarray(labels)
    shards = []
    for split in SPLITS:
        members = np.flatnonzero(split_of == split)
        members = members[interleaved(label_of[members], mixed[members])]
        for number, start in enumerate(range(0, len(members), per_shard)):
            shards.append(Planned(f"{set_name}-{split}-{number:06d}.tar", split, members[start : start + per_shard]))
    return shards


def interleaved(labels: np.ndarray, mixed: np.ndarray) -> np.ndarray:
    """i64[N] order: the image of rank r among its class's n, by hash, stands at (r + 0.5) / n; equal places in order of hash.

    labels int[N]; mixed u64[N], a hash of each image.
    """
    by_class = np.lexsort((mixed, labels))
    _, first, counts = np.unique(labels[by_class], return_index=True, return_counts=True)
    rank = np.empty(len(labels), np.int64)
    rank[by_class] = np.arange(len(labels)) - np.repeat(first, counts)
    share = np.empty(len(labels))
    share[by_class] = np.repeat(counts, counts)
    return np.lexsort((mixed, (rank + 0.5) / share))


def _hash(seed: int, key: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed} {key}".encode(), digest_size=8).digest(), "little")
