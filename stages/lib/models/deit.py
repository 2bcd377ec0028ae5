"""DeiT, plain and with a distillation token (Touvron et al. 2021, arXiv 2012.12877), and DeiT III, on timm's transformer.

DeiT III (Touvron et al. 2022, arXiv 2204.07118) adds LayerScale, and its class token has no position embedding.

timm owns the modules and their names, so every folder loads without us; the forward pass is ours where timm would draw
random numbers itself: stochastic depth takes them from the loader.
"""

from collections.abc import Mapping
from typing import Any, cast

import timm
import torch
from timm.layers import LayerScale
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from stages.lib.core.outcome import Refusal
from stages.lib.models import architecture, blocks
from stages.lib.models.positions import resample
from stages.lib.models.precision import wide
from stages.lib.params.vit import DropPathShape, ViT


def create(
    vit: ViT,
    image_size: int,
    classes: int,
    distilled: bool,
    drop_path: float = 0.0,
    drop_path_shape: DropPathShape = "linear",
) -> VisionTransformer:
    """A fresh student with the published initialisation; `drop_path` is the last block's stochastic-depth rate.

    Draws from torch's global generator: `torch.manual_seed` first.
    """
    model = _untrained(vit, image_size, classes, distilled)
    initialise(model)
    stochastic_depth(model, drop_path, drop_path_shape)
    return model


def _untrained(vit: ViT, image_size: int, classes: int, distilled: bool) -> VisionTransformer:
    """timm's model of these sizes, tokens and positions not yet set."""
    name, model_args = architecture.classifier(vit, image_size, distilled)
    return cast(VisionTransformer, timm.create_model(name, num_classes=classes, weight_init="skip", **model_args))


def initialise(model: VisionTransformer) -> None:
    """As DeiT was published (timm 0.3.2): tokens, positions and linear weights truncated normal 0.02, linear biases 0.

    LayerNorms 1 and 0; the patch embedding keeps torch's convolution default, LayerScale what timm built it with. Current timm
    differs in the class token.
    """
    for token in (positions_of(model), *prefix(model)):
        nn.init.trunc_normal_(token, std=0.02)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)


def stochastic_depth(model: VisionTransformer, rate: float, shape: DropPathShape = "linear") -> None:
    """Set the last block's rate; it rises linearly from 0 at the first, or all have it. timm's own DropPath modules stay off."""
    if not 0 <= rate < 1:
        raise ValueError(f"stochastic depth of {rate}; a rate lies in [0, 1)")
    model.stochastic_depth_rate = rate  # type: ignore[assignment]  # plain attributes, in no state dict
    model.stochastic_depth_shape = shape  # type: ignore[assignment]


def rates(model: VisionTransformer) -> list[float]:
    """Each block's probability of dropping a branch: linear rate * i / (depth - 1), so 0 in a single block; constant: the rate."""
    rate, depth = getattr(model, "stochastic_depth_rate", None), len(model.blocks)
    if rate is None:
        raise ValueError("keep without a rate: call deit.stochastic_depth(model, rate) on a loaded model first")
    if model.stochastic_depth_shape == "constant":
        return [rate] * depth
    return [rate * index / max(depth - 1, 1) for index in range(depth)]


def is_distilled(model: nn.Module) -> bool:
    """Whether the model has a distillation token and its head."""
    return isinstance(model, VisionTransformerDistilled)


def prefix(model: VisionTransformer) -> list[nn.Parameter]:
    """The tokens before the patches, f[1,1,D] each: class, and distillation where there is one."""
    assert model.cls_token is not None
    return [model.cls_token, model.dist_token] if isinstance(model, VisionTransformerDistilled) else [model.cls_token]


def positions_of(model: VisionTransformer) -> nn.Parameter:
    """f[1, extra + L, D], an entry for every token; f[1, L, D] where the class token has none."""
    assert model.pos_embed is not None
    return model.pos_embed


def placed(model: VisionTransformer) -> int:
    """How many tokens before the patches have a position embedding."""
    return 0 if model.no_embed_class else len(prefix(model))


def heads(model: VisionTransformer, images: Tensor, keep: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """f[B,3,H,W] -> (class logits f[B,C], distillation logits f[B,C] or None where the model has one head).

    `keep` f32[B,depth,2], uniform in [0,1): block i drops branch j (0 attention, 1 MLP) of image b where keep[b,i,j] is
    below its rate, and scales the others by 1 / (1 - rate) (Huang et al. 2016). None: nothing is dropped.
    Logits are at least single precision, also under autocast: losses are computed from them.
    """
    tokens = features(model, images, keep)
    if isinstance(model, VisionTransformerDistilled):
        return wide(model.head(tokens[:, 0])), wide(model.head_dist(tokens[:, 1]))
    return wide(model.forward_head(tokens)), None


def embedded(model: VisionTransformer, images: Tensor) -> Tensor:
    """f[B,3,H,W] -> f[B,extra+L,D] as the first block gets them; DeiT III gives positions to patches alone."""
    first = [token.expand(len(images), -1, -1) for token in prefix(model)]
    if model.no_embed_class:
        return torch.cat([*first, model.patch_embed(images) + positions_of(model)], dim=1)
    return torch.cat([*first, model.patch_embed(images)], dim=1) + positions_of(model)


def features(model: VisionTransformer, images: Tensor, keep: Tensor | None = None) -> Tensor:
    """f[B,3,H,W] -> f[B,extra+L,D] after the final norm: class token, distillation token if any, patches row-major."""
    tokens = embedded(model, images)
    factors = None if keep is None else blocks.drop_factors(keep, rates(model), tokens.dtype)
    return model.norm(blocks.run(model.blocks, tokens, factors))


def mean_logits(model: VisionTransformer, images: Tensor, keep: Tensor | None = None) -> Tensor:
    """f[B,C]: the heads' mean logits, or the only head's; without `keep` what timm's eval forward gives."""
    class_logits, dist_logits = heads(model, images, keep)
    return class_logits if dist_logits is None else (class_logits + dist_logits) / 2


def from_mae(student: VisionTransformer, mae_state: Mapping[str, Tensor]) -> None:
    """Copy an MAE encoder into a fresh student in place: patch embedding, blocks, norm, class token and positions.

    The sine-cosine table becomes the trained pos_embed, resampled if the grid differs; the distillation token keeps its
    initial value and gets position zero; heads stay. A decoder is ignored. Raises Refusal naming what does not fit.
    """
    state = student.state_dict()
    wanted = [name for name in state if not name.startswith(("pos_embed", "dist_token", "head"))]
    if faults := misfits(mae_state, {name: state[name] for name in wanted}):
        raise Refusal(
            f"this MAE encoder does not fit the student: {'; '.join(faults[:3])}{'; ...' if faults[3:] else ''}. "
            "Make pretrain.model and train.model equal, or set train.init: scratch"
        )
    positions = resample(mae_state["pos_embed"], student.patch_embed.grid_size[0], 1)
    dist_slot = [torch.zeros_like(positions[:, :1])] if is_distilled(student) else []
    state |= {name: mae_state[name] for name in wanted}
    state["pos_embed"] = torch.cat([positions[:, :1], *dist_slot, positions[:, 1:]], dim=1)
    student.load_state_dict(state)


def misfits(mae_state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """What keeps the encoder from filling `wanted`: missing names, other shapes, blocks that would be left over."""
    faults = [f"{name} is missing" for name in [*wanted, "pos_embed"] if name not in mae_state]
    faults += [
        f"{name} is {tuple(mae_state[name].shape)}, the student's {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in mae_state and mae_state[name].shape != tensor.shape
    ]
    return faults + [f"{name} has no place" for name in mae_state if name.startswith("blocks.") and name not in wanted]


def fresh_heads(model: VisionTransformer, classes: int, std: float, generator: torch.Generator) -> None:
    """Replace the head, or both, in place: weights truncated normal `std` from this CPU generator, biases 0."""
    model.reset_classifier(classes)
    fresh = [model.head, model.head_dist] if isinstance(model, VisionTransformerDistilled) else [model.head]
    for head in cast(list[nn.Linear], fresh):
        weight = nn.init.trunc_normal_(torch.empty(head.weight.shape), std=std, generator=generator)
        with torch.no_grad():
            head.weight.copy_(weight)
            head.bias.zero_()


def sizes(model: VisionTransformer) -> ViT:
    """The sizes a model was built with, read off its modules."""
    block = cast(Block, model.blocks[0])
    attention: Any = block.attn
    return ViT(
        patch_size=model.patch_embed.patch_size[0],
        width=model.embed_dim,
        depth=len(model.blocks),
        heads=attention.num_heads,
        layer_scale=block.ls1.init_values if isinstance(block.ls1, LayerScale) else 0.0,
        class_position=not model.no_embed_class,
    )


def enlarge(
    model: nn.Module, image_size: int, drop_path: float = 0.0, drop_path_shape: DropPathShape = "linear"
) -> VisionTransformer:
    """The same weights in a new model for another image size; positions resampled, extra tokens copied (DeiT, 384).

    Raises Refusal for anything but a transformer and for sizes that patches do not tile.
    """
    if not isinstance(model, VisionTransformer):
        raise Refusal(f"only a vision transformer takes another image size; this is a {type(model).__name__}")
    if image_size % (patch := sizes(model).patch_size):
        raise Refusal(f"views.image_size {image_size} is not a multiple of the model's patch size {patch}")
    larger = _untrained(sizes(model), image_size, model.num_classes, is_distilled(model))
    positions = resample(positions_of(model).detach(), larger.patch_embed.grid_size[0], placed(model))
    larger.load_state_dict({**model.state_dict(), "pos_embed": positions})
    stochastic_depth(larger, drop_path, drop_path_shape)
    return larger.to(positions.device, positions.dtype).train(model.training)
