"""DeiT against timm's forward, an independent numpy forward, published counts and the published initialisation."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from stages.lib.core.outcome import Refusal
from stages.lib.models import deit
from stages.lib.models.mae import MAE
from stages.lib.models.positions import sincos_2d
from stages.lib.params.pretrain import Decoder
from stages.lib.params.vit import ViT
from tests.models.reference import Choices, block, embed, layer_norm, linear, weights_of

VIT = ViT(patch_size=4, width=24, depth=3, heads=3)
TINY, SMALL, BASE = (ViT(patch_size=16, width=64 * heads, depth=12, heads=heads) for heads in (3, 6, 12))
PUBLISHED = [  # recipes 1.1
    (TINY, 224, False, 5_717_416),
    (SMALL, 224, False, 22_050_664),
    (BASE, 224, False, 86_567_656),
    (BASE, 384, False, 86_859_496),
    (TINY, 224, True, 5_910_800),
    (SMALL, 224, True, 22_436_432),
    (BASE, 224, True, 87_338_192),
    (BASE, 384, True, 87_630_032),
    (ViT(patch_size=16, width=1024, depth=24, heads=16), 224, False, 304_326_632),
    (ViT(patch_size=14, width=1280, depth=32, heads=16), 224, False, 632_045_800),
]


def lively(distilled: bool, drop_path: float = 0.0) -> deit.VisionTransformer:
    """A float64 model whose every part matters."""
    torch.manual_seed(1)
    model = deit.create(VIT, 12, 5, distilled, drop_path)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.3)
    return model.double()


def pixels(batch: int = 3, size: int = 12) -> torch.Tensor:
    """Normal noise in float64."""
    return torch.randn(batch, 3, size, size, dtype=torch.float64)


@pytest.mark.parametrize(("vit", "image_size", "distilled", "count"), PUBLISHED)
def test_parameters__published_counts(vit: ViT, image_size: int, distilled: bool, count: int) -> None:
    """1000 classes, on the meta device; 152 tensors plain and 155 distilled at depth 12."""
    with torch.device("meta"):
        model = deit.create(vit, image_size, 1000, distilled)
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    if vit.depth == 12:
        assert len(model.state_dict()) == (155 if distilled else 152)


@pytest.mark.parametrize("distilled", [False, True])
def test_heads__without_keep_are_timms_own_eval_forward(distilled: bool) -> None:
    """The mean of the two heads, or the one; in train mode too, as timm draws nothing here."""
    model, images = lively(distilled, drop_path=0.5), pixels()
    fused = deit.mean_logits(model, images)
    torch.testing.assert_close(fused, model.eval()(images), rtol=0, atol=1e-12)
    class_logits, dist_logits = deit.heads(model, images)
    assert (dist_logits is not None) == distilled and deit.is_distilled(model) == distilled
    if dist_logits is not None:
        assert (class_logits - dist_logits).abs().min() > 1e-6


def test_heads__are_timms_distilled_training_pair() -> None:
    """timm returns both heads only after being switched to distilled training; ours always does."""
    model, images = lively(True), pixels()
    model.set_distilled_training(True)
    for ours, theirs in zip(deit.heads(model, images), model.train()(images), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def by_definition(
    model: nn.Module, images: np.ndarray, choices: Choices, keep: np.ndarray | None = None, rate: float = 0.0
) -> list[np.ndarray]:
    """Class and distillation logits, stochastic depth included."""
    w = weights_of(model)
    x = embed(images, w)
    x = (
        np.concatenate([np.repeat(w[name], len(x), 0) for name in ("cls_token", "dist_token")] + [x], 1)
        + w["pos_embed"]
    )
    for index in range(VIT.depth):
        own = rate * index / (VIT.depth - 1)
        factors = None if keep is None else (keep[:, index] >= own) / (1 - own)
        x = block(x, w, f"blocks.{index}", VIT.heads, choices, factors)
    x = layer_norm(x, w, "norm", choices)
    return [linear(x[:, 0], w, "head"), linear(x[:, 1], w, "head_dist")]


def test_heads__equal_an_independent_forward_and_no_wrong_variant() -> None:
    """1e-12 in float64; LayerNorm eps 1e-5, the tanh GELU and exchanged tokens are told apart."""
    model, images = lively(True), pixels()
    ours = [logits.detach().numpy() for logits in deit.heads(model, images) if logits is not None]

    def difference(wanted: list[np.ndarray]) -> float:
        return max(float(np.abs(a - b).max()) for a, b in zip(ours, wanted, strict=True))

    assert difference(by_definition(model, images.numpy(), Choices())) < 1e-12
    assert difference(by_definition(model, images.numpy(), Choices(eps=1e-5))) > 1e-7
    assert difference(by_definition(model, images.numpy(), Choices(tanh_gelu=True))) > 1e-6
    assert difference(by_definition(model, images.numpy(), Choices())[::-1]) > 1e-2


def test_stochastic_depth__drops_and_scales_each_branch_of_each_image() -> None:
    """Rates 0, 0.25, 0.5 at 0.5: a number below drops, one equal keeps; a constant rate in every block fails."""
    model, images = lively(True, drop_path=0.5), pixels(4)
    assert deit.rates(model) == [0.0, 0.25, 0.5]
    keep = torch.tensor([0.0, 0.24, 0.25, 0.49, 0.5, 0.99])[torch.randint(6, (4, 3, 2), generator=torch.manual_seed(3))]
    ours = deit.heads(model, images, keep)[0].detach().numpy()
    wanted = by_definition(model, images.numpy(), Choices(), keep.numpy(), 0.5)[0]
    assert np.abs(ours - wanted).max() < 1e-12
    undropped = by_definition(model, images.numpy(), Choices())[0]
    assert (np.abs(ours - undropped).max(1) > 1e-3).all()
    swapped = by_definition(model, images.numpy(), Choices(), keep.numpy()[..., ::-1], 0.5)[0]
    assert np.abs(ours - swapped).max() > 1e-3


def test_stochastic_depth__rate_zero_changes_no_bit() -> None:
    """The unrolled blocks are timm's."""
    model, images = lively(False), pixels()
    assert torch.equal(deit.heads(model, images, torch.zeros(3, 3, 2))[0], deit.heads(model, images)[0])


def test_stochastic_depth__single_block_never_drops() -> None:
    """The first block's rate is 0, also when it is the last."""
    model = deit.create(ViT(patch_size=4, width=8, depth=1, heads=1), 8, 2, False, 0.9)
    assert deit.rates(model) == [0.0]


def test_stochastic_depth__timm_draws_nothing_and_a_missing_rate_is_named() -> None:
    """No DropPath module is active; numbers given to a model that never got a rate are not ignored."""
    model = deit.create(VIT, 12, 5, True, 0.5)
    assert all(
        isinstance(m, nn.Identity) for name, m in model.named_modules() if name.endswith(("drop_path1", "drop_path2"))
    )
    assert all(m.p == 0 for m in model.modules() if isinstance(m, nn.Dropout))
    del model.stochastic_depth_rate
    with pytest.raises(ValueError, match="stochastic_depth"):
        deit.heads(model, pixels().float(), torch.zeros(3, 3, 2))
    with pytest.raises(ValueError, match=r"1\.0"):
        deit.stochastic_depth(model, 1.0)


def test_initialisation__timm_0_3_2() -> None:
    """Tokens, positions and matrices normal 0.02, biases 0, patch embedding torch's default; today's cls token is 1e-6."""
    torch.manual_seed(0)
    model = deit.create(ViT(patch_size=8, width=384, depth=1, heads=6), 64, 10, True)
    state = model.state_dict()
    for name in ("cls_token", "dist_token", "pos_embed", "head.weight", "head_dist.weight", "blocks.0.attn.qkv.weight"):
        assert 0.018 < state[name].std().item() < 0.022, name
    assert state["patch_embed.proj.weight"].abs().max() <= 192**-0.5
    assert abs(state["patch_embed.proj.weight"].std().item() - 192**-0.5 / math.sqrt(3)) < 1e-3
    assert state["patch_embed.proj.bias"].abs().sum() > 0
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            assert module.bias.eq(0).all(), name
        if isinstance(module, nn.LayerNorm):
            assert module.weight.eq(1).all() and module.bias.eq(0).all() and module.eps == 1e-6, name


def test_initialisation__is_a_function_of_the_seed() -> None:
    """Same seed, same bits; another seed, other bits."""
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(deit.create(VIT, 12, 5, True).state_dict()["pos_embed"])
    assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])


def encoder_state(vit: ViT = VIT, size: int = 12) -> dict[str, torch.Tensor]:
    """A pretrained-looking MAE, decoder included."""
    torch.manual_seed(7)
    return MAE(size, vit, Decoder(width=16, depth=1, heads=2), 0.5).state_dict()


def test_from_mae__copies_what_recipes_2_7_says() -> None:
    """Encoder weights; positions [table's class row, zeros, table]; distillation token and heads stay as they were."""
    student, mae = deit.create(VIT, 12, 5, True), encoder_state()
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    deit.from_mae(student, mae)
    after = student.state_dict()
    for name in after:
        if name.startswith(("head", "dist_token")):
            assert torch.equal(after[name], before[name]), name
        elif name != "pos_embed":
            assert torch.equal(after[name], mae[name]), name
    assert after["pos_embed"][0, :2].eq(0).all()
    assert torch.equal(after["pos_embed"][0, 2:], sincos_2d(24, 3).float())
    assert student.pos_embed is not None and student.pos_embed.requires_grad


def test_from_mae__encodes_as_the_mae_does_with_everything_visible() -> None:
    """A plain student's features are the MAE's latent when no patch is hidden."""
    mae = MAE(12, VIT, Decoder(width=16, depth=1, heads=2), 0.0).double()
    student = deit.create(VIT, 12, 5, False).double()
    deit.from_mae(student, mae.state_dict())
    images, noise = pixels(), torch.arange(9.0).expand(3, -1)
    torch.testing.assert_close(deit.features(student, images), mae.encode(images, noise)[0], rtol=0, atol=1e-12)


def test_from_mae__another_grid_is_resampled_and_misfits_are_named() -> None:
    """Grid 3 to 5; another width, a missing tensor and blocks left over are refused."""
    student = deit.create(VIT, 20, 5, True)
    deit.from_mae(student, encoder_state())
    assert student.pos_embed is not None and student.pos_embed.shape == (1, 27, 24)
    with pytest.raises(Refusal, match=r"cls_token is \(1, 1, 48\)"):
        deit.from_mae(student, encoder_state(ViT(patch_size=4, width=48, depth=3, heads=3)))
    with pytest.raises(Refusal, match=r"blocks\.3.* has no place"):
        deit.from_mae(student, encoder_state(ViT(patch_size=4, width=24, depth=4, heads=3)))
    with pytest.raises(Refusal, match=r"norm\.bias is missing"):
        deit.from_mae(student, {name: t for name, t in encoder_state().items() if name != "norm.bias"})


@pytest.mark.parametrize("distilled", [False, True])
def test_fresh_heads__only_heads_change_and_only_the_generator_matters(distilled: bool) -> None:
    """Other classes, the std asked for, biases 0; torch's global seed has no say."""
    model = deit.create(ViT(patch_size=4, width=96, depth=1, heads=2), 8, 5, distilled)
    before = {name: t.clone() for name, t in model.state_dict().items() if not name.startswith("head")}
    drawn = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        deit.fresh_heads(model, 40, 2e-5, torch.Generator().manual_seed(5))
        drawn.append(model.head.weight.detach().clone())
    assert torch.equal(*drawn)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
    class_logits, dist_logits = deit.heads(model, torch.randn(2, 3, 8, 8))
    assert class_logits.shape == (2, 40) and model.num_classes == 40
    fresh = [model.head, *([model.head_dist] if distilled else [])]
    for head in fresh:
        assert 1.9e-5 < head.weight.std().item() < 2.1e-5 and head.bias.eq(0).all()
    if distilled:
        assert dist_logits is not None and dist_logits.shape == (2, 40)
        assert not torch.equal(model.head.weight, model.head_dist.weight)


def test_enlarge__only_positions_change() -> None:
    """12 to 20 pixels: grid 3 to 5; every other tensor, dtype and mode stay; the old model is left alone."""
    model = lively(True).eval()
    larger = deit.enlarge(model, 20, 0.3)
    assert larger.patch_embed.img_size == (20, 20) and larger.patch_embed.grid_size == (5, 5)
    assert not larger.training and deit.rates(larger)[-1] == 0.3
    old, new = model.state_dict(), larger.state_dict()
    assert list(old) == list(new) and new["pos_embed"].shape == (1, 27, 24) and old["pos_embed"].shape == (1, 11, 24)
    assert all(torch.equal(old[name], new[name]) for name in old if name != "pos_embed")
    assert torch.equal(old["pos_embed"][:, :2], new["pos_embed"][:, :2])
    assert deit.mean_logits(larger, pixels(size=20)).dtype == torch.float64
    with pytest.raises(Refusal, match="22"):
        deit.enlarge(model, 22)
    with pytest.raises(Refusal, match="Linear"):
        deit.enlarge(nn.Linear(1, 1), 20)


def test_enlarge__same_size_changes_no_prediction() -> None:
    """Resampling to the same grid is the identity."""
    model, images = lively(True), pixels()
    assert torch.equal(deit.mean_logits(deit.enlarge(model, 12), images), deit.mean_logits(model, images))


def test_sizes__are_read_off_the_model() -> None:
    """What a loaded model is, without its block of params.yaml."""
    assert deit.sizes(deit.create(VIT, 12, 5, True)) == VIT


THIRD = VIT.model_copy(update={"layer_scale": 1e-4, "class_position": False})


def third(width: int, depth: int = 12, heads: int | None = None, patch: int = 16) -> ViT:
    sizes = {"patch_size": patch, "width": width, "depth": depth, "heads": heads or width // 64}
    return ViT(**sizes, layer_scale=1e-4, class_position=False)


@pytest.mark.parametrize(
    ("vit", "image_size", "count"),
    [
        (third(192), 224, 5_721_832),
        (third(384), 224, 22_059_496),
        (third(384), 384, 22_205_416),
        (third(512), 224, 38_849_512),
        (third(768), 224, 86_585_320),
        (third(768), 384, 86_877_160),
        (third(1024, 24), 224, 304_374_760),
        (third(1280, 32, 16, 14), 224, 632_126_440),
    ],
)  # recipes 1.1
def test_third__published_counts(vit: ViT, image_size: int, count: int) -> None:
    with torch.device("meta"):
        model = deit.create(vit, image_size, 1000, False)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def lively_third(drop_path: float = 0.0) -> deit.VisionTransformer:
    torch.manual_seed(1)
    model = deit.create(THIRD, 12, 5, False, drop_path, "constant")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.3)
    return model.double()


def test_third__begins_as_published() -> None:
    """LayerScale 1e-4, no position for the class token, everything else as DeiT."""
    torch.manual_seed(0)
    model = deit.create(third(384, 2, 6), 64, 10, False)
    gammas = {name: tensor for name, tensor in model.state_dict().items() if name.endswith("gamma")}
    assert sorted(gammas) == [f"blocks.{block}.ls{branch}.gamma" for block in (0, 1) for branch in (1, 2)]
    assert all(gamma.eq(1e-4).all() for gamma in gammas.values())
    assert deit.positions_of(model).shape == (1, 16, 384)
    assert 0.019 < deit.positions_of(model).std().item() < 0.021
    assert 0.019 < model.blocks[0].mlp.fc1.weight.std().item() < 0.021  # type: ignore[union-attr]


def test_third__without_keep_is_timms_own_eval_forward() -> None:
    model, images = lively_third().eval(), pixels()
    assert torch.allclose(deit.mean_logits(model, images), model(images), rtol=0, atol=1e-12)
    moved = deit.mean_logits(model, images)
    with torch.no_grad():
        model.cls_token.mul_(-1.0)  # type: ignore[union-attr]
    assert not torch.allclose(deit.mean_logits(model, images), moved, atol=1e-3)  # negative control: the token counts


def test_third__every_block_drops_as_often() -> None:
    model = lively_third(0.5)
    assert deit.rates(model) == [0.5, 0.5, 0.5]
    assert deit.rates(deit.create(THIRD, 12, 5, False, 0.5)) == [0.0, 0.25, 0.5]  # linear, as ever
    images, keep = pixels(4), torch.full((4, 3, 2), 0.4)
    nothing_left = deit.features(model, images, keep)
    first = model.cls_token.expand(4, -1, -1)  # type: ignore[union-attr]
    tokens = torch.cat([first, model.patch_embed(images) + model.pos_embed], 1)
    assert torch.allclose(nothing_left, model.norm(tokens), atol=1e-12)  # every branch of every block dropped


def test_third__enlarges_and_is_read_off_the_model() -> None:
    model = lively_third().eval()
    assert deit.sizes(model) == THIRD
    larger = deit.enlarge(model, 20, 0.3, "constant")
    assert deit.positions_of(larger).shape == (1, 25, 24) and deit.rates(larger) == [0.3] * 3
    assert deit.sizes(larger) == THIRD
    assert torch.equal(
        deit.mean_logits(deit.enlarge(model, 12), pixels()[:1] * 0), deit.mean_logits(model, pixels()[:1] * 0)
    )


def test_third__takes_no_masked_autoencoders_weights() -> None:
    """Its LayerScale would all but switch them off."""
    student = deit.create(THIRD, 12, 5, False)
    with pytest.raises(Refusal, match=r"blocks\.0\.ls1\.gamma is missing"):
        deit.from_mae(student, encoder_state(VIT))


def test_layer_scale__goes_with_a_distillation_token() -> None:
    scaled = VIT.model_copy(update={"layer_scale": 1e-4})
    model = deit.create(scaled, 12, 5, True)
    assert deit.sizes(model) == scaled and deit.is_distilled(model)
    assert deit.heads(model, torch.randn(2, 3, 12, 12))[1] is not None
