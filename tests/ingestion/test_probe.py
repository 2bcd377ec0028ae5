"""What an image is, or why it is none: the same sentence every time."""

import zlib

import pytest
from PIL import Image

from stages.lib.data.decode import decode
from stages.lib.ingestion.probe import Facts, probe
from tests.ingestion.raw_project import encoded, picture


def test_probe__facts_are_those_stored() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(picture(0, (20, 14)), "JPEG", exif=exif)
    assert probe(data) == Facts(width=20, height=14, mode="RGB", format="JPEG", exif=6, frames=1)


@pytest.mark.parametrize(
    ("mode", "kind", "expected"),
    [("L", "JPEG", "L"), ("CMYK", "JPEG", "CMYK"), ("P", "PNG", "P"), ("RGBA", "PNG", "RGBA"), ("RGB", "WEBP", "RGB")],
)
def test_probe__modes_and_formats_by_content(mode: str, kind: str, expected: str) -> None:
    found = probe(encoded(picture(1, mode=mode), kind))
    assert isinstance(found, Facts)
    assert (found.mode, found.format) == (expected, kind)


def test_probe__sixteen_bit() -> None:
    found = probe(encoded(Image.new("I;16", (5, 5), 300)))
    assert isinstance(found, Facts)
    assert found.mode == "I;16"


def test_probe__nonsense_exif_is_none() -> None:
    exif = Image.Exif()
    exif[0x0112] = 77
    found = probe(encoded(picture(2), "JPEG", exif=exif))
    assert isinstance(found, Facts)
    assert found.exif == 1


def test_probe__says_why() -> None:
    jpeg = encoded(picture(3, (64, 64)), "JPEG")
    assert probe(b"") == "the file is empty (0 bytes)"
    assert "truncated" in str(probe(jpeg[:-30])).lower()
    assert str(probe(b"hello")).startswith("no image that can be read")
    assert probe(b"hello") == probe(b"hello")  # no address of an object in it
    broken = bytearray(encoded(picture(3)))
    broken[60] ^= 255
    assert isinstance(probe(bytes(broken)), str)


def test_probe__decompression_bomb_keeps_pillows_words() -> None:
    head = encoded(Image.new("1", (1, 1)))
    size = (20000).to_bytes(4, "big") * 2
    chunk = b"IHDR" + size + bytes([8, 2, 0, 0, 0])
    bomb = head[:8] + (13).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big") + head[33:]
    assert "decompression bomb" in str(probe(bomb))


def test_probe__starts_no_program_for_postscript() -> None:
    assert str(probe(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n")).startswith("no image")


def test_probe__a_tiff_that_pillow_turns_itself_is_not_turned_again() -> None:
    image = picture(5, (6, 4))
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(image, "TIFF", exif=exif)
    found = probe(data)
    assert isinstance(found, Facts)
    assert (found.exif, found.width, found.height) == (1, 4, 6)
    assert decode(data).size == (4, 6)
