"""LARS: each matrix moves by a share of its own length (You, Gitman and Ginsburg 2017, arXiv 1708.03888), as in MAE's linear probe.

For a tensor w of more than one dimension with gradient g: g += weight_decay * w; g *= trust * |w| / |g|, or 1 where a length is
zero. Then for every tensor m = momentum * m + g; w -= lr * m. So vectors are neither decayed nor scaled.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


class Lars(torch.optim.Optimizer):
    """`found_inf` (set by the training loop on a GPU): while it is not 0 a step changes nothing."""

    def __init__(self, weights: Iterable[nn.Parameter], momentum: float, weight_decay: float, trust: float) -> None:
        super().__init__(weights, {"lr": 0.0, "momentum": momentum, "weight_decay": weight_decay, "trust": trust})
        self.found_inf: Tensor | None = None

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step of every tensor that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._move(weight, weight.grad, group)

    def _move(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        if weight.ndim > 1:
            gradient = gradient + group["weight_decay"] * weight
            gradient = gradient * trusted(weight, gradient, group["trust"])
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        momentum = state["momentum"] * group["momentum"] + gradient
        moved = weight - group["lr"] * momentum
        if self.found_inf is not None:
            bad = self.found_inf != 0
            momentum, moved = torch.where(bad, state["momentum"], momentum), torch.where(bad, weight, moved)
        state["momentum"].copy_(momentum)
        weight.copy_(moved)


def trusted(weight: Tensor, gradient: Tensor, trust: float) -> Tensor:
    """f[]: trust * |weight| / |gradient|, or 1 where either is zero; nothing waits for the device."""
    mine, theirs = weight.norm(), gradient.norm()
    usable = (mine > 0) & (theirs > 0)
    return torch.where(usable, trust * mine / torch.where(usable, theirs, 1.0), 1.0)
