"""What a classifier sees of an image while it trains: crop, flip, RandAugment, erasing, in the published order.

Touvron et al. 2020 (DeiT, arXiv 2012.12877) Table 9; mixing follows on the device.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image

from stages.lib.data import erasing, randaugment
from stages.lib.data.crop import hflip, padded_crop, planes, random_resized_box, resized_crop
from stages.lib.data.erasing import Erasure
from stages.lib.params.views import Views


def classifier_view(views: Views) -> Callable[[Image.Image, np.random.Generator], tuple[np.ndarray, Erasure | None]]:
    """(RGB image, its generator) -> (u8[3, size, size], what to erase once it is normalised).

    A pure function of the image and the generator's state. Raises Refusal for a randaugment string we do not know.
    """
    size = views.image_size
    policy = None if views.randaugment == "none" else randaugment.parse(views.randaugment)

    def crop(img: Image.Image, rng: np.random.Generator) -> Image.Image:
        if views.crop == "padded":
            return padded_crop(img, size, rng)
        return resized_crop(img, random_resized_box(*img.size, views.scale, views.ratio, rng), size)

    def view(img: Image.Image, rng: np.random.Generator) -> tuple[np.ndarray, Erasure | None]:
        img = hflip(crop(img, rng), views.hflip, rng)
        if policy:
            img = randaugment.apply(img, policy, rng)
        return planes(img), erasing.draw(size, size, views.erase, rng)

    return view
