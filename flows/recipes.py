"""One at a time for a recipe on this host: two experiments that need the same teacher train it once, and the second finds it in
DVC's cache.

The lock is the kernel's, on a file named after the recipe, and lasts as long as any process holds its descriptor.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

POLL_SECONDS = 0.5


class Cancelled(Exception):
    """The flow was stopped while a stage waited for its turn."""


@contextlib.contextmanager
def turn(
    folder: Path, recipe: str, who: str, on_wait: Callable[[str], None], stopped: Callable[[], bool]
) -> Iterator[int]:
    """Wait until nobody runs `recipe`, then hold it; yields the descriptor, for a child that may outlive this process.

    who: what others are told while they wait. Raises Cancelled when stopped() turns true before it is our turn.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / recipe, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        told = False
        while not _locked(descriptor):
            if stopped():
                raise Cancelled(f"stopped while {who} waited for its turn")
            if not told:
                on_wait(os.pread(descriptor, 1000, 0).decode(errors="replace"))
                told = True
            time.sleep(POLL_SECONDS)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, who.encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
