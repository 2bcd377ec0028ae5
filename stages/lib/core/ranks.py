"""Which part of a global batch this process computes."""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Rank:
    """Process `index` of `world`; the standard rendezvous variables say which."""

    index: int = 0
    world: int = 1

    def slice(self, batch_size: int) -> slice:
        """This rank's contiguous part of a global batch. Raises ValueError with the nearest sizes that divide."""
        if batch_size % self.world:
            low = batch_size // self.world * self.world
            raise ValueError(
                f"batch_size {batch_size} is not a multiple of {self.world} ranks; try {low or self.world} or {low + self.world}"
            )
        share = batch_size // self.world
        return slice(self.index * share, (self.index + 1) * share)


def current() -> Rank:
    """RANK and WORLD_SIZE as torchrun sets them; one process without."""
    return Rank(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))
