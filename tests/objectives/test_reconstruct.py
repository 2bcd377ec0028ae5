"""MAE's loss by hand and against loops; the usual mistakes fail the same comparison."""

import numpy as np
import pytest
import torch

from stages.lib.data.batch import Batch
from stages.lib.data.normalise import normalise
from stages.lib.models.mae import MAE, patchify
from stages.lib.objectives.reconstruct import Reconstruct, target
from stages.lib.params.pretrain import Decoder
from stages.lib.params.vit import ViT


def test_target__plain_is_the_patches() -> None:
    """No normalisation, no copy of another order."""
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(target(images, 4, False), patchify(images, 4))


def by_definition(images: torch.Tensor, patch: int, ddof: int, inside: bool) -> np.ndarray:
    """Patch by patch in numpy: all values of a patch together."""
    patches = patchify(images, patch).numpy()
    out = np.empty_like(patches)
    for b, row in enumerate(patches):
        for i, values in enumerate(row):
            variance = ((values - values.mean()) ** 2).sum() / (len(values) - ddof)
            root = np.sqrt(variance + 1e-6) if inside else np.sqrt(variance) + 1e-6
            out[b, i] = (values - values.mean()) / root
    return out


def test_target__normalised_with_unbiased_variance_plus_1e_6() -> None:
    """Biased variance, and 1e-6 added outside the root, are told apart, on patches with little contrast."""
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64) * 1e-2 + 0.3
    ours = target(images, 4, True).numpy()
    assert np.abs(ours - by_definition(images, 4, ddof=1, inside=True)).max() < 1e-10
    assert np.abs(ours - by_definition(images, 4, ddof=0, inside=True)).max() > 1e-3
    assert np.abs(ours - by_definition(images, 4, ddof=1, inside=False)).max() > 1e-3


def test_target__flat_patch_is_zero() -> None:
    """No division by zero."""
    assert target(torch.full((1, 3, 4, 4), 0.7), 4, True).abs().max() < 1e-3


@pytest.mark.parametrize("norm_pix", [False, True])
def test_reconstruct__mean_square_over_hidden_patches_of_normalised_images(norm_pix: bool) -> None:
    """Equal to a sum over loops; over all patches it is another number; gradients reach everything that trains."""
    torch.manual_seed(0)
    mae = MAE(12, ViT(patch_size=4, width=24, depth=1, heads=3), Decoder(width=16, depth=1, heads=2), 0.6)
    images = torch.randint(256, (2, 3, 12, 12), dtype=torch.uint8)
    batch = Batch(images, torch.zeros(2, dtype=torch.int64), torch.arange(2), noise=torch.rand(2, 9))
    loss = Reconstruct(mae, norm_pix)(batch)["loss"]
    assert batch.noise is not None
    predicted, mask = mae(normalise(images), batch.noise)
    wanted = target(normalise(images), 4, norm_pix)
    errors = [
        ((predicted[b, i] - wanted[b, i]) ** 2).mean().item()
        for b in range(2)
        for i in range(9)
        if mask[b, i].item() == 1
    ]
    assert len(errors) == 2 * 6 and abs(loss.item() - np.mean(errors)) < 1e-5
    assert abs(loss.item() - ((predicted - wanted) ** 2).mean().item()) > 1e-4
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in mae.parameters() if p.requires_grad)
