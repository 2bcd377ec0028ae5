"""MAE's objective: the hidden patches' pixels, normalised patch by patch or not (He et al. 2021, section 3)."""

from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional

from stages.lib.data.normalise import normalise
from stages.lib.models.mae import MAE, patchify, pick

if TYPE_CHECKING:
    from stages.lib.data.batch import Batch


def target(images: Tensor, patch: int, norm_pix: bool) -> Tensor:
    """f[B,3,H,W] normalised images -> f[B,L,patch*patch*3], what the decoder is to predict."""
    return wanted(patchify(images, patch), norm_pix)


def wanted(patches: Tensor, norm_pix: bool) -> Tensor:
    """f[B,M,patch*patch*3] -> the same shape: these patches as the decoder is to predict them.

    norm_pix: each patch minus its mean, over the root of its variance + 1e-6, both over all its values jointly; the
    variance divides by n - 1.
    """
    if not norm_pix:
        return patches
    mean, variance = patches.mean(-1, keepdim=True), patches.var(-1, keepdim=True, correction=1)
    return (patches - mean) / (variance + 1e-6).sqrt()


class Reconstruct(nn.Module):
    """Mean squared error over the hidden patches of a batch; nothing is predicted, or normalised, for visible ones."""

    def __init__(self, mae: MAE, norm_pix: bool) -> None:
        super().__init__()
        self.mae, self.norm_pix = mae, norm_pix

    def forward(self, batch: "Batch") -> dict[str, Tensor]:
        """{"loss"}; the batch carries its masking noise. Every image hides as many patches, so one mean is the mean of means."""
        assert batch.noise is not None
        patches = patchify(normalise(batch.images), self.mae.patch_size)
        predicted, hidden = self.mae.predict_hidden(patches, batch.noise)
        return {"loss": functional.mse_loss(predicted, wanted(pick(patches, hidden), self.norm_pix))}
