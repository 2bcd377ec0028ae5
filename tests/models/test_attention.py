"""Attention maps: a hand-made model that looks where it was told to, timm's own weights, and what is left for the patches."""

import pytest
import torch
from timm.models.vision_transformer import Block
from torch import Tensor

from stages.lib.models import deit
from stages.lib.models.attention import attention
from stages.lib.params.vit import ViT
from tests.models.test_deit import lively, pixels

GRID, SHARP = 3, 50.0


def looking(at: int, dist_at: int) -> deit.VisionTransformer:
    """Positions alone decide: the class token is like patch `at`, the distillation token like patch `dist_at`, no other is."""
    model = deit.create(ViT(patch_size=4, width=8, depth=1, heads=1), 4 * GRID, 2, distilled=True).double()
    with torch.no_grad():
        for parameter in (*deit.prefix(model), model.patch_embed.proj.weight, model.patch_embed.proj.bias):
            parameter.zero_()
        places = deit.positions_of(model)
        places.zero_()
        places[..., 4], places[..., 5] = 1, -1
        for token, direction in ((0, 0), (2 + at, 0), (1, 2), (2 + dist_at, 2)):
            places[0, token] = 0
            places[0, token, direction], places[0, token, direction + 1] = 1, -1
        layer = model.blocks[0].attn
        layer.qkv.weight.zero_()
        for direction in (0, 2):  # query and key say how much of a direction a token has; all others are 0
            layer.qkv.weight[direction, direction] = SHARP
            layer.qkv.weight[8 + direction, direction] = SHARP
    return model


def test_attention__a_model_made_to_look_at_one_patch_does_in_row_and_column() -> None:
    """Each token gives half to itself and half to its patch: row 1, column 2 for one, row 2, column 0 for the other."""
    found = attention(looking(at=1 * GRID + 2, dist_at=2 * GRID + 0), pixels(2, 4 * GRID))
    wanted = torch.zeros(2, 2, GRID, GRID, dtype=torch.float64)
    wanted[:, 0, 1, 2], wanted[:, 1, 2, 0] = 0.5, 0.5
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)


def of_timm(model: deit.VisionTransformer, images: Tensor) -> Tensor:
    """What timm's own unfused attention hands to its dropout in the last block: f[B,heads,N,N]."""
    seen: list[Tensor] = []
    for block in model.blocks:
        assert isinstance(block, Block)
        block.attn.fused_attn = False
    hook = model.blocks[-1].attn.attn_drop.register_forward_hook(lambda _module, _given, weights: seen.append(weights))
    with torch.no_grad():
        model.eval()(images)
    hook.remove()
    return seen[0]


@pytest.mark.parametrize("class_position", [True, False])
def test_attention__of_deit_iii_is_timms_too(class_position: bool) -> None:
    """LayerScale, and a class token without a position."""
    torch.manual_seed(2)
    vit = ViT(patch_size=4, width=24, depth=2, heads=3, layer_scale=0.5, class_position=class_position)
    model = deit.create(vit, 12, 5, distilled=False).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.3)
    images = pixels()
    wanted = of_timm(model, images).mean(1)[:, :1, 1:].unflatten(2, (3, 3))
    torch.testing.assert_close(attention(model, images), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("distilled", [False, True])
def test_attention__is_the_mean_over_heads_of_what_timm_computes(distilled: bool) -> None:
    """Every token before the patches has its map, which sums to what those tokens leave; one head alone is told apart."""
    model, images = lively(distilled), pixels()
    tokens = 2 if distilled else 1
    found, theirs = attention(model, images), of_timm(model, images)
    wanted = theirs.mean(1)[:, :tokens, tokens:].unflatten(2, (3, 3))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    assert found.shape == (3, tokens, 3, 3) and not found.requires_grad
    assert (found - theirs[:, 0, :tokens, tokens:].unflatten(2, (3, 3))).abs().max() > 1e-3
    left = theirs.mean(1)[:, :tokens, :tokens].sum(-1)
    torch.testing.assert_close(found.sum((2, 3)), 1 - left, rtol=0, atol=1e-12)
    assert left.min() > 1e-3


def test_attention__single_precision_at_least_and_the_model_as_it_was() -> None:
    """A model in bfloat16 gives float32 maps; training mode and gradients of the weights are left alone."""
    model = lively(True).train().bfloat16()
    found = attention(model, pixels().bfloat16())
    assert found.dtype == torch.float32 and model.training
    assert all(weight.grad is None for weight in model.parameters())
