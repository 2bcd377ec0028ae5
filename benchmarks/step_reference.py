"""What others run: timm's models, and the masked autoencoder with the arithmetic of its paper, written from the text.

plain: single precision, eager. strong: bfloat16 autocast, scaled-dot-product attention, fused optimizer, compiled whole: what a
competent user of timm runs.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Literal, cast

import timm
import torch
from timm.layers import LayerNorm, PatchEmbed
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.step_models import Sizes
from stages.lib.models import architecture
from stages.lib.models.positions import sincos_2d
from stages.lib.params.pretrain import Decoder

Step = Callable[[], object]
Format = Literal["fp32", "tf32", "bf16"]
"""TF32: single precision as NVIDIA's tensor cores take it, 10 bits of each factor's fraction; timm's scripts allow it."""


class PublishedMAE(nn.Module):
    """He et al. 2021, section 3: embed every patch, drop 75 %, encode; put mask tokens back in place, decode and predict every
    patch; the loss is the mean over masked patches of the mean squared error of normalised pixels."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        vit, decoder = sizes.vit, cast(Decoder, sizes.decoder)
        self.patch, self.ratio = vit.patch_size, sizes.mask_ratio
        grid = sizes.image_size // vit.patch_size
        self.embed = PatchEmbed(sizes.image_size, vit.patch_size, 3, vit.width)
        self.cls = nn.Parameter(torch.randn(1, 1, vit.width) * 0.02)
        self.mask = nn.Parameter(torch.randn(1, 1, decoder.width) * 0.02)
        self.encoder = nn.Sequential(*_blocks(vit.width, vit.depth, vit.heads), LayerNorm(vit.width))
        self.into = nn.Linear(vit.width, decoder.width)
        self.decoder = nn.Sequential(*_blocks(decoder.width, decoder.depth, decoder.heads), LayerNorm(decoder.width))
        self.predict = nn.Linear(decoder.width, vit.patch_size**2 * 3)
        self.register_buffer("places", _places(vit.width, grid))
        self.register_buffer("decoder_places", _places(decoder.width, grid))
        self.places: Tensor
        self.decoder_places: Tensor

    def forward(self, images: Tensor, noise: Tensor) -> Tensor:
        """f32[B,3,H,W], noise f32[B,L] -> the loss."""
        tokens = self.embed(images) + self.places[:, 1:]
        count, length, width = tokens.shape
        seen = int(length * (1 - self.ratio))
        shuffle = noise.argsort(dim=1)
        restore = shuffle.argsort(dim=1)
        tokens = tokens.gather(1, shuffle[:, :seen, None].expand(-1, -1, width))
        tokens = self.encoder(torch.cat([(self.cls + self.places[:, :1]).expand(count, -1, -1), tokens], dim=1))
        tokens = self.into(tokens)
        hidden = self.mask.expand(count, length - seen, -1).to(tokens.dtype)
        patches = torch.cat([tokens[:, 1:], hidden], dim=1)
        patches = patches.gather(1, restore[:, :, None].expand(-1, -1, patches.shape[2]))
        tokens = self.decoder(torch.cat([tokens[:, :1], patches], dim=1) + self.decoder_places)
        predicted = self.predict(tokens)[:, 1:].float()
        side, patch = images.shape[2] // self.patch, self.patch
        target = images.reshape(count, 3, side, patch, side, patch).permute(0, 2, 4, 3, 5, 1).reshape(count, length, -1)
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
        masked = (restore >= seen).float()
        return ((predicted - target).square().mean(-1) * masked).sum() / masked.sum()


def _blocks(width: int, depth: int, heads: int) -> list[Block]:
    return [Block(width, heads, qkv_bias=True, norm_layer=LayerNorm) for _ in range(depth)]


def _places(width: int, grid: int) -> Tensor:
    return torch.cat([torch.zeros(1, width, dtype=torch.float64), sincos_2d(width, grid)]).float()[None]


def mae(sizes: Sizes, images: Tensor, noise: Tensor, strong: bool) -> Step:
    """A step on normalised images."""
    model = PublishedMAE(sizes).to(images.device)
    loss = torch.compile(model) if strong else model
    return _training(model, lambda: loss(images, noise), images.device, strong, betas=(0.9, 0.95))


def deit(sizes: Sizes, images: Tensor, targets: Tensor, strong: bool) -> Step:
    """A step on normalised images and soft targets f32[B,C], with DeiT's stochastic depth."""
    name, changes = architecture.classifier(sizes.vit, sizes.image_size, distilled=False)
    model = timm.create_model(name, num_classes=sizes.classes, drop_path_rate=0.1, **changes).to(images.device)
    logits = torch.compile(model) if strong else model

    def loss() -> Tensor:
        return -(targets * functional.log_softmax(logits(images).float(), dim=-1)).sum(-1).mean()

    return _training(model, loss, images.device, strong, betas=(0.9, 0.999))


def labelling(images: Tensor, strong: bool) -> Step:
    """RegNetY-16GF's decisions about normalised images."""
    network = timm.create_model("regnety_160").to(images.device).eval()
    model: Callable[[Tensor], Tensor] = network
    if strong:
        model = torch.compile(network.to(memory_format=torch.channels_last))
        images = images.contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def step() -> Tensor:
        with torch.autocast(images.device.type, torch.bfloat16) if strong else nullcontext():
            return model(images).argmax(-1)

    return step


def _training(
    model: nn.Module, loss: Callable[[], Tensor], device: torch.device, strong: bool, betas: tuple[float, float]
) -> Step:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=betas, weight_decay=0.05, fused=strong or None)
    model.train()

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16) if strong else nullcontext():
            found = loss()
        optimizer.zero_grad(set_to_none=True)
        found.backward()
        optimizer.step()

    return step
