"""Crops draw and cut exactly as torchvision and timm do."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from timm.data.transforms import RandomResizedCropAndInterpolation
from torchvision import transforms as tv

from stages.lib.core import load
from stages.lib.data.crop import (
    Box,
    Frame,
    evaluation,
    fixed_size,
    framed,
    padded,
    planes,
    random_resized,
    random_resized_box,
    reflected,
)
from stages.lib.data.mae_view import mae_view
from stages.lib.data.randomness import Purpose, generator
from stages.lib.params.pretrain import Pretrain
from tests.conftest import ROOT
from tests.data.replay import picture, replay, seen

BICUBIC = tv.InterpolationMode.BICUBIC
SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
MAE = Pretrain.model_validate(
    {**load.parse((ROOT / "params.yaml").read_text())["pretrain"], "image_size": 64, "scale": (0.2, 1.0), "hflip": 0.5}
)
SIZES = [(500, 375), (375, 500), (331, 331), (17, 9), (400, 30), (30, 400)]  # the last two fall back


def uniform_aspect(width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Negative control: the first try with an aspect uniform instead of log-uniform."""
    area, aspect = rng.uniform(*SCALE) * width * height, rng.uniform(*RATIO)
    w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
    if w > width or h > height:
        return 0, 0, width, height
    top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    return left, top, w, h


def resized_crop(img: Image.Image, box: Box, size: int) -> Image.Image:
    """The box alone, as size x size pixels."""
    return framed(img, Frame(box, (size, size), (0, 0, size, size)))


def padded_crop(img: Image.Image, size: int, rng: np.random.Generator) -> Image.Image:
    """Not mirrored."""
    return framed(img, padded(*img.size, size, 0.0, rng))


def evaluation_crop(img: Image.Image, size: int, crop_pct: float) -> Image.Image:
    """Bicubic."""
    return framed(img, evaluation(*img.size, size, crop_pct))


def timm_boxes(
    monkeypatch: pytest.MonkeyPatch, width: int, height: int, count: int, scale: tuple[float, float] = SCALE
) -> list[tuple[int, int, int, int]]:
    """timm's boxes of positions 0 to count - 1."""
    boxes = []
    for position in range(count):
        with monkeypatch.context() as patch:
            replay(patch, generator(7, 0, position, Purpose.AUGMENT))
            top, left, h, w = RandomResizedCropAndInterpolation.get_params(
                Image.new("L", (width, height)), scale, RATIO
            )
        boxes.append((left, top, w, h))
    return boxes


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_random_resized_box__draws_timms_boxes(monkeypatch: pytest.MonkeyPatch, width: int, height: int) -> None:
    scale = (0.9, 1.0) if max(width, height) > 10 * min(width, height) else SCALE
    rngs = [generator(7, 0, position, Purpose.AUGMENT) for position in range(200)]
    ours = [random_resized_box(width, height, scale, RATIO, rng) for rng in rngs]
    assert ours == timm_boxes(monkeypatch, width, height, 200, scale)


def test_random_resized_box__negative_control(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = [uniform_aspect(500, 375, generator(7, 0, position, Purpose.AUGMENT)) for position in range(200)]
    assert wrong != timm_boxes(monkeypatch, 500, 375, 200)


@pytest.mark.parametrize(("width", "height"), [*SIZES, (1, 1)])  # timm's box can be empty in so small an image
def test_random_resized_box__is_inside_and_not_empty(width: int, height: int) -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        left, top, w, h = random_resized_box(width, height, (0.01, 1.0), RATIO, rng)
        assert 0 <= left and 0 <= top and 0 < w and 0 < h and left + w <= width and top + h <= height


def test_random_resized_box__falls_back_to_the_centre() -> None:
    # The whole area never fits into aspect 3/4 to 4/3. By hand: 30 px * 4/3 = 40 px, (400 - 40) / 2 = 180 px.
    assert random_resized_box(400, 30, (1.0, 1.0), RATIO, np.random.default_rng(0)) == (180, 0, 40, 30)
    assert random_resized_box(30, 400, (1.0, 1.0), RATIO, np.random.default_rng(0)) == (0, 180, 30, 40)


def test_random_resized_box__has_torchvisions_distribution() -> None:
    torch.manual_seed(0)
    img, rng, count = Image.new("L", (500, 375)), np.random.default_rng(1), 4000
    theirs = np.array([tv.RandomResizedCrop.get_params(img, list(SCALE), list(RATIO)) for _ in range(count)], float)
    ours = np.array([random_resized_box(500, 375, SCALE, RATIO, rng) for _ in range(count)], float)[:, [1, 0, 3, 2]]
    error = np.sqrt((theirs.var(0) + ours.var(0)) / count)
    assert (abs(theirs.mean(0) - ours.mean(0)) < 4.5 * error).all()


@pytest.mark.parametrize("box", [(13, 8, 101, 57), (0, 0, 333, 217), (40, 30, 9, 11)])
@pytest.mark.parametrize("size", [16, 224])
def test_resized_crop__equals_torchvision(box: tuple[int, int, int, int], size: int) -> None:
    img, (left, top, width, height) = picture(333, 217), box
    bicubic = tv.InterpolationMode.BICUBIC
    expected = tv.functional.resized_crop(img, top, left, height, width, [size, size], bicubic)
    assert resized_crop(img, box, size).tobytes() == expected.tobytes()


def test_resized_crop__negative_control_resize_with_a_box_sees_beyond_it() -> None:
    img, box = picture(333, 217), (13, 8, 101, 57)
    shortcut = img.resize((40, 40), Image.Resampling.BICUBIC, box=(12.5, 8, 114, 65))
    assert resized_crop(img, box, 40).tobytes() != shortcut.tobytes()


def test_padded_crop__takes_every_window_of_the_framed_image() -> None:
    img = picture(6, 6)
    framed = tv.functional.pad(img, [4, 4, 4, 4], 0)
    windows = {tv.functional.crop(framed, top, left, 6, 6).tobytes() for top in range(9) for left in range(9)}
    rng = np.random.default_rng(0)
    ours = [padded_crop(img, 6, rng).tobytes() for _ in range(1500)]
    assert set(ours) == windows and len(windows) == 81


def test_padded_crop__resizes_another_size_by_its_shorter_side() -> None:
    img = picture(48, 64)
    framed = tv.functional.pad(tv.functional.resize(img, 32, tv.InterpolationMode.BICUBIC), 4, 0)
    assert framed.size == (40, 50)
    windows = {tv.functional.crop(framed, top, left, 32, 32).tobytes() for top in range(19) for left in range(9)}
    rng = np.random.default_rng(0)
    ours = {padded_crop(img, 32, rng).tobytes() for _ in range(200)}
    assert ours <= windows and len(ours) > 100


def test_framed__mirrors_as_often_as_told() -> None:
    img, rng = picture(5, 4), np.random.default_rng(0)
    mirrored = np.asarray(img)[:, ::-1].tobytes()

    def whole(hflip: float) -> bytes:
        frame = random_resized(5, 4, (1.0, 1.0), (1.25, 1.25), 4, hflip, rng)
        assert frame.box == (0, 0, 5, 4)
        return framed(img, frame._replace(target=(5, 4), window=(0, 0, 5, 4))).tobytes()

    flips = [whole(0.25) == mirrored for _ in range(2000)]
    assert abs(np.mean(flips) - 0.25) < 4.5 * math.sqrt(0.25 * 0.75 / 2000)
    assert all(whole(1.0) == mirrored for _ in range(50))
    assert all(whole(0.0) == img.tobytes() for _ in range(50))


ODD = [(500, 375), (333, 217), (217, 333), (225, 224), (224, 224), (97, 640), (31, 33), (16, 16), (255, 451)]


@pytest.mark.parametrize(("width", "height"), ODD)
@pytest.mark.parametrize(
    ("size", "crop_pct"), [(224, 0.875), (224, 0.9), (224, 1.0), (97, 0.95), (16, 0.875), (16, 1.0)]
)
def test_evaluation_crop__equals_timms_transform(width: int, height: int, size: int, crop_pct: float) -> None:
    img = picture(width, height)
    timm = create_transform(size, is_training=False, interpolation="bicubic", crop_pct=crop_pct, normalize=False)
    assert np.array_equal(planes(evaluation_crop(img, size, crop_pct)), timm(img).numpy())


def test_evaluation_crop__negative_control_a_ceiling_differs() -> None:
    img, side = picture(333, 217), math.ceil(224 / 0.9)
    resized = img.resize((int(side * 333 / 217), side), Image.Resampling.BICUBIC)
    left, top = round((resized.width - 224) / 2), round((side - 224) / 2)
    assert resized.crop((left, top, left + 224, top + 224)).tobytes() != evaluation_crop(img, 224, 0.9).tobytes()


def test_planes__are_channel_first_and_own_their_memory() -> None:
    img = picture(5, 3)
    array = planes(img)
    assert (
        array.shape == (3, 3, 5)
        and array.dtype == np.uint8
        and array.flags["C_CONTIGUOUS"]
        and array.flags["WRITEABLE"]
    )
    assert array[2, 1, 4] == img.getpixel((4, 1))[2]  # type: ignore[index]


def test_planes__of_one_pixel_can_be_written_too() -> None:
    planes(picture(1, 1))[:] = 3


def test_mae_view__replays_timms_crop_and_flip(monkeypatch: pytest.MonkeyPatch) -> None:
    img, view = picture(333, 217), mae_view(MAE)
    timm = tv.Compose(
        [
            RandomResizedCropAndInterpolation(64, (0.2, 1.0), RATIO, "bicubic"),
            tv.RandomHorizontalFlip(0.5),
            tv.PILToTensor(),
        ]
    )
    for position in range(20):
        ours = seen(img, view(*img.size, generator(3, 1, position, Purpose.AUGMENT)))
        with monkeypatch.context() as patch:
            replay(patch, generator(3, 1, position, Purpose.AUGMENT))
            assert np.array_equal(ours, timm(img).numpy())


@pytest.mark.parametrize(("width", "height"), [*SIZES, (32, 32), (64, 64)])
def test_reflected__is_torchvisions_resize_and_random_crop(width: int, height: int) -> None:
    """DeiT III's --src: Resize(size, bicubic), RandomCrop(size, padding=4, padding_mode="reflect"), flip."""
    img, size, sides = picture(width, height), 32, set()
    for position in range(25):
        frame = reflected(width, height, size, 0.5, generator(5, 0, position, Purpose.AUGMENT))
        rng = generator(5, 0, position, Purpose.AUGMENT)
        large = tv.functional.pad(tv.functional.resize(img, size, BICUBIC), [4], padding_mode="reflect")
        top, left = int(rng.integers(large.height - size + 1)), int(rng.integers(large.width - size + 1))
        theirs = tv.functional.crop(large, top, left, size, size)
        if rng.random() < 0.5:
            theirs = tv.functional.hflip(theirs)
        assert np.array_equal(planes(framed(img, frame)), planes(theirs)), position
        sides.add((frame.window[0] < 0, frame.window[1] < 0, frame.mirrored))
    assert len(sides) >= 4  # of a long image the window seldom lies at its ends
    black = padded(width, height, size, 0.5, generator(5, 0, 0, Purpose.AUGMENT))
    assert black._replace(reflected=True) == reflected(width, height, size, 0.5, generator(5, 0, 0, Purpose.AUGMENT))


def test_reflected__goes_on_without_the_edge_twice() -> None:
    img = Image.fromarray(np.arange(81, dtype=np.uint8).reshape(9, 9)).convert("RGB")
    frame = Frame((0, 0, 9, 9), (9, 9), (-4, 3, 9, 9), reflected=True)
    row = planes(framed(img, frame))[0]
    assert row[0].tolist() == [31, 30, 29, 28, 27, 28, 29, 30, 31]
    assert row[:, 4].tolist() == [27, 36, 45, 54, 63, 72, 63, 54, 45]
    assert planes(framed(img, frame._replace(mirrored=True)))[0].tolist() == row[:, ::-1].tolist()


def test_fixed_size__lies_within_the_resized_image() -> None:
    for width, height in SIZES:
        found = [fixed_size(width, height, 28, 0.875, 0.5, generator(1, 0, p, Purpose.AUGMENT)) for p in range(50)]
        assert {frame.target for frame in found} == {evaluation(width, height, 28, 0.875).target}
        for frame in found:
            left, top, w, h = frame.window
            assert (w, h) == (28, 28) and 0 <= left <= frame.target[0] - 28 and 0 <= top <= frame.target[1] - 28
        assert {frame.mirrored for frame in found} == {False, True}
