"""MAE's objective: the hidden patches' pixels, normalised patch by patch or not (He et al. 2021, section 3)."""

from typing import TYPE_CHECKING

from torch import Tensor, nn

from stages.lib.data.normalise import normalise
from stages.lib.models.mae import MAE, patchify

if TYPE_CHECKING:
    from stages.lib.data.batch import Batch


def target(images: Tensor, patch: int, norm_pix: bool) -> Tensor:
    """f[B,3,H,W] normalised images -> f[B,L,patch*patch*3], what the decoder is to predict.

    norm_pix: each patch minus its mean, over the root of its variance + 1e-6, both over all its values jointly; the
    variance divides by n - 1.
    """
    patches = patchify(images, patch)
    if not norm_pix:
        return patches
    mean, variance = patches.mean(-1, keepdim=True), patches.var(-1, keepdim=True, correction=1)
    return (patches - mean) / (variance + 1e-6).sqrt()


def masked_mean(per_patch: Tensor, mask: Tensor) -> Tensor:
    """Mean of f[B,L] over the hidden patches (mask f[B,L], 1 = hidden); visible ones count nothing."""
    return (per_patch * mask).sum() / mask.sum()


class Reconstruct(nn.Module):
    """Mean squared error over the hidden patches of a batch."""

    def __init__(self, mae: MAE, norm_pix: bool) -> None:
        super().__init__()
        self.mae, self.norm_pix = mae, norm_pix

    def forward(self, batch: "Batch") -> dict[str, Tensor]:
        """{"loss"}; the batch carries its masking noise."""
        assert batch.noise is not None
        images = normalise(batch.images)
        predicted, mask = self.mae(images, batch.noise)
        squares = (predicted - target(images, self.mae.patch_size, self.norm_pix)) ** 2
        return {"loss": masked_mean(squares.mean(-1), mask)}
