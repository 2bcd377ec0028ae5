"""Crops and flips of PIL images, pixel for pixel what torchvision and timm make of the same draws.

A box is (left, top, width, height) in pixels. Resampling is PIL's: antialiased, bicubic unless told otherwise.
"""

import math

import numpy as np
from PIL import Image

BICUBIC = Image.Resampling.BICUBIC
TRIES = 10
PADDING = 4
"""Black pixels added on each side before a padded crop (DeiT for images of at most 32 px)."""


def random_resized_box(
    width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """A box inside a width x height image: area `scale` (share, uniform), aspect width / height `ratio` (log-uniform).

    If ten boxes don't fit, the largest centred one with an aspect within `ratio` (Szegedy et al. 2014, arXiv 1409.4842,
    as torchvision's RandomResizedCrop does it).
    """
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(TRIES):
        area, aspect = rng.uniform(*scale) * width * height, math.exp(rng.uniform(low, high))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
            return left, top, w, h
    w, h = width, height
    if width / height < ratio[0]:
        h = round(width / ratio[0])
    elif width / height > ratio[1]:
        w = round(height * ratio[1])
    return (width - w) // 2, (height - h) // 2, w, h


def resized_crop(
    img: Image.Image, box: tuple[int, int, int, int], size: int, resample: Image.Resampling = BICUBIC
) -> Image.Image:
    """The box of the image, scaled to size x size."""
    left, top, width, height = box
    # Not resize(box=...): that samples pixels outside the box, and the recipes' resize cannot see them.
    return img.crop((left, top, left + width, top + height)).resize((size, size), resample)


def padded_crop(img: Image.Image, size: int, rng: np.random.Generator) -> Image.Image:
    """size x size pixels of the image in a black frame of 4.

    An image of another size has its shorter side resized to `size` first, so one that is not square moves further along
    its longer side.
    """
    if min(img.size) != size:
        img = _shorter_side(img, size, BICUBIC)
    width, height = img.size
    top = int(rng.integers(height + 2 * PADDING - size + 1)) - PADDING
    left = int(rng.integers(width + 2 * PADDING - size + 1)) - PADDING
    return img.crop((left, top, left + size, top + size))  # black beyond the edges


def hflip(img: Image.Image, probability: float, rng: np.random.Generator) -> Image.Image:
    """The image, mirrored left to right with `probability`."""
    return img.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < probability else img


def evaluation_crop(img: Image.Image, size: int, crop_pct: float, resample: Image.Resampling = BICUBIC) -> Image.Image:
    """The centre size x size after resizing the shorter side to floor(size / crop_pct), 0 < crop_pct <= 1.

    What timm's evaluation transform makes of a model whose config.json says this crop_pct (crop_mode center).
    """
    img = _shorter_side(img, math.floor(size / crop_pct), resample)
    left, top = (round((side - size) / 2) for side in img.size)  # halves go to the even pixel, as in torchvision
    return img.crop((left, top, left + size, top + size))


def _shorter_side(img: Image.Image, size: int, resample: Image.Resampling) -> Image.Image:
    """The image with its shorter side resized to `size`; the longer one is rounded down."""
    long = int(size * max(img.size) / min(img.size))
    return img.resize((size, long) if img.width <= img.height else (long, size), resample)


def planes(img: Image.Image) -> np.ndarray:
    """RGB image -> u8[3, H, W], contiguous, not sharing memory."""
    return np.ascontiguousarray(np.asarray(img).transpose(2, 0, 1))
