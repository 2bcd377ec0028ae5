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


def loss_of_the_paper(mae: MAE, images: torch.Tensor, noise: torch.Tensor, norm_pix: bool) -> torch.Tensor:
    """Every patch embedded by the convolution, every patch decoded in place, the mean taken over masked ones: written from the
    paper's description, one image at a time, on timm's blocks."""
    losses = []
    for image, numbers in zip(images, noise, strict=True):
        tokens = mae.patch_embed(image[None])[0] + mae.pos_embed[0, 1:]
        seen = numbers.argsort()[: mae.keep].tolist()
        x = torch.cat([mae.cls_token[0] + mae.pos_embed[0, :1], tokens[seen]])[None]
        for block in mae.blocks:
            x = block(x)
        x = mae.decoder_embed(mae.norm(x))[0]
        full = mae.mask_token[0].repeat(1 + len(numbers), 1)
        full[0] = x[0]
        for place, token in zip(seen, x[1:], strict=True):
            full[1 + place] = token
        full = (full + mae.decoder_pos_embed[0])[None]
        for block in mae.decoder_blocks:
            full = block(full)
        predicted = mae.decoder_pred(mae.decoder_norm(full))[0, 1:]
        wanted = patchify(image[None], mae.patch_size)[0]
        if norm_pix:
            wanted = (wanted - wanted.mean(1, keepdim=True)) / (wanted.var(1, keepdim=True) + 1e-6).sqrt()
        masked = [place for place in range(len(numbers)) if place not in seen]
        losses.append((predicted[masked] - wanted[masked]).square().mean(1).mean())
    return torch.stack(losses).mean()


@pytest.mark.parametrize("norm_pix", [False, True])
def test_reconstruct__is_the_published_arithmetic_in_float64(norm_pix: bool) -> None:
    """The loss to 1e-12, every gradient to 1e-10; another mask is told apart."""
    torch.manual_seed(0)
    mae = MAE(12, ViT(patch_size=4, width=24, depth=2, heads=3), Decoder(width=16, depth=2, heads=2), 0.6).double()
    pixels, noise = torch.randint(256, (3, 3, 12, 12), dtype=torch.uint8), torch.rand(3, 9)

    def batch(noise: torch.Tensor) -> Batch:
        return Batch(pixels, torch.zeros(3, dtype=torch.int64), torch.arange(3), noise=noise)

    def gradients(loss: torch.Tensor) -> list[torch.Tensor]:
        return list(torch.autograd.grad(loss, [p for p in mae.parameters() if p.requires_grad]))

    class Wide(Reconstruct):
        """The same objective on pixels in double precision."""

        def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("stages.lib.objectives.reconstruct.normalise", lambda images: normalise(images).double())
                return super().forward(batch)

    ours = Wide(mae, norm_pix)(batch(noise))["loss"]
    theirs = loss_of_the_paper(mae, normalise(pixels).double(), noise, norm_pix)
    assert abs(ours - theirs) < 1e-12
    for one, other in zip(gradients(ours), gradients(theirs), strict=True):
        assert (one - other).abs().max() < 1e-10
    assert abs(Wide(mae, norm_pix)(batch(noise.flip(1)))["loss"] - theirs) > 1e-4
