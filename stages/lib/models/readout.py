"""What a linear probe trains: a batch norm without scale and shift, then one linear layer (MAE main_linprobe.py)."""

import torch
from torch import Tensor, nn

from stages.lib.models.precision import wide
from stages.lib.models.teacher import GroupedBatchNorm

EPS, STD = 1e-6, 0.01


class Readout(nn.Module):
    """f[B, features] -> f[B, classes] logits; statistics over groups of `group` consecutive images while it trains.

    First weights are truncated normal 0.01 from a generator of this seed, the bias is zero.
    """

    def __init__(self, features: int, classes: int, group: int, seed: int) -> None:
        super().__init__()
        self.norm = GroupedBatchNorm(nn.BatchNorm2d(features, eps=EPS, affine=False), group)
        self.linear = nn.Linear(features, classes)
        nn.init.trunc_normal_(self.linear.weight, std=STD, generator=torch.Generator().manual_seed(seed))
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Logits in at least single precision."""
        return wide(self.linear(self.norm(features[:, :, None, None])[:, :, 0, 0]))
