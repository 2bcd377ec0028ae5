"""Erasures are timm's: same boxes from the same draws, same distribution from its own."""

import random

import numpy as np
import pytest
import torch
from scipy import stats
from timm.data.random_erasing import RandomErasing

from stages.lib.data.erasing import Erasure, draw, erase
from stages.lib.data.randomness import Purpose, generator
from tests.data.replay import replay

Box = tuple[int, int, int, int]


def box_of(erasure: Erasure | None) -> Box | None:
    """(top, left, height, width)."""
    return erasure and (erasure.top, erasure.left, *erasure.noise.shape[1:])


def timm_box(height: int, width: int, probability: float = 1.0) -> Box | None:
    """What timm's RandomErasing overwrites."""
    image = torch.full((3, height, width), 1e9)
    rows, columns = torch.nonzero(RandomErasing(probability, mode="pixel", device="cpu")(image)[0] != 1e9).unbind(1)
    if not len(rows):
        return None
    top, left = int(rows.min()), int(columns.min())
    return top, left, int(rows.max()) - top + 1, int(columns.max()) - left + 1


@pytest.mark.parametrize(("height", "width"), [(224, 224), (16, 16), (60, 13), (5, 40)])
def test_draw__draws_timms_boxes(monkeypatch: pytest.MonkeyPatch, height: int, width: int) -> None:
    found = []
    for position in range(150):
        with monkeypatch.context() as patch:
            replay(patch, generator(5, 0, position, Purpose.AUGMENT))
            found.append(timm_box(height, width, 0.5))
    ours = [box_of(draw(height, width, 0.5, generator(5, 0, position, Purpose.AUGMENT))) for position in range(150)]
    assert ours == found
    assert 40 < sum(box is not None for box in ours) < 110


def test_draw__has_timms_distribution() -> None:
    random.seed(0)
    rng = np.random.default_rng(0)
    theirs = np.array([timm_box(64, 48) for _ in range(1200)], float)
    ours = np.array([box_of(draw(64, 48, 1.0, rng)) for _ in range(1200)], float)

    def areas_and_aspects(boxes: np.ndarray) -> list[np.ndarray]:
        return [boxes[:, 2] * boxes[:, 3], boxes[:, 2] / boxes[:, 3], boxes[:, 0], boxes[:, 1]]

    for mine, timms in zip(areas_and_aspects(ours), areas_and_aspects(theirs), strict=True):
        assert stats.ks_2samp(mine, timms).pvalue > 1e-3
    turned = ours[:, [1, 0, 3, 2]]  # negative control: aspects the other way round, in an image that is not square
    values = [
        stats.ks_2samp(*pair).pvalue for pair in zip(areas_and_aspects(turned), areas_and_aspects(theirs), strict=True)
    ]
    assert min(values) < 1e-6


def test_draw__boxes_are_smaller_than_the_image_and_within_the_area() -> None:
    rng = np.random.default_rng(0)
    for _ in range(500):
        erasure = draw(224, 200, 1.0, rng)
        assert erasure is not None
        top, left, h, w = box_of(erasure)  # type: ignore[misc]
        assert 0 <= top and top + h <= 224 and h < 224 and 0 <= left and left + w <= 200 and w < 200
        assert 0.018 < h * w / (224 * 200) < 0.34 and 0.28 < h / w < 3.6  # 0.02..1/3 and 0.3..1/0.3, up to rounding


def test_draw__probability() -> None:
    rng = np.random.default_rng(0)
    share = np.mean([draw(32, 32, 0.25, rng) is not None for _ in range(3000)])
    assert abs(share - 0.25) < 4.5 * (0.25 * 0.75 / 3000) ** 0.5
    assert all(draw(32, 32, 0.0, rng) is None for _ in range(200))


def test_draw__noise_is_standard_normal_for_every_pixel_and_channel() -> None:
    rng = np.random.default_rng(0)
    noise = np.concatenate([e.noise.ravel() for _ in range(20) if (e := draw(64, 64, 1.0, rng))])
    assert noise.dtype == np.float32
    assert stats.kstest(noise[:5000], "norm").pvalue > 1e-3
    assert len(np.unique(noise)) > 0.999 * len(noise)


def test_erase__pastes_the_noise_and_nothing_else() -> None:
    images = torch.randn(3, 3, 10, 12)
    before = images.clone()
    first, second = (np.random.default_rng(s).standard_normal((3, 2 + s, 4), np.float32) for s in (0, 1))
    erased = erase(images, ((0, Erasure(1, 5, first)), (2, Erasure(7, 8, second))))
    assert erased is images  # in place: a batch fills hundreds of megabytes
    expected = before.numpy().copy()
    expected[0, :, 1:3, 5:9], expected[2, :, 7:10, 8:12] = first, second
    assert np.array_equal(erased.numpy(), expected)


def test_erase__is_the_same_in_another_type() -> None:
    """float64 goes the way of a device."""
    images, noise = torch.randn(3, 3, 10, 12), np.random.default_rng(0).standard_normal((3, 2, 4), np.float32)
    erasures = ((0, Erasure(1, 5, noise)), (2, Erasure(7, 8, noise)))
    wide = erase(images.double(), erasures)
    assert torch.equal(wide, erase(images, erasures).double())


def test_erase__nothing_to_do() -> None:
    images = torch.randn(2, 3, 4, 4)
    assert torch.equal(erase(images, ()), images)


def test_erase__keeps_the_type_of_the_images() -> None:
    erased = erase(torch.zeros(1, 3, 4, 4, dtype=torch.bfloat16), [(0, Erasure(0, 0, np.ones((3, 2, 2), np.float32)))])
    assert erased.dtype == torch.bfloat16 and erased.sum() == 12
