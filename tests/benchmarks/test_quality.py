"""The measure of quality sees a difference, and sees none where there is none."""

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import ours, quality
from benchmarks.pictures import Pictures, shelve, shortened
from tests.benchmarks import jpegs


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    return shelve(jpegs.jpegs(8, 120, 90), tmp_path_factory.mktemp("quality") / "shards", 32)


def test_psnr__known_answers() -> None:
    black = np.zeros((3, 4, 4), np.uint8)
    assert quality.psnr(black, black) == 100.0
    assert quality.psnr(black, black + 255) == pytest.approx(0.0)
    assert quality.psnr(black, black + 1) == pytest.approx(20 * np.log10(255))


def test_fidelity__counts_equal_images() -> None:
    black = np.zeros((3, 4, 4), np.uint8)
    found = quality.fidelity(iter([(black, black), (black, black + 1)]))
    assert found.identical == 0.5 and found.crops == 2
    assert found.mean == pytest.approx((100 + 20 * np.log10(255)) / 2)


def test_of_stream__mae_and_deit_views_are_pillows(pictures: Pictures) -> None:
    """Over several epochs: a step more than an epoch has."""
    cfg, views = ours.pretraining(8), ours.classifying(8, 3)
    mae = quality.of_stream(ours.mae_stream(pictures, cfg), quality.view(pictures, cfg), 1, crops=40)
    deit = quality.of_stream(ours.classifier_stream(pictures, views), quality.view(pictures, views), 1, crops=40)
    for found in (mae, deit):
        assert found.crops == 40
        assert found.mean > 50 and found.p1 > 35


def test_of_stream__sees_other_pixels_and_other_boxes(pictures: Pictures) -> None:
    """Negative controls: a brighter image, a box from other draws."""
    cfg = ours.pretraining(8)
    stream, right = ours.mae_stream(pictures, cfg), quality.view(pictures, cfg)

    def brighter(row: int, rng: np.random.Generator) -> np.ndarray:
        return np.clip(right(row, rng).astype(int) + 4, 0, 255).astype(np.uint8)

    def elsewhere(row: int, rng: np.random.Generator) -> np.ndarray:
        rng.random()
        return right(row, rng)

    assert quality.of_stream(stream, brighter, 1, crops=16).mean < 40
    assert quality.of_stream(stream, elsewhere, 1, crops=16).mean < 30


def test_view__of_a_stored_image_is_cut_from_the_original_at_the_same_place(pictures: Pictures, tmp_path: Path) -> None:
    small = shelve([shortened(jpeg, 60) for jpeg in pictures.jpegs], tmp_path / "small", 32)
    cfg = ours.pretraining(8)
    stream = ours.mae_stream(small, cfg)
    stored = quality.of_stream(stream, quality.view(small, cfg, pictures), 1, crops=16)
    assert 25 < stored.mean < 60  # smooth images lose little
    mirrored = dataclasses.replace(
        pictures, jpegs=[_mirrored(jpeg) for jpeg in pictures.jpegs]
    )  # negative control: a box of another place
    assert quality.of_stream(stream, quality.view(small, cfg, mirrored), 1, crops=16).mean < stored.mean - 5


def test_of_evaluation__is_pillows_and_sees_a_shift(pictures: Pictures) -> None:
    found = quality.of_evaluation(ours.evaluated(pictures, 8, 1), pictures, 224, 256, crops=16)
    assert found.mean > 50 and found.crops == 16
    assert quality.of_evaluation(ours.evaluated(pictures, 8, 1), pictures, 224, 250, crops=16).mean < 45


def _mirrored(jpeg: bytes) -> bytes:
    file = io.BytesIO()
    with Image.open(io.BytesIO(jpeg)) as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(file, "JPEG", quality=95)
    return file.getvalue()
