"""MAE's one-shot crop: inside the image, cut off where it is too large, and never drawn again."""

import numpy as np
import pytest

from stages.lib.data import crop
from stages.lib.data.one_shot_crop import one_shot_box, one_shot_view

WIDE = (3 / 4, 4 / 3)


@pytest.mark.parametrize(("width", "height"), [(640, 480), (8, 8), (1, 300), (3000, 20), (1, 1)])
def test_box__lies_inside_and_has_pixels(width: int, height: int) -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        left, top, w, h = one_shot_box(width, height, (0.08, 1.0), WIDE, rng)
        assert 0 <= left and 0 <= top and 0 < w and 0 < h and left + w <= width and top + h <= height


def test_box__one_that_does_not_fit_is_cut_off_where_torchvisions_is_drawn_again() -> None:
    """A whole square image at aspect 4/3 is too wide: here all its width and sqrt(3/4) of its height remain."""
    narrow = (4 / 3, 4 / 3)
    assert one_shot_box(400, 400, (1.0, 1.0), narrow, np.random.default_rng(0))[2:] == (400, 346)
    assert crop.random_resized_box(400, 400, (1.0, 1.0), narrow, np.random.default_rng(0))[2:] == (400, 300)


def test_box__always_takes_as_many_draws() -> None:
    """One for area, aspect, row and column each: a second try would move whatever is drawn next."""
    for size in ((400, 400), (4000, 10)):
        one, other = np.random.default_rng(3), np.random.default_rng(3)
        left, top, w, h = one_shot_box(*size, (0.9, 1.0), WIDE, one)
        other.uniform(0.9, 1.0), other.uniform(*np.log(WIDE))
        assert top == other.integers(size[1] - h + 1) and left == other.integers(size[0] - w + 1)
        assert one.random() == other.random()


def test_view__areas_are_uniform_where_they_fit_and_flips_as_often_as_asked() -> None:
    view = one_shot_view((0.1, 0.3), WIDE, 0.25, 32)
    drawn = [view(600, 600, np.random.default_rng(n)).frame for n in range(2000)]
    areas = np.array([frame.box[2] * frame.box[3] for frame in drawn]) / 600**2
    assert areas.mean() == pytest.approx(0.2, abs=0.005) and np.quantile(areas, 0.25) == pytest.approx(0.15, abs=0.01)
    assert np.mean([frame.mirrored for frame in drawn]) == pytest.approx(0.25, abs=0.04)
    assert {frame.target for frame in drawn} == {(32, 32)}
