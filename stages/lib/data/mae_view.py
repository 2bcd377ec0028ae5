"""What the masked autoencoder sees of an image: a random-resized crop and a flip, nothing else (MAE Table 8)."""

from collections.abc import Callable

import numpy as np
from PIL import Image

from stages.lib.data.crop import hflip, planes, random_resized_box, resized_crop


def mae_view(
    scale: tuple[float, float], ratio: tuple[float, float], flip: float, size: int
) -> Callable[[Image.Image, np.random.Generator], np.ndarray]:
    """(RGB image, its generator) -> u8[3, size, size].

    scale: share of the area, ratio: width / height, flip: probability.
    """

    def view(img: Image.Image, rng: np.random.Generator) -> np.ndarray:
        img = resized_crop(img, random_resized_box(*img.size, scale, ratio, rng), size)
        return planes(hflip(img, flip, rng))

    return view
