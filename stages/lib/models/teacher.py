"""The RegNetY teacher (Radosavovic et al. 2020, arXiv 2003.13678), from timm, and batch statistics by position."""

import functools
from collections.abc import Callable
from typing import Any, cast

import timm
import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from stages.lib.params.teacher import RegNetSizes


def model_args(sizes: RegNetSizes | None) -> dict[str, Any]:
    """Overrides of timm's RegNetCfg, as timm.create_model and config.json take them; {} for the architecture's own."""
    return sizes.model_dump() if sizes else {}


def create(architecture: str, sizes: RegNetSizes | None, classes: int) -> nn.Module:
    """timm's RegNetY with timm's initialisation, from torch's global generator: `torch.manual_seed` first."""
    return timm.create_model(architecture, num_classes=classes, **model_args(sizes))


def compile_blocks(network: nn.Module, inference: bool = False) -> None:
    """Compile each block of a timm RegNet, in place, for steps with gradients; inference: for those without as well.

    Blocks of equal shape share one graph: two a stage. Training leaves its validation alone, whose batches are of other sizes.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 32)  # the default is 8
    step = torch.compile(_plain, dynamic=False)
    for stage in (network.s1, network.s2, network.s3, network.s4):
        for block in cast(nn.Module, stage).children():
            block.forward = functools.partial(_either, step, inference, block)  # type: ignore[method-assign]


def _plain(block: nn.Module, x: Tensor) -> Tensor:
    return cast(Tensor, type(block).forward(block, x))


def _either(step: Callable[[nn.Module, Tensor], Tensor], inference: bool, block: nn.Module, x: Tensor) -> Tensor:
    return step(block, x) if inference or torch.is_grad_enabled() else _plain(block, x)


class GroupedBatchNorm(BatchNormAct2d):
    """Batch norm (with timm's activation, if any) whose training statistics run over `group` consecutive images.

    Running statistics take the groups in order, so a batch of two groups equals two batches of one. Evaluation and the
    state dict are as before. Raises ValueError if a training batch is not whole groups.
    """

    def __init__(self, norm: nn.BatchNorm2d, group: int) -> None:
        super().__init__(norm.num_features, norm.eps, apply_act=False)
        self.group, self.momentum = group, norm.momentum
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
        return torch.cat([super(GroupedBatchNorm, self).forward(part) for part in x.split(self.group)])


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
