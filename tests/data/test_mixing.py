"""Mixup, cutmix and their targets."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.lib.data.mixing import BoxStyle, Mix, cutmix_box, draw, mix_images, mix_targets, own_share
from stages.lib.data.randomness import Purpose, generator

STYLES: list[BoxStyle] = ["timm-0.3.2", "timm-1.0"]


def rng(position: int = 0) -> np.random.Generator:
    return generator(0, 0, position, Purpose.MIX)


def drawn(position: int, **changes: Any) -> Mix:
    recipe = {"mixup": 0.8, "cutmix": 1.0, "prob": 1.0, "switch": 0.5, "height": 32, "width": 24}
    return draw(rng(position), **{**recipe, **changes}, box_style="timm-0.3.2")


def test_cutmix_box__known() -> None:
    """Recipes 3.6: 224 px at lambda 0.5 gives 158 x 158, lambda 0.502471."""
    box = cutmix_box(224, 224, 0.5, 112, 112, "timm-0.3.2")
    assert box == (33, 191, 33, 191)
    assert own_share(box, 224, 224) == pytest.approx(0.502471, abs=1e-6)


def test_cutmix_box__an_odd_side_loses_a_pixel_in_old_timm() -> None:
    assert cutmix_box(16, 16, 1 - (5.5 / 16) ** 2, 8, 8, "timm-0.3.2") == (6, 10, 6, 10)
    assert cutmix_box(16, 16, 1 - (5.5 / 16) ** 2, 8, 8, "timm-1.0") == (6, 11, 6, 11)


@pytest.mark.parametrize("style", STYLES)
@given(lam=st.floats(0, 1), y=st.integers(0, 19), x=st.integers(0, 29))
@settings(max_examples=80, deadline=None)
def test_cutmix_box__stays_inside_and_lambda_is_its_area(style: BoxStyle, lam: float, y: int, x: int) -> None:
    top, bottom, left, right = box = cutmix_box(20, 30, lam, y, x, style)
    assert 0 <= top <= bottom <= 20
    assert 0 <= left <= right <= 30
    assert own_share(box, 20, 30) == pytest.approx(1 - (bottom - top) * (right - left) / 600)
    assert 1 - own_share(box, 20, 30) <= 1 - lam + 1e-9  # truncated and clipped: never more than asked


def test_draw__order_of_draws_is_timms() -> None:
    """One uniform, one uniform, one Beta, two integers: the same numbers by hand."""
    position = next(p for p in range(50) if drawn(p).box)
    own = rng(position)
    own.random()
    assert own.random() < 0.5
    lam = own.beta(1.0, 1.0)
    y, x = own.integers(0, 32), own.integers(0, 24)
    mix, box = drawn(position), cutmix_box(32, 24, lam, int(y), int(x), "timm-0.3.2")
    assert mix == Mix(own_share(box, 32, 24), box)


def test_draw__mixup_alone_needs_one_uniform_and_one_beta() -> None:
    own = rng()
    own.random()
    assert drawn(0, cutmix=0.0) == Mix(own.beta(0.8, 0.8), None)


def test_draw__never_and_off() -> None:
    assert all(drawn(p, prob=0.0) == Mix(1.0, None) for p in range(20))
    assert drawn(0, mixup=0.0, cutmix=0.0) == Mix(1.0, None)


def test_draw__shares() -> None:
    mixes = [drawn(p, prob=0.8) for p in range(2000)]
    unmixed = sum(mix == Mix(1.0, None) for mix in mixes) / 2000
    cut = sum(mix.box is not None for mix in mixes) / 2000
    assert unmixed == pytest.approx(0.2, abs=6 * math.sqrt(0.2 * 0.8 / 2000))
    assert cut == pytest.approx(0.4, abs=6 * math.sqrt(0.4 * 0.6 / 2000))


@pytest.mark.parametrize(("style", "sides"), [("timm-0.3.2", {4, 5, 6, 7}), ("timm-1.0", {4, 5, 6, 7, 8})])
def test_draw__minmax_sides(style: BoxStyle, sides: set[int]) -> None:
    boxes = [draw(rng(p), 0.0, 1.0, 1.0, 0.5, 16, 16, style, (0.25, 0.5)).box for p in range(400)]
    assert {box[1] - box[0] for box in boxes if box} == sides
    assert all(box and 0 <= box[0] and box[1] <= 16 and 0 <= box[2] and box[3] <= 16 for box in boxes)


def test_mix_images__mixup_meets_the_mirror_image() -> None:
    images = torch.arange(4.0)[:, None, None, None].expand(4, 3, 2, 2)
    mixed = mix_images(images, Mix(0.75, None))
    assert mixed[:, 0, 0, 0].tolist() == [0.75, 1.25, 1.75, 2.25]
    assert images[:, 0, 0, 0].tolist() == [0, 1, 2, 3]  # as it was


def test_mix_images__cutmix_takes_the_box_from_the_partner() -> None:
    images = torch.arange(4.0)[:, None, None, None].expand(4, 1, 4, 5)
    mixed = mix_images(images, Mix(own_share((1, 3, 0, 2), 4, 5), (1, 3, 0, 2)))
    for index, image in enumerate(mixed[:, 0]):
        expected = torch.full((4, 5), float(index))
        expected[1:3, 0:2] = 3 - index
        assert torch.equal(image, expected)


def test_mix_images__unmixed_is_untouched() -> None:
    images = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(mix_images(images, Mix(1.0, None)), images)


def test_mix_targets__smoothing_as_the_code_has_it() -> None:
    """Recipes 3.6: 0.9001 and 1e-4 for 1000 classes at 0.1."""
    targets = mix_targets(torch.tensor([7]), 1000, 0.1, Mix(1.0, None), torch.float64)
    assert targets[0, 7].item() == pytest.approx(0.9001)
    assert targets[0, 8].item() == pytest.approx(1e-4)


def test_mix_targets__by_hand() -> None:
    targets = mix_targets(torch.tensor([0, 2]), 3, 0.0, Mix(0.25, None))
    assert targets.tolist() == [[0.25, 0.0, 0.75], [0.75, 0.0, 0.25]]
    assert targets.dtype == torch.float32


@given(lam=st.floats(0, 1), smoothing=st.floats(0, 0.5))
@settings(max_examples=50, deadline=None)
def test_mix_targets__rows_sum_to_one(lam: float, smoothing: float) -> None:
    targets = mix_targets(torch.tensor([0, 1, 4, 4]), 5, smoothing, Mix(lam, None), torch.float64)
    assert torch.allclose(targets.sum(1), torch.ones(4, dtype=torch.float64))
