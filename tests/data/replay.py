"""Lets timm draw from one of our generators, so that its transforms can be compared with ours draw by draw."""

import types
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import auto_augment, random_erasing, transforms

from stages.lib.data.crop import framed, planes
from stages.lib.data.randaugment_planes import apply_planes_by_pillow
from stages.lib.data.view import Drawn


class Replay:
    """What timm uses of Python's `random` and NumPy's `random.choice`, from a generator."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng, self.sign = rng, 1

    def random(self) -> float:
        return self.rng.random()

    def uniform(self, low: float, high: float) -> float:
        return self.rng.uniform(low, high)

    def randint(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def gauss(self, mean: float, std: float) -> float:
        value = self.rng.normal(mean, std)
        self.sign = 1 if self.rng.random() < 0.5 else -1  # ours draws a sign for every op, timm only where one is used
        return value

    def choice(self, ops: Sequence[Any], count: int, **_: Any) -> list[Any]:
        return [ops[i] for i in self.rng.integers(len(ops), size=count)]


def replay(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> Replay:
    """From now on timm's crops, flips, RandAugment and erasing draw from `rng`."""
    source = Replay(rng)
    for module in (transforms, random_erasing, auto_augment):
        monkeypatch.setattr(module, "random", source)
    monkeypatch.setattr(auto_augment, "np", types.SimpleNamespace(random=source))
    monkeypatch.setattr(auto_augment, "_randomly_negate", lambda value: source.sign * value)
    monkeypatch.setitem(auto_augment.NAME_TO_OP, "PosterizeIncreasing", posterize)
    monkeypatch.setattr(torch, "rand", lambda *_: torch.tensor([rng.random()]))
    return source


def posterize(img: Image.Image, bits: int, **_: Any) -> Image.Image:
    """timm's, but black instead of an error where Pillow 13 refuses 0 bits."""
    return auto_augment.posterize(img, bits) if bits else Image.new("RGB", img.size)


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """A smooth colour gradient with noise: every op changes it, no channel equals another."""
    y, x = np.mgrid[0:height, 0:width]
    smooth = np.stack([20 + 200 * x / width, 230 - 180 * y / height, 60 + 100 * (x + y) / (width + height)], -1)
    noise = np.random.default_rng(seed).normal(0, 12, smooth.shape)
    return Image.fromarray((smooth + noise).clip(3, 250).astype(np.uint8))


def seen(img: Image.Image, drawn: Drawn) -> np.ndarray:
    """u8[3, H, W]: the view of an image by Pillow alone."""
    pixels = planes(framed(img, drawn.frame))
    if drawn.steps:
        apply_planes_by_pillow(pixels, drawn.steps)
    return pixels
