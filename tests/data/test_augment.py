"""The whole view: timm's pipeline replayed draw by draw, and a pure function of (seed, epoch, position)."""

import hashlib
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform

from stages.lib.data.augment import classifier_view
from stages.lib.data.crop import framed, padded, planes
from stages.lib.data.erasing import erase
from stages.lib.data.randaugment import apply, parse
from stages.lib.data.randaugment_planes import apply_planes
from stages.lib.data.randomness import Purpose, generator
from stages.lib.params.views import Views
from tests.data.replay import picture, replay, seen

MEAN, STD = (torch.tensor(v).view(3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))


def views(**changes: Any) -> Views:
    """DeiT's augmentation at 48 px."""
    deit = {"image_size": 48, "randaugment": "rand-m9-mstd0.5-inc1", "erase": 0.25}
    return Views(seed=0, epochs=1, batch_size=2, **(deit | changes))


def digest(img: Image.Image, position: int, **changes: Any) -> str:
    """Of everything a view gives."""
    drawn = classifier_view(views(**changes))(*img.size, generator(0, 0, position, Purpose.AUGMENT))
    whole, erasure = hashlib.sha256(seen(img, drawn).tobytes()), drawn.erasure
    if erasure:
        whole.update(np.array([erasure.top, erasure.left]).tobytes() + erasure.noise.tobytes())
    return whole.hexdigest()


def test_classifier_view__replays_timms_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    img, view, erased = picture(131, 90), classifier_view(views()), 0
    for position in range(150):
        drawn = view(*img.size, generator(0, 2, position, Purpose.AUGMENT))
        pixels, erasure = seen(img, drawn), drawn.erasure
        with monkeypatch.context() as patch:
            replay(patch, generator(0, 2, position, Purpose.AUGMENT))
            timm = create_transform(
                48, is_training=True, auto_augment="rand-m9-mstd0.5-inc1", interpolation="bicubic", re_prob=0.25,
                re_mode="pixel", color_jitter=0.4,
            )  # fmt: skip
            theirs = timm(img)
        ours = (torch.from_numpy(pixels) / 255 - MEAN) / STD
        covered = torch.zeros(48, 48, dtype=torch.bool)
        if erasure:
            erased += 1
            ours = erase(ours[None], [(0, erasure)])[0]
            _, h, w = erasure.noise.shape
            covered[erasure.top : erasure.top + h, erasure.left : erasure.left + w] = True
        # Outside the noise one grey level is 0.017, so this is equality of bytes; inside, noise covers noise.
        assert (ours - theirs).abs()[:, ~covered].max() < 1e-5
        assert not covered.any() or ((ours - theirs)[:, covered] != 0).float().mean() > 0.99
    assert 15 < erased < 65


def test_augment__shows_what_pillow_shows() -> None:
    img, view = picture(131, 90), classifier_view(views())
    for position in range(40):
        drawn = view(*img.size, generator(0, 0, position, Purpose.AUGMENT))
        pixels = planes(framed(img, drawn.frame))
        apply_planes(pixels, drawn.steps)
        assert np.array_equal(pixels, seen(img, drawn))


def test_classifier_view__padded_is_the_published_order_with_another_crop() -> None:
    img, view = picture(16, 16), classifier_view(views(image_size=16, crop="padded"))
    for position in range(30):
        rng = generator(0, 0, position, Purpose.AUGMENT)
        expected = planes(apply(framed(img, padded(16, 16, 16, 0.5, rng)), parse("rand-m9-mstd0.5-inc1"), rng))
        assert np.array_equal(seen(img, view(16, 16, generator(0, 0, position, Purpose.AUGMENT))), expected)


def test_classifier_view__off_switches() -> None:
    img = picture(48, 48)
    view = classifier_view(views(scale=(1.0, 1.0), ratio=(1.0, 1.0), hflip=0.0, randaugment="none", erase=0.0))
    drawn = view(*img.size, np.random.default_rng(0))
    assert drawn.erasure is None and np.array_equal(seen(img, drawn), planes(img))


@pytest.mark.parametrize("crop", ["random-resized", "padded"])
def test_classifier_view__is_a_pure_function_of_the_position(crop: str) -> None:
    img = picture(131, 90)
    first = [digest(img, position, crop=crop) for position in range(40)]
    torch.manual_seed(3)
    np.random.seed(3)
    backwards = [digest(img, position, crop=crop) for position in reversed(range(40))]
    assert first == backwards[::-1]
    assert len(set(first)) == 40  # another position, another view


def test_classifier_view__a_switch_changes_the_view() -> None:
    img = picture(131, 90)
    plain = [digest(img, position) for position in range(40)]
    for change in ({"scale": (0.5, 1.0)}, {"hflip": 1.0}, {"randaugment": "none"}, {"erase": 1.0}):
        assert plain != [digest(img, position, **change) for position in range(40)]
