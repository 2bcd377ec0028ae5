"""Random erasing: a box of the normalised image becomes noise (Zhong et al. 2017, arXiv 1708.04896).

As in DeiT (timm, mode pixel, one box an image; 0.3.2 and 1.0.31 agree). The box and its noise are drawn beside the
image, on the CPU, and pasted on the device.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

AREA = (0.02, 1 / 3)
"""Share of the image, uniform."""
ASPECT = (0.3, 1 / 0.3)
"""Height / width, log-uniform."""
TRIES = 10


@dataclass(frozen=True)
class Erasure:
    """What covers one image from (top, left) on."""

    top: int
    left: int
    noise: np.ndarray
    """f32[3, h, w], standard normal for every pixel and channel, in units of the normalised image."""


def draw(height: int, width: int, probability: float, rng: np.random.Generator) -> Erasure | None:
    """With `probability` an erasure of an image of height x width pixels, else None.

    Also None, as published, if none of ten boxes is smaller than the image in both directions.
    """
    if rng.random() >= probability:
        return None
    low, high = math.log(ASPECT[0]), math.log(ASPECT[1])
    for _ in range(TRIES):
        area, aspect = rng.uniform(*AREA) * height * width, math.exp(rng.uniform(low, high))
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if h < height and w < width:
            top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
            return Erasure(top, left, rng.standard_normal((3, h, w), np.float32))
    return None


def erase(images: Tensor, erasures: Sequence[tuple[int, Erasure]]) -> Tensor:
    """f[B, 3, H, W] normalised -> itself, with each (image, erasure) pasted in place."""
    if not erasures:
        return images
    if images.device.type == "cpu" and images.dtype == torch.float32:
        array = (
            images.numpy()
        )  # without torch's cost of an operation, for which loader threads would each time have to pause
        for image, erasure in erasures:
            _, h, w = erasure.noise.shape
            array[image, :, erasure.top : erasure.top + h, erasure.left : erasure.left + w] = erasure.noise
        return images
    # One transfer for all of them, from pinned memory on its way to a GPU, so that the host goes on meanwhile.
    drawn = torch.from_numpy(np.concatenate([erasure.noise.ravel() for _, erasure in erasures]))
    noise = (drawn.pin_memory() if images.is_cuda else drawn).to(images, non_blocking=True)
    for (image, erasure), values in zip(erasures, noise.split([e.noise.size for _, e in erasures]), strict=True):
        _, h, w = erasure.noise.shape
        images[image, :, erasure.top : erasure.top + h, erasure.left : erasure.left + w] = values.view(3, h, w)
    return images
