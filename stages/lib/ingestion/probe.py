"""Decodes an image fully, as training will, and tells what it is or why it cannot be used."""

import io
import re
import warnings
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

from stages.lib.data.decode import FORMATS, to_rgb

ORIENTATION = 0x0112  # EXIF tag


class Facts(NamedTuple):
    """A good image, as stored."""

    width: int
    height: int
    mode: str
    format: str
    exif: int
    """EXIF orientation 1..8; 1: none, or not one of those."""
    frames: int
    """Training sees the first."""


def probe(data: bytes) -> Facts | str:
    """Facts, or in one sentence why the image cannot be decoded; the same sentence for the same bytes."""
    if not data:
        return "the file is empty (0 bytes)"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Pillow only warns about, it decodes
        try:
            return _facts(data)
        except UnidentifiedImageError:
            return f"no image that can be read: the content is none of {', '.join(FORMATS)}"
        except Exception as error:  # Pillow's decoders raise anything at all on damaged files
            text = re.sub(r" at 0x[0-9a-f]+", "", " ".join(str(error).split()))
            return f"{type(error).__name__}: {text}"


def _facts(data: bytes) -> Facts:
    with io.BytesIO(data) as file, Image.open(file, formats=FORMATS) as image:
        mode, kind, frames = image.mode, str(image.format), int(getattr(image, "n_frames", 1))
        width, height = image.size
        to_rgb(image)
        exif = _orientation(image)  # after decoding: Pillow turns TIFFs upright itself, and then says so
    if kind == "PNG":  # Pillow decodes pixels without a look at their checksums
        with io.BytesIO(data) as file, Image.open(file, formats=["PNG"]) as image:
            image.verify()
    return Facts(width, height, mode, kind, exif, frames)


def _orientation(image: Image.Image) -> int:
    try:
        found = image.getexif().get(ORIENTATION, 1)
        return found if found in range(1, 9) else 1
    except Exception:  # damaged EXIF: pixels are fine, and every published recipe ignores it
        return 1
