"""Stored bytes to RGB pixels, the same way for every reader.

Torchvision's convention, `convert("RGB")`: grey is repeated, a palette looked up, alpha dropped (not blended), CMYK
converted without a profile. 16-bit grey keeps its upper 8 bits, where Pillow would clip everything above 255 to
white. The first frame of an animation counts. EXIF is not read here; who wants it applied hands in the orientation.
"""

import io

import numpy as np
from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
"""Tried in this order, by content. Others that Pillow knows start programs (EPS) or are no photographs."""

TURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation (tag 0x0112) -> what sets the picture upright."""


def decode(data: bytes, orientation: int = 1) -> Image.Image:
    """Image file -> RGB, u8. orientation: EXIF's 1..8. Raises what Pillow raises: OSError, DecompressionBombError, ..."""
    with io.BytesIO(data) as file, Image.open(file, formats=FORMATS) as image:
        upright = to_rgb(image)
    return upright.transpose(TURN[orientation]) if orientation > 1 else upright


def to_rgb(image: Image.Image) -> Image.Image:
    """An opened image of any mode -> RGB with pixels of its own."""
    if image.mode.startswith("I"):  # I;16, I;16B, or I as Pillow reads a 16-bit PGM
        levels = np.asarray(image).clip(0, 65535).astype(np.uint16)
        return Image.fromarray((levels >> 8).astype(np.uint8)).convert("RGB")
    image.load()
    image.info.pop("transparency", None)  # dropped in any case; Pillow would warn about some kinds of it
    return image.convert("RGB")
