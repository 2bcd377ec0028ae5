"""MAE's masking noise: a number a patch, in [0, 1); those with the smallest stay visible (He et al. 2021, arXiv 2111.06377).

Which are hidden is put into the noise, so that a model knows of one rule alone.
"""

import math
from collections.abc import Callable

import numpy as np

from stages.lib.params.pretrain import Masking

SMALLEST = 16 / 196
"""Share of the patches that a rectangle has at least, as far as so many are to be hidden still (BEiT: 16 of 14 x 14)."""
ASPECT = 0.3
"""A rectangle's aspect is log-uniform between this and its inverse (BEiT)."""
TRIES = 10

Noise = Callable[[np.random.Generator], np.ndarray]
"""generator -> f32[L]."""


def noise_of(masking: Masking, side: int, keep: int) -> Noise:
    """The noise of side x side patches, row-major, of which `keep` stay visible. grid: a quarter of them, and side is even."""
    if masking == "random":
        return lambda rng: rng.random(side * side, np.float32)
    hidden = _grid if masking == "grid" else _blocks

    def noise(rng: np.random.Generator) -> np.ndarray:
        mask = hidden(side, side * side - keep, rng).ravel()
        assert mask.sum() == side * side - keep, f"{mask.sum()} patches hidden, {keep} of {mask.size} are to stay"
        # halves are exact: order within both parts stays as random as it was
        return np.where(mask, np.float32(0.5), np.float32(0)) + rng.random(side * side, np.float32) * np.float32(0.5)

    return noise


def _grid(side: int, _: int, __: np.random.Generator) -> np.ndarray:
    """bool[side, side]: hidden are all but the first of every 2 x 2."""
    mask = np.ones((side, side), bool)
    mask[::2, ::2] = False
    return mask


def _blocks(side: int, wanted: int, rng: np.random.Generator) -> np.ndarray:
    """bool[side, side]: rectangles until `wanted` patches are hidden; single patches for what no rectangle fits."""
    mask = np.zeros((side, side), bool)
    while (left := wanted - int(mask.sum())) > 0 and _add_block(mask, left, rng):
        pass
    visible = np.flatnonzero(~mask)
    mask.flat[rng.choice(visible, wanted - int(mask.sum()), replace=False)] = True
    return mask


def _add_block(mask: np.ndarray, most: int, rng: np.random.Generator) -> bool:
    """Hide one more rectangle, with 1 to `most` patches that were visible; False: ten that were tried had none or more."""
    side = len(mask)
    for _ in range(TRIES):
        area = rng.uniform(min(SMALLEST * side * side, most), most)
        aspect = math.exp(rng.uniform(math.log(ASPECT), -math.log(ASPECT)))
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if not (0 < h <= side and 0 < w <= side):
            continue
        top, left = int(rng.integers(side - h + 1)), int(rng.integers(side - w + 1))
        block = mask[top : top + h, left : left + w]
        if 0 < block.size - int(block.sum()) <= most:
            block[:] = True
            return True
    return False
