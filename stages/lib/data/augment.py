"""What a classifier sees of an image while it trains: crop, flip, RandAugment, erasing, in the published order.

Touvron et al. 2020 (DeiT, arXiv 2012.12877) Table 9; mixing follows on the device.
"""

from collections.abc import Callable

import numpy as np

from stages.lib.data import erasing, randaugment
from stages.lib.data.crop import padded, random_resized
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
        else:
            frame = random_resized(width, height, views.scale, views.ratio, size, views.hflip, rng)
        steps = tuple(randaugment.draw(policy, rng)) if policy else ()
        return Drawn(frame, steps, erasing.draw(size, size, views.erase, rng))

    return draw
