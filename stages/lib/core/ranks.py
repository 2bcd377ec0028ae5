"""Which part of a global batch this process computes."""

import os
from dataclasses import dataclass

from stages.lib.core.outcome import Refusal


@dataclass(frozen=True)
class Rank:
    """Process `index` of `world`; the standard rendezvous variables say which."""

    index: int = 0
    world: int = 1

    def slice(self, batch_size: int) -> slice:
        """This rank's contiguous part of a global batch. Raises Refusal with the nearest sizes that divide."""
        if batch_size % self.world:
            low = batch_size // self.world * self.world
            raise Refusal(
                f"batch_size {batch_size} is not a multiple of {self.world} ranks; try {low or self.world} or {low + self.world}"
            )
        share = batch_size // self.world
        return slice(self.index * share, (self.index + 1) * share)

    def share(self, count: int) -> range:
        """This rank's contiguous part of 0..count-1: sizes differ by one at most; a part may be empty, but the first's last."""
        start, stop = (-(-count * index // self.world) for index in (self.index, self.index + 1))
        return range(start, stop)


def current() -> Rank:
    """RANK and WORLD_SIZE as torchrun sets them; one process without."""
    return Rank(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


def local() -> Rank:
    """The same among the processes of this machine: LOCAL_RANK and LOCAL_WORLD_SIZE."""
    return Rank(int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def first() -> bool:
    """Whether this is the process that writes what all have computed."""
    return current().index == 0
