"""The RegNetY teacher (Radosavovic et al. 2020, arXiv 2003.13678), from timm, and batch statistics by position."""

import functools
from collections.abc import Callable
from typing import Any, cast

import timm
import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn import functional

from stages.lib.params.teacher import RegNetSizes


def model_args(sizes: RegNetSizes | None) -> dict[str, Any]:
    """Overrides of timm's RegNetCfg, as timm.create_model and config.json take them; {} for the architecture's own."""
    return sizes.model_dump() if sizes else {}


def create(architecture: str, sizes: RegNetSizes | None, classes: int) -> nn.Module:
    """timm's RegNetY with timm's initialisation, from torch's global generator: `torch.manual_seed` first."""
    return timm.create_model(architecture, num_classes=classes, **model_args(sizes))


def compile_blocks(network: nn.Module) -> None:
    """Compile each block of a timm RegNet, in place, for steps with gradients; those without run as they are.

    Blocks of equal shape share one graph: two a stage. Training leaves its validation alone, whose batches are of other sizes.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 32)  # the default is 8
    step = torch.compile(_plain, dynamic=False)
    for stage in (network.s1, network.s2, network.s3, network.s4):
        for block in cast(nn.Module, stage).children():
            block.forward = functools.partial(_either, step, block)  # type: ignore[method-assign]


def _plain(block: nn.Module, x: Tensor) -> Tensor:
    return cast(Tensor, type(block).forward(block, x))


def _either(step: Callable[[nn.Module, Tensor], Tensor], block: nn.Module, x: Tensor) -> Tensor:
    return step(block, x) if torch.is_grad_enabled() else _plain(block, x)


class GroupedBatchNorm(BatchNormAct2d):
    """Batch norm (with timm's activation, if any) whose training statistics run over `group` consecutive images.

    Running statistics wait until `settle` takes the groups of a whole step in order, so a batch of two groups equals two batches of
    one, in one process or two. Evaluation and the state dict are as before. Raises ValueError if a training batch is not
    whole groups.
    """

    def __init__(self, norm: nn.BatchNorm2d, group: int) -> None:
        super().__init__(norm.num_features, norm.eps, apply_act=False)
        self.group, self.momentum = group, norm.momentum
        self.seen: list[Tensor] = []
        """f32[2, C] of each group since the last `settle`: mean and unbiased variance."""
        self.act, self.drop = getattr(norm, "act", nn.Identity()), getattr(norm, "drop", nn.Identity())
        self._parameters.update(norm._parameters)
        self._buffers.update(norm._buffers)
        self.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        """f[B,C,H,W] -> f[B,C,H,W]."""
        if not self.training:
            return super().forward(x)
        if len(x) % self.group:
            raise ValueError(f"a batch of {len(x)} images is not whole groups of {self.group} (norm_group)")
        normed: Tensor = self.drop(torch.cat([self._by_itself(part) for part in x.split(self.group)]))
        return self.act(normed)

    def _by_itself(self, x: Tensor) -> Tensor:
        """One group normalised by its own statistics, which are noted."""
        assert self.running_mean is not None
        statistics = torch.zeros(2, self.num_features, dtype=self.running_mean.dtype, device=x.device)
        # momentum 1 makes torch put the batch's own mean and unbiased variance where running ones would be
        normed = functional.batch_norm(x, statistics[0], statistics[1], self.weight, self.bias, True, 1.0, self.eps)
        self.seen.append(statistics)
        return normed

    def settle(self, groups: Tensor) -> None:
        """Take groups f32[G, 2, C] into the running statistics, one after the other."""
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        for mean, variance in groups:
            self.num_batches_tracked += 1
            new = 1 / self.num_batches_tracked if self.momentum is None else self.momentum  # None: an average of all
            self.running_mean.mul_(1 - new).add_(mean * new)
            self.running_var.mul_(1 - new).add_(variance * new)


@torch.no_grad()
def settle(model: nn.Module, rows_of_all: Callable[[Tensor], Tensor]) -> None:
    """After all passes of a step: running statistics of every norm take the step's groups in the order of their positions.

    rows_of_all: f32[G, N] of this process -> f32[world * G, N] of all, in their order; one call for all norms together.
    """
    norms = [module for module in model.modules() if isinstance(module, GroupedBatchNorm)]
    if not any(norm.seen for norm in norms):
        return
    mine = torch.cat([torch.stack(norm.seen).flatten(1) for norm in norms], dim=1)
    parts = rows_of_all(mine).split([2 * norm.num_features for norm in norms], dim=1)
    for norm, part in zip(norms, parts, strict=True):
        norm.settle(part.unflatten(1, (2, -1)))
        norm.seen.clear()


def group_norm_statistics(model: nn.Module, group: int) -> nn.Module:
    """Give every batch norm inside `model` statistics over groups of `group` images, in place, and return the model.

    Parameters, buffers and their names stay, so the state dict loads into plain timm. Other than 2-D norms: ValueError.
    """
    for name, norm in list(model.named_modules()):
        if not isinstance(norm, nn.modules.batchnorm._BatchNorm):
            continue
        if not isinstance(norm, nn.BatchNorm2d):
            raise ValueError(f"{name} is a {type(norm).__name__}; only 2-D batch norms are grouped")
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, GroupedBatchNorm(norm, group))
    return model
