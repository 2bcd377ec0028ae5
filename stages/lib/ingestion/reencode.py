"""What `shard.store` makes of a large image: a smaller JPEG. Other images are stored as they are (stored.py).

Pixels are those of decode(), not turned by any EXIF orientation: the index goes on saying what to apply, and the tag goes with
the file, so whoever honours it sees the same as in the original. Every row of MCUs ends in a restart marker, so that a decoder
can leave out rows a crop does not need; it costs two bytes a row. The same bytes for one version of Pillow.
"""

import hashlib
import io
from typing import Any, NamedTuple

from PIL import Image

from stages.lib.data.decode import decode
from stages.lib.ingestion import fidelity
from stages.lib.ingestion.manifest import Row
from stages.lib.params.shard import Store

ORIENTATION = 0x0112  # EXIF's tag
LONGEST = 65500  # pixels of a JPEG's side, libjpeg's limit


class Anew(NamedTuple):
    """What is known of an image only when it has been encoded."""

    bytes: int
    sha256: str
    width: int
    height: int
    coding_db: float | None = None
    """PSNR of what JPEG lost; None: not measured."""
    crop_db: float | None = None
    """PSNR of what a training crop lost in all."""


def is_stored_anew(row: Row, store: Store | None) -> bool:
    """Whether the store makes another image of this one: by its size alone, whatever its format."""
    return store is not None and min(row.width, row.height) > store.short_side and max(size(row, store)) <= LONGEST


def size(row: Row, store: Store) -> tuple[int, int]:
    """(width, height) of the stored image, before any EXIF orientation is applied; halves are rounded up."""
    short, long = sorted((row.width, row.height))
    other = (2 * long * store.short_side + short) // (2 * short)
    return (other, store.short_side) if row.width >= row.height else (store.short_side, other)


def encode(original: bytes, row: Row, store: Store, measured: bool) -> tuple[bytes, Anew]:
    """(the JPEG file, what to remember of it), with PSNR where it is to be `measured`."""
    picture = decode(original)
    smaller = picture.resize(size(row, store), Image.Resampling.BICUBIC)
    data = _jpeg(smaller, row.exif, store)
    facts = Anew(len(data), hashlib.sha256(data).hexdigest(), *smaller.size)
    if measured:
        back = decode(data)
        facts = facts._replace(
            coding_db=fidelity.psnr(back, smaller), crop_db=fidelity.crop_psnr(back, picture, row.key)
        )
    return data, facts


def _jpeg(picture: Image.Image, exif: int, store: Store) -> bytes:
    options: dict[str, Any] = {"quality": store.quality, "subsampling": store.subsampling, "restart_marker_rows": 1}
    if exif > 1:
        tags = Image.Exif()
        tags[ORIENTATION] = exif
        options["exif"] = tags
    with io.BytesIO() as file:
        picture.save(file, format="JPEG", **options)
        return file.getvalue()
