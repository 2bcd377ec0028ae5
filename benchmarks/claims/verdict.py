"""Is a difference there, and which way? Computed from runs of several seeds on the same images, never typed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

Verdict = Literal["holds", "does not hold", "not distinguishable"]
Interval = tuple[float, float]
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Difference:
    """The side said to be higher less the other, in their unit: percent of images for accuracies."""

    mean: float
    seeds: int
    over_seeds: Interval | None
    """95 % t interval of the paired difference; None with a single seed."""
    over_images: Interval | None
    """95 % normal interval of the mean over seeds of each image's difference; None for what is no share of images."""

    @property
    def verdict(self) -> Verdict:
        """Both intervals must lie on one side of 0: another seed and other images would then say the same."""
        if self.over_seeds is None:
            return "not distinguishable"
        intervals = [self.over_seeds, *([self.over_images] if self.over_images else [])]
        if all(low > 0 for low, _ in intervals):
            return "holds"
        if all(high < 0 for _, high in intervals):
            return "does not hold"
        return "not distinguishable"


def of_numbers(higher: Sequence[float], lower: Sequence[float]) -> Difference:
    """Of one number a seed on each side, paired by seed."""
    apart = np.subtract(higher, lower, dtype=np.float64)
    return Difference(float(apart.mean()), len(apart), over_seeds(apart), None)


def of_images(higher: Sequence[np.ndarray], lower: Sequence[np.ndarray]) -> Difference:
    """Of bool[images] a seed on each side: which images were right. Paired by seed and by image; in percent."""
    apart = 100 * np.subtract(np.stack(higher), np.stack(lower), dtype=np.float64)
    seeds, images = apart.mean(1), apart.mean(0)
    half = stats.norm.ppf((1 + CONFIDENCE) / 2) * images.std(ddof=1) / math.sqrt(len(images))
    mean = float(apart.mean())
    return Difference(mean, len(seeds), over_seeds(seeds), (mean - float(half), mean + float(half)))


def over_seeds(values: np.ndarray) -> Interval | None:
    """95 % t interval of the mean of f[seeds]; None for a single one."""
    if len(values) < 2:
        return None
    half = stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)
