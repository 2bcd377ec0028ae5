"""Views of one stored image: u8 planes where each frame looks. JPEGs are decoded there alone, by compiled code without the GIL.

Which way an image takes never shows in its pixels: photo.c gives what Pillow gives (`crop.framed` of `decode`), refuses what it
does not know (progressive JPEGs, PNG, damaged files, ...), and is compared with Pillow on a few generated images before it is used.
"""

import ctypes
import functools
import io
import itertools
import struct
from collections.abc import Sequence

import numpy as np
from PIL import Image

from stages.lib.core import native
from stages.lib.core.outcome import Refusal
from stages.lib.data.compiled import Scratch, agreeing
from stages.lib.data.crop import Frame, framed, planes
from stages.lib.data.decode import decode

DONE, MORE_ROOM = 0, 2
FILTERS = {Image.Resampling.BILINEAR: 2, Image.Resampling.BICUBIC: 3}
VIEW = struct.Struct("=12iQqq")  # View in photo.c
MOST_VIEWS = 16


def show(
    data: bytes, orientation: int, size: tuple[int, int], frames: Sequence[Frame], places: Sequence[np.ndarray]
) -> None:
    """Fill places u8[3, h, w] (C-contiguous) with what each frame shows of an image file.

    orientation: EXIF's 1..8, applied first; size: (width, height) of the upright image, which the frames were made for.
    Raises Refusal where the image has another size, and what Pillow raises for what it cannot read.
    """
    if orientation != 1 or not _show_jpeg(data, size, frames, places):
        picture = decode(data, orientation)
        if picture.size != size:
            raise Refusal(
                f"an image of {picture.width} x {picture.height} pixels stands where the index says {size[0]} x {size[1]}; "
                "the shards and their index are not of one build: `dvc repro` makes both."
            )
        for frame, place in zip(frames, places, strict=True):
            place[:] = planes(framed(picture, frame))


def _show_jpeg(data: bytes, size: tuple[int, int], frames: Sequence[Frame], places: Sequence[np.ndarray]) -> bool:
    """Whether compiled code has filled all places; False: it has not, and Pillow must."""
    library = _library()
    if library is None or data[:2] != b"\xff\xd8":
        return False
    views = [_packed(frame, place) for frame, place in zip(frames, places, strict=True)]
    if not all(views):
        return False
    for some in range(0, len(views), MOST_VIEWS):
        part = views[some : some + MOST_VIEWS]
        if not _call(library, data, size, b"".join(part), len(part)):
            return False
    for frame, place in zip(frames, places, strict=True):
        if frame.reflected:
            _reflect(frame, place)
    return True


def _reflect(frame: Frame, place: np.ndarray) -> None:
    """Fill what lies beyond the target's edges from the pixels within, which are there."""
    (across, down), (x, y, w, h) = frame.target, frame.window
    above, below = max(0, -y), max(0, y + h - down)
    before, behind = max(0, -x), max(0, x + w - across)
    if frame.mirrored:
        before, behind = behind, before
    if above or below or before or behind:
        within = place[:, above : h - below, before : w - behind]
        place[:] = np.pad(within, ((0, 0), (above, below), (before, behind)), mode="reflect")


def _packed(frame: Frame, place: np.ndarray) -> bytes:
    """A View; empty where photo.c does not know the frame's filter. What lies beyond the target's edges is made black here."""
    assert place.dtype == np.uint8 and place.flags.c_contiguous and place.shape[0] == 3, (place.dtype, place.shape)
    filter_ = FILTERS.get(frame.resample)
    (across, down), (x, y, w, h) = frame.target, frame.window
    assert place.shape[1:] == (h, w), f"{place.shape} for a window of {w} x {h}"
    if filter_ is None:
        return b""
    left, top, right, bottom = max(x, 0), max(y, 0), min(x + w, across), min(y + h, down)
    if right <= left or bottom <= top:
        return b""
    address = place.__array_interface__["data"][0]
    if (right - left, bottom - top) != (w, h):
        place[:] = 0
        address += (top - y) * w + (x + w - right if frame.mirrored else left - x)
    return VIEW.pack(
        *frame.box, across, down, left, top, right - left, bottom - top, frame.mirrored, filter_, address, h * w, w
    )


_scratch = Scratch(12 << 20)


def _call(library: ctypes.CDLL, data: bytes, size: tuple[int, int], views: bytes, count: int) -> bool:
    """Whether photo_views has filled the places."""
    mine, needed = _scratch, ctypes.c_int64()
    while True:
        code = library.photo_views(data, len(data), *size, views, count, mine.address, mine.room, ctypes.byref(needed))
        if code != MORE_ROOM:
            return bool(code == DONE)
        mine.grow(needed.value * 3 // 2)  # so that it seldom grows


@functools.cache
def _library() -> ctypes.CDLL | None:
    """photo.c, once it has agreed with Pillow here; None: Pillow does everything."""
    library = native.library("stages/lib/data/photo.c")
    if library is None:
        return None
    library.photo_views.argtypes = [
        ctypes.c_char_p, ctypes.c_int64, ctypes.c_int32, ctypes.c_int32, ctypes.c_char_p, ctypes.c_int32, ctypes.c_void_p,
        ctypes.c_int64, ctypes.c_void_p,
    ]  # fmt: skip
    return agreeing("decoding of JPEGs", library, disagreement)


def disagreement(library: ctypes.CDLL) -> str:
    """The first of a few generated JPEGs and frames on which photo.c and Pillow differ; empty: none."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 11, 3), np.uint8))
    picture = coarse.resize((123, 97), Image.Resampling.BICUBIC)
    frames = [
        Frame((5, 3, 90, 80), (64, 64), (0, 0, 64, 64)),
        Frame((40, 31, 33, 60), (48, 32), (0, 0, 48, 32), mirrored=True),
        Frame((0, 0, 123, 97), (40, 32), (4, 0, 32, 32), resample=Image.Resampling.BILINEAR),
        Frame((0, 0, 123, 97), (123, 97), (-4, 3, 123, 97)),
    ]
    for quality, subsampling, mode in itertools.product((60, 97), ("4:4:4", "4:2:2", "4:2:0"), ("RGB", "L")):
        with io.BytesIO() as file:
            picture.convert(mode).save(file, "JPEG", quality=quality, subsampling=subsampling)
            data = file.getvalue()
        expected = decode(data)
        for frame in frames:
            place = np.empty((3, frame.window[3], frame.window[2]), np.uint8)
            done = _call(library, data, picture.size, _packed(frame, place), 1)
            if not done or not np.array_equal(place, planes(framed(expected, frame))):
                return f"quality {quality}, {subsampling}, {mode}, {frame}"
    return ""
