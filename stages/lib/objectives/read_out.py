"""The linear probe's objective: plain cross-entropy of a readout on features that do not move (He et al. 2021, Table 10)."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.lib.data.normalise import normalise

if TYPE_CHECKING:
    from stages.lib.data.batch import Batch


class ReadOut(nn.Module):
    """features: f[B,3,H,W] normalised -> f[B,D]. No submodule: parameters and checkpoints are the readout's alone."""

    def __init__(self, features: Callable[[Tensor], Tensor], readout: nn.Module) -> None:
        super().__init__()
        self.features, self.readout = features, readout

    def forward(self, batch: "Batch") -> dict[str, Tensor]:
        """{"loss"}: no smoothing, no mixing."""
        with torch.no_grad():
            features = self.features(normalise(batch.images))
        return {"loss": functional.cross_entropy(self.readout(features), batch.labels)}
