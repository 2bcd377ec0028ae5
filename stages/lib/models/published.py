"""The published layouts of DeiT, DeiT III and MAE checkpoints: recognised, read into our model folders, written from them.

Names inside the files are timm's but for DeiT III's layer scale; what differs is what is there: a distillation token, a
decoder, `fc_norm` for `norm`, no head. The published files wrap the state dict in {"model": ...}.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from stages.lib.core import files
from stages.lib.core.outcome import Refusal
from stages.lib.models import architecture, folder, tensors
from stages.lib.models.mae import MAE
from stages.lib.params.pretrain import Decoder
from stages.lib.params.vit import ViT

Layout = Literal["deit", "deit-distilled", "deit-3", "mae-encoder", "mae-pretrain", "mae-finetuned"]
HEADS = {192: 3, 384: 6, 512: 8, 768: 12, 1024: 16, 1280: 16}  # encoder width -> attention heads; no shape tells
DECODER_HEADS = {512: 16}
DECODER = "decoder.safetensors"
LAYER_SCALE = 1e-4  # what DeiT III's began with (models_v2.py)
ORDER = (
    r"cls_token", r"pos_embed", r"dist_token", r"mask_token", r"decoder_pos_embed", r"patch_embed\.", r"blocks\.",
    r"norm\.", r"fc_norm\.", r"head\.", r"head_dist\.",
    r"decoder_embed\.", r"decoder_blocks\.", r"decoder_norm\.", r"decoder_pred\.",
)  # fmt: skip
IN_BLOCK = ("gamma_1", "gamma_2", "norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")


def layout_of(state: Mapping[str, Any]) -> Layout:
    """Which published layout these names are. Raises Refusal for names of no vision transformer."""
    if not {"cls_token", "pos_embed", "patch_embed.proj.weight"} <= state.keys():
        raise Refusal(
            "these tensors are no DeiT, DeiT III or MAE: cls_token, pos_embed or patch_embed.proj.weight is missing, there are "
            f"{', '.join(list(state)[:3])}, ..."
        )
    if "mask_token" in state or any(name.startswith("decoder_") for name in state):
        return "mae-pretrain"
    if "blocks.0.gamma_1" in state or "blocks.0.ls1.gamma" in state:
        return "deit-3"
    if "head.weight" not in state:
        return "mae-encoder"
    if "fc_norm.weight" in state:
        return "mae-finetuned"
    return "deit-distilled" if "dist_token" in state else "deit"


def to_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published names -> timm's; a decoder, which timm does not know, is left out. timm's own come back as they are."""
    return {
        re.sub(r"^(blocks\.\d+)\.gamma_([12])$", r"\1.ls\2.gamma", name): tensor
        for name, tensor in state.items()
        if not name.startswith("decoder_") and name != "mask_token"
    }


def to_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """timm's names -> published ones, in the published order."""
    named = {re.sub(r"^(blocks\.\d+)\.ls([12])\.gamma$", r"\1.gamma_\2", name): state[name] for name in state}
    return {name: named[name] for name in sorted(named, key=place)}


def place(name: str) -> tuple[int, int, int, str]:
    """Where a tensor stands in a published file: part, block, module in the block, weight before bias."""
    part = next((n for n, pattern in enumerate(ORDER) if re.match(pattern, name)), len(ORDER))
    block = re.match(r"(?:decoder_)?blocks\.(\d+)\.(.*?)(?:\.(?:weight|bias))?$", name)
    inside = IN_BLOCK.index(block[2]) if block and block[2] in IN_BLOCK else len(IN_BLOCK)
    return part, int(block[1]) if block else 0, inside, "0" if name.endswith("weight") else f"1{name}"


def sizes_of(state: Mapping[str, Tensor], heads: int | None = None) -> tuple[ViT, int, int]:
    """(encoder sizes, image size, classes) read off the shapes; heads: needed for widths that were never published."""
    width, patch = state["cls_token"].shape[-1], state["patch_embed.proj.weight"].shape[-1]
    extra = {"deit-distilled": 2, "deit-3": 0}.get(layout_of(state), 1)
    grid = math.isqrt(state["pos_embed"].shape[1] - extra)
    classes = len(state["head.bias"]) if "head.bias" in state else 0
    third = layout_of(state) == "deit-3"
    vit = ViT(
        patch_size=patch,
        width=width,
        depth=_blocks(state, "blocks"),
        heads=_heads(width, heads, HEADS, "heads"),
        layer_scale=LAYER_SCALE if third else 0.0,
        class_position=not third,
    )
    return vit, grid * patch, classes


def model_of(state: Mapping[str, Tensor], heads: int | None = None) -> tuple[nn.Module, str, dict[str, Any], int]:
    """(timm's model filled strictly, its name, its model_args, image size) of a checkpoint in any layout but mae-pretrain."""
    layout = layout_of(state)
    vit, image_size, classes = sizes_of(state, heads)
    name, arguments = _named(layout, vit, image_size)
    with torch.random.fork_rng(devices=[]):
        model = timm.create_model(name, num_classes=classes, **arguments)
    strictly(model, to_timm(state), f"a {layout} checkpoint")
    return model, name, arguments, image_size


def mae_of(state: Mapping[str, Tensor], heads: int | None, decoder_heads: int | None) -> tuple[MAE, Decoder]:
    """(our MAE filled strictly, its decoder's sizes) of a mae-pretrain checkpoint, decoder included."""
    vit, image_size, _ = sizes_of(state, heads)
    width = state["mask_token"].shape[-1]
    decoder = Decoder(
        width=width,
        depth=_blocks(state, "decoder_blocks"),
        heads=_heads(width, decoder_heads, DECODER_HEADS, "decoder heads"),
    )
    with torch.random.fork_rng(devices=[]):
        model = MAE(image_size, vit, decoder, 0.75)
    strictly(model, state, "an MAE pretraining checkpoint")
    return model, decoder


def read(path: Path, target: Path, licence: str, heads: int | None = None, decoder_heads: int | None = None) -> Layout:
    """A published file as a model folder; its layout. An MAE with its decoder becomes what `pretrain` writes. Raises Refusal."""
    state = tensors.read(path)
    layout = layout_of(state)
    if layout == "mae-pretrain":
        mae, decoder = mae_of(state, heads, decoder_heads)
        vit, size, _ = sizes_of(state, heads)
        folder.save_mae(mae, target, *architecture.encoder(vit, size), size, decoder.model_dump(), licence)
        return layout
    model, name, arguments, size = model_of(state, heads)
    crop_pct = 1.0 if layout in ("deit-3", "mae-encoder") or (layout == "mae-finetuned" and size > 224) else 0.875
    folder.save(model, target, name, arguments, size, crop_pct, None if "head.bias" in state else (), licence)
    return layout


def write(source: Path, path: Path) -> Layout:
    """A model folder as one file in its published layout: {"model": ...} for a .pth, tensors alone for a .safetensors."""
    state = folder.state(source)
    if (source / DECODER).exists():
        state |= folder.state(source, DECODER)
    layout = layout_of(state)
    ordered = to_published(state)
    with files.replace(path) as temporary:
        if path.suffix == ".safetensors":
            temporary.write_bytes(safetensors.torch.save(ordered, metadata={"format": "pt"}))
        elif path.suffix == ".pth":
            torch.save({"model": ordered}, temporary)
        else:
            raise Refusal(
                f"{path}: a published checkpoint is written as .safetensors or .pth, told by the name's ending."
            )
    return layout


def strictly(model: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Fill the model. Raises Refusal naming every kind of misfit."""
    own = model.state_dict()
    wrong = [f"{name} is missing" for name in own if name not in state]
    wrong += [f"{name} has no place" for name in state if name not in own]
    wrong += [
        f"{name} is {tuple(state[name].shape)}, wanted {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    if wrong:
        raise Refusal(f"{what} does not fit its own sizes: {'; '.join(wrong[:3])}{'; ...' if wrong[3:] else ''}.")
    model.load_state_dict(dict(state))


def _named(layout: Layout, vit: ViT, image_size: int) -> tuple[str, dict[str, Any]]:
    """(timm's name, model_args); the official name where every size is official."""
    if layout in ("mae-encoder", "mae-finetuned"):
        name, arguments = architecture.encoder(vit, image_size)
        return name, {**arguments, **({"global_pool": "avg"} if layout == "mae-finetuned" else {})}
    name, arguments = architecture.classifier(vit, image_size, layout == "deit-distilled")
    return name, {
        key: value for key, value in arguments.items() if key != "init_values"
    }  # the file has what they became


def _blocks(state: Mapping[str, Any], name: str) -> int:
    return len({parts[1] for parts in (key.split(".") for key in state) if parts[0] == name})


def _heads(width: int, given: int | None, known: Mapping[int, int], what: str) -> int:
    if given is None and width not in known:
        raise Refusal(
            f"no published model is {width} wide, and no shape tells how many {what} there are; say it as the last argument."
        )
    return given or known[width]
