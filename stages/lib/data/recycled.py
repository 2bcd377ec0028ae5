"""Large arrays used again: fresh memory costs a page fault for every 4 KiB, more than what is then written into it."""

import sys
import threading

import numpy as np
from numpy.typing import DTypeLike

KEPT = 8  # arrays of one shape; more are in use only if somebody collects batches
SHAPES = 4  # training, validation, and a last smaller batch of each


def _references(arrays: list[np.ndarray], place: int) -> int:
    return sys.getrefcount(arrays[place])


FREE = _references([np.empty(0)], 0)
"""References to an array that only its list knows, as this Python counts them."""


class Recycled:
    """Hands out arrays and takes back those that nobody refers to any more; their content is whatever it was."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._arrays: dict[tuple[tuple[int, ...], np.dtype], list[np.ndarray]] = {}

    def take(self, shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
        """An array of its own for as long as the caller, or a tensor made of it with torch.from_numpy, or a view of that lives."""
        key = (shape, np.dtype(dtype))
        with self._lock:
            mine = self._arrays.pop(key, [])
            self._arrays[key] = mine  # the last used
            while len(self._arrays) > SHAPES:
                del self._arrays[next(iter(self._arrays))]
            for place in range(len(mine)):
                if _references(mine, place) == FREE:
                    return mine[place]
            array = np.empty(shape, dtype)
            if len(mine) < KEPT:
                mine.append(array)
            return array
