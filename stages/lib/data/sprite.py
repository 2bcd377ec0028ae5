"""Many small pictures in one file, without borders: tile n lies at column n % columns, row n // columns."""

import numpy as np


def sprite(images: np.ndarray, columns: int) -> np.ndarray:
    """u8[N, 3, S, S], N > 0 -> u8[rows * S, columns * S, 3]; places after the last tile are white."""
    count, _, side, _ = images.shape
    rows = -(-count // columns)
    sheet = np.full((rows, columns, side, side, 3), 255, np.uint8)
    sheet.reshape(-1, side, side, 3)[:count] = images.transpose(0, 2, 3, 1)
    return sheet.transpose(0, 2, 1, 3, 4).reshape(rows * side, columns * side, 3)
