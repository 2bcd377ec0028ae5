"""A masked autoencoder from its folder, encoder and decoder: as `pretrain` or `stages.published` left it."""

import json
from pathlib import Path
from typing import Any, cast

import torch
from pydantic import ValidationError
from timm.models.vision_transformer import Block, VisionTransformer

from stages.lib.core.outcome import Refusal
from stages.lib.models import deit, folder
from stages.lib.models.mae import MAE
from stages.lib.params.pretrain import Decoder
from stages.lib.params.vit import ViT

WEIGHTS, SIZES = "decoder.safetensors", "decoder.json"


def load(path: Path, mask_ratio: float) -> MAE:
    """In eval mode on the CPU; torch's global generator stays as it was.

    Raises Refusal where a file is missing or damaged, or encoder and decoder belong to different models.
    """
    encoder, config = folder.load(path)
    try:
        decoder = Decoder.model_validate(json.loads((path / SIZES).read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError) as error:
        raise folder.damaged(path / SIZES, error) from error
    size = config["pretrained_cfg"]["input_size"][-1]
    with torch.random.fork_rng(devices=[]):
        mae = MAE(size, deit.sizes(cast(VisionTransformer, encoder)), decoder, mask_ratio)
    try:
        mae.load_state_dict({**encoder.state_dict(), **folder.state(path, WEIGHTS)})
    except RuntimeError as error:
        raise Refusal(
            f"{path / WEIGHTS} is no decoder of {path / folder.WEIGHTS} ({error}); restore both from one run"
        ) from error
    return mae.eval()


def sizes(mae: MAE) -> ViT:
    """The encoder's, read off its modules."""
    attention: Any = cast(Block, mae.blocks[0]).attn
    width, depth = mae.cls_token.shape[-1], len(mae.blocks)
    return ViT(patch_size=mae.patch_size, width=width, depth=depth, heads=attention.num_heads)
