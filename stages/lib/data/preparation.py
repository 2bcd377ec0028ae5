"""From an image to what one trained model sees when it is measured: resize, centre crop, its own mean and deviation."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from stages.lib.core.outcome import Refusal
from stages.lib.data.crop import Frame, evaluation, framed, planes
from stages.lib.data.normalise import IMAGENET_MEAN, IMAGENET_STD, Channels, standardise

RESAMPLING = {mode.name.lower(): mode for mode in Image.Resampling}


@dataclass(frozen=True)
class Preparation:
    """What a model's config.json says, or a block of parameters while it is trained."""

    size: int
    """Side in pixels."""
    crop_pct: float
    """Share of the resized shorter side that the centre crop keeps."""
    interpolation: str = "bicubic"
    mean: Channels = IMAGENET_MEAN
    """Of red, green and blue in 0..1."""
    std: Channels = IMAGENET_STD

    def frame(self, width: int, height: int) -> Frame:
        """Where it looks in an image of that size."""
        return evaluation(width, height, self.size, self.crop_pct, RESAMPLING[self.interpolation])

    def view(self, image: Image.Image) -> np.ndarray:
        """RGB image -> u8[3, size, size]."""
        return planes(framed(image, self.frame(*image.size)))

    def normalise(self, images: Tensor) -> Tensor:
        """u8[B, 3, H, W] -> f32[B, 3, H, W]."""
        return standardise(images, self.mean, self.std)


def preparation_of(wanted: Mapping[str, Any], path: Path) -> Preparation:
    """The preprocessing a pretrained_cfg asks for; path: where it stands. Raises Refusal for what this pipeline does not do."""
    channels, height, width = wanted["input_size"]
    faults = {
        f"input_size {list(wanted['input_size'])} (square RGB)": channels != 3 or height != width,
        f"crop_mode {wanted.get('crop_mode', 'center')} (center)": wanted.get("crop_mode", "center") != "center",
        f"interpolation {wanted['interpolation']} ({', '.join(RESAMPLING)})": wanted["interpolation"] not in RESAMPLING,
        f"mean {wanted['mean']} (three numbers)": len(wanted["mean"]) != 3,
        f"std {wanted['std']} (three numbers above 0)": len(wanted["std"]) != 3 or min(wanted["std"]) <= 0,
    }
    if wrong := [fault for fault, present in faults.items() if present]:
        raise Refusal(f"{path} asks for {'; '.join(wrong)}; in brackets what is done here.")
    red, green, blue = wanted["mean"]
    spread = wanted["std"]
    return Preparation(
        height, wanted["crop_pct"], wanted["interpolation"], (red, green, blue), (spread[0], spread[1], spread[2])
    )
