"""Classification with mixed and smoothed labels: what the teacher, transfer and the student's own labels train on."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.lib.data.mixing import Mix, mix_targets
from stages.lib.data.pixels import classifier_pixels
from stages.lib.models.precision import wide

if TYPE_CHECKING:
    from stages.lib.data.batch import Batch

LogitsOf = Callable[[Any, Tensor, Tensor | None], Tensor]  # of the model given, whatever it is


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """f[B,C], f[B,C] with rows summing to 1 -> scalar: mean over the batch of -sum t log p."""
    return -(targets * functional.log_softmax(logits, dim=-1)).sum(-1).mean()


def binary_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """f[B,C], f[B,C] -> scalar: a class with a target above 0 is a full positive; mean over all B * C (DeiT III)."""
    return functional.binary_cross_entropy_with_logits(logits, (targets > 0).to(logits.dtype))


def targets_of(batch: "Batch", classes: int, smoothing: float) -> Tensor:
    """f32[B, classes]: smoothed one-hots, mixed as the images are, one mix per B / len(mixes) consecutive images."""
    mixes = batch.mixes or (Mix(1.0, None),)
    groups = batch.labels.reshape(len(mixes), -1)
    return torch.cat([mix_targets(labels, classes, smoothing, mix) for labels, mix in zip(groups, mixes, strict=True)])


class Classify(nn.Module):
    """Soft-target cross-entropy of one set of logits.

    `logits_of(model, pixels, keep)` picks them; `keep` is the loader's numbers for stochastic depth, None in eval mode.
    """

    def __init__(self, model: nn.Module, logits_of: LogitsOf, classes: int, smoothing: float) -> None:
        super().__init__()
        self.model, self.logits_of = model, logits_of
        self.classes, self.smoothing = classes, smoothing

    def forward(self, batch: "Batch") -> dict[str, Tensor]:
        """{"loss"}."""
        keep = batch.keep if self.model.training else None
        logits = wide(self.logits_of(self.model, classifier_pixels(batch), keep))
        return {"loss": soft_cross_entropy(logits, targets_of(batch, self.classes, self.smoothing))}
