"""How far chance alone could carry a count of images: exact, without drawing a random number, and without torch."""

import math

import numpy as np

CONFIDENCE = 0.95
WIDE = 14  # standard deviations beyond which a binomial's probabilities no longer count in double precision


def bootstrap(right: int, images: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """(low, high) in percent: the percentile bootstrap (Efron 1979) of a share of `images` of which `right` are right.

    Resampling n images with replacement, each a 0 or a 1, gives a sum that is exactly Binomial(n, right / n). So the quantiles of
    that distribution are the bootstrap's, for infinitely many resamples: the smallest k with P(sum <= k) >= q. Where every image is
    right, or none, resampling knows no other outcome and the interval is a point.
    """
    assert 0 <= right <= images and images > 0, (right, images)
    tail = (1 - confidence) / 2
    return tuple(100 * _quantile(right, images, share) / images for share in (tail, 1 - tail))  # type: ignore[return-value]


def _quantile(right: int, images: int, share: float) -> int:
    if right in (0, images):
        return right
    p = right / images
    reach = WIDE * math.sqrt(images * p * (1 - p)) + WIDE
    first, last = max(0, math.floor(right - reach)), min(images, math.ceil(right + reach))
    ks = range(first, last + 1)
    whole = math.lgamma(images + 1)
    logs = [
        whole - math.lgamma(k + 1) - math.lgamma(images - k + 1) + k * math.log(p) + (images - k) * math.log1p(-p)
        for k in ks
    ]
    below = np.cumsum(np.exp(logs))
    return first + int(np.searchsorted(below, share * below[-1]))


def sign_test(first: int, second: int) -> float:
    """Two-sided exact p of McNemar's test: of the images that one of two answers gets right, so many go to each.

    Were both equally good, each such image would be a fair coin (McNemar 1947, with the binomial instead of chi squared).
    """
    count = first + second
    logs = [
        math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1) - count * math.log(2)
        for k in range(min(first, second) + 1)
    ]
    return min(1.0, 2 * math.fsum(math.exp(value) for value in logs))
