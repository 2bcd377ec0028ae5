"""RandAugment as DeiT used it: timm's `rand-m9-mstd0.5-inc1` (Cubuk et al. 2019, arXiv 1909.13719; timm 0.3.2).

Each op is drawn uniformly from 15, with replacement, and applied with probability 0.5 at a level m ~ N(magnitude, std)
clipped to [0, 10]; `inc1` means that every op grows stronger with m. torchvision's RandAugment(magnitude=9) is another
thing: 9/30 of the range, an identity op, always applied. timm 1.0.31 differs from 0.3.2 in nothing a level of 0..10 can
reach; with Pillow 13 it raises where posterize keeps 0 bits, which here gives the black image of older Pillows.

This file is the definition, by Pillow; stages/lib/data/randaugment_planes.py gives the same pixels several times faster.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from stages.lib.core.outcome import Refusal
from stages.lib.params.views import RANDAUGMENT

FILL = (124, 116, 104)
"""Where a warp looks beyond the image: round(255 * ImageNet mean)."""
PROBABILITY = 0.5
"""That a drawn op is applied."""
MAX_LEVEL = 10.0

Op = Callable[[Image.Image, float, int], Image.Image]
"""(RGB image, level 0..10, sign +1 or -1) -> image of the same size; ops without a level or sign ignore it."""
Matrix = tuple[float, float, float, float, float, float]
"""a b c d e f of a warp: output pixel (x, y) shows input (a x + b y + c, d x + e y + f)."""


@dataclass(frozen=True)
class RandAugment:
    """A policy; std 0: every op at the magnitude itself."""

    magnitude: float
    std: float
    ops: int
    """Drawn per image."""


@dataclass(frozen=True)
class Step:
    """One op as it will be applied."""

    op: int
    """Its place in OPS."""
    level: float
    """0..10."""
    sign: int
    """+1 or -1."""


def parse(text: str) -> RandAugment:
    """`rand-m9[-n2][-mstd0.5]-inc1` -> policy; n defaults to 2, mstd to 0. Raises Refusal for anything else."""
    match = RANDAUGMENT.fullmatch(text)
    if not match:
        raise Refusal(f"randaugment {text!r} is not like rand-m9-mstd0.5-inc1 or rand-m9-n2-inc1; correct params.yaml")
    return RandAugment(float(match["m"]), float(match["std"] or 0), int(match["n"] or 2))


def draw(policy: RandAugment, rng: np.random.Generator) -> list[Step]:
    """The ops that will be applied, in order: 0 to policy.ops of them."""
    steps = []
    for op in rng.integers(len(OPS), size=policy.ops):
        if rng.random() < PROBABILITY:
            level = min(MAX_LEVEL, max(0.0, rng.normal(policy.magnitude, policy.std)))
            steps.append(Step(int(op), level, 1 if rng.random() < 0.5 else -1))
    return steps


def apply(img: Image.Image, policy: RandAugment, rng: np.random.Generator) -> Image.Image:
    """An RGB image of any size, augmented."""
    return apply_steps(img, draw(policy, rng))


def apply_steps(img: Image.Image, steps: Sequence[Step]) -> Image.Image:
    """An RGB image of any size after all steps, in order."""
    for step in steps:
        img = OPS[step.op](img, step.level, step.sign)
    return img


def auto_contrast(img: Image.Image, _level: float, _sign: int) -> Image.Image:
    """Stretch each channel to 0..255."""
    return ImageOps.autocontrast(img)


def equalize(img: Image.Image, _level: float, _sign: int) -> Image.Image:
    """Flatten each channel's histogram."""
    return ImageOps.equalize(img)


def invert(img: Image.Image, _level: float, _sign: int) -> Image.Image:
    """255 - pixel."""
    return ImageOps.invert(img)


def rotate(img: Image.Image, level: float, sign: int) -> Image.Image:
    """Up to 30 degrees about the centre."""
    return img.rotate(rotation_degrees(level, sign), Image.Resampling.BICUBIC, fillcolor=FILL)


def posterize(img: Image.Image, level: float, _sign: int) -> Image.Image:
    """Keep 4 (level 0) to 0 (level 10: black) leading bits."""
    mask = posterize_mask(level)
    return img.point([value & mask for value in range(256)] * 3)


def solarize(img: Image.Image, level: float, _sign: int) -> Image.Image:
    """Invert pixels from 256 (level 0: none) down to 0 (level 10: all) upwards."""
    return ImageOps.solarize(img, solarize_threshold(level))


def solarize_add(img: Image.Image, level: float, _sign: int) -> Image.Image:
    """Brighten pixels below 128 by up to 110."""
    add = solarize_addend(level)
    return img.point([min(255, value + add) if value < 128 else value for value in range(256)] * 3)


def color(img: Image.Image, level: float, sign: int) -> Image.Image:
    """Saturation."""
    return ImageEnhance.Color(img).enhance(enhancement(level, sign))


def contrast(img: Image.Image, level: float, sign: int) -> Image.Image:
    """Distance from the image's mean grey."""
    return ImageEnhance.Contrast(img).enhance(enhancement(level, sign))


def brightness(img: Image.Image, level: float, sign: int) -> Image.Image:
    """Distance from black."""
    return ImageEnhance.Brightness(img).enhance(enhancement(level, sign))


def sharpness(img: Image.Image, level: float, sign: int) -> Image.Image:
    """Distance from the blurred image."""
    return ImageEnhance.Sharpness(img).enhance(enhancement(level, sign))


def shear_x(img: Image.Image, level: float, sign: int) -> Image.Image:
    """Rows move by up to 0.3 of their distance from the top."""
    return _warp(img, shear_x_matrix(level, sign))


def shear_y(img: Image.Image, level: float, sign: int) -> Image.Image:
    """Columns move by up to 0.3 of their distance from the left."""
    return _warp(img, shear_y_matrix(level, sign))


def translate_x(img: Image.Image, level: float, sign: int) -> Image.Image:
    """Up to 0.45 of the width."""
    return _warp(img, translate_x_matrix(level, sign, img.width))


def translate_y(img: Image.Image, level: float, sign: int) -> Image.Image:
    """Up to 0.45 of the height."""
    return _warp(img, translate_y_matrix(level, sign, img.height))


def _warp(img: Image.Image, matrix: Matrix) -> Image.Image:
    return img.transform(img.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=FILL)


def rotation_degrees(level: float, sign: int) -> float:
    """Counterclockwise, -30..30."""
    return sign * level / MAX_LEVEL * 30


def posterize_mask(level: float) -> int:
    """The bits of a byte that are kept: 4 at level 0, none at level 10."""
    bits = 4 - int(level / MAX_LEVEL * 4)
    return 256 - int(2 ** (8 - bits))


def solarize_threshold(level: float) -> int:
    """The least inverted value, 256..0."""
    return 256 - int(level / MAX_LEVEL * 256)


def solarize_addend(level: float) -> int:
    """0..110."""
    return int(level / MAX_LEVEL * 110)


def enhancement(level: float, sign: int) -> float:
    """1 changes nothing; 0.1 to 1.9 at level 10."""
    return 1 + sign * level / MAX_LEVEL * 0.9


def shear_x_matrix(level: float, sign: int) -> Matrix:
    """Of any image."""
    return 1, sign * level / MAX_LEVEL * 0.3, 0, 0, 1, 0


def shear_y_matrix(level: float, sign: int) -> Matrix:
    """Of any image."""
    return 1, 0, 0, sign * level / MAX_LEVEL * 0.3, 1, 0


def translate_x_matrix(level: float, sign: int, width: int) -> Matrix:
    """Of an image `width` pixels wide."""
    return 1, 0, sign * level / MAX_LEVEL * 0.45 * width, 0, 1, 0


def translate_y_matrix(level: float, sign: int, height: int) -> Matrix:
    """Of an image `height` pixels high."""
    return 1, 0, 0, 0, 1, sign * level / MAX_LEVEL * 0.45 * height


OPS: tuple[Op, ...] = (
    auto_contrast, equalize, invert, rotate, posterize, solarize, solarize_add, color, contrast, brightness, sharpness,
    shear_x, shear_y, translate_x, translate_y,
)  # fmt: skip
"""A place here is part of every result: the generator draws places."""
