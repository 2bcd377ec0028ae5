"""LAMB (You et al. 2019, arXiv 1904.00962) as DeiT III was trained with it: apex's FusedLAMB, whose arithmetic timm's Lamb shares.

AdamW's step with weight decay inside it, scaled per tensor by |weight| / |step|; tensors without weight decay take it unscaled.
The clipping at a global norm of 1 that both hide within is the loop's (optimizer.clip_norm), before it comes here.
"""

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor


class Lamb(torch.optim.Optimizer):
    """State of each weight: step f32[], exp_avg and exp_avg_sq as the weight. Weights may be divided among processes (FSDP2)."""

    found_inf: Tensor | None = None
    """f32[] on the weights' device; where it is 1, nothing moves. As torch's fused optimizers have it."""

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        """params: groups, which may carry weight_decay (else 0) and anything else."""
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step from the gradients there are; nobody asks it to compute the loss again."""
        assert closure is None
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            updates = [self._update(weight, group) for weight in weights]
            ratios = trust_ratios(weights, updates) if group["weight_decay"] else [1.0] * len(weights)
            for weight, update, ratio in zip(weights, updates, ratios, strict=True):
                mine = local(weight)
                self._move(mine, mine - update * (ratio * group["lr"]))

    def _update(self, weight: Tensor, group: dict[str, Any]) -> Tensor:
        """This process's part of the step before its scaling; moves the averages."""
        state, (first, second) = self.state[weight], group["betas"]
        if not state:
            state["step"] = torch.zeros((), device=weight.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(weight), torch.zeros_like(weight)
        assert weight.grad is not None
        gradient, mean, square = local(weight.grad), local(state["exp_avg"]), local(state["exp_avg_sq"])
        self._move(state["step"], state["step"] + 1)
        self._move(mean, torch.lerp(mean, gradient, 1 - first))
        self._move(square, torch.addcmul(square * second, gradient, gradient, value=1 - second))
        step = state["step"].double()
        deviation = (square / (1 - second**step)).sqrt_().add_(group["eps"])
        update = (mean / (1 - first**step)).div_(deviation)
        return update.add_(local(weight), alpha=group["weight_decay"])

    def _move(self, old: Tensor, new: Tensor) -> None:
        """old becomes new, but where numbers that are not finite were found."""
        old.copy_(new if self.found_inf is None else torch.where(self.found_inf > 0, old, new))


def trust_ratios(weights: list[Tensor], updates: list[Tensor]) -> list[Tensor]:
    """f32[] each: |weight| / |update|, 1 where either is 0. Of divided weights the lengths of the whole: a collective."""
    lengths = torch.stack([torch.linalg.vector_norm(part) for part in [*map(local, weights), *updates]])
    if isinstance(divided := weights[0], DTensor):
        squares = lengths.square()
        dist.all_reduce(squares, group=divided.device_mesh.get_group())
        lengths = squares.sqrt()
    of_weights, of_updates = lengths.chunk(2)
    known = (of_weights > 0) & (of_updates > 0)
    return list(torch.where(known, of_weights / of_updates, 1.0).unbind())


def local(tensor: Tensor) -> Tensor:
    """This process's part, which shares its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
