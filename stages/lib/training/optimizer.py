"""Parameter groups with layer-wise decay, and the optimizer over them."""

from typing import Any, Literal

import torch
from torch import nn

from stages.lib.params.optimizer import Optimizer
from stages.lib.training.lamb import Lamb

Tokens = Literal["dist", "none", "all"]


def layer_id(name: str, depth: int) -> int:
    """Layer of a transformer's parameter, by name (MAE's util/lr_decay).

    0: tokens, positions and patch embedding; b + 1: block b of `depth`; depth + 1: the rest (norm, heads).
    """
    first, *rest = name.split(".")
    if first in ("cls_token", "dist_token", "mask_token", "pos_embed", "patch_embed"):
        return 0
    return int(rest[0]) + 1 if first == "blocks" else depth + 1


def lr_scale(layer: int, layer_decay: float, depth: int) -> float:
    """Learning rate of a layer relative to the head's: layer_decay ** (depth + 1 - layer)."""
    return float(layer_decay ** (depth + 1 - layer))


def decayed(name: str, ndim: int, decay_tokens: Tokens) -> bool:
    """Whether weight decay applies: never to biases, 1-D tensors and positions; to tokens as decay_tokens says.

    dist: the distillation token alone (DeiT as published, which lists cls_token and pos_embed as exempt); all: every token
    (MAE pretraining); none: no token (timm 1.x, and MAE fine-tuning, which has no dist_token).
    """
    last = name.rsplit(".", 1)[-1]
    if ndim <= 1 or last == "bias" or last.endswith("pos_embed"):
        return False
    if last == "dist_token":
        return decay_tokens != "none"
    return decay_tokens == "all" if last.endswith("_token") else True


def groups(
    model: nn.Module, weight_decay: float, layer_decay: float, decay_tokens: Tokens, depth: int
) -> list[dict[str, Any]]:
    """Trainable parameters by (layer, decayed or not), in order of first appearance; ViT-B with layer_decay < 1: 28 groups.

    Each group carries `lr_scale` (the loop multiplies the schedule's rate by it) and `names`. layer_decay 1: all one layer,
    for any model. depth: transformer blocks; ignored then.
    """
    found: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        layer = layer_id(name, depth) if layer_decay != 1.0 else depth + 1
        decays = decayed(name, parameter.ndim, decay_tokens)
        fresh = {
            "params": [],
            "names": [],
            "weight_decay": weight_decay if decays else 0.0,
            "lr_scale": lr_scale(layer, layer_decay, depth),
        }
        group = found.setdefault((layer, decays), fresh)
        group["params"].append(parameter)
        group["names"].append(name)
    return list(found.values())


def build(cfg: Optimizer, model: nn.Module, depth: int) -> torch.optim.Optimizer:
    """The optimizer of a model with `depth` transformer blocks (0: a convnet); its rate is 0 until the loop sets it."""
    found = groups(model, cfg.weight_decay, cfg.layer_decay, cfg.decay_tokens, depth)
    if cfg.name == "sgd":
        momentum = cfg.betas[0]
        return torch.optim.SGD(found, lr=0.0, momentum=momentum, nesterov=momentum > 0, fused=True)
    if cfg.name == "lamb":
        return Lamb(found, betas=cfg.betas, eps=cfg.eps)
    return torch.optim.AdamW(found, lr=0.0, betas=cfg.betas, eps=cfg.eps, fused=True)  # one pass over memory


def peak_lr(cfg: Optimizer, batch_size: int) -> float:
    """Learning rate at the end of warm-up, scaled linearly with the global batch (Goyal et al. 2017)."""
    return cfg.lr * batch_size / cfg.lr_per if cfg.lr_per else cfg.lr
