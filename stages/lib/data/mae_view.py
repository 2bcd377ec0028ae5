"""What the masked autoencoder sees of an image: a random-resized crop and a flip, nothing else (MAE Table 8)."""

from collections.abc import Callable

import numpy as np

from stages.lib.data.crop import random_resized
from stages.lib.data.view import Drawn


def mae_view(
    scale: tuple[float, float], ratio: tuple[float, float], flip: float, size: int
) -> Callable[[int, int, np.random.Generator], Drawn]:
    """(width, height, generator) -> a view of size x size pixels.

    scale: share of the area, ratio: width / height, flip: probability.
    """
    return lambda width, height, rng: Drawn(random_resized(width, height, scale, ratio, size, flip, rng))
