"""Parameter groups, layer-wise decay and the optimizers."""

from typing import Any

import pytest
import timm
import torch
from torch import nn

from stages.lib.params.optimizer import Optimizer
from stages.lib.training import optimizer

# MAE's fine-tuning of ViT-B at 0.65 (recipes 2.4)
SCALES = [
    0.003697, 0.005688, 0.008751, 0.013463, 0.020712, 0.031864, 0.049022,
    0.075419, 0.116029, 0.178506, 0.274625, 0.4225, 0.65, 1.0,
]  # fmt: skip


def config(**changes: Any) -> Optimizer:
    block = {"name": "adamw", "lr": 5e-4, "lr_per": 512, "weight_decay": 0.05, "decay_tokens": "dist"}
    return Optimizer.model_validate({**block, **changes})


def vit(name: str = "deit_tiny_distilled_patch16_224", **changes: Any) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(name, **changes)


def decays(groups: list[dict[str, Any]]) -> dict[str, float]:
    return {name: group["weight_decay"] for group in groups for name in group["names"]}


def test_layer_id__of_every_kind_of_name() -> None:
    names = ["cls_token", "dist_token", "mask_token", "pos_embed", "patch_embed.proj.bias"]
    assert [optimizer.layer_id(name, 12) for name in names] == [0] * 5
    assert optimizer.layer_id("blocks.0.attn.qkv.weight", 12) == 1
    assert optimizer.layer_id("blocks.11.mlp.fc2.bias", 12) == 12
    assert [optimizer.layer_id(name, 12) for name in ("norm.weight", "fc_norm.bias", "head.weight")] == [13] * 3
    assert optimizer.layer_id("decoder_blocks.3.norm1.weight", 12) == 13


def test_lr_scale__published() -> None:
    assert [optimizer.lr_scale(layer, 0.65, 12) for layer in range(14)] == pytest.approx(SCALES, abs=5e-7)


def test_groups__base_has_28() -> None:
    model = vit("deit_base_patch16_224")
    groups = optimizer.groups(model, 0.05, 0.65, "dist", 12)
    assert len(groups) == 28
    assert {group["lr_scale"] for group in groups} == {optimizer.lr_scale(layer, 0.65, 12) for layer in range(14)}
    assert sorted(name for group in groups for name in group["names"]) == sorted(n for n, _ in model.named_parameters())
    assert groups[0]["names"][0] == "cls_token"


def test_groups__without_layer_decay_two() -> None:
    groups = optimizer.groups(vit(), 0.05, 1.0, "dist", 12)
    assert [group["weight_decay"] for group in groups] == [0.0, 0.05]
    assert {group["lr_scale"] for group in groups} == {1.0}


@pytest.mark.parametrize(("tokens", "expected"), [("dist", [0.0, 0.05]), ("none", [0.0, 0.0]), ("all", [0.05, 0.05])])
def test_groups__decay_of_tokens(tokens: optimizer.Tokens, expected: list[float]) -> None:
    found = decays(optimizer.groups(vit(), 0.05, 1.0, tokens, 12))
    assert [found["cls_token"], found["dist_token"]] == expected
    assert found["pos_embed"] == 0.0
    assert found["head_dist.weight"] == 0.05
    assert found["head_dist.bias"] == found["norm.weight"] == found["blocks.0.attn.qkv.bias"] == 0.0


def test_decayed__mask_token_only_with_all() -> None:
    assert [optimizer.decayed("mask_token", 3, tokens) for tokens in ("dist", "none", "all")] == [False, False, True]


def test_groups__frozen_parameters_are_skipped() -> None:
    model = vit()
    model.pos_embed.requires_grad_(False)
    assert "pos_embed" not in decays(optimizer.groups(model, 0.05, 0.75, "dist", 12))


def test_groups__a_convnet_is_one_layer() -> None:
    model = vit("regnety_002", num_classes=7)
    groups = optimizer.groups(model, 0.05, 1.0, "none", 0)
    assert sorted(group["weight_decay"] for group in groups) == [0.0, 0.05]
    found = decays(groups)
    assert len(found) == len(list(model.parameters()))
    assert found["stem.conv.weight"] == found["head.fc.weight"] == 0.05
    assert found["stem.bn.weight"] == found["head.fc.bias"] == 0.0


def test_build__adamw_and_its_settings() -> None:
    built = optimizer.build(config(betas=[0.9, 0.95], eps=1e-7), nn.Linear(3, 2), 0)
    assert isinstance(built, torch.optim.AdamW)
    assert {(group["betas"], group["eps"]) for group in built.param_groups} == {((0.9, 0.95), 1e-7)}


def test_build__sgd_with_nesterov_momentum() -> None:
    built = optimizer.build(config(name="sgd", betas=[0.8, 0.0]), nn.Linear(3, 2), 0)
    assert isinstance(built, torch.optim.SGD)
    assert all(group["momentum"] == 0.8 and group["nesterov"] for group in built.param_groups)
    plain = optimizer.build(config(name="sgd", betas=[0.0, 0.0]), nn.Linear(3, 2), 0)
    assert not plain.param_groups[0]["nesterov"]


def test_build__stands_still_until_the_loop_sets_a_rate() -> None:
    model = nn.Linear(3, 2)
    built, before = optimizer.build(config(), model, 0), model.weight.clone()
    model(torch.ones(1, 3)).sum().backward()
    built.step()
    assert torch.equal(model.weight, before)
    for group in built.param_groups:
        group["lr"] = 0.1
    built.step()
    assert not torch.equal(model.weight, before)


def test_build__its_state_holds_nothing_that_needs_a_pickle(tmp_path: Any) -> None:
    model = nn.Linear(3, 2)
    built = optimizer.build(config(), model, 0)
    model(torch.ones(1, 3)).sum().backward()
    built.step()
    torch.save(built.state_dict(), tmp_path / "state.pt")
    optimizer.build(config(), model, 0).load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))


def test_peak_lr__scales_with_the_batch_or_not() -> None:
    assert optimizer.peak_lr(config(), 1024) == pytest.approx(1e-3)
    assert optimizer.peak_lr(config(lr=1.5e-4, lr_per=256), 4096) == pytest.approx(2.4e-3)
    assert optimizer.peak_lr(config(lr_per=0), 1024) == 5e-4
