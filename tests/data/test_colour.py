"""3-Augment and colour jitter: torchvision's pixels on Pillow, exactly one of three, and nothing drawn where nothing is asked."""

from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter
from torchvision import transforms as tv
from torchvision.transforms import functional as tvf

from stages.lib.core import load
from stages.lib.data.augment import classifier_view
from stages.lib.data.colour import JITTER, OPS, RADIUS, THREE, Change, apply_changes, blur, draw
from stages.lib.data.crop import framed, planes, random_resized
from stages.lib.data.mae_view import mae_view
from stages.lib.data.randomness import Purpose, generator
from stages.lib.params.pretrain import Pretrain
from stages.lib.params.views import Views
from tests.conftest import ROOT
from tests.data.replay import picture

TORCHVISION: dict[str, Any] = {
    "grayscale": lambda img, _: tvf.to_grayscale(img, 3),
    "solarize": lambda img, _: tvf.solarize(img, 128),
    "blur": lambda img, radius: img.filter(ImageFilter.GaussianBlur(radius=radius)),  # deit/augment.py has Pillow's too
    "brightness": tvf.adjust_brightness,
    "contrast": tvf.adjust_contrast,
    "saturation": tvf.adjust_saturation,
}


def views(**changes: Any) -> Views:
    """DeiT III's at 48 px."""
    block = {"three_augment": True, "color_jitter": 0.3, "image_size": 48, "mixup": 0.8}
    return Views(seed=0, epochs=1, batch_size=2, **(block | changes))


def changed(img: Image.Image, *changes: Change) -> np.ndarray:
    pixels = planes(img)
    apply_changes(pixels, changes)
    return pixels


@pytest.mark.parametrize("amount", [0.0, 0.1, 0.7, 1.0, 1.3, 2.0])
@pytest.mark.parametrize("op", range(len(OPS)))
def test_op__gives_torchvisions_pixels(op: int, amount: float) -> None:
    img = picture(61, 45)
    assert np.array_equal(changed(img, Change(op, amount)), planes(TORCHVISION[OPS[op].__name__](img, amount)))


def test_ops__are_known_by_their_values() -> None:
    """Of one colour: 299 R + 587 G + 114 B thousandths; from 128 on 255 less itself; blurring changes nothing."""
    img = Image.new("RGB", (5, 4), (200, 100, 50))
    found = [changed(img, Change(op, 0.5))[:, 0, 0].tolist() for op in range(len(OPS))]
    assert found[:4] == [[124] * 3, [55, 100, 50], [200, 100, 50], [100, 50, 25]]
    assert changed(Image.new("RGB", (2, 2), (127, 128, 129)), Change(1))[:, 0, 0].tolist() == [127, 127, 126]


def test_blur__reaches_as_far_as_its_radius_says() -> None:
    img = Image.new("RGB", (21, 21))
    img.putpixel((10, 10), (255, 255, 255))
    widths = [int((changed(img, Change(2, radius))[0, 10] > 0).sum()) for radius in (0.1, 0.5, 2.0)]
    assert widths[0] == 1 < widths[1] < widths[2]
    assert changed(img, Change(2, 2.0)).max() < 255


def test_draw__three_augment_is_exactly_one_of_three_each_as_likely() -> None:
    counts, radii = np.zeros(len(OPS), int), []
    for position in range(3000):
        (change,) = draw(True, 0.0, generator(0, 0, position, Purpose.AUGMENT))
        counts[change.op] += 1
        radii += [change.amount] if OPS[change.op] is blur else []
    assert counts.sum() == 3000 and set(np.flatnonzero(counts)) == set(THREE)
    assert (abs(counts[: len(THREE)] - 1000) < 100).all()  # 3.9 standard deviations
    assert RADIUS[0] <= min(radii) < 0.12 and 1.98 < max(radii) <= RADIUS[1]


@pytest.mark.parametrize(("jitter", "low", "high"), [(0.3, 0.7, 1.3), (1.0, 0.0, 2.0)])
def test_draw__jitter_is_all_three_in_any_order_by_factors_around_one(jitter: float, low: float, high: float) -> None:
    orders, factors = set(), []
    for position in range(600):
        changes = draw(False, jitter, generator(0, 0, position, Purpose.AUGMENT))
        assert sorted(change.op for change in changes) == list(JITTER)
        orders.add(tuple(change.op for change in changes))
        factors += [change.amount for change in changes]
    assert len(orders) == 6 and low <= min(factors) < low + 0.02 and high - 0.02 < max(factors) <= high


def test_draw__nothing_asked_nothing_drawn() -> None:
    """So that recipes from before see what they always saw."""
    rng, fresh = (generator(0, 0, 7, Purpose.AUGMENT) for _ in range(2))
    assert draw(False, 0.0, rng) == () and rng.random() == fresh.random()
    assert draw(True, 0.3, rng) and rng.random() != fresh.random()


def test_classifier_view__is_the_published_order_crop_flip_choice_jitter() -> None:
    """DeiT III's pipeline written with torchvision's transforms, given our draws."""
    img, view, kinds = picture(131, 90), classifier_view(views()), set()
    for position in range(60):
        drawn = view(*img.size, generator(0, 2, position, Purpose.AUGMENT))
        rng = generator(0, 2, position, Purpose.AUGMENT)
        theirs = framed(img, random_resized(*img.size, (0.08, 1.0), (3 / 4, 4 / 3), 48, 0.5, rng))
        which = int(rng.integers(3))
        radius = rng.uniform(*RADIUS) if which == 2 else 0.0
        choice = [tv.Grayscale(3), tv.RandomSolarize(128, 1.0), lambda seen, r=radius: TORCHVISION["blur"](seen, r)]
        theirs = choice[which](theirs)
        for op in rng.permutation([3, 4, 5]).tolist():
            theirs = TORCHVISION[OPS[op].__name__](theirs, rng.uniform(0.7, 1.3))
        ours = planes(framed(img, drawn.frame))
        apply_changes(ours, drawn.steps)  # type: ignore[arg-type]
        assert np.array_equal(ours, planes(theirs)) and drawn.erasure is None
        kinds.add(which)
    assert kinds == {0, 1, 2}


def test_classifier_view__without_them_changes_no_colour() -> None:
    view = classifier_view(views(three_augment=False, color_jitter=0.0))
    assert view(131, 90, generator(0, 0, 0, Purpose.AUGMENT)).steps == ()


def test_colour_jitter__of_torchvision_draws_the_same_range() -> None:
    """ColorJitter(0.3, 0.3, 0.3) says [0.7, 1.3] for all three, and has no hue."""
    theirs = tv.ColorJitter(0.3, 0.3, 0.3)
    assert theirs.brightness == theirs.contrast == theirs.saturation == (0.7, 1.3) and theirs.hue is None
    assert tv.ColorJitter(1.0).brightness == (0.0, 2.0)


def pretrain(**changes: Any) -> Pretrain:
    return Pretrain.model_validate({**load.parse((ROOT / "params.yaml").read_text())["pretrain"], **changes})


def test_mae_view__table_1e() -> None:
    """none: one view whatever the draw. fixed-size: of one size, also mirrored. random-size: of many. Jitter: colours too."""
    seen: dict[str, list[Any]] = {}
    for crop in ("none", "fixed-size", "random-size"):
        view = mae_view(pretrain(crop=crop, image_size=64, hflip=0.5))
        drawn = [view(333, 217, generator(3, 1, position, Purpose.AUGMENT)) for position in range(40)]
        assert all(one.steps == () and one.erasure is None for one in drawn)
        seen[crop] = [one.frame for one in drawn]
    assert len(set(seen["none"])) == 1 and not seen["none"][0].mirrored
    assert seen["none"][0].target == seen["fixed-size"][0].target == (112, 73)  # 64 / 0.875 = 73.1
    assert len({frame.window for frame in seen["fixed-size"]}) > 20 and len({f.target for f in seen["fixed-size"]}) == 1
    assert {frame.mirrored for frame in seen["fixed-size"]} == {False, True}
    assert len({frame.box[2:] for frame in seen["random-size"]}) > 20
    jittered = mae_view(pretrain(color_jitter=0.4))(333, 217, generator(3, 1, 0, Purpose.AUGMENT))
    assert sorted(change.op for change in jittered.steps) == list(JITTER)
    assert jittered.frame == mae_view(pretrain())(333, 217, generator(3, 1, 0, Purpose.AUGMENT)).frame
