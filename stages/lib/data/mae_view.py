"""What the masked autoencoder sees of an image: a crop and a flip (MAE Table 8); the other rows of Table 1e for comparison."""

from collections.abc import Callable

import numpy as np

from stages.lib.data import colour
from stages.lib.data.crop import Frame, evaluation, fixed_size, random_resized
from stages.lib.data.view import Drawn
from stages.lib.params.pretrain import Pretrain

SHARE = 0.875
"""Of the resized image's shorter side that crops of a fixed size show."""


def mae_view(cfg: Pretrain) -> Callable[[int, int, np.random.Generator], Drawn]:
    """(width, height, generator) -> a view of image_size x image_size pixels."""
    size = cfg.image_size

    def frame(width: int, height: int, rng: np.random.Generator) -> Frame:
        if cfg.crop == "none":
            return evaluation(width, height, size, SHARE)
        if cfg.crop == "fixed-size":
            return fixed_size(width, height, size, SHARE, cfg.hflip, rng)
        return random_resized(width, height, cfg.scale, cfg.ratio, size, cfg.hflip, rng)

    def draw(width: int, height: int, rng: np.random.Generator) -> Drawn:
        return Drawn(frame(width, height, rng), colour.draw(False, cfg.color_jitter, rng))

    return draw
