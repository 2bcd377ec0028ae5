"""Reliability bins and the calibration error: worked out by hand, and scikit-learn's calibration curve as a witness."""

import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from stages.lib.training import calibration


def test_expected_error__by_hand() -> None:
    """Four images at 0.9 of which three are right: |0.9 - 0.75|; one at 0.5, right: 0.5; one at 0.5 + 1/15, wrong: 0.5667."""
    probability = np.array([0.9, 0.9, 0.9, 0.9, 0.5, 0.5 + 1 / 15], np.float64)
    right = np.array([True, True, True, False, True, False])
    expected = 100 * (4 * 0.15 + 0.5 + 0.5 + 1 / 15) / 6
    assert calibration.expected_error(probability, right) == pytest.approx(expected)


def test_expected_error__gaps_of_one_bin_cancel_and_of_two_do_not() -> None:
    together, apart = np.array([0.94, 0.96]), np.array([0.90, 0.96])
    right = np.array([True, True])
    assert calibration.expected_error(together, right) == pytest.approx(5)
    assert calibration.expected_error(apart, right) == pytest.approx(7)
    mixed = calibration.expected_error(
        np.array([0.5, 0.5]), np.array([True, False])
    )  # half of them right at 0.5: perfect
    assert mixed == 0


def test_bins__edges_belong_to_the_lower_bin_and_empty_ones_have_no_mean() -> None:
    found = calibration.bins(np.array([1 / 15, 2 / 15, 1.0]), np.array([True, False, True]))
    assert [one.images for one in found] == [1, 1, *[0] * 12, 1]
    assert found[5].confidence is None and found[5].accuracy is None
    assert found[0].low == 0 and found[14].high == 1
    assert [round(one.high - one.low, 12) for one in found] == [round(1 / 15, 12)] * 15


def test_bins__are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    probability = rng.uniform(0.02, 1, 5_000)
    right = rng.uniform(size=5_000) < probability**2  # sure beyond its merits
    accuracy, confidence = calibration_curve(right, probability, n_bins=15)
    found = calibration.bins(probability.astype(np.float32), right)
    assert [one.accuracy for one in found] == pytest.approx(accuracy)
    assert [one.confidence for one in found] == pytest.approx(confidence, abs=1e-6)
    honest = rng.uniform(size=5_000) < probability
    assert calibration.expected_error(probability, right) > 10 > 4 > calibration.expected_error(probability, honest)
