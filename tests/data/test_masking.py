"""MAE's noise: random as it always was; blocks and grids hide exactly as many patches, where they say."""

import numpy as np
import pytest

from stages.lib.data.masking import noise_of
from stages.lib.data.randomness import Purpose, generator
from stages.lib.models.mae import visible
from stages.lib.params.pretrain import Masking


def hidden(masking: Masking, side: int, keep: int, position: int) -> np.ndarray:
    """bool[side, side]: by the model's rule, that the smallest numbers stay."""
    noise = noise_of(masking, side, keep)(generator(0, 0, position, Purpose.NOISE))
    assert noise.dtype == np.float32 and noise.shape == (side * side,) and (0 <= noise).all() and (noise < 1).all()
    mask = np.ones(side * side, bool)
    mask[np.argsort(noise, kind="stable")[:keep]] = False
    return mask.reshape(side, side)


def neighbours(mask: np.ndarray) -> float:
    """Share of hidden patches' right and lower neighbours that are hidden too."""
    pairs = [mask[:, :-1] & mask[:, 1:], mask[:-1] & mask[1:]]
    of = [mask[:, :-1], mask[:-1]]
    return float(sum(pair.sum() for pair in pairs) / sum(one.sum() for one in of))


def test_random__is_uniform_noise_and_the_same_bits_as_ever() -> None:
    ours = noise_of("random", 14, 49)(generator(3, 1, 4, Purpose.NOISE))
    assert np.array_equal(ours, generator(3, 1, 4, Purpose.NOISE).random(196, np.float32))


@pytest.mark.parametrize(("side", "ratio"), [(14, 0.5), (14, 0.75), (14, 0.9), (4, 0.75), (16, 0.6), (2, 0.5)])
def test_block__hides_exactly_as_many_in_rectangles(side: int, ratio: float) -> None:
    keep = visible(side * side, ratio)
    masks = [hidden("block", side, keep, position) for position in range(60)]
    assert all(mask.sum() == side * side - keep for mask in masks)
    assert len({mask.tobytes() for mask in masks}) > (5 if side > 2 else 3)
    if side == 14 and ratio == 0.5:
        chance = np.mean([neighbours(hidden("random", side, keep, position)) for position in range(60)])
        assert np.mean([neighbours(mask) for mask in masks]) > 0.75 > 0.55 > chance  # random: one in two


@pytest.mark.parametrize("side", [4, 14, 16])
def test_grid__keeps_one_of_every_two_by_two(side: int) -> None:
    masks = [hidden("grid", side, side * side // 4, position) for position in range(20)]
    assert all(not mask[::2, ::2].any() and mask.sum() == side * side * 3 // 4 for mask in masks)


def test_structured_noise__leaves_the_order_of_what_stays_to_chance() -> None:
    """The encoder sees visible patches in the order of their noise."""
    orders = {
        tuple(np.argsort(noise_of("grid", 4, 4)(generator(0, 0, p, Purpose.NOISE)), kind="stable")[:4])
        for p in range(200)
    }
    assert len(orders) == 24
