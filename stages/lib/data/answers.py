"""What a teacher said of the images of a batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Answers:
    """Row i is about image i of the batch."""

    hard: Tensor
    """i64[B]: the class of the highest logit."""
    classes: Tensor | None = None
    """i64[B, k]: the classes of the k highest logits; None: only the decision is known."""
    log_probabilities: Tensor | None = None
    """f32[B, k]: natural logarithms of their probabilities at temperature 1."""
    log_rest: Tensor | None = None
    """f32[B]: natural logarithm of what all other classes have together; -inf where there are none."""

    def __len__(self) -> int:
        return len(self.hard)

    def __getitem__(self, part: slice) -> Answers:
        """About a part of the batch."""
        return self.each(lambda tensor: tensor[part])

    def to(self, device: torch.device) -> Answers:
        """On `device`; what is pinned travels while the host goes on."""
        return self.each(lambda tensor: tensor.to(device, non_blocking=True))

    def spread(self, classes: int) -> Tensor:
        """f32[B, classes]: log-probabilities at temperature 1, as good as logits to a softmax of any temperature.

        The rest is spread evenly over the classes that are not listed (as TinyViT does, Wu et al. 2022, arXiv 2207.10666).
        Raises ValueError where only decisions are known.
        """
        if self.classes is None or self.log_probabilities is None or self.log_rest is None:
            raise ValueError("only the teacher's decisions are known, and soft distillation needs its probabilities")
        unlisted = classes - self.classes.shape[1]
        each = self.log_rest - math.log(unlisted) if unlisted else self.log_rest
        return each[:, None].repeat(1, classes).scatter_(1, self.classes, self.log_probabilities)

    def each(self, change: Callable[[Tensor], Tensor]) -> Answers:
        """With every tensor changed."""
        soft = (self.classes, self.log_probabilities, self.log_rest)
        return Answers(change(self.hard), *(None if tensor is None else change(tensor) for tensor in soft))
