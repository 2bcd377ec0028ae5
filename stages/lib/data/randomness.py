"""Randomness as a pure function of (seed, epoch, position, purpose): no generator state is ever saved (design law 2)."""

import enum

import numpy as np


class Purpose(enum.IntEnum):
    """What a stream of numbers is for. The values are part of every result: add new ones, never renumber."""

    ORDER = 1
    """Which image stands where in an epoch."""
    AUGMENT = 2
    """Crop, flip, RandAugment and erasing of one view."""
    MIX = 3
    """One mixing group; its position is the number of the group in the epoch."""
    NOISE = 4
    """MAE's masking noise of one image."""
    DROP_PATH = 5
    """Stochastic depth of one image."""
    INIT = 6
    """Weights of a fresh model."""
    SHARD = 7
    """Places of images in the shards."""


def generator(seed: int, epoch: int, position: int, purpose: Purpose) -> np.random.Generator:
    """A fresh generator, always the same for the same arguments; about 10 microseconds.

    Philox4x64 (Salmon et al. 2011) maps a key and a counter to random bits. Seed and purpose are the key, epoch and
    position the two middle words of the counter; drawing moves the lowest word alone, so two streams could meet only
    after 2**64 draws of four words. All arguments in 0..2**64-1, else ValueError or OverflowError.
    """
    key = np.array([seed, purpose], dtype=np.uint64)
    counter = np.array([0, position, epoch, 0], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))
