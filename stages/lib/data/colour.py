"""Changes of colour alone: 3-Augment's choice (Touvron et al. 2022, arXiv 2204.07118), and colour jitter as torchvision's.

Drawn before an image is read, applied by Pillow to the framed pixels.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from stages.lib.data.crop import planes

RADIUS = (0.1, 2.0)
"""Of the Gaussian blur, in pixels (deit/augment.py); what Pillow calls radius is the standard deviation."""


class Change(NamedTuple):
    """One change: its place in OPS, and how much of it."""

    op: int
    amount: float = 0.0


def grayscale(img: Image.Image, _: float) -> Image.Image:
    """Luma (ITU-R 601-2) in all three channels."""
    return img.convert("L").convert("RGB")


def solarize(img: Image.Image, _: float) -> Image.Image:
    """Values from 128 on become 255 less themselves."""
    return ImageOps.solarize(img)


def blur(img: Image.Image, radius: float) -> Image.Image:
    """As DeiT III's; Pillow approximates the Gaussian by three box filters."""
    return img.filter(ImageFilter.GaussianBlur(radius))


def brightness(img: Image.Image, factor: float) -> Image.Image:
    """0 is black, 1 the image."""
    return ImageEnhance.Brightness(img).enhance(factor)


def contrast(img: Image.Image, factor: float) -> Image.Image:
    """0 is the mean luma everywhere."""
    return ImageEnhance.Contrast(img).enhance(factor)


def saturation(img: Image.Image, factor: float) -> Image.Image:
    """0 is grayscale."""
    return ImageEnhance.Color(img).enhance(factor)


OPS: tuple[Callable[[Image.Image, float], Image.Image], ...] = (
    grayscale, solarize, blur, brightness, contrast, saturation,
)  # fmt: skip
THREE, JITTER = range(3), range(3, 6)
"""Places in OPS."""


def draw(three_augment: bool, jitter: float, rng: np.random.Generator) -> tuple[Change, ...]:
    """three_augment: exactly one of the three, each as likely. jitter: then brightness, contrast and saturation in a random order,
    each by a factor uniform in [max(0, 1 - jitter), 1 + jitter]; 0: none of it, and nothing is drawn.
    """
    found = []
    if three_augment:
        op = int(rng.integers(len(THREE)))
        found.append(Change(op, rng.uniform(*RADIUS)) if OPS[op] is blur else Change(op))
    if jitter:
        for op in rng.permutation(JITTER).tolist():
            found.append(Change(op, rng.uniform(max(0.0, 1 - jitter), 1 + jitter)))
    return tuple(found)


def apply_changes(pixels: np.ndarray, changes: Sequence[Change]) -> None:
    """All changes, in order, on pixels u8[3, H, W] in place."""
    img = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    for change in changes:
        img = OPS[change.op](img, change.amount)
    pixels[:] = planes(img)
