"""What an exported file gives for a batch of images: every head by name, or features where there is no head."""

from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from stages.lib.models import deit

INPUT = "images"
"""f32[batch, 3, H, W], normalised; the batch may be of any size."""
DISTILLED = ("class_logits", "distillation_logits", "fused_logits")


def names(network: nn.Module) -> tuple[str, ...]:
    """One name an output: logits f32[batch, classes], or features f32[batch, D] of a model without a head."""
    if not network.num_classes:
        return ("features",)
    return DISTILLED if isinstance(network, VisionTransformerDistilled) else DISTILLED[:1]


class Outputs(nn.Module):
    """The model as it leaves the house, on timm's own forward pass; fused: the mean of both heads' logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """f32[B, 3, H, W] -> the outputs in the order of `names`."""
        if isinstance(self.network, VisionTransformerDistilled) and self.network.num_classes:
            tokens = self.network.forward_features(images)
            first, second = self.network.head(tokens[:, 0]), self.network.head_dist(tokens[:, 1])
            return first, second, (first + second) / 2
        return (self.network(images),)


def ours(network: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
    """The same outputs by this pipeline's own forward pass, which trained and measured the model."""
    if not isinstance(network, VisionTransformer):
        return (network(images),)
    if not network.num_classes:
        return (deit.features(network, images)[:, 0],)
    first, second = deit.heads(network, images)
    return (first,) if second is None else (first, second, (first + second) / 2)
