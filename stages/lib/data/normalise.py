"""From bytes to what every model here sees: ImageNet's mean and standard deviation (recipes: DeiT and MAE alike)."""

import torch
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


Channels = tuple[float, float, float]


def normalise(images: Tensor) -> Tensor:
    """u8[B,3,H,W] -> f32[B,3,H,W], as every model trained here sees images."""
    return standardise(images, IMAGENET_MEAN, IMAGENET_STD)


def standardise(images: Tensor, mean: Channels, std: Channels) -> Tensor:
    """u8[B,3,H,W] -> f32[B,3,H,W]: (x/255 - mean) / std, torchvision's operations in its order, so the same bits."""
    centre = torch.tensor(mean, device=images.device).view(3, 1, 1)
    spread = torch.tensor(std, device=images.device).view(3, 1, 1)
    return (images.float() / 255 - centre) / spread


def denormalise(images: Tensor) -> Tensor:
    """f32[B,3,H,W] normalised -> u8[B,3,H,W] for the eye: the inverse, rounded, clamped to 0..255."""
    mean = torch.tensor(IMAGENET_MEAN, device=images.device).view(3, 1, 1)
    std = torch.tensor(IMAGENET_STD, device=images.device).view(3, 1, 1)
    return ((images * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
