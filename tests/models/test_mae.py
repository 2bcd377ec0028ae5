"""The masked autoencoder against an independent numpy forward, published counts and the published initialisation."""

import numpy as np
import pytest
import torch
from torch import nn

from stages.lib.models.mae import MAE, patchify, unpatchify, visible
from stages.lib.params.pretrain import Decoder
from stages.lib.params.vit import ViT
from tests.models.reference import Choices, block, embed, layer_norm, linear, weights_of

VIT, DECODER = ViT(patch_size=4, width=24, depth=2, heads=3), Decoder(width=16, depth=1, heads=2)
PUBLISHED = {  # recipes 1.1: encoder, decoder, total, trainable
    "base": (ViT(patch_size=16, width=768, depth=12, heads=12), 85_798_656, 26_109_184, 111_907_840, 111_655_680),
    "large": (ViT(patch_size=16, width=1024, depth=24, heads=16), 303_301_632, 26_240_256, 329_541_888, 329_239_296),
    "huge": (ViT(patch_size=14, width=1280, depth=32, heads=16), 630_764_800, 26_309_708, 657_074_508, 656_613_964),
}


def lively(mae: MAE) -> MAE:
    """In float64 with weights that make every part of the forward pass matter."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in mae.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape) * 0.3)
    return mae.double()


@pytest.mark.parametrize(
    ("patches", "ratio", "kept"),
    [
        (196, 0.75, 49),
        (196, 0.9, 19),
        (256, 0.8, 51),
        (25, 0.8, 4),
        (100, 0.8, 19),
        (100, 0.9, 9),
        (400, 0.9, 39),
        (10, 0.9, 0),
    ],
)
def test_visible__truncates_in_double_precision(patches: int, ratio: float, kept: int) -> None:
    """recipes 2.1: also where the product should be whole."""
    assert visible(patches, ratio) == kept


def test_patchify__row_column_channel_within_row_major_patches() -> None:
    """A 4 x 4 image of 2 x 2 patches whose pixel values say channel, row and column."""
    image = torch.tensor([[[c * 100 + r * 10 + k for k in range(4)] for r in range(4)] for c in range(3)])[None]
    assert patchify(image, 2)[0, 1].tolist() == [2, 102, 202, 3, 103, 203, 12, 112, 212, 13, 113, 213]
    assert patchify(image, 2)[0, 2, :3].tolist() == [20, 120, 220]


def test_unpatchify__undoes_patchify() -> None:
    """Bit for bit; sizes that do not divide and counts that are no square are refused."""
    images = torch.randn(2, 3, 12, 12)
    assert torch.equal(unpatchify(patchify(images, 4), 4), images)
    with pytest.raises(ValueError, match="10x12"):
        patchify(torch.zeros(1, 3, 10, 12), 4)
    with pytest.raises(ValueError, match="6 patches"):
        unpatchify(torch.zeros(1, 6, 48), 4)


def test_encode__keeps_the_smallest_noise_in_its_order() -> None:
    """Eight hidden, equal numbers in order of place; restore puts everything back."""
    mae = MAE(12, VIT, DECODER, 0.7)
    noise = torch.tensor([[0.9, 0.2, 0.5, 0.1, 0.7, 0.6, 0.3, 0.8, 0.4], [0.5] * 9])
    _, mask, restore, kept = mae.encode(torch.randn(2, 3, 12, 12), noise)
    assert kept.tolist() == [[3, 1], [0, 1]]
    assert mask.tolist() == [[1, 0, 1, 0, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1, 1, 1, 1]]
    assert restore[0].tolist() == [8, 1, 4, 0, 6, 5, 2, 7, 3] and restore[1].tolist() == list(range(9))


def by_definition(mae: MAE, images: np.ndarray, noise: np.ndarray, choices: Choices) -> np.ndarray:
    """Predicted patches f64[B,L,P]: image by image, patch by patch."""
    w = weights_of(mae)
    tokens = embed(images, w) + w["pos_embed"][:, 1:]
    predictions = []
    for patches, numbers in zip(tokens, noise, strict=True):
        kept = np.argsort(numbers, kind="stable")[: mae.keep]
        x = np.concatenate([w["cls_token"][0], patches[kept]])[None]
        for index in range(VIT.depth):
            x = block(x, w, f"blocks.{index}", VIT.heads, choices)
        x = linear(layer_norm(x, w, "norm", choices), w, "decoder_embed")
        full = np.repeat(w["mask_token"], len(patches) + 1, axis=1)
        full[:, 0], full[:, kept + 1] = x[:, 0], x[:, 1:]
        full = full + w["decoder_pos_embed"]
        for index in range(DECODER.depth):
            full = block(full, w, f"decoder_blocks.{index}", DECODER.heads, choices)
        predictions.append(linear(layer_norm(full, w, "decoder_norm", choices), w, "decoder_pred")[0, 1:])
    return np.stack(predictions)


def test_forward__equals_an_independent_one_and_no_wrong_variant() -> None:
    """1e-12 in float64; LayerNorm eps 1e-5 and the tanh GELU are told apart; float32 agrees within rounding."""
    mae = lively(MAE(12, VIT, DECODER, 0.6))
    images, noise = torch.randn(3, 3, 12, 12, dtype=torch.float64), torch.rand(3, 9)
    predicted = mae(images, noise)[0].detach().numpy()

    def difference(choices: Choices) -> float:
        return float(np.abs(predicted - by_definition(mae, images.numpy(), noise.numpy(), choices)).max())

    assert difference(Choices()) < 1e-12
    assert difference(Choices(eps=1e-5)) > 1e-7
    assert difference(Choices(tanh_gelu=True)) > 1e-6
    single = mae.float()(images.float(), noise)[0].detach().numpy()
    assert single.dtype == np.float32 and np.abs(single - predicted).max() < 1e-4


@pytest.mark.parametrize("size", PUBLISHED)
def test_parameters__published_counts(size: str) -> None:
    """recipes 1.1, on the meta device."""
    vit, encoder, decoder, total, trainable = PUBLISHED[size]
    with torch.device("meta"):
        mae = MAE(224, vit, Decoder(width=512, depth=8, heads=16), 0.75)
    counts = {name: parameter.numel() for name, parameter in mae.named_parameters()}
    decodes = sum(count for name, count in counts.items() if name.startswith("decoder") or name == "mask_token")
    assert (sum(counts.values()) - decodes, decodes, sum(counts.values())) == (encoder, decoder, total)
    assert sum(p.numel() for p in mae.parameters() if p.requires_grad) == trainable


def test_state_dict__published_order() -> None:
    """Tokens and tables first, then the encoder, then the decoder; nothing but parameters."""
    mae = MAE(12, VIT, DECODER, 0.75)
    names = list(mae.state_dict())
    assert names == [name for name, _ in mae.named_parameters()]
    assert names[:6] == [
        "cls_token", "pos_embed", "mask_token", "decoder_pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias",
    ]  # fmt: skip
    tops = list(dict.fromkeys(name.split(".")[0] for name in names[6:]))
    assert tops == ["blocks", "norm", "decoder_embed", "decoder_blocks", "decoder_norm", "decoder_pred"]


def test_positions__fixed_with_a_zero_row_for_the_class_token() -> None:
    """In the state dict, but frozen; no gradient reaches them."""
    mae = MAE(12, VIT, DECODER, 0.75)
    mae(torch.randn(1, 3, 12, 12), torch.rand(1, 9))[0].sum().backward()
    for table in (mae.pos_embed, mae.decoder_pos_embed):
        assert not table.requires_grad and table.grad is None and table.shape[1] == 10
        assert table[0, 0].eq(0).all() and table[0, 1:].abs().sum() > 0
    assert mae.cls_token.grad is not None


def test_initialisation__published_distributions() -> None:
    """recipes 1.3: xavier bounds on the fused qkv and the flattened patch embedding; its bias alone keeps torch's default."""
    torch.manual_seed(0)
    mae = MAE(32, ViT(patch_size=16, width=192, depth=1, heads=3), Decoder(width=64, depth=1, heads=2), 0.5)
    bounds = {
        "patch_embed.proj.weight": (6 / (192 + 768)) ** 0.5,
        "patch_embed.proj.bias": 768**-0.5,
        "blocks.0.attn.qkv.weight": (6 / (4 * 192)) ** 0.5,
        "decoder_pred.weight": (6 / (64 + 768)) ** 0.5,
    }
    state = mae.state_dict()
    for name, bound in bounds.items():
        tensor = state[name]
        assert tensor.abs().max() <= bound and abs(tensor.std().item() - bound / 3**0.5) < 0.1 * bound, name
    for name, module in mae.named_modules():
        if isinstance(module, nn.Linear):
            assert module.bias.eq(0).all(), name
        if isinstance(module, nn.LayerNorm):
            assert module.weight.eq(1).all() and module.bias.eq(0).all() and module.eps == 1e-6, name
    assert 0.015 < mae.cls_token.std().item() < 0.025 and 0.014 < mae.mask_token.std().item() < 0.026


def test_init__nothing_visible_is_refused() -> None:
    """9 patches at 0.9 leave none."""
    with pytest.raises(ValueError, match="none of 9"):
        MAE(12, VIT, DECODER, 0.9)


def test_embed__equals_the_convolution() -> None:
    """Of all patches, in the published weights; 1e-12 in float64. Channels first inside a patch would be another image."""
    mae = lively(MAE(12, VIT, DECODER, 0.6))
    images = torch.randn(3, 3, 12, 12, dtype=torch.float64)
    ours = mae.embed(patchify(images, 4))
    assert (ours - mae.patch_embed(images)).abs().max() < 1e-12
    swapped = patchify(images, 4).reshape(3, 9, 16, 3).transpose(2, 3).flatten(2)
    assert (mae.embed(swapped) - mae.patch_embed(images)).abs().max() > 1e-2


def test_predict_hidden__is_what_forward_predicts_there() -> None:
    """1e-12 in float64: neither the order of the decoder's tokens nor what is not computed changes a prediction."""
    mae = lively(MAE(12, VIT, DECODER, 0.6))
    images, noise = torch.randn(3, 3, 12, 12, dtype=torch.float64), torch.rand(3, 9)
    everything, mask = mae(images, noise)
    hidden, places = mae.predict_hidden(patchify(images, 4), noise)
    assert hidden.shape == (3, 6, 48) and mask.gather(1, places).eq(1).all()
    there = everything.gather(1, places[..., None].expand(-1, -1, 48))
    assert (hidden - there).abs().max() < 1e-12
    assert (hidden - there.flip(1)).abs().max() > 1e-2  # control: other places
