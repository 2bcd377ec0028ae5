"""The masked autoencoder: a ViT encoder on visible patches, a light decoder on all (He et al. 2021, arXiv 2111.06377).

Parameter names and their order are those of the published checkpoints. The blocks are timm's; the rest is ours.
"""

import math

import torch
from timm.layers import LayerNorm, PatchEmbed
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional

from stages.lib.models import blocks
from stages.lib.models.positions import sincos_2d
from stages.lib.models.precision import wide
from stages.lib.params.pretrain import Decoder
from stages.lib.params.vit import ViT


def visible(patches: int, mask_ratio: float) -> int:
    """How many of `patches` stay visible: L * (1 - ratio) truncated in double precision, so 100 at 0.8 keeps 19."""
    return int(patches * (1 - mask_ratio))


def patchify(images: Tensor, patch: int) -> Tensor:
    """f[B,3,H,W] -> f[B,L,patch*patch*3]: patches row-major; within a patch row, column, channel (channel fastest)."""
    batch, channels, height, width = images.shape
    if height % patch or width % patch:
        raise ValueError(f"images of {height}x{width} do not divide into patches of {patch}")
    grid = images.reshape(batch, channels, height // patch, patch, width // patch, patch)
    return grid.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def unpatchify(patches: Tensor, patch: int) -> Tensor:
    """f[B,L,patch*patch*3] of a square image -> f[B,3,H,W]: the inverse of `patchify`."""
    batch, count, _ = patches.shape
    side = math.isqrt(count)
    if side * side != count:
        raise ValueError(f"{count} patches are no square image")
    grid = patches.reshape(batch, side, side, patch, patch, -1).permute(0, 5, 1, 3, 2, 4)
    return grid.reshape(batch, -1, side * patch, side * patch)


def pick(tokens: Tensor, places: Tensor) -> Tensor:
    """f[B,N,D], i64[B,K] -> f[B,K,D]: the tokens at these places of each row."""
    return tokens.gather(1, places.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


class MAE(nn.Module):
    """Encoder of sizes `vit`, decoder of sizes `decoder`, `mask_ratio` of the patches hidden.

    Draws its initial weights from torch's global generator: `torch.manual_seed` first. Positions are fixed sine-cosine
    tables (class row zero), kept in the state dict as the published checkpoints have them, but never trained.
    """

    def __init__(self, image_size: int, vit: ViT, decoder: Decoder, mask_ratio: float) -> None:
        super().__init__()
        grid = image_size // vit.patch_size
        self.keep = visible(grid * grid, mask_ratio)
        if self.keep < 1:
            raise ValueError(f"mask_ratio {mask_ratio} leaves none of {grid * grid} patches visible; lower it")
        self.cls_token = nn.Parameter(torch.empty(1, 1, vit.width))
        self.pos_embed = fixed_positions(vit.width, grid)
        self.mask_token = nn.Parameter(torch.empty(1, 1, decoder.width))
        self.decoder_pos_embed = fixed_positions(decoder.width, grid)
        self.patch_embed = PatchEmbed(image_size, vit.patch_size, 3, vit.width)
        self.blocks = nn.ModuleList(fresh_blocks(vit.width, vit.depth, vit.heads))
        self.norm = LayerNorm(vit.width)
        self.decoder_embed = nn.Linear(vit.width, decoder.width)
        self.decoder_blocks = nn.ModuleList(fresh_blocks(decoder.width, decoder.depth, decoder.heads))
        self.decoder_norm = LayerNorm(decoder.width)
        self.decoder_pred = nn.Linear(decoder.width, vit.patch_size**2 * 3)
        self.patch_size = vit.patch_size
        self.initialise()

    def initialise(self) -> None:
        """Xavier-uniform matrices (fused qkv as one, patch embedding flattened), zero biases, tokens normal 0.02.

        The patch embedding's bias keeps torch's default, as in the published code.
        """
        nn.init.normal_(self.cls_token, std=0.02)
        nn.init.normal_(self.mask_token, std=0.02)
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.flatten(1))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def order(self, noise: Tensor) -> Tensor:
        """noise f[B,L] -> i64[B,L]: each image's patches by their noise; the first `keep` stay visible, the others are hidden."""
        return noise.argsort(dim=1, stable=True)

    def embed(self, patches: Tensor) -> Tensor:
        """f[B,K,patch*patch*3] -> f[B,K,D]: the convolution of `patch_embed`, as a matrix product on these patches alone."""
        kernel = self.patch_embed.proj.weight.permute(0, 2, 3, 1).flatten(1)  # row, column, channel, as `patchify`
        return functional.linear(patches, kernel, self.patch_embed.proj.bias)

    def latent(self, patches: Tensor, kept: Tensor) -> Tensor:
        """All patches f[B,L,patch*patch*3], the places of visible ones i64[B,K] -> f[B,1+K,D], class token first."""
        places = self.pos_embed[:, 1:].expand(len(patches), -1, -1)
        tokens = self.embed(pick(patches, kept)) + pick(places, kept)
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(patches), -1, -1)
        return self.norm(blocks.run(self.blocks, torch.cat([first, tokens], dim=1)))

    def encode(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """f[B,3,H,W], noise f[B,L] -> latent f[B,1+K,D], mask f[B,L] (1 = hidden), restore i64[B,L], kept i64[B,K].

        The patches with the smallest noise stay visible, in order of their noise; `restore` undoes that order.
        """
        shuffle = self.order(noise)
        kept = shuffle[:, : self.keep]
        mask = torch.ones_like(noise, dtype=images.dtype).scatter(1, kept, 0.0)
        return self.latent(patchify(images, self.patch_size), kept), mask, shuffle.argsort(dim=1, stable=True), kept

    def decode(self, latent: Tensor, restore: Tensor) -> Tensor:
        """latent f[B,1+K,D], restore i64[B,L] -> predicted patches f[B,L,patch*patch*3], hidden and visible alike."""
        tokens = self._with_hidden(latent, restore.shape[1])
        tokens = torch.cat([tokens[:, :1], pick(tokens[:, 1:], restore)], dim=1) + self.decoder_pos_embed
        return self._predict(blocks.run(self.decoder_blocks, tokens)[:, 1:])

    def forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """f[B,3,H,W], noise f[B,L] in [0,1) -> (predicted patches f[B,L,patch*patch*3], mask f[B,L], 1 = hidden)."""
        latent, mask, restore, _ = self.encode(images, noise)
        return self.decode(latent, restore), mask

    def predict_hidden(self, patches: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """f[B,L,patch*patch*3], noise f[B,L] -> (predictions f[B,L-K,patch*patch*3] of hidden patches, their places i64[B,L-K]).

        What `forward` gives there, without the work for visible patches that no loss counts. The decoder's tokens stay in order
        of the noise and take their positions there: attention does not see an order, and so nothing is put back.
        """
        shuffle = self.order(noise)
        latent = self.latent(patches, shuffle[:, : self.keep])
        places = self.decoder_pos_embed[:, 1:].expand(len(patches), -1, -1)
        positions = torch.cat(
            [self.decoder_pos_embed[:, :1].expand(len(patches), -1, -1), pick(places, shuffle)], dim=1
        )
        tokens = blocks.run(self.decoder_blocks, self._with_hidden(latent, shuffle.shape[1]) + positions)
        return self._predict(tokens[:, 1 + self.keep :]), shuffle[:, self.keep :]

    def _with_hidden(self, latent: Tensor, patches: int) -> Tensor:
        """f[B,1+K,D] -> f[B,1+L,decoder width]: embedded for the decoder, then a mask token for every hidden patch."""
        tokens = self.decoder_embed(latent)
        hidden = self.mask_token.expand(len(tokens), patches - self.keep, -1).to(tokens.dtype)
        return torch.cat([tokens, hidden], dim=1)

    def _predict(self, tokens: Tensor) -> Tensor:
        return wide(self.decoder_pred(self.decoder_norm(tokens)))


def fresh_blocks(width: int, depth: int, heads: int) -> list[Block]:
    """timm's pre-norm blocks: qkv bias, MLP ratio 4, exact GELU; timm's LayerNorm has eps 1e-6, as published."""
    return [Block(width, heads, mlp_ratio=4.0, qkv_bias=True, norm_layer=LayerNorm) for _ in range(depth)]


def fixed_positions(width: int, grid: int) -> nn.Parameter:
    """f32[1, 1 + grid*grid, width], not trained: a zero row for the class token, then the sine-cosine table."""
    table = torch.cat([torch.zeros(1, width, dtype=torch.float64), sincos_2d(width, grid)])
    return nn.Parameter(table.float().unsqueeze(0), requires_grad=False)
