"""Where the class token and the distillation token look: the last block's attention to the patches, for the eye.

The mean over heads of softmax(q k' / sqrt(d)) (Dosovitskiy et al. 2020, arXiv 2010.11929, appendix A), of the last block alone:
no rollout through the earlier ones, which have mixed the patches by then. It shows from which places a token takes what it adds
there, and is no explanation of an answer.
"""

from typing import Any, cast

import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from stages.lib.models import blocks, deit
from stages.lib.models.precision import wide


def attention(model: VisionTransformer, images: Tensor) -> Tensor:
    """f[B,3,H,W] -> f[B,T,rows,columns]: T is 1 (class token), or 2 with a distillation token after it.

    Each map sums to 1 less what the token gives to the tokens before the patches, itself among them. Computed without gradients,
    at least in single precision; the model is left as it was.
    """
    extra = len(deit.prefix(model))
    with torch.no_grad():
        before = cast(nn.Sequential, model.blocks[:-1])
        weights = last_weights(cast(Block, model.blocks[-1]), blocks.run(before, deit.embedded(model, images)))
    rows, columns = model.patch_embed.grid_size
    return weights.mean(1)[:, :extra, extra:].unflatten(2, (rows, columns))


def last_weights(block: Block, tokens: Tensor) -> Tensor:
    """f[B,N,D] that enter a block -> f[B,heads,N,N]: row i says how much token i takes of each; rows sum to 1."""
    layer: Any = block.attn
    batch, count, _ = tokens.shape
    qkv = layer.qkv(block.norm1(tokens)).reshape(batch, count, 3, layer.num_heads, layer.head_dim)
    query, key = layer.q_norm(qkv[:, :, 0].transpose(1, 2)), layer.k_norm(qkv[:, :, 1].transpose(1, 2))
    scores = (query * layer.scale) @ key.transpose(-2, -1)
    return wide(scores).softmax(-1)
