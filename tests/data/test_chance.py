"""Intervals and the sign test against scipy, against published figures, and against resampling that really resamples."""

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from stages.lib.data import chance


@pytest.mark.parametrize("images", [1, 2, 10, 215, 4_999, 50_000, 1_281_167])
@pytest.mark.parametrize("share", [0, 1e-3, 0.1, 0.5, 0.813, 0.999, 1])
def test_bootstrap__is_the_binomials_quantiles(images: int, share: float) -> None:
    right = round(share * images)
    expected = [100 * binom.ppf(tail, images, right / images) / images for tail in (0.025, 0.975)]
    assert chance.bootstrap(right, images) == pytest.approx(expected, abs=1e-9)


def test_bootstrap__is_what_resampling_gives() -> None:
    """20,000 real resamples of 300 images come within the noise of so many."""
    hits = np.arange(300) < 231
    rng = np.random.default_rng(0)
    means = 100 * hits[rng.integers(0, 300, (20_000, 300))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    assert chance.bootstrap(231, 300) == pytest.approx((low, high), abs=0.34)
    # negative control: 90 % would not do
    assert abs(chance.bootstrap(231, 300, 0.9)[0] - low) > 0.5


def test_bootstrap__all_right_knows_no_other_outcome() -> None:
    assert chance.bootstrap(40, 40) == (100, 100) and chance.bootstrap(0, 40) == (0, 0)


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 0), (10, 10), (3, 21), (86, 150), (900, 1_050), (0, 2_000)])
def test_sign_test__is_scipys(first: int, second: int) -> None:
    expected = binomtest(first, first + second, 0.5).pvalue if first + second else 1.0
    assert chance.sign_test(first, second) == pytest.approx(expected, rel=1e-9, abs=1e-300)
    assert chance.sign_test(first, second) == chance.sign_test(second, first)


def test_sign_test__by_hand() -> None:
    """Ten of ten: 2 / 2^10; nine of ten: 2 (1 + 10) / 2^10."""
    assert chance.sign_test(10, 0) == pytest.approx(2 / 1024)
    assert chance.sign_test(1, 9) == pytest.approx(22 / 1024)
