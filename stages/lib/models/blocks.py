"""A transformer's blocks, one after the other: with stochastic depth from given numbers, compiled or not, activations kept or not.

The blocks are timm's and keep their names. How they run is a plain attribute of their container, in no state dict.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Step = Callable[[Block, Tensor, Tensor | None, Tensor | None], Tensor]
Blocks = nn.Sequential | nn.ModuleList


def residual(block: Block, tokens: Tensor, attention: Tensor | None, mlp: Tensor | None) -> Tensor:
    """f[B,N,D] -> f[B,N,D]: both branches added; each scaled by a factor an image, f[B,1,1], where one is given."""
    branch = block.ls1(block.attn(block.norm1(tokens)))
    tokens = tokens + (branch if attention is None else branch * attention)
    branch = block.ls2(block.mlp(block.norm2(tokens)))
    return tokens + (branch if mlp is None else branch * mlp)


@dataclass(frozen=True)
class How:
    """How blocks run while they are trained. Without gradients they always run as they are, everything kept."""

    step: Step = residual
    compiled: bool = False
    checkpoint: bool = False
    """Keep each block's input only and compute the rest again for the backward pass: the same bits, less memory."""


def how(blocks: Blocks) -> How:
    """As set by `compiled` and `checkpointed`; at first neither."""
    return cast(How, getattr(blocks, "how", How()))


def compiled(blocks: Blocks) -> None:
    """Compile the step from one block to the next: one graph serves all blocks of a size and all their rates."""
    blocks.how = replace(how(blocks), step=torch.compile(residual, dynamic=False, fullgraph=True), compiled=True)  # type: ignore[assignment]


def checkpointed(blocks: Blocks) -> None:
    """Trade a second forward pass for memory."""
    blocks.how = replace(how(blocks), checkpoint=True)  # type: ignore[assignment]


def run(blocks: Blocks, tokens: Tensor, factors: Tensor | None = None) -> Tensor:
    """f[B,N,D] -> f[B,N,D] through all blocks; factors f[depth,2,B,1,1] scale the two branches (see `drop_factors`)."""
    chosen = how(blocks) if torch.is_grad_enabled() else How()
    for index, module in enumerate(blocks):
        block = cast(Block, module)
        pair = (None, None) if factors is None else (factors[index, 0], factors[index, 1])
        if chosen.checkpoint:  # dropout's state is not kept: nothing here draws numbers
            tokens = checkpoint(chosen.step, block, tokens, *pair, use_reentrant=False, preserve_rng_state=False)
        else:
            tokens = chosen.step(block, tokens, *pair)
    return tokens


def drop_factors(keep: Tensor, rates: Sequence[float], dtype: torch.dtype) -> Tensor:
    """keep f[B,depth,2] uniform in [0,1), rates[depth] in [0,1) -> `dtype`[depth,2,B,1,1] (Huang et al. 2016).

    A branch whose number is below its block's rate counts 0, the others 1 / (1 - rate).
    """
    rate = _constant(tuple(rates), keep.device, keep.dtype)
    left = _constant(tuple(1 - value for value in rates), keep.device, dtype)
    return ((keep >= rate).to(dtype) / left).permute(1, 2, 0)[..., None, None]


@functools.lru_cache(16)
def _constant(values: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """f[depth,1], carried to the device once, since a step must not wait for it."""
    return torch.tensor(values, device=device, dtype=dtype)[:, None]
