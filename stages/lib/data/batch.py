"""A batch of images and everything random about them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:  # pretraining neither erases, mixes nor asks a teacher: those files are no reason to pretrain again
    from stages.lib.data.answers import Answers
    from stages.lib.data.erasing import Erasure
    from stages.lib.data.mixing import Mix


@dataclass(frozen=True)
class Batch:
    """One rank's part of a global batch."""

    images: Tensor
    """u8[B, 3, H, W], RGB."""
    labels: Tensor
    """i64[B]."""
    positions: Tensor
    """i64[B], places in the epoch's global order."""
    noise: Tensor | None = None
    """f32[B, L] uniform in [0, 1): the patches with the smallest stay visible (MAE)."""
    keep: Tensor | None = None
    """f32[B, depth, 2] uniform in [0, 1): a residual branch is dropped where it is below the block's rate."""
    erasures: tuple[tuple[int, Erasure], ...] = ()
    """(image in this batch, what covers it)."""
    mixes: tuple[Mix, ...] = ()
    """One per B / len(mixes) consecutive images; empty: no mixing."""
    answers: Answers | None = None
    """What a teacher said of these images some time ago; None: nobody asked it."""

    def to(self, device: torch.device) -> Batch:
        """The batch with its tensors on `device`; what is pinned travels while the host goes on."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin(self) -> Batch:
        """The batch in memory from which a GPU fetches by itself; what lies there already stays."""
        return self._each(Tensor.pin_memory)

    def used_on(self, stream: torch.cuda.Stream) -> None:
        """Its memory on the GPU is not used again before `stream` has come this far."""

        def note(tensor: Tensor) -> Tensor:
            tensor.record_stream(stream)
            return tensor

        self._each(note)

    def parts(self, count: int) -> Sequence[Batch]:
        """`count` equal consecutive parts, each with its own erasures and mixes. Raises ValueError where they are not whole."""
        size, mixes = len(self.images) // count, len(self.mixes) // count
        if len(self.images) % count or len(self.mixes) % count:
            raise ValueError(f"{len(self.images)} images in {len(self.mixes)} mixing groups are no {count} equal parts")
        return [self._part(slice(n * size, (n + 1) * size), slice(n * mixes, (n + 1) * mixes)) for n in range(count)]

    def _part(self, rows: slice, mixes: slice) -> Batch:
        erasures = tuple((n - rows.start, one) for n, one in self.erasures if rows.start <= n < rows.stop)
        part = self._each(lambda tensor: tensor[rows])
        return dataclasses.replace(part, erasures=erasures, mixes=self.mixes[mixes])

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """With every tensor changed."""
        changed: dict[str, Any] = {
            field.name: change(value)
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        if self.answers is not None:
            changed["answers"] = self.answers.each(change)
        return dataclasses.replace(self, **changed)
