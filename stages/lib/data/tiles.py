"""A grid of images as one picture: what a stage shows of the pixels it saw."""

from pathlib import Path

import numpy as np
from PIL import Image

from stages.lib.core import files

BORDER = 1  # pixel, white


def tiles(images: np.ndarray) -> np.ndarray:
    """u8[rows, columns, H, W, 3] -> u8[rows * (H + 1) + 1, columns * (W + 1) + 1, 3], on white."""
    rows, columns, height, width, _ = images.shape
    sheet = np.full((rows * (height + BORDER) + BORDER, columns * (width + BORDER) + BORDER, 3), 255, np.uint8)
    for row in range(rows):
        for column in range(columns):
            top, left = row * (height + BORDER) + BORDER, column * (width + BORDER) + BORDER
            sheet[top : top + height, left : left + width] = images[row, column]
    return sheet


def save(path: Path, picture: np.ndarray) -> None:
    """Write u8[H, W, 3] as PNG; the same bytes for the same pixels."""
    with files.replace(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG")
