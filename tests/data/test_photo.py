"""photo.c gives Pillow's pixels, bit for bit, or leaves the image to Pillow: every kind of JPEG, frame and damage."""

import ctypes
import io
import itertools
import logging
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stages.lib.core.outcome import Refusal
from stages.lib.data import photo
from stages.lib.data.compiled import Scratch
from stages.lib.data.crop import Frame, evaluation, framed, padded, planes, random_resized, reflected
from stages.lib.data.decode import decode
from stages.lib.params.views import SMALLEST_REFLECTED

BILINEAR = Image.Resampling.BILINEAR


@pytest.fixture(autouse=True)
def compiled() -> None:
    """These tests say nothing where there is no compiler."""
    if photo._library() is None:
        pytest.skip("photo.c could not be compiled here")


def scene(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth areas, edges and noise."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (max(1, height // 9), max(1, width // 9), 3), np.uint8))
    array = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    array[height // 3 :, width // 2 :] += rng.integers(-60, 60, array[height // 3 :, width // 2 :].shape)
    array[: height // 4, : width // 4] = 255
    return Image.fromarray(array.clip(0, 255).astype(np.uint8))


def jpeg(img: Image.Image, **options: Any) -> bytes:
    with io.BytesIO() as file:
        img.save(file, "JPEG", **options)
        return file.getvalue()


def frames_of(width: int, height: int, count: int, seed: int = 0) -> Iterator[Frame]:
    """Of every kind the pipeline makes, and odd ones."""
    rng = np.random.default_rng(seed)
    for n in range(count):
        size = int(rng.integers(1, 2 * max(width, height)))
        yield random_resized(width, height, (0.02, 1.0), (0.5, 2.0), size, 0.5, rng)
        yield evaluation(width, height, size, 0.875, BILINEAR if n % 2 else Image.Resampling.BICUBIC)
        yield padded(width, height, size, 0.5, rng)
        yield reflected(width, height, max(size, SMALLEST_REFLECTED), 0.5, rng)
        box = (*(int(rng.integers(side)) for side in (width, height)), 1, 1)
        box = (*box[:2], int(rng.integers(1, width - box[0] + 1)), int(rng.integers(1, height - box[1] + 1)))
        target = (int(rng.integers(1, 90)), int(rng.integers(1, 90)))
        yield Frame(box, target, (0, 0, *target), bool(n % 2))


def by_photo(data: bytes, size: tuple[int, int], frames: list[Frame]) -> list[np.ndarray] | None:
    """What photo.c makes of it, in one call; None: it leaves it to Pillow."""
    places = [np.full((3, frame.window[3], frame.window[2]), 7, np.uint8) for frame in frames]
    return places if photo._show_jpeg(data, size, frames, places) else None


def by_pillow(data: bytes, frames: list[Frame]) -> list[np.ndarray]:
    picture = decode(data)
    return [planes(framed(picture, frame)) for frame in frames]


def assert_equal(data: bytes, frames: list[Frame]) -> None:
    """photo.c does it, and as Pillow."""
    ours = by_photo(data, Image.open(io.BytesIO(data)).size, frames)
    assert ours is not None
    for frame, mine, theirs in zip(frames, ours, by_pillow(data, frames), strict=True):
        assert np.array_equal(mine, theirs), frame


SIZES = [(1, 1), (7, 5), (8, 8), (16, 17), (33, 31), (6, 90), (90, 6), (130, 97), (251, 190)]
SUBSAMPLINGS = ["4:4:4", "4:2:2", "4:2:0"]


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_show__equals_pillow_for_every_subsampling_quality_and_frame(width: int, height: int, mode: str) -> None:
    known = 0
    for quality, subsampling in itertools.product((5, 60, 92, 100), SUBSAMPLINGS):
        data = jpeg(scene(width, height, quality).convert(mode), quality=quality, subsampling=subsampling)
        for frame in frames_of(width, height, 2, quality):
            place = np.empty((3, frame.window[3], frame.window[2]), np.uint8)
            photo.show(data, 1, (width, height), [frame], [place])
            assert np.array_equal(place, by_pillow(data, [frame])[0]), (quality, subsampling, frame)
            known += by_photo(data, (width, height), [frame]) is not None
    assert known > 16 or width < 9  # below 3 chroma columns, and with windows wholly outside, Pillow is asked


@pytest.mark.parametrize(
    "restart", [{"restart_marker_rows": 1}, {"restart_marker_blocks": 1}, {"restart_marker_blocks": 7}]
)
@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_show__equals_pillow_with_restart_markers(restart: dict[str, int], subsampling: str) -> None:
    data = jpeg(scene(251, 190), quality=90, subsampling=subsampling, **restart)
    assert data.count(b"\xff\xd1") > 1
    for frame in frames_of(251, 190, 6):
        if by_photo(data, (251, 190), [frame]) is not None:
            assert_equal(data, [frame])
    assert_equal(data, [Frame((100, 90, 60, 60), (32, 32), (0, 0, 32, 32))])


def test_show__several_views_of_one_decode_are_those_of_several() -> None:
    data = jpeg(scene(251, 190), quality=90, subsampling="4:2:0")
    rng = np.random.default_rng(3)
    for count in (2, 3, 16, 17):
        assert_equal(data, [random_resized(251, 190, (0.08, 1.0), (0.75, 1.33), 48, 0.5, rng) for _ in range(count)])


def test_show__equals_pillow_for_other_tables() -> None:
    img = scene(130, 97)
    wide = [[300 + n for n in range(64)], [77] * 64]  # 16-bit quantisation tables
    for options in (
        {"optimize": True},
        {"qtables": wide},
        {"quality": 1},
        {"comment": b"x" * 400},
        {"exif": b"Exif\0\0" + b"M" * 9},
    ):
        assert_equal(jpeg(img, **options), list(itertools.islice(frames_of(130, 97, 1), 1)))


def test_show__equals_pillow_where_rows_or_columns_are_resampled_first() -> None:
    """Pillow rounds between two passes, and goes down first where the height shrinks by more than twice as much."""
    data = jpeg(scene(251, 190), quality=95, subsampling="4:4:4")
    first = {}
    for width, height, target in itertools.product(
        (60, 99, 100, 101, 120, 250), (60, 99, 100, 101, 103, 150, 190), (100, 73)
    ):
        frame = Frame((0, 0, width, height), (target, target), (0, 0, target, target))
        assert_equal(data, [frame])
        box = decode(data).crop((0, 0, width, height))
        down = box.resize((width, target), Image.Resampling.BICUBIC).resize((target, target), Image.Resampling.BICUBIC)
        across = box.resize((target, height), Image.Resampling.BICUBIC).resize(
            (target, target), Image.Resampling.BICUBIC
        )
        if down.tobytes() != across.tobytes():
            first[width, height, target] = framed(decode(data), frame).tobytes() == down.tobytes()
    assert {True, False} == set(first.values())  # both ways were met


def photographs(shared: Path) -> Iterator[bytes]:
    with tarfile.open(shared / "data" / "imagenet-sample.tar") as tar:
        for member in tar:
            file = tar.extractfile(member)
            if file:
                yield file.read()


def test_show__equals_pillow_on_photographs(shared: Path) -> None:
    rng, count = np.random.default_rng(0), 0
    for data in photographs(shared):
        size = Image.open(io.BytesIO(data)).size
        frames = [random_resized(*size, (0.08, 1.0), (0.75, 1.33), 224, 0.5, rng), evaluation(*size, 224, 0.875)]
        assert_equal(data, [*frames, evaluation(*size, 160, 1.0, BILINEAR)])
        count += 1
    assert count >= 200


LEFT_TO_PILLOW: dict[str, Callable[[Image.Image], bytes]] = {
    "progressive": lambda img: jpeg(img, progressive=True),
    "cmyk": lambda img: jpeg(img.convert("CMYK")),
    "rgb": lambda img: jpeg(img, keep_rgb=True),
    "cut": lambda img: jpeg(img)[:-2],
    "png": lambda img: png(img),
    "empty scan": lambda img: jpeg(img)[: jpeg(img).index(b"\xff\xda") + 14] + b"\xff\xd9",
    "twelve bits": lambda img: jpeg(img).replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"),
}


def png(img: Image.Image) -> bytes:
    with io.BytesIO() as file:
        img.save(file, "PNG")
        return file.getvalue()


@pytest.mark.parametrize("kind", LEFT_TO_PILLOW)
def test_show__leaves_to_pillow_what_it_does_not_know(kind: str) -> None:
    data, frame = LEFT_TO_PILLOW[kind](scene(61, 45)), Frame((3, 4, 50, 40), (32, 32), (0, 0, 32, 32))
    assert by_photo(data, (61, 45), [frame]) is None
    place = np.empty((3, 32, 32), np.uint8)
    try:
        expected = by_pillow(data, [frame])[0]
    except Exception as error:
        with pytest.raises(type(error)):
            photo.show(data, 1, (61, 45), [frame], [place])
    else:
        photo.show(data, 1, (61, 45), [frame], [place])
        assert np.array_equal(place, expected)


def test_show__applies_an_orientation() -> None:
    data, frame = jpeg(scene(61, 45)), Frame((3, 4, 30, 40), (32, 32), (0, 0, 32, 32))
    place = np.empty((3, 32, 32), np.uint8)
    photo.show(data, 6, (45, 61), [frame], [place])
    assert np.array_equal(place, planes(framed(decode(data, 6), frame)))


def test_show__refuses_an_image_of_another_size_than_the_index_says() -> None:
    frame, place = Frame((0, 0, 40, 40), (8, 8), (0, 0, 8, 8)), np.empty((3, 8, 8), np.uint8)
    for data in (jpeg(scene(61, 45)), png(scene(61, 45))):
        with pytest.raises(Refusal, match="61 x 45 pixels stands where the index says 60 x 45"):
            photo.show(data, 1, (60, 45), [frame], [place])


def test_show__damage_never_gives_other_pixels_than_pillow_and_never_crashes() -> None:
    """1,200 flipped, cut, doubled or zeroed stretches: photo.c refuses, or decodes the same wrong picture."""
    rng, done, refused = np.random.default_rng(0), 0, 0
    frame = Frame((0, 0, 61, 45), (32, 32), (0, 0, 32, 32))
    for subsampling, restart in itertools.product(("4:4:4", "4:2:0"), (0, 3)):
        whole = jpeg(scene(61, 45), quality=80, subsampling=subsampling, restart_marker_blocks=restart)
        for _ in range(300):
            data, kind, at = bytearray(whole), int(rng.integers(4)), int(rng.integers(2, len(whole)))
            if kind == 0:
                data[at] ^= 1 << int(rng.integers(8))
            elif kind == 1:
                del data[at : at + int(rng.integers(1, 40))]
            elif kind == 2:
                data[at:at] = data[at : at + int(rng.integers(1, 40))]
            else:
                data[at : at + 9] = bytes(len(data[at : at + 9]))
            ours = by_photo(bytes(data), (61, 45), [frame])
            if ours is None:
                refused += 1
                continue
            done += 1
            assert np.array_equal(ours[0], by_pillow(bytes(data), [frame])[0]), (subsampling, restart, kind, at)
    assert done > 200 and refused > 200


def test_show__grows_its_working_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photo, "_scratch", small := Scratch(100))
    assert_equal(jpeg(scene(251, 190)), [evaluation(251, 190, 64, 1.0)])
    assert small.room > 100_000


class Wrong:
    """A library whose pixels are off by one."""

    def photo_views(self, *arguments: Any) -> int:
        code = photo._library().photo_views(*arguments)  # type: ignore[union-attr]
        address = photo.VIEW.unpack(arguments[4][: photo.VIEW.size])[12]
        ctypes.cast(address, ctypes.POINTER(ctypes.c_uint8))[0] ^= 1
        return int(code)


def test_disagreement__finds_none_and_finds_a_planted_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert photo.disagreement(photo._library()) == ""  # type: ignore[arg-type]
    wrong = Wrong()
    assert "quality 60" in photo.disagreement(wrong)  # type: ignore[arg-type]
    real = photo._library
    monkeypatch.setattr(photo, "disagreement", lambda _: "planted")
    real.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert photo._library() is None
    real.cache_clear()
    assert "the fast decoding of JPEGs does not give Pillow's pixels here (planted)" in caplog.text
