"""A batch of images and everything random about them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
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
        moved: dict[str, Any] = {
            field.name: value.to(device, non_blocking=True)
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        if self.answers is not None:
            moved["answers"] = self.answers.to(device)
        return dataclasses.replace(self, **moved)

    def parts(self, count: int) -> Sequence[Batch]:
        """`count` equal consecutive parts, each with its own erasures and mixes. Raises ValueError where they are not whole."""
        size, mixes = len(self.images) // count, len(self.mixes) // count
        if len(self.images) % count or len(self.mixes) % count:
            raise ValueError(f"{len(self.images)} images in {len(self.mixes)} mixing groups are no {count} equal parts")
        return [self._part(slice(n * size, (n + 1) * size), slice(n * mixes, (n + 1) * mixes)) for n in range(count)]

    def _part(self, rows: slice, mixes: slice) -> Batch:
        kept: dict[str, Any] = {
            field.name: value[rows]
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        if self.answers is not None:
            kept["answers"] = self.answers[rows]
        erasures = tuple((n - rows.start, one) for n, one in self.erasures if rows.start <= n < rows.stop)
        return dataclasses.replace(self, **kept, erasures=erasures, mixes=self.mixes[mixes])
