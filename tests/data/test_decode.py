"""Stored bytes to RGB: every kind of image people have, against pixels worked out by hand."""

import io
import warnings

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.io import ImageReadMode, decode_image

from stages.lib.data.decode import TURN, decode
from tests.ingestion.raw_project import encoded, picture


def pixels(data: bytes, orientation: int = 1) -> np.ndarray:
    image = decode(data, orientation)
    assert image.mode == "RGB"
    return np.asarray(image)


def test_decode__rgb_and_grey() -> None:
    image = picture(1)
    assert np.array_equal(pixels(encoded(image)), np.asarray(image))
    grey = image.convert("L")
    assert np.array_equal(pixels(encoded(grey)), np.repeat(np.asarray(grey)[..., None], 3, 2))


def test_decode__jpeg_is_what_torchvision_reads() -> None:
    data = encoded(picture(2), "JPEG", quality=90)
    other = (
        decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB).permute(1, 2, 0).numpy()
    )
    assert np.abs(pixels(data).astype(int) - other).max() <= 2  # two builds of libjpeg


def test_decode__alpha_is_dropped_not_blended() -> None:
    image = Image.new("RGBA", (3, 2), (200, 100, 50, 0))
    assert (pixels(encoded(image)) == (200, 100, 50)).all()
    assert (pixels(encoded(Image.new("LA", (3, 2), (70, 10)))) == 70).all()


@pytest.mark.parametrize("transparency", [None, 1, bytes([255, 0, 7])])
def test_decode__palette_with_and_without_transparency(transparency: int | bytes | None) -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 1, 2])
    data = encoded(image) if transparency is None else encoded(image, transparency=transparency)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # threads decode: a warning each would be a flood
        assert pixels(data).tolist() == [[[10, 20, 30], [40, 50, 60], [70, 80, 90]]]


def test_decode__cmyk_without_profile() -> None:
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))  # red
    found = pixels(encoded(image, "TIFF"))
    assert (found == (255, 0, 0)).all()
    assert np.abs(pixels(encoded(image, "JPEG", quality=100)).astype(int) - (255, 0, 0)).max() <= 3


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_decode__sixteen_bits_keep_the_upper_eight(kind: str) -> None:
    levels = np.array([[0, 255, 256, 0x1234, 0xFFFF]], np.uint16)
    data = encoded(Image.fromarray(levels), kind)
    assert pixels(data)[0, :, 0].tolist() == [0, 0, 1, 0x12, 0xFF]
    with Image.open(io.BytesIO(data)) as image:  # negative control: Pillow alone clips
        clipped = np.asarray(image.convert("RGB"))[0, :, 0].tolist()
    assert clipped != [0, 0, 1, 0x12, 0xFF] or kind == "PNG"


def test_decode__one_bit_and_first_frame() -> None:
    assert (pixels(encoded(Image.new("1", (4, 4), 1))) == 255).all()
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    assert (pixels(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])) == (255, 0, 0)).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_decode__orientation_is_applied_only_when_handed_in(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(picture(3, (6, 4)), "JPEG", exif=exif, quality=100)
    with Image.open(io.BytesIO(data)) as image:
        upright, stored = np.asarray(ImageOps.exif_transpose(image)), np.asarray(image)
    assert np.array_equal(pixels(data, orientation), upright)
    assert np.array_equal(pixels(data), stored)
    assert set(TURN) == set(range(2, 9))


def test_decode__damaged_files_raise() -> None:
    data = encoded(picture(4, (64, 64)), "JPEG")
    for broken in (b"", data[: len(data) // 2], b"no image at all"):
        with pytest.raises(OSError):
            decode(broken)
