"""Multiply-accumulates (MACs) of one image's forward pass; 2 FLOPs each, and training costs three forward passes.

Softmax, norms, activations and additions are left out, as is usual for "model FLOPs".
"""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from stages.lib.params.vit import ViT

FLOPS_PER_MAC = 2
TRAINING = 3
"""Forward passes a training step is worth: the backward pass is two."""


def blocks_macs(tokens: int, width: int, depth: int) -> int:
    """Transformer blocks with an MLP four times as wide: 12 n D^2 for matrices and 2 n^2 D for attention, each."""
    return depth * (12 * tokens * width**2 + 2 * tokens**2 * width)


def vit_macs(vit: ViT, image_size: int, classes: int, distilled: bool) -> int:
    """A classifier with a class token; distilled: a distillation token and its head as well."""
    patches = (image_size // vit.patch_size) ** 2
    extra = 2 if distilled else 1
    embedding = patches * vit.width * 3 * vit.patch_size**2
    return embedding + blocks_macs(patches + extra, vit.width, vit.depth) + extra * vit.width * classes


def counted_macs(network: nn.Module, image_size: int) -> int:
    """Any network, by counting what its own forward pass would do to one image; nothing is computed."""
    weights = {name: tensor.to("meta") for name, tensor in network.state_dict().items()}
    training = network.training
    network.eval()
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            images = torch.empty(1, 3, image_size, image_size, device="meta")
            torch.func.functional_call(network, weights, (images,))
    finally:
        network.train(training)
    return int(counter.get_total_flops()) // FLOPS_PER_MAC


def training_flops(macs: int) -> float:
    """FLOPs a training step spends on one image."""
    return float(TRAINING * FLOPS_PER_MAC * macs)
