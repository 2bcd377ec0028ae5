"""Our models, built as a reference's config says and filled with the formula's weights."""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from stages.lib.models import deit
from stages.lib.models.mae import MAE
from stages.lib.params.pretrain import Decoder
from stages.lib.params.vit import ViT
from tests.golden_formula import Formula

Config = Mapping[str, Any]
DTYPES = {"f64": torch.float64, "f32": torch.float32}
OURS = {"ln_eps": 1e-6, "mlp_ratio": 4.0, "in_chans": 3}  # what the stages build: not touched where a config agrees
FIXED = ("pos_embed", "decoder_pos_embed")  # MAE's tables are no formula parameters


def sizes(config: Config) -> ViT:
    """Encoder sizes."""
    return ViT(
        patch_size=config["patch_size"], width=config["embed_dim"], depth=config["depth"], heads=config["num_heads"]
    )


def mae(config: Config, formula: Formula, dtype: torch.dtype) -> MAE:
    """The masked autoencoder in training mode, formula weights, sin-cos positions as it builds them."""
    decoder = Decoder(
        width=config["decoder_embed_dim"], depth=config["decoder_depth"], heads=config["decoder_num_heads"]
    )
    model = MAE(config["img_size"], sizes(config), decoder, config["mask_ratio"])
    return weigh(adapt(model, config), formula, skip=FIXED).to(dtype)


def student(config: Config, formula: Formula, dtype: torch.dtype, distilled: bool) -> VisionTransformer:
    """The DeiT a stage builds, in training mode."""
    model = deit.create(sizes(config), config["img_size"], config["num_classes"], distilled, 0.0)
    return weigh(adapt(model, config), formula).to(dtype)


def averaging(config: Config, formula: Formula, dtype: torch.dtype) -> VisionTransformer:
    """The same transformer with averaged patches and fc_norm (MAE's fine-tuning default), straight from timm."""
    vit = sizes(config)
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=config["img_size"], patch_size=vit.patch_size, embed_dim=vit.width,
        depth=vit.depth, num_heads=vit.heads, num_classes=config["num_classes"], global_pool="avg", fc_norm=True,
    )  # fmt: skip
    return weigh(adapt(model, config), formula).to(dtype)


def adapt(model: nn.Module, config: Config) -> nn.Module:
    """Give the model what a config has beyond our recipes: another LayerNorm eps, another MLP ratio."""
    if config.get("in_chans", OURS["in_chans"]) != OURS["in_chans"]:
        raise ValueError(f"{config['in_chans']} channels: our models see RGB only")
    if config["ln_eps"] != OURS["ln_eps"]:
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = config["ln_eps"]
    if config["mlp_ratio"] != OURS["mlp_ratio"]:
        for mlp in [module for name, module in model.named_modules() if name.endswith(".mlp")]:
            width = mlp.fc1.in_features
            hidden = int(width * config["mlp_ratio"])
            mlp.fc1, mlp.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
    return model


def weigh(model: Any, formula: Formula, skip: Sequence[str] = ()) -> Any:
    """Fill the model with the formula's parameters, by state-dict name."""
    state = model.state_dict()
    for name, value in state.items():
        if name not in skip:
            state[name] = torch.from_numpy(formula.parameter(name, value.shape))
    model.load_state_dict(state)
    return model.train()


def bare(state_dict: Sequence[tuple[str, Sequence[int]]]) -> nn.Module:
    """A module that has these parameters, in this order, and no memory: for questions about names and shapes."""
    root = nn.Module()
    for name, shape in state_dict:
        *path, last = name.split(".")
        place = root
        for part in path:
            if part not in place._modules:
                place.add_module(part, nn.Module())
            place = place.get_submodule(part)
        place.register_parameter(last, nn.Parameter(torch.empty(tuple(shape), device="meta")))
    return root


def vit_of(shapes: Mapping[str, Sequence[int]]) -> tuple[ViT, int]:
    """(sizes, image size) read off a state dict's shapes; heads of 64 channels where they divide (no shape tells)."""
    width, patch = shapes["cls_token"][-1], shapes["patch_embed.proj.weight"][-1]
    extra = 2 if "dist_token" in shapes else 1
    depth = len({name.split(".")[1] for name in shapes if name.startswith("blocks.")})
    grid = math.isqrt(shapes["pos_embed"][1] - extra)
    return ViT(patch_size=patch, width=width, depth=depth, heads=heads_of(width)), grid * patch


def heads_of(width: int) -> int:
    """Any number of heads that divides."""
    return width // 64 if width % 64 == 0 else 1


def mae_of(shapes: Mapping[str, Sequence[int]]) -> MAE:
    """A fresh MAE of the sizes a state dict's shapes tell."""
    vit, image_size = vit_of(shapes)
    width = shapes["mask_token"][-1]
    depth = len({name.split(".")[1] for name in shapes if name.startswith("decoder_blocks.")})
    return MAE(image_size, vit, Decoder(width=width, depth=depth, heads=heads_of(width)), 0.0)


def student_of(shapes: Mapping[str, Sequence[int]]) -> VisionTransformer:
    """A fresh DeiT of the sizes a state dict's shapes tell."""
    vit, image_size = vit_of(shapes)
    return deit.create(vit, image_size, shapes["head.weight"][0], "dist_token" in shapes, 0.0)


@contextlib.contextmanager
def nudged(model: nn.Module, name: str, formula: Formula) -> Iterator[None]:
    """Move one parameter by 1e-3 of its direction, and back."""
    parameter = model.get_parameter(name)
    stored = parameter.detach().clone()
    direction = torch.from_numpy(formula.probe(f"sens:{name}", parameter.shape))
    with torch.no_grad():
        parameter.add_(direction.to(parameter.dtype), alpha=1e-3)
        yield
        parameter.copy_(stored)


def gradients(model: nn.Module) -> dict[str, Tensor | None]:
    """The gradient of every trainable parameter by name."""
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
