"""A page of a set's own images, so that a person sees what was ingested."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from stages.lib.data import tiles
from stages.lib.data.decode import decode
from stages.lib.ingestion.manifest import Row

ROWS, COLUMNS, SIDE = 6, 8, 64


def chosen(rows: Sequence[Row]) -> list[Row]:
    """The 48 training images with the smallest content hashes."""
    train = (row for row in rows if row.split == "train")
    return sorted(train, key=lambda row: (row.sha256, row.key))[: ROWS * COLUMNS]


def write(path: Path, images: Sequence[tuple[Row, bytes]]) -> None:
    """Those images, each fitted into 64 x 64 pixels, in the order of `chosen` whatever order they come in."""
    sheet = np.full((ROWS * COLUMNS, SIDE, SIDE, 3), 255, np.uint8)
    for place, (row, data) in enumerate(sorted(images, key=lambda image: (image[0].sha256, image[0].key))):
        sheet[place] = _fitted(decode(data, row.orientation))
    tiles.save(path, tiles.tiles(sheet.reshape(ROWS, COLUMNS, SIDE, SIDE, 3)))


def _fitted(image: Image.Image) -> np.ndarray:
    """u8[64, 64, 3]: whole image, aspect kept, on white; pixels of tiny images stay squares."""
    scale = SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    small = image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)
    cell = Image.new("RGB", (SIDE, SIDE), "white")
    cell.paste(small, ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2))
    return np.asarray(cell)
