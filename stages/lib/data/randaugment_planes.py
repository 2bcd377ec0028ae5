"""RandAugment on u8 planes, in place, by compiled code without the GIL: stages/lib/data/randaugment.py is the definition.

Every pixel is Pillow's: randaugment.c is compared with Pillow op by op on two generated images before it is used, and Pillow does
everything where one byte differs or where no compiler is.
"""

import ctypes
import functools
import itertools
import math
import struct
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from stages.lib.core import native
from stages.lib.data import randaugment
from stages.lib.data.compiled import Scratch, agreeing
from stages.lib.data.crop import planes
from stages.lib.data.randaugment import FILL, OPS, Matrix, Step, apply_steps

STEP = struct.Struct("=2i6d")  # Step in randaugment.c
NO_NUMBERS = (0.0,) * 6
LARGEST_SIDE = 65535
"""In pixels: SIDE in randaugment.c."""
CHECKED_SIZES = ((37, 21), (2, 5))
"""(width, height): with whole tiles and their rests, and too small for a neighbourhood."""
CHECKED_LEVELS = (9.3, 2.1)


def apply_planes(pixels: np.ndarray, steps: Sequence[Step]) -> None:
    """All steps, in order, on pixels u8[3, H, W], C-contiguous, H and W from 1, in place."""
    wanted = pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[0] == 3 and pixels.size > 0
    assert wanted, f"pixels are {pixels.dtype}{list(pixels.shape)}, not u8[3, H, W]"
    assert pixels.flags.c_contiguous and pixels.flags.writeable, (
        f"not C-contiguous and writable: strides {pixels.strides}"
    )
    library = _library()
    if library is None or max(pixels.shape) > LARGEST_SIDE:
        apply_planes_by_pillow(pixels, steps)
    else:
        _call(library, pixels, steps)


def apply_planes_by_pillow(pixels: np.ndarray, steps: Sequence[Step]) -> None:
    """What `apply_planes` does, by the definition."""
    img = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    pixels[:] = planes(apply_steps(img, steps))


def rotation_matrix(degrees: float, width: int, height: int) -> Matrix | None:
    """As Image.rotate makes and rounds it, for less than 90 degrees either way; None: it copies the image."""
    angle = degrees % 360.0
    if angle == 0:
        return None
    assert angle < 90 or angle > 270, degrees  # at multiples of 90 Image.rotate may transpose instead
    angle, x, y = -math.radians(angle), width / 2, height / 2
    cos, sin, minus_sin = round(math.cos(angle), 15), round(math.sin(angle), 15), round(-math.sin(angle), 15)
    return cos, sin, cos * -x + sin * -y + 0.0 + x, minus_sin, cos, minus_sin * -x + cos * -y + 0.0 + y


Encoder = Callable[[float, int, int, int], bytes]
"""(level, sign, width, height) -> a Step of randaugment.c, or nothing where the image stays."""


def _encoders() -> tuple[Encoder, ...]:
    """One per op, in the order of OPS. The numbers are the places in randaugment.c's enum."""
    r = randaugment

    def plain(code: int, whole: Callable[[float], int] = lambda _: 0) -> Encoder:
        return lambda level, _sign, _width, _height: STEP.pack(code, whole(level), *NO_NUMBERS)

    def enhance(code: int) -> Encoder:
        return lambda level, sign, _w, _h: STEP.pack(code, 0, r.enhancement(level, sign), *NO_NUMBERS[1:])

    def warp(matrix: Callable[[float, int, int, int], Matrix | None]) -> Encoder:
        def encode(level: float, sign: int, width: int, height: int) -> bytes:
            numbers = matrix(level, sign, width, height)
            return STEP.pack(10, 0, *numbers) if numbers else b""

        return encode

    by_op: dict[randaugment.Op, Encoder] = {
        r.auto_contrast: plain(0),
        r.equalize: plain(1),
        r.invert: plain(2),
        r.posterize: plain(3, r.posterize_mask),
        r.solarize: plain(4, r.solarize_threshold),
        r.solarize_add: plain(5, r.solarize_addend),
        r.color: enhance(6),
        r.contrast: enhance(7),
        r.brightness: enhance(8),
        r.sharpness: enhance(9),
        r.rotate: warp(lambda level, sign, w, h: rotation_matrix(r.rotation_degrees(level, sign), w, h)),
        r.shear_x: warp(lambda level, sign, _w, _h: r.shear_x_matrix(level, sign)),
        r.shear_y: warp(lambda level, sign, _w, _h: r.shear_y_matrix(level, sign)),
        r.translate_x: warp(lambda level, sign, w, _h: r.translate_x_matrix(level, sign, w)),
        r.translate_y: warp(lambda level, sign, _w, h: r.translate_y_matrix(level, sign, h)),
    }
    return tuple(by_op[op] for op in OPS)


ENCODERS = _encoders()


_scratch = Scratch(1 << 19)


def _call(library: ctypes.CDLL, pixels: np.ndarray, steps: Sequence[Step]) -> None:
    _, height, width = pixels.shape
    coded = b"".join([ENCODERS[step.op](step.level, step.sign, width, height) for step in steps])
    mine = _scratch
    address = pixels.__array_interface__["data"][0]
    count, fill = len(coded) // STEP.size, bytes(FILL)
    while needed := library.randaugment(address, height, width, coded, count, fill, mine.address, mine.room):
        mine.grow(needed)


@functools.cache
def _library() -> ctypes.CDLL | None:
    """randaugment.c, once it has agreed with Pillow here; None: Pillow does everything."""
    library = native.library("stages/lib/data/randaugment.c")
    if library is None:
        return None
    library.randaugment.restype = ctypes.c_int64
    library.randaugment.argtypes = [
        ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_char_p, ctypes.c_int32, ctypes.c_char_p, ctypes.c_void_p,
        ctypes.c_int64,
    ]  # fmt: skip
    return agreeing("RandAugment", library, disagreement)


def disagreement(library: ctypes.CDLL) -> str:
    """The first op, level, sign and size at which randaugment.c and Pillow differ on a generated image; empty: none."""
    rng = np.random.default_rng(0)
    for width, height in CHECKED_SIZES:
        y, x = np.mgrid[0:height, 0:width]
        smooth = np.stack([9 * x, 255 - 11 * y, 5 * (x + y)]) + rng.integers(-20, 20, (3, height, width))
        picture = smooth.clip(3, 250).astype(np.uint8)
        for op, level, sign in itertools.product(range(len(OPS)), CHECKED_LEVELS, (1, -1)):
            ours, expected, steps = picture.copy(), picture.copy(), [Step(op, level, sign)]
            _call(library, ours, steps)
            apply_planes_by_pillow(expected, steps)
            if not np.array_equal(ours, expected):
                return f"{OPS[op].__name__} at level {level}, sign {sign}, {width} x {height} pixels"
    return ""
