"""A page of a set's own images, so that a person sees what was ingested."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from stages.lib.data import tiles
from stages.lib.data.decode import decode
from stages.lib.data.manifest import Row
from stages.lib.data.raw import RawReader

ROWS, COLUMNS, SIDE = 6, 8, 64


def write(path: Path, rows: Sequence[Row], reader: RawReader) -> None:
    """The 48 training images with the smallest content hashes, each fitted into 64 x 64 pixels."""
    train = sorted((row for row in rows if row.split == "train"), key=lambda row: (row.sha256, row.key))
    sheet = np.full((ROWS * COLUMNS, SIDE, SIDE, 3), 255, np.uint8)
    for place, row in enumerate(train[: ROWS * COLUMNS]):
        sheet[place] = _fitted(decode(reader.read(row.member, row.offset, row.bytes, row.sha256), row.orientation))
    tiles.save(path, tiles.tiles(sheet.reshape(ROWS, COLUMNS, SIDE, SIDE, 3)))


def _fitted(image: Image.Image) -> np.ndarray:
    """u8[64, 64, 3]: whole image, aspect kept, on white; pixels of tiny images stay squares."""
    scale = SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    small = image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)
    cell = Image.new("RGB", (SIDE, SIDE), "white")
    cell.paste(small, ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2))
    return np.asarray(cell)
