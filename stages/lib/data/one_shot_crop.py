"""The crop that MAE's linear probe trains on (recipe: MAE util/crop.py): one box, cut off where the image ends, never drawn again.

Torchvision's, which everything else here uses, draws up to ten until one fits; stages/lib/data/crop.py has that.
"""

import math
from collections.abc import Callable

import numpy as np

from stages.lib.data.crop import Box, Frame
from stages.lib.data.view import Drawn


def one_shot_view(
    scale: tuple[float, float], ratio: tuple[float, float], flip: float, size: int
) -> Callable[[int, int, np.random.Generator], Drawn]:
    """(width, height, generator) -> a view of size x size pixels.

    scale: share of the area, uniform; ratio: width / height, log-uniform; flip: probability.
    """

    def view(width: int, height: int, rng: np.random.Generator) -> Drawn:
        box = one_shot_box(width, height, scale, ratio, rng)
        return Drawn(Frame(box, (size, size), (0, 0, size, size), bool(rng.random() < flip)))

    return view


def one_shot_box(
    width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float], rng: np.random.Generator
) -> Box:
    """A box inside a width x height image; a side that would be longer than the image's is the image's."""
    area = rng.uniform(*scale) * width * height
    aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
    w = min(max(1, round(math.sqrt(area * aspect))), width)
    h = min(max(1, round(math.sqrt(area / aspect))), height)
    top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    return left, top, w, h
