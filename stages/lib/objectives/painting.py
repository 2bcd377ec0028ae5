"""What a masked autoencoder makes of images, for the eye: originals, what it saw, and what it painted."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from stages.lib.data import tiles
from stages.lib.data.normalise import denormalise, normalise
from stages.lib.data.randomness import Purpose, generator
from stages.lib.models.mae import patchify, unpatchify
from stages.lib.objectives.reconstruct import Reconstruct

if TYPE_CHECKING:
    from stages.lib.data.batch import Batch

SHOWN = 8  # images in the picture


def noise_of(rows: list[int], seed: int, patches: int) -> Tensor:
    """f32[len(rows), patches]: a masking noise that depends on each image's row alone."""
    drawn = [generator(seed, 0, row, Purpose.NOISE).random(patches, np.float32) for row in rows]
    return torch.from_numpy(np.stack(drawn))


def reconstructions(objective: Reconstruct, batch: "Batch", norm_pix: bool) -> np.ndarray:
    """u8[H, W, 3]: a row each of originals, visible patches on grey, and predictions of the hidden ones beside the visible."""
    assert batch.noise is not None
    patch = objective.mae.patch_size
    images = normalise(batch.images[:SHOWN])
    predicted, mask = objective.mae(images, batch.noise[:SHOWN])
    target = patchify(images, patch)
    if norm_pix:  # such a model predicts patches with mean 0 and variance 1: put back what it never saw
        mean, var = target.mean(-1, keepdim=True), target.var(-1, keepdim=True)
        predicted = predicted * (var + 1e-6).sqrt() + mean
    hidden = mask[..., None].bool()
    visible = torch.where(hidden, torch.zeros_like(target), target)
    filled = torch.where(hidden, predicted, target)
    rows = [pixels_of(unpatchify(patches, patch)) for patches in (target, visible, filled)]
    return tiles.tiles(np.stack(rows))


def pixels_of(images: Tensor) -> np.ndarray:
    """f32[B, 3, H, W] normalised -> u8[B, H, W, 3]."""
    return denormalise(images).permute(0, 2, 3, 1).cpu().numpy()
