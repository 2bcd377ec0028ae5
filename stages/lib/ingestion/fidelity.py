"""How near a stored image is to its original, as PSNR in dB, on a sample that follows from the keys.

PSNR = 10 log10(255^2 / MSE), the mean over all pixels and the three channels of 8-bit RGB. Two questions are answered:
coding: the stored image against the original resized in the same way, so what JPEG lost.
crop: a 224-pixel training crop of the stored image against the same crop of the original, so what a model sees less of.
The crop is MAE's (a share 0.2 to 1 of the area, aspect 3/4 to 4/3, bicubic); its box lies at the same place in both, to a
fraction of a pixel.
"""

import hashlib
import heapq
import math
from collections.abc import Iterable

import numpy as np
from PIL import Image

SAMPLE = 256  # images measured
CROP = 224  # pixels
EQUAL = 100.0  # dB said of equal pixels, where PSNR has no number


def sample(keys: Iterable[str]) -> frozenset[str]:
    """The keys of the images to measure: those of least hash."""
    return frozenset(heapq.nsmallest(SAMPLE, keys, key=_hash))


def psnr(one: Image.Image, other: Image.Image) -> float:
    """dB, of two RGB images of a size; rounded to 0.001."""
    difference = np.asarray(one, np.int32) - np.asarray(other, np.int32)
    squares = int((difference * difference).sum(dtype=np.int64))
    return EQUAL if squares == 0 else round(10 * math.log10(255**2 * difference.size / squares), 3)


def crop_psnr(stored: Image.Image, original: Image.Image, key: str) -> float:
    """dB, of one crop, drawn for this key, out of both."""
    box = _box(key, *stored.size)
    across, down = original.width / stored.width, original.height / stored.height
    same = (box[0] * across, box[1] * down, box[2] * across, box[3] * down)
    crops = (
        picture.resize((CROP, CROP), Image.Resampling.BICUBIC, box=place)
        for picture, place in ((stored, box), (original, same))
    )
    return psnr(*crops)


def _box(key: str, width: int, height: int) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) as MAE draws it; the whole image where nothing fits in ten tries."""
    rng = np.random.Generator(np.random.Philox(_hash(key)))
    for _ in range(10):
        area, aspect = rng.uniform(0.2, 1.0) * width * height, math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = math.sqrt(area * aspect), math.sqrt(area / aspect)
        if w <= width and h <= height:
            left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
            return left, top, left + w, top + h
    return 0.0, 0.0, float(width), float(height)


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8, person=b"fidelity").digest(), "little")
