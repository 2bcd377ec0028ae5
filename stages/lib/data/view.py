"""What one view of an image will be, drawn before a byte of the image is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stages.lib.data.crop import Frame

if TYPE_CHECKING:  # pretraining neither erases nor knows RandAugment: those files are no reason to pretrain again
    from stages.lib.data.colour import Change
    from stages.lib.data.erasing import Erasure
    from stages.lib.data.randaugment import Step


@dataclass(frozen=True)
class Drawn:
    """A pure function of (seed, epoch, position) and the image's size."""

    frame: Frame
    steps: tuple[Step, ...] | tuple[Change, ...] = ()
    """RandAugment, or changes of colour, on the framed pixels."""
    erasure: Erasure | None = None
    """Pasted once the batch is normalised."""
