"""How alike class token and distillation token become on their way through a transformer (Touvron et al. 2021, section 4)."""

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn import functional

from stages.lib.models import blocks, deit


@torch.no_grad()
def cosines(model: VisionTransformer, images: Tensor) -> Tensor:
    """f[B,3,H,W] -> f64[B, depth + 1]: cosine of the two tokens where the first block gets them, then after every block.

    Each is taken with its position, as the first block does: what is learnt of a token and of its place is only ever their sum.
    Before the final norm. The model has a distillation token.
    """
    assert deit.is_distilled(model)
    tokens = deit.embedded(model, images)
    found = [_alike(tokens)]
    for place in range(len(model.blocks)):
        tokens = blocks.run(model.blocks[place : place + 1], tokens)
        found.append(_alike(tokens))
    return torch.stack(found, dim=1)


def _alike(tokens: Tensor) -> Tensor:
    return functional.cosine_similarity(tokens[:, 0].double(), tokens[:, 1].double(), dim=1)
