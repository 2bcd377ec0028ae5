"""Multiply-accumulates of the masked autoencoder (He et al. 2021): apart, so that no classifier depends on it."""

from stages.lib.models.flops import blocks_macs
from stages.lib.models.mae import visible
from stages.lib.params.pretrain import Decoder
from stages.lib.params.vit import ViT


def mae_macs(vit: ViT, decoder: Decoder, image_size: int, mask_ratio: float) -> int:
    """A masked autoencoder as published: every patch embedded, every patch predicted. What is left out of that is no model FLOP
    gained: it shows as speed."""
    patches = (image_size // vit.patch_size) ** 2
    seen, pixels = 1 + visible(patches, mask_ratio), 3 * vit.patch_size**2
    encoder = patches * vit.width * pixels + blocks_macs(seen, vit.width, vit.depth)
    into = seen * vit.width * decoder.width
    return encoder + into + blocks_macs(1 + patches, decoder.width, decoder.depth) + patches * decoder.width * pixels
