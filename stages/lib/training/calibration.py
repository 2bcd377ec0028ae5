"""Does a probability mean what it says? Reliability bins and the expected calibration error (Guo et al. 2017, arXiv 1706.04599)."""

from dataclasses import dataclass

import numpy as np

BINS = 15  # Guo et al. 2017


@dataclass(frozen=True)
class Bin:
    """Images whose predicted class has a probability above `low` and up to `high`."""

    low: float
    high: float
    images: int
    confidence: float | None
    """Mean probability of the predicted class, 0..1; None where there is no image."""
    accuracy: float | None
    """Share of them that are right, 0..1; None where there is no image."""


def bins(probability: np.ndarray, right: np.ndarray) -> list[Bin]:
    """BINS of equal width over 0..1, of the predicted class's probability f32[N] and bool[N] whether it is right."""
    sure = probability.astype(np.float64)
    edges = np.linspace(0, 1, BINS + 1)
    place = np.clip(np.searchsorted(edges, sure, side="left") - 1, 0, BINS - 1)
    images = np.bincount(place, minlength=BINS)
    confidence, hits = (np.bincount(place, values, BINS) for values in (sure, right.astype(np.float64)))
    return [
        Bin(float(low), float(high), int(n), c / n if n else None, h / n if n else None)
        for low, high, n, c, h in zip(edges[:-1], edges[1:], images, confidence, hits, strict=True)
    ]


def expected_error(probability: np.ndarray, right: np.ndarray) -> float:
    """ECE in percent: |confidence - accuracy| of the bins, weighted by their images."""
    apart = sum(
        one.images * abs(one.confidence - one.accuracy)
        for one in bins(probability, right)
        if one.confidence is not None and one.accuracy is not None
    )
    return 100 * apart / len(probability)
