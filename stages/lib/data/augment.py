"""What a classifier sees of an image in training: crop, flip, RandAugment or changes of colour, erasing, in the published order.

Touvron et al. 2020 (DeiT, arXiv 2012.12877) Table 9, and 2022 (DeiT III, arXiv 2204.07118); mixing follows on the device.
"""

from collections.abc import Callable

import numpy as np

from stages.lib.data import colour, erasing, randaugment
from stages.lib.data.crop import padded, random_resized, reflected
from stages.lib.data.view import Drawn
from stages.lib.params.views import Views


def classifier_view(views: Views) -> Callable[[int, int, np.random.Generator], Drawn]:
    """(width, height, generator) -> a view of size x size pixels.

    Raises Refusal for a randaugment string we do not know.
    """
    size = views.image_size
    policy = None if views.randaugment == "none" else randaugment.parse(views.randaugment)

    def draw(width: int, height: int, rng: np.random.Generator) -> Drawn:
        if views.crop == "padded":
            frame = padded(width, height, size, views.hflip, rng)
        elif views.crop == "simple":
            frame = reflected(width, height, size, views.hflip, rng)
        else:
            frame = random_resized(width, height, views.scale, views.ratio, size, views.hflip, rng)
        if policy:
            steps = tuple(randaugment.draw(policy, rng))
            return Drawn(frame, steps, erasing.draw(size, size, views.erase, rng))
        changes = colour.draw(views.three_augment, views.color_jitter, rng)
        return Drawn(frame, changes, erasing.draw(size, size, views.erase, rng))

    return draw
