"""Where a view looks: crops and flips as numbers, pixel for pixel what torchvision and timm make of the same draws.

Resampling is Pillow's: antialiased, bicubic unless told otherwise. `framed` is the definition; stages/lib/data/photo.py gives the
same pixels from a JPEG several times faster.
"""

import math
from typing import NamedTuple

import numpy as np
from PIL import Image

BICUBIC = Image.Resampling.BICUBIC
TRIES = 10
PADDING = 4
"""Pixels added on each side before a padded or reflected crop (DeiT for images of at most 32 px; DeiT III)."""

Box = tuple[int, int, int, int]
"""(left, top, width, height) in pixels."""


class Frame(NamedTuple):
    """A box of the image, resized to `target` (width, height), of which `window` is shown; beyond the target's edges black, or it
    is reflected there.
    """

    box: Box
    target: tuple[int, int]
    window: Box
    mirrored: bool = False
    """Left to right, after all else."""
    resample: Image.Resampling = BICUBIC
    reflected: bool = False
    """At the edges, whose pixels do not come twice; at most as many pixels as the window shows within them."""


def framed(img: Image.Image, frame: Frame) -> Image.Image:
    """RGB image -> what the frame shows of it."""
    left, top, width, height = frame.box
    if frame.box != (0, 0, *img.size):
        # Not resize(box=...): that samples pixels outside the box, and the recipes' resize cannot see them.
        img = img.crop((left, top, left + width, top + height))
    img = img.resize(frame.target, frame.resample)
    left, top, width, height = frame.window
    if frame.window != (0, 0, *img.size):
        if frame.reflected:
            img = _reflecting(img, frame.window)
        else:
            img = img.crop((left, top, left + width, top + height))
    return img.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if frame.mirrored else img


def _reflecting(img: Image.Image, window: Box) -> Image.Image:
    """The window of an RGB image that goes on reflected beyond its edges."""
    left, top, width, height = window
    beyond = (
        (max(0, -top), max(0, top + height - img.height)),
        (max(0, -left), max(0, left + width - img.width)),
        (0, 0),
    )
    whole = np.pad(np.asarray(img), beyond, mode="reflect")
    top, left = max(0, top), max(0, left)
    return Image.fromarray(whole[top : top + height, left : left + width].copy())


def planes(img: Image.Image) -> np.ndarray:
    """RGB image -> u8[3, H, W], contiguous, not sharing memory."""
    return np.asarray(img).transpose(2, 0, 1).copy()  # always: of one pixel, a contiguous view would be enough


def random_resized(
    width: int,
    height: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    size: int,
    hflip: float,
    rng: np.random.Generator,
) -> Frame:
    """A random box of a width x height image as size x size pixels, mirrored with probability `hflip`."""
    box = random_resized_box(width, height, scale, ratio, rng)
    return Frame(box, (size, size), (0, 0, size, size), bool(rng.random() < hflip))


def random_resized_box(
    width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float], rng: np.random.Generator
) -> Box:
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


def padded(width: int, height: int, size: int, hflip: float, rng: np.random.Generator) -> Frame:
    """size x size pixels of the image in a black frame of 4, mirrored with probability `hflip`.

    An image of another size has its shorter side resized to `size` first, so one that is not square moves further along
    its longer side.
    """
    target = _shorter_side(width, height, size) if min(width, height) != size else (width, height)
    top = int(rng.integers(target[1] + 2 * PADDING - size + 1)) - PADDING
    left = int(rng.integers(target[0] + 2 * PADDING - size + 1)) - PADDING
    return Frame((0, 0, width, height), target, (left, top, size, size), bool(rng.random() < hflip))


def reflected(width: int, height: int, size: int, hflip: float, rng: np.random.Generator) -> Frame:
    """`padded`, but with the image reflected where that is black: DeiT III's simple random crop. size: 9 or more."""
    return padded(width, height, size, hflip, rng)._replace(reflected=True)


def fixed_size(width: int, height: int, size: int, share: float, hflip: float, rng: np.random.Generator) -> Frame:
    """size x size pixels anywhere in the image with its shorter side at floor(size / share), mirrored with probability `hflip`."""
    target = _shorter_side(width, height, math.floor(size / share))
    top, left = (int(rng.integers(side - size + 1)) for side in reversed(target))
    return Frame((0, 0, width, height), target, (left, top, size, size), bool(rng.random() < hflip))


def evaluation(width: int, height: int, size: int, crop_pct: float, resample: Image.Resampling = BICUBIC) -> Frame:
    """The centre size x size after resizing the shorter side to floor(size / crop_pct), 0 < crop_pct <= 1.

    What timm's evaluation transform makes of a model whose config.json says this crop_pct (crop_mode center).
    """
    target = _shorter_side(width, height, math.floor(size / crop_pct))
    left, top = (round((side - size) / 2) for side in target)  # halves go to the even pixel, as in torchvision
    return Frame((0, 0, width, height), target, (left, top, size, size), resample=resample)


def _shorter_side(width: int, height: int, size: int) -> tuple[int, int]:
    """(width, height) with the shorter side at `size`; the longer one is rounded down."""
    long = int(size * max(width, height) / min(width, height))
    return (size, long) if width <= height else (long, size)
