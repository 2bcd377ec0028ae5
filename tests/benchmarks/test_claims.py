"""Verdicts are arithmetic with known answers, and docs/claims.md is what the results say."""

import numpy as np
import pytest

from benchmarks.claims import collect, page, results, verdict
from benchmarks.claims.claims import CLAIMS


def right(share: float, images: int = 4000, start: int = 0) -> np.ndarray:
    """bool[images], of which `share` are right: those from place `start` on, round the end."""
    return np.roll(np.arange(images) < round(share * images), start)


def test_t_interval__by_hand() -> None:
    # mean 2, standard deviation 1, n 3: 2 +- 4.302653 / sqrt(3)
    low, high = verdict.over_seeds(np.array([1.0, 2.0, 3.0])) or (0, 0)
    assert (low, high) == pytest.approx((2 - 2.484138, 2 + 2.484138), abs=1e-5)


def test_image_interval__by_hand() -> None:
    # 4 of 8 images gained, none lost: mean 50 %, sd of (0 or 100) is 53.4522, half = 1.959964 * 53.4522 / sqrt(8)
    found = verdict.of_images([np.ones(8, bool)] * 2, [right(0.5, 8)] * 2)
    assert found.mean == 50
    assert found.over_images == pytest.approx((50 - 37.0398, 50 + 37.0398), abs=1e-3)


def test_verdict__a_clear_difference_holds() -> None:
    better, worse = [right(0.62), right(0.61), right(0.63)], [right(0.50), right(0.50), right(0.51)]
    found = verdict.of_images(better, worse)
    assert found.mean == pytest.approx(35 / 3)
    assert found.verdict == "holds"


def test_verdict__the_other_way_round_does_not_hold() -> None:
    better, worse = [right(0.62), right(0.61), right(0.63)], [right(0.50), right(0.50), right(0.51)]
    assert verdict.of_images(worse, better).verdict == "does not hold"
    assert verdict.of_numbers([1.0, 1.1, 1.2], [2.0, 2.1, 2.2]).verdict == "does not hold"


def test_verdict__seeds_that_disagree_are_not_distinguishable() -> None:
    found = verdict.of_images([right(0.62), right(0.48), right(0.60)], [right(0.5)] * 3)
    assert found.over_images is not None and found.over_images[0] > 0, "the images alone would have said: holds"
    assert found.verdict == "not distinguishable"


def test_verdict__few_images_are_not_distinguishable() -> None:
    found = verdict.of_images([right(0.6, 10)] * 3, [right(0.6, 10, 3), right(0.5, 10, 3), right(0.5, 10, 3)])
    assert found.verdict == "not distinguishable"


def test_verdict__equal_sides_and_a_single_seed_are_not_distinguishable() -> None:
    assert verdict.of_images([right(0.6)] * 3, [right(0.6)] * 3).verdict == "not distinguishable"
    assert verdict.of_images([right(0.9)], [right(0.1)]).verdict == "not distinguishable"


def test_packed__gives_the_same_images_back() -> None:
    mask = np.random.default_rng(0).random(4001) < 0.5
    assert np.array_equal(collect.unpacked(collect.packed(mask), 4001), mask)


def test_page__is_what_the_results_say() -> None:
    assert (results.FOLDER.parent / "claims.md").read_text() == page.text(), "run python -m benchmarks.claims table"


def test_results__accuracies_are_those_of_the_images() -> None:
    for claim in CLAIMS:
        for run in results.read(claim)["runs"]:
            for head in run["heads"].values():
                share = 100 * collect.unpacked(head["right"], run["images"]).mean()
                assert head["top1"] == pytest.approx(share, abs=1e-3)
