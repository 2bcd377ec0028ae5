"""What compiled pixel code shares: a thread's working memory, and the comparison with Pillow before it is used."""

import ctypes
import logging
import threading
from collections.abc import Callable

import numpy as np

log = logging.getLogger(__name__)
ALIGNMENT = 64  # bytes; a vector register


class Scratch(threading.local):
    """Working memory of one thread, as large as its largest image needed."""

    def __init__(self, room: int) -> None:
        """room: bytes to begin with."""
        self.grow(room)

    def grow(self, room: int) -> None:
        """To `room` bytes from `address` on, aligned; what was in it is lost."""
        self.room = room
        self.array = np.empty(room + ALIGNMENT, np.uint8)
        self.address = -(-self.array.ctypes.data // ALIGNMENT) * ALIGNMENT


def agreeing(what: str, library: ctypes.CDLL, disagreement: Callable[[ctypes.CDLL], str]) -> ctypes.CDLL | None:
    """The library; None where `disagreement` with Pillow names a case, which is said."""
    fault = disagreement(library)
    if not fault:
        return library
    log.warning(
        "the fast %s does not give Pillow's pixels here (%s), so Pillow does it, several times slower and with the same results. "
        "A Pillow other than requirements.lock's can be the cause.",
        what,
        fault,
    )
    return None
