"""What a classifier and its teacher see: normalised, then erased, then mixed, on the device (DeiT's order)."""

import torch
from torch import Tensor

from stages.lib.data.batch import Batch
from stages.lib.data.erasing import erase
from stages.lib.data.mixing import mix_images
from stages.lib.data.normalise import normalise


def classifier_pixels(batch: Batch) -> Tensor:
    """f32[B, 3, H, W] of a training batch."""
    images = erase(normalise(batch.images), batch.erasures)
    if not batch.mixes:
        return images
    groups = images.chunk(len(batch.mixes))
    return torch.cat([mix_images(group, mix) for group, mix in zip(groups, batch.mixes, strict=True)])
