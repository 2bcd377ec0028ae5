"""Which image stands at each position of an epoch, and how a batch's positions fall into mixing groups.

Orders are pure functions of the arguments, without state. Arrays are i64.
"""

import numpy as np
import torch

from stages.lib.core.outcome import Refusal
from stages.lib.data.randomness import Purpose, generator

DEIT_UNIT = 256  # the published sampler cuts an epoch to whole multiples of this many images


def permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    """All n images once, in random order: i64[n]."""
    return generator(seed, epoch, 0, Purpose.ORDER).permutation(n)


def block(shard_of: np.ndarray, window: int, seed: int, epoch: int) -> np.ndarray:
    """All images once, shards in random order, the images of `window` consecutive ones shuffled together: i64[n].

    shard_of: i32[n], the shard each image lies in. For reading shards as a stream, with `window` of them at hand.
    """
    by_shard = np.argsort(shard_of, kind="stable")
    members = np.split(by_shard, np.flatnonzero(np.diff(shard_of[by_shard])) + 1)
    shards = generator(seed, epoch, 0, Purpose.ORDER).permutation(len(members))
    parts = []
    for place, start in enumerate(range(0, len(shards), window)):
        images = np.concatenate([members[shard] for shard in shards[start : start + window]])
        parts.append(generator(seed, epoch, place + 1, Purpose.ORDER).permutation(images))
    return np.concatenate(parts).astype(np.int64)


def repeated(order: np.ndarray, repeats: int) -> np.ndarray:
    """Repeated augmentation (Hoffer et al. 2020): position p shows order[p // repeats]; an epoch keeps its length.

    So an epoch sees the first 1/repeats of the order, as in DeiT.
    """
    return order if repeats == 1 else order[np.arange(len(order)) // repeats]


def grouped(batch_size: int, mix_group: int, repeats: int) -> np.ndarray:
    """Places of a batch rearranged so that each consecutive `mix_group` of them shows distinct images: i64[batch_size].

    The views of an image stand at `repeats` adjacent places. Chunks of m >= repeats groups take their places in turn, so
    two places of one group are at least m apart. Raises Refusal where that is impossible.
    """
    groups = batch_size // mix_group
    if batch_size % mix_group or groups < repeats:
        raise Refusal(
            f"a batch of {batch_size} has no {repeats} or more whole groups of {mix_group}, which {repeats} views an image need; "
            f"take a mix_group that divides it and is at most {batch_size // repeats}"
        )
    places, start = [], 0
    for chunk in np.array_split(np.arange(groups), groups // repeats):
        span = len(chunk) * mix_group
        places.append(np.arange(start, start + span).reshape(mix_group, len(chunk)).T.ravel())
        start += span
    return np.concatenate(places).astype(np.int64)


def deit_untruncated(n: int, repeats: int, replicas: int, rank: int, epoch: int, shuffle: bool = True) -> np.ndarray:
    """The published sampler's list for one process before it is cut: i64[ceil(n * repeats / replicas)]."""
    return _deck(n, repeats, replicas, epoch, shuffle)[:, rank]


def deit_replica(n: int, repeats: int, replicas: int, rank: int, epoch: int, shuffle: bool = True) -> np.ndarray:
    """What one process gets in an epoch: i64[n // 256 * 256 // replicas]; empty below 256 images."""
    return deit_untruncated(n, repeats, replicas, rank, epoch, shuffle)[: _share(n, replicas)]


def deit(n: int, repeats: int, replicas: int, batch_size: int, epoch: int) -> np.ndarray:
    """The published order as global batches: i64[steps * batch_size], each replica's part of a batch contiguous.

    Raises Refusal for fewer than 256 images, and for a batch that no epoch fills.
    """
    if n < DEIT_UNIT:
        raise Refusal(
            f"order deit cuts an epoch to multiples of {DEIT_UNIT} images and leaves none of {n}; take permutation"
        )
    if batch_size % replicas:
        near = batch_size // replicas * replicas or replicas
        raise Refusal(f"batch_size {batch_size} is not a multiple of {replicas} replicas; try {near}")
    steps = steps_per_epoch(_share(n, replicas) * replicas, batch_size)
    dealt = _deck(n, repeats, replicas, epoch, shuffle=True)[: steps * batch_size // replicas]
    return dealt.reshape(steps, -1, replicas).swapaxes(1, 2).ravel()


def _deck(n: int, repeats: int, replicas: int, epoch: int, shuffle: bool) -> np.ndarray:
    """The published sampler's cards, row by row dealt to the processes: i64[ceil(n * repeats / replicas), replicas].

    One permutation, seeded by the epoch alone; each image `repeats` times in a row; filled up from its own front to a
    multiple of replicas; process r takes entries r, r + replicas, ... (DeiT samplers.py; recipes 3.7).
    """
    rng = torch.Generator().manual_seed(epoch)
    images = torch.randperm(n, generator=rng).numpy() if shuffle else np.arange(n)
    copies = np.repeat(images, repeats)
    filled = np.concatenate([copies, np.resize(copies, -len(copies) % replicas)])
    return filled.reshape(-1, replicas)


def _share(n: int, replicas: int) -> int:
    """Entries one process keeps: an epoch is cut to whole multiples of 256 images, repeats counted."""
    return n // DEIT_UNIT * DEIT_UNIT // replicas


def steps_per_epoch(positions: int, batch_size: int, unit: int = 1) -> int:
    """Whole batches in an epoch. Raises Refusal naming the largest valid batch, a multiple of `unit`, where there is none."""
    if positions < batch_size:
        largest = positions // unit * unit
        remedy = f"take at most {largest}" if largest else f"that is less than one mix_group of {unit}, so lower both"
        raise Refusal(f"batch_size {batch_size} is larger than an epoch of {positions} images; {remedy}")
    return positions // batch_size
