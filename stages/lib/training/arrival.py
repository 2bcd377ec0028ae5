"""Batches on their way to the device: the next one travels while the present one is computed."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from stages.lib.data.batch import Batch


def arriving(batches: Iterator[Batch], device: torch.device) -> Generator[Batch]:
    """The batches, on `device`. A GPU fetches one ahead on a stream of its own; to a CPU nothing has to travel."""
    if device.type != "cuda":
        yield from (batch.to(device) for batch in batches)
        return
    aside = torch.cuda.Stream(device)
    coming: Batch | None = None
    for batch in batches:
        with torch.cuda.stream(aside):
            moved = batch.to(device)
        if coming is not None:
            yield coming
        # The steps of `coming` are queued; what follows in that queue waits until `moved` has arrived, the host does not.
        torch.cuda.current_stream(device).wait_stream(aside)
        moved.used_on(torch.cuda.current_stream(device))
        coming = moved
    if coming is not None:
        yield coming
