"""What determines the pixels a classifier sees while training: order, augmentation, mixing."""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from stages.lib.params.frozen import Frozen, Probability

RANDAUGMENT = re.compile(r"rand-m(?P<m>\d+(\.\d+)?)(-n(?P<n>\d+))?(-mstd(?P<std>\d+(\.\d+)?))?-inc1")

SMALLEST_REFLECTED = 9
"""Pixels a side of a view that shows 4 reflected ones: 4 on each side of those it mirrors them at."""


class Views(Frozen):
    """A pure function of these, the index, the epoch and the position."""

    seed: Annotated[int, Field(ge=0, lt=2**32)]
    epochs: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)]
    """Global, over all ranks, repeats counted; an epoch has floor(images / batch_size) steps."""
    image_size: Annotated[int, Field(ge=1)]
    """Side in pixels."""
    order: Literal["permutation", "block", "deit"] = "permutation"
    """permutation of the whole index; block: shards permuted, `window` of them shuffled together; deit: the published
    repeated-augmentation sampler, seeded by the epoch alone, for `replicas` processes."""
    window: Annotated[int, Field(ge=1)] = 16
    """Shards shuffled together under order block."""
    replicas: Annotated[int, Field(ge=1)] = 1
    """Processes the published sampler dealt images to, under order deit; has nothing to do with the ranks of this run."""
    repeats: Annotated[int, Field(ge=1, le=16)] = 1
    """Views of one image in one epoch (repeated augmentation; DeiT: 3). An epoch keeps its length, so it sees 1/repeats."""
    crop: Literal["random-resized", "padded", "simple"] = "random-resized"
    """padded: pad by 4 and crop, what DeiT swaps in for images of at most 32 px. simple: the same with the image reflected in place
    of black, the shorter side resized to image_size before (DeiT III's --src)."""
    scale: Annotated[tuple[Probability, Probability], Field(strict=False)] = (0.08, 1.0)
    """Area of a random-resized crop, share of the image."""
    ratio: Annotated[tuple[float, float], Field(strict=False)] = (3 / 4, 4 / 3)
    """Aspect (width / height) of a random-resized crop, log-uniform."""
    hflip: Probability = 0.5
    randaugment: str = "none"
    """none, or timm's string such as rand-m9-mstd0.5-inc1 (recipes: DeiT Table 9)."""
    three_augment: bool = False
    """Exactly one of grayscale, solarize at 128 and Gaussian blur of radius 0.1 to 2, in place of RandAugment (DeiT III)."""
    color_jitter: Probability = 0.0
    """Brightness, contrast and saturation change in a random order by factors uniform in 1 - this to 1 + this (DeiT III 0.3)."""
    erase: Probability = 0.0
    """Probability of random erasing with per-pixel normal noise (DeiT 0.25)."""
    mixup: Annotated[float, Field(ge=0)] = 0.0
    """Beta(a, a) of mixup (DeiT 0.8); 0: off."""
    cutmix: Annotated[float, Field(ge=0)] = 0.0
    """Beta(a, a) of cutmix (DeiT 1.0); 0: off."""
    mix_prob: Probability = 1.0
    mix_switch: Probability = 0.5
    """Probability of cutmix where both are on."""
    mix_group: Annotated[int, Field(ge=2)] = 2
    """Images mixed with one draw, in pairs from both ends; even, divides the batch. Published: the batch of one process."""
    cutmix_box: Literal["timm-0.3.2", "timm-1.0"] = "timm-0.3.2"
    """How a cutmix box of odd side is rounded; DeiT was published with timm 0.3.2."""

    @field_validator("randaugment")
    @classmethod
    def known(cls, value: str) -> str:
        """Only the increasing variant (inc1), the one the recipes use, and normal levels."""
        if value == "none":
            return value
        match = RANDAUGMENT.fullmatch(value)
        if not match:
            raise ValueError(f"{value!r} is neither none nor like rand-m9-mstd0.5-inc1 (optionally -n<ops>)")
        if float(match["std"] or 0) > 100:
            raise ValueError(f"{value!r}: above 100 mstd means a uniform level to timm, not to us; lower it")
        return value

    @property
    def mixes(self) -> bool:
        """Whether any mixing can happen."""
        return (self.mixup > 0 or self.cutmix > 0) and self.mix_prob > 0

    @model_validator(mode="after")
    def fits(self) -> Self:
        """Groups are whole and hold distinct images; ranges are ranges."""
        for name in ("scale", "ratio"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} [{low}, {high}] is not an increasing range above 0")
        if self.randaugment != "none" and (self.three_augment or self.color_jitter):
            raise ValueError(
                "randaugment goes with neither three_augment nor color_jitter: DeiT III took 3-Augment in its place, and the "
                "published code ignores colour jitter beside it; set randaugment to none, or three_augment to false and "
                "color_jitter to 0"
            )
        if self.crop == "simple" and self.image_size < SMALLEST_REFLECTED:
            raise ValueError(
                f"crop: simple reflects 4 px at each edge, and image_size {self.image_size} holds no such edges; take at least "
                f"{SMALLEST_REFLECTED}"
            )
        if self.mixes:
            if self.mix_group % 2 or self.batch_size % self.mix_group:
                raise ValueError(f"mix_group {self.mix_group} must be even and divide batch_size {self.batch_size}")
            groups = self.batch_size // self.mix_group
            if self.order != "deit" and groups < self.repeats:
                raise ValueError(
                    f"{groups} mixing group(s) of {self.mix_group} cannot keep {self.repeats} views of an image apart; "
                    f"take mix_group at most {self.batch_size // self.repeats}"
                )
        if self.order == "deit":
            if self.batch_size % self.replicas:
                raise ValueError(f"batch_size {self.batch_size} is not a multiple of replicas {self.replicas}")
            if self.mixes and (self.batch_size // self.replicas) % self.mix_group:
                raise ValueError(
                    f"mix_group {self.mix_group} must divide one replica's batch {self.batch_size // self.replicas}"
                )
        return self
