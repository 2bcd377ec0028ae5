"""Multiply-accumulates: published figures, and a counter that watches the models run."""

import pytest
import timm
import torch
from torch import nn

from stages.lib.models import deit, flops, teacher
from stages.lib.models.mae import MAE
from stages.lib.models.mae_flops import mae_macs
from stages.lib.params.pretrain import Decoder
from stages.lib.params.vit import ViT

TI, S, B = ((192, 3), (384, 6), (768, 12))
LIGHT = Decoder(width=512, depth=8, heads=16)


def vit(width: int, heads: int, depth: int = 12, patch: int = 16) -> ViT:
    return ViT(patch_size=patch, width=width, depth=depth, heads=heads)


@pytest.mark.parametrize(
    ("size", "image", "plain", "distilled"),
    [(TI, 224, 1.254, 1.261), (S, 224, 4.599, 4.624), (B, 224, 17.564, 17.657), (B, 384, 55.484, 55.591)],
)
def test_vit__published(size: tuple[int, int], image: int, plain: float, distilled: float) -> None:
    """GMAC of DeiT's Table and its distilled models."""
    assert flops.vit_macs(vit(*size), image, 1000, False) / 1e9 == pytest.approx(plain, abs=6e-4)
    assert flops.vit_macs(vit(*size), image, 1000, True) / 1e9 == pytest.approx(distilled, abs=6e-4)


@pytest.mark.parametrize(
    ("encoder", "gmac"),
    [(vit(768, 12), 9.781), (vit(1024, 16, 24), 20.756), (vit(1280, 16, 32, 14), 48.562)],
)
def test_mae__of_the_three_sizes(encoder: ViT, gmac: float) -> None:
    """With 75 % hidden; training ViT-B costs 58.7 GFLOP an image."""
    macs = mae_macs(encoder, LIGHT, 224, 0.75)
    assert macs / 1e9 == pytest.approx(gmac, abs=1e-3)
    if encoder.width == 768:
        assert flops.training_flops(macs) / 1e9 == pytest.approx(58.7, abs=0.05)
    assert mae_macs(encoder, LIGHT, 224, 0.5) > 1.1 * macs  # control: less hidden, more work


def test_counted__regnety_and_distilled_deit() -> None:
    """RegNetY-16GF 15.912 GMAC; the formula and the counter agree on a transformer."""
    with torch.device("meta"):
        assert flops.counted_macs(teacher.create("regnety_160", None, 1000), 224) / 1e9 == pytest.approx(
            15.912, abs=6e-4
        )
        model = timm.create_model("deit_tiny_distilled_patch16_224")
    assert flops.counted_macs(model, 224) == flops.vit_macs(vit(*TI), 224, 1000, True)


def test_counted__leaves_the_network_as_it_was() -> None:
    torch.manual_seed(0)
    model = deit.create(vit(24, 3, 2, 4), 8, 5, False, 0.1).train()
    before = torch.get_rng_state()
    assert flops.counted_macs(model, 8) == flops.vit_macs(vit(24, 3, 2, 4), 8, 5, False)
    assert model.training and torch.equal(before, torch.get_rng_state())
    assert all(weight.device.type == "cpu" for weight in model.parameters())


def test_mae__formula_is_what_the_published_arithmetic_counts() -> None:
    """The counter on a forward pass that decodes everything; embedding visible patches alone is what ours leaves out."""
    sizes, decoder = vit(24, 3, 2, 4), Decoder(width=16, depth=1, heads=2)

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mae = MAE(16, sizes, decoder, 0.75)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.mae(images, torch.empty(1, 16, device=images.device))[0]

    not_embedded = (16 - 4) * 24 * 48  # hidden patches, which ours leaves out and the formula counts
    assert flops.counted_macs(Whole(), 16) == mae_macs(sizes, decoder, 16, 0.75) - not_embedded
