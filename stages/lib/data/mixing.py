"""Mixup (Zhang et al. 2018) and cutmix (Yun et al. 2019) of one group of images, as timm's batch mode defines them.

Image i of a group of G meets image G-1-i. The draw (lambda and box) is apart from its use, so that whoever holds the draw
gets the same pixels and targets again.
"""

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

BoxStyle = Literal["timm-0.3.2", "timm-1.0"]
Box = tuple[int, int, int, int]


class Draws(Protocol):
    """The part of numpy.random.Generator used here."""

    def random(self) -> float:
        """Uniform in [0, 1)."""

    def beta(self, a: float, b: float) -> float:
        """Beta(a, b)."""

    def integers(self, low: int, high: int) -> int:
        """Uniform in low..high-1."""


@dataclass(frozen=True)
class Mix:
    """How one group is mixed."""

    lam: float
    """Share of an image's own label (and, without a box, of its own pixels), in [0, 1]; 1 and no box: unmixed."""
    box: Box | None
    """Cutmix: (top, bottom, left, right), half-open, that comes from the partner."""


def draw(
    rng: Draws,
    mixup: float,
    cutmix: float,
    prob: float,
    switch: float,
    height: int,
    width: int,
    box_style: BoxStyle,
    minmax: tuple[float, float] | None = None,
) -> Mix:
    """Draw the mix of one group of `height` x `width` images.

    mixup, cutmix: alphas of Beta(a, a), 0: off. prob: that anything is mixed. switch: that it is cutmix where both are on.
    minmax: sides of the cutmix box as shares of the image's, drawn directly instead of from lambda (timm's option; no
    recipe uses it). The order of the draws is timm's: apply?, cutmix?, lambda, then the box.
    """
    if not (mixup > 0 or cutmix > 0) or rng.random() >= prob:
        return Mix(1.0, None)
    cut = rng.random() < switch if mixup > 0 and cutmix > 0 else cutmix > 0
    alpha = cutmix if cut else mixup
    lam = float(rng.beta(alpha, alpha))
    if not cut or lam == 1.0:  # an empty box
        return Mix(lam, None)
    if minmax is not None:
        box = _box_between(rng, height, width, minmax, box_style)
    else:
        box = cutmix_box(height, width, lam, int(rng.integers(0, height)), int(rng.integers(0, width)), box_style)
    return Mix(own_share(box, height, width), box)


def cutmix_box(height: int, width: int, lam: float, centre_y: int, centre_x: int, style: BoxStyle) -> Box:
    """The box of about (1 - lam) of the image around a centre, clipped to the image.

    Sides are truncated. timm-0.3.2 goes half a side (truncated) from the centre each way, so an odd side loses a pixel;
    timm-1.0 keeps it.
    """
    share = math.sqrt(1.0 - lam)
    top, bottom = _interval(centre_y, int(height * share), height, style)
    left, right = _interval(centre_x, int(width * share), width, style)
    return top, bottom, left, right


def own_share(box: Box, height: int, width: int) -> float:
    """Lambda after clipping: the share of pixels that stay the image's own."""
    top, bottom, left, right = box
    return 1.0 - (bottom - top) * (right - left) / (height * width)


def mix_images(images: Tensor, mix: Mix) -> Tensor:
    """f[G, C, H, W] of one group -> its mixed images; the input stays as it is."""
    if mix.box is not None:
        top, bottom, left, right = mix.box
        mixed = images.clone()
        mixed[:, :, top:bottom, left:right] = images.flip(0)[:, :, top:bottom, left:right]
        return mixed
    if mix.lam == 1.0:
        return images
    return images * mix.lam + images.flip(0) * (1.0 - mix.lam)


def mix_targets(labels: Tensor, classes: int, smoothing: float, mix: Mix, dtype: torch.dtype = torch.float32) -> Tensor:
    """i64[G] labels of one group -> f[G, classes] targets, each row summing to 1.

    Smoothing shares `smoothing` over all classes, the true one included (timm's code; DeiT's text excludes it).
    """
    off = smoothing / classes
    hot = torch.full((len(labels), classes), off, dtype=dtype, device=labels.device)
    hot.scatter_(1, labels[:, None], 1.0 - smoothing + off)
    return hot * mix.lam + hot.flip(0) * (1.0 - mix.lam)


def _interval(centre: int, side: int, length: int, style: BoxStyle) -> tuple[int, int]:
    """`side` pixels around `centre`, clipped to 0..length."""
    start = centre - side // 2
    end = start + side if style == "timm-1.0" else centre + side // 2
    return max(start, 0), min(end, length)


def _box_between(rng: Draws, height: int, width: int, minmax: tuple[float, float], style: BoxStyle) -> Box:
    """A box inside the image whose sides lie between two shares; timm-1.0 includes the upper ends of its ranges."""
    last = 1 if style == "timm-1.0" else 0
    low, high = minmax
    tall = int(rng.integers(int(height * low), int(height * high) + last))
    wide = int(rng.integers(int(width * low), int(width * high) + last))
    top = int(rng.integers(0, height - tall + last))
    left = int(rng.integers(0, width - wide + last))
    return top, top + tall, left, left + wide
