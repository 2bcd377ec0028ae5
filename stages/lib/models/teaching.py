"""A teacher as a student may ask it: knowing the student's classes, and seeing its images normalised as it was trained."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from stages.lib.core.outcome import Refusal
from stages.lib.models import folder
from stages.lib.models.precision import autocast, wide
from stages.lib.params.precision import Precision


def load(path: Path, classes: Sequence[str], normalisation: Literal["same", "own"]) -> nn.Module:
    """The teacher in eval mode: f32[B, 3, H, W] as the student sees it -> f32[B, classes].

    classes: the student's, index = label. normalisation own: pixels are mapped from the student's mean and standard deviation
    to the teacher's, where those differ; same: such a teacher is refused. Raises Refusal for other classes too.
    """
    network, config = folder.load(path)
    agree(path, tuple(config.get("label_names", ())), config["num_classes"], tuple(classes))
    mean, std = config["pretrained_cfg"]["mean"], config["pretrained_cfg"]["std"]
    if tuple(mean) == IMAGENET_DEFAULT_MEAN and tuple(std) == IMAGENET_DEFAULT_STD:
        return network
    if normalisation == "same":
        raise Refusal(
            f"{path} wants images with mean {list(mean)} and standard deviation {list(std)}, the student sees them with "
            f"{list(IMAGENET_DEFAULT_MEAN)} and {list(IMAGENET_DEFAULT_STD)}. train.teacher_normalisation: own gives each its own."
        )
    return Renormalised(network, mean, std).eval()


def ask(teacher: nn.Module, pixels: Tensor, precision: Precision) -> Tensor:
    """f[B, 3, H, W] -> its logits f[B, classes], without gradient, in single precision or more.

    The teacher computes in `precision` whatever surrounds the call: an answer given beside a student is the one that is stored.
    """
    with torch.no_grad(), autocast(pixels.device, precision):
        logits: Tensor = teacher(pixels)
    return wide(logits)


def agree(path: Path, theirs: tuple[str, ...], count: int, ours: tuple[str, ...]) -> None:
    """Raise Refusal unless label i means the same to both. A teacher that does not name its classes must have as many."""
    if count != len(ours):
        raise Refusal(
            f"{path} knows {count} classes, the student's set has {len(ours)}: its answers would be about something else. "
            "teacher.classes: by-name takes ours out of weights that name theirs; else train a teacher on this set."
        )
    apart = [place for place, (one, other) in enumerate(zip(theirs, ours, strict=False)) if one != other]
    if theirs and apart:
        first = apart[0]
        raise Refusal(
            f"{path} and the student's set do not have the same classes in the same order: label {first} is {theirs[first]} to "
            f"the teacher and {ours[first]} to the student, and {len(apart)} differ in all. teacher.classes: by-name puts the rows "
            "of a fetched teacher's head in this set's order."
        )


class Renormalised(nn.Module):
    """A teacher behind the map from the student's normalisation to its own.

    Student: s = (x - m) / d. Teacher: t = (x - M) / D = s * (d / D) + (m - M) / D, channel by channel. Erased and mixed pixels are
    mapped as any other: the map is affine, so a mixture of images stays the same mixture.
    """

    def __init__(self, teacher: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.teacher = teacher
        wide = torch.float64  # constants rounded once, when they become single precision
        ours = [torch.tensor(values, dtype=wide) for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)]
        own_mean, own_std = torch.tensor(mean, dtype=wide), torch.tensor(std, dtype=wide)
        self.register_buffer("scale", (ours[1] / own_std).float().view(3, 1, 1))
        self.register_buffer("offset", ((ours[0] - own_mean) / own_std).float().view(3, 1, 1))
        self.scale: Tensor
        self.offset: Tensor

    def forward(self, pixels: Tensor) -> Tensor:
        """f[B, 3, H, W] -> f[B, classes]."""
        logits: Tensor = self.teacher(pixels * self.scale + self.offset)
        return logits
