"""randaugment.c gives Pillow's pixels, bit for bit: every op, level, sign, kind of image and size."""

import ctypes
import io
import itertools
import logging
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stages.lib.core import native
from stages.lib.data import randaugment, randaugment_planes
from stages.lib.data.crop import planes
from stages.lib.data.randaugment import FILL, OPS, Step, draw, parse
from stages.lib.data.randaugment_planes import apply_planes, apply_planes_by_pillow
from tests.data.replay import picture
from tests.data.test_randaugment import BLACK, TIMM, timms

POLICY = parse("rand-m9-mstd0.5-inc1")
LEVELS = (0, 0.3, 1, 2.5, 5, 7.7, 9, 9.99, 10)
SIZES = [(224, 224), (16, 16), (31, 17), (17, 31), (1, 1), (2, 3), (3, 2), (5, 1), (1, 5), (3, 3), (40, 19)]
"""(width, height)."""
OP = {op.__name__: place for place, op in enumerate(OPS)}
WARP = 10  # in randaugment.c


def compiled() -> ctypes.CDLL:
    """The library; skips where there is no compiler, since then there is nothing to compare."""
    library = randaugment_planes._library()
    if library is None:
        assert native.library("stages/lib/data/randaugment.c") is None, "it was compiled, and differs from Pillow"
        pytest.skip("randaugment.c could not be compiled here")
    return library


@pytest.fixture(autouse=True)
def there() -> None:
    compiled()


def pictures(width: int, height: int) -> Iterator[np.ndarray]:
    """u8[3, height, width]: noise, gradients, one colour, two neighbouring values, black and white, and a bit of everything."""
    rng, shape = np.random.default_rng(width * 1000 + height), (3, height, width)
    y, x = np.mgrid[0:height, 0:width]
    yield rng.integers(0, 256, shape, np.uint8)
    yield np.stack([x * 255 // width, y * 255 // height, (x + 2 * y) % 256]).astype(np.uint8)
    yield np.broadcast_to(np.array([7, 128, 255], np.uint8)[:, None, None], shape).copy()
    yield rng.integers(127, 129, shape, np.uint8)
    yield (rng.integers(0, 2, shape) * 255).astype(np.uint8)
    mixed = planes(picture(width, height)).copy()
    mixed[:, : height // 3, width // 2 :] = 255
    mixed[1] = 0
    yield mixed


def differences(pixels: np.ndarray, levels: Any = LEVELS, ops: Any = range(15)) -> list[str]:
    """Where native and Pillow differ on an image."""
    found = []
    for op, level, sign in itertools.product(ops, levels, (1, -1)):
        ours, expected = pixels.copy(), pixels.copy()
        apply_planes(ours, [Step(op, level, sign)])
        apply_planes_by_pillow(expected, [Step(op, level, sign)])
        if not np.array_equal(ours, expected):
            found.append(f"{OPS[op].__name__} {level} {sign}: {(ours != expected).sum()} bytes of {ours.size}")
    return found


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_apply_planes__is_pillow_bit_for_bit(width: int, height: int) -> None:
    for pixels in pictures(width, height):
        assert differences(pixels) == []


def test_apply_planes__is_pillow_bit_for_bit_on_photographs(shared: Path) -> None:
    archive = shared / "data" / "imagenet-sample.tar"
    if not archive.is_file():
        pytest.skip(f"no photographs at {archive}")
    with tarfile.open(archive) as tar:
        names = [member for member in tar if member.name.lower().endswith((".jpg", ".jpeg"))][:60:20]
        photographs = [Image.open(io.BytesIO(tar.extractfile(name).read())).convert("RGB") for name in names]  # type: ignore[union-attr]
    assert len(photographs) == 3
    for photograph in photographs:
        assert differences(planes(photograph.resize((224, 224), Image.Resampling.BICUBIC))) == []


def test_apply_planes__is_pillow_bit_for_bit_where_rounding_moves_taps() -> None:
    """Moves by whole pixels, or by what rounding leaves of them: the fraction is 0 or nearly 1 there."""
    warps = [OP[name] for name in ("shear_x", "shear_y", "translate_x", "translate_y")]
    whole = [10 * shift / (0.45 * 40) for shift in range(1, 18)] + [10 * share / (0.3 * 7) for share in (2 / 3, 1, 2)]
    around = [np.nextafter(level, to) for level in whole for to in (0, 10)]
    for pixels in itertools.islice(pictures(40, 40), 2):
        assert differences(pixels, [*whole, *around, 5e-324, 1e-300, 1e-15, 1e-9], [*warps, OP["rotate"]]) == []


@pytest.mark.parametrize("seed", range(4))
def test_warp__is_pillow_bit_for_bit_for_any_matrix(seed: int) -> None:
    """Mirrored, turned by any angle, far outside, nearly constant."""
    rng, library = np.random.default_rng(seed), compiled()
    for _ in range(60):
        width, height = (int(side) for side in rng.integers(1, 50, 2))
        pixels = rng.integers(0, 256, (3, height, width), np.uint8)
        linear = rng.normal(0, rng.choice([1e-16, 0.1, 1, 5]), (2, 2)) * rng.integers(0, 2, (2, 2))
        matrix = [*linear[0], rng.uniform(-60, 60), *linear[1], rng.uniform(-60, 60)]
        if rng.random() < 0.3:
            matrix[:2], matrix[3:5] = (1, matrix[1]), (0, 1)
        img = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
        expected = img.transform(img.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=FILL)
        mine = randaugment_planes._scratch
        mine.grow(1 << 17)
        coded = randaugment_planes.STEP.pack(WARP, 0, *matrix)
        assert 0 == library.randaugment(
            pixels.ctypes.data, height, width, coded, 1, bytes(FILL), mine.address, mine.room
        )
        assert np.array_equal(pixels, planes(expected)), (matrix, width, height)


@pytest.mark.parametrize("op", range(15))
def test_apply_planes__equals_timms(monkeypatch: pytest.MonkeyPatch, op: int) -> None:
    for level, sign in itertools.product((0, 3.3, 9, 10), (1, -1)):
        if (op, level) != BLACK:
            ours, img = planes(picture(57, 41)), picture(57, 41)
            apply_planes(ours, [Step(op, level, sign)])
            theirs = Image.frombytes("RGB", img.size, timms(monkeypatch, TIMM[op], level, sign, img))
            assert np.array_equal(ours, planes(theirs))


def test_apply_planes__whole_policies_equal_pillow() -> None:
    rng = np.random.default_rng(5)
    for width, height in [(64, 64), (33, 50)]:
        for _ in range(250):
            steps = draw(parse("rand-m9-n4-mstd3-inc1"), rng)
            ours, expected = planes(picture(width, height)), planes(picture(width, height))
            apply_planes(ours, steps)
            apply_planes_by_pillow(expected, steps)
            assert np.array_equal(ours, expected), steps


def test_apply_planes__without_a_compiler_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(6)
    every = [draw(POLICY, rng) for _ in range(40)]
    results = []
    for library in (compiled(), None):
        monkeypatch.setattr(randaugment_planes, "_library", lambda library=library: library)
        images = [planes(picture(48, 32)) for _ in every]
        for pixels, steps in zip(images, every, strict=True):
            apply_planes(pixels, steps)
        results.append(np.stack(images))
    assert np.array_equal(*results) and len(np.unique(results[0], axis=0)) > 20


def test_apply_planes__by_hand() -> None:
    dot = np.zeros((3, 3, 3), np.uint8)
    dot[:, 1, 1] = 255  # smoothed: 5 * 255 / 13 + 0.5 = 98
    for sign, expected in ((1, 255), (-1, 127)):  # 98 + 1.81 * 157 = 382, 98 + 0.19 * 157 = 127.8
        sharp = dot.copy()
        apply_planes(sharp, [Step(OP["sharpness"], 9, sign)])
        assert sharp[0].tolist() == [[0, 0, 0], [0, expected, 0], [0, 0, 0]]
    moved = planes(picture(40, 8))
    apply_planes(moved, [Step(OP["translate_x"], 5, 1)])  # 5 / 10 * 0.45 * 40 = 9
    assert np.array_equal(moved[:, :, :31], planes(picture(40, 8))[:, :, 9:])
    assert moved[:, :, 31:].reshape(3, -1).T.tolist() == [list(FILL)] * 8 * 9
    turned = np.full((3, 30, 30), 255, np.uint8)
    apply_planes(turned, [Step(OP["rotate"], 10, 1)])
    assert (turned[:, 5:25, 5:25] == 255).all() and turned[:, 0, 0].tolist() == list(FILL)
    stretched = np.array([100, 101, 104], np.uint8).repeat(3).reshape(3, 3).T[:, None].copy()
    apply_planes(stretched, [Step(OP["auto_contrast"], 9, 1), Step(OP["invert"], 9, 1)])
    assert stretched[0].tolist() == [[255, 255 - 63, 0]]  # 255 / 4 = 63.75, cut


def test_apply_planes__no_step_no_change() -> None:
    pixels = planes(picture(20, 10))
    apply_planes(pixels, [])
    assert np.array_equal(pixels, planes(picture(20, 10)))


def test_apply_planes__threads_do_not_share_scratch() -> None:
    work = [(40 + 7 * n % 60, 30 + 11 * n % 50, [Step(n % 15, 9, 1), Step(3, 8, -1)]) for n in range(60)]

    def one(item: tuple[int, int, list[Step]]) -> bytes:
        pixels = planes(picture(*item[:2]))
        apply_planes(pixels, item[2])
        return pixels.tobytes()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(one, work * 3)) == [one(item) for item in work] * 3


def test_apply_planes__grows_its_scratch() -> None:
    pixels = next(pictures(900, 700))
    assert differences(pixels, [9], [OP["rotate"], OP["shear_y"], OP["translate_y"]]) == []


WRONG = [
    np.zeros((3, 4, 4), np.float32),
    np.zeros((4, 4, 3), np.uint8),
    np.zeros((4, 4), np.uint8),
    np.zeros((3, 4, 8), np.uint8)[:, :, ::2],
    np.zeros((4, 4, 3), np.uint8).transpose(2, 0, 1),
    np.zeros((3, 0, 4), np.uint8),
    np.broadcast_to(np.uint8(1), (3, 1, 1)),
]


@pytest.mark.parametrize("pixels", WRONG, ids=lambda pixels: f"{pixels.dtype}{pixels.shape}{pixels.strides}")
def test_apply_planes__takes_nothing_else(pixels: np.ndarray) -> None:
    with pytest.raises(AssertionError, match=r"not u8\[3, H, W\]|not C-contiguous and writable"):
        apply_planes(pixels, [Step(2, 9, 1)])


@pytest.mark.parametrize(("width", "height"), [(224, 224), (57, 41), (1, 7)])
def test_rotation_matrix__is_the_one_pillow_makes(monkeypatch: pytest.MonkeyPatch, width: int, height: int) -> None:
    made: list[Any] = []
    monkeypatch.setattr(Image.Image, "transform", lambda *given, **_: made.append(tuple(given[3])))
    rng = np.random.default_rng(0)
    for degrees in [*rng.uniform(-30, 30, 300), 27, -27, 1e-14, -1e-300, 30, -30]:
        Image.new("RGB", (width, height)).rotate(degrees, Image.Resampling.BICUBIC)
        assert made.pop() == randaugment_planes.rotation_matrix(float(degrees), width, height)
    assert randaugment_planes.rotation_matrix(0.0, width, height) is None
    with pytest.raises(AssertionError):
        randaugment_planes.rotation_matrix(90.0, width, height)


class Wrong:
    """The library, but the steps that begin with `code` end one byte wrong by one."""

    def __init__(self, code: bytes) -> None:
        real = compiled()

        def call(address: int, height: int, width: int, coded: bytes, *rest: Any) -> int:
            done = int(real.randaugment(address, height, width, coded, *rest))
            if coded[:4] == code and not done:
                ctypes.c_uint8.from_address(address + height * width - 1).value ^= 1
            return done

        self.randaugment: Any = call  # a function, so that restype and argtypes can be set


@pytest.mark.parametrize("op", range(15))
def test_disagreement__finds_a_planted_one(op: int) -> None:
    coded = randaugment_planes.ENCODERS[op](9, 1, 10, 10)[:4]
    found = randaugment_planes.disagreement(Wrong(coded))  # type: ignore[arg-type]
    same = [OPS[n].__name__ for n in range(15) if randaugment_planes.ENCODERS[n](9, 1, 10, 10)[:4] == coded]
    assert found.split()[0] == same[0] and "level 9.3" in found


def test_disagreement__takes_pillow_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert randaugment_planes.disagreement(compiled()) == ""
    wrong = Wrong(randaugment_planes.ENCODERS[OP["color"]](9, 1, 1, 1)[:4])
    real = randaugment_planes._library
    real.cache_clear()
    monkeypatch.setattr(randaugment_planes.native, "library", lambda _: wrong)
    with caplog.at_level(logging.WARNING):
        assert real() is None
    assert "does not give Pillow's pixels here (color at level 9.3" in caplog.text
    pixels, expected = planes(picture(30, 20)), planes(picture(30, 20))
    apply_planes(pixels, [Step(OP["color"], 9, 1)])
    apply_planes_by_pillow(expected, [Step(OP["color"], 9, 1)])
    assert np.array_equal(pixels, expected)  # since Pillow did it
    real.cache_clear()


def test_encoders__parameters_are_the_definitions() -> None:
    """A negative control of the comparison above: another factor, another pixel."""
    pixels, other = planes(picture(30, 20)), planes(picture(30, 20))
    apply_planes(pixels, [Step(OP["color"], 9, 1)])
    apply_planes(other, [Step(OP["color"], 9.1, 1)])
    assert not np.array_equal(pixels, other)
    assert randaugment.enhancement(10, -1) == pytest.approx(0.1) and randaugment.rotation_degrees(9, -1) == -27
