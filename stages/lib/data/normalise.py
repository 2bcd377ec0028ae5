"""From bytes to what every model here sees: ImageNet's mean and standard deviation (recipes: DeiT and MAE alike)."""

import ctypes
import functools

import numpy as np
import torch
from torch import Tensor

from stages.lib.core import native
from stages.lib.data.recycled import Recycled

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


Channels = tuple[float, float, float]


_results = Recycled()


def normalise(images: Tensor) -> Tensor:
    """u8[B,3,H,W] -> f32[B,3,H,W], as every model trained here sees images."""
    return standardise(images, IMAGENET_MEAN, IMAGENET_STD)


def standardise(images: Tensor, mean: Channels, std: Channels) -> Tensor:
    """u8[B,3,H,W] -> f32[B,3,H,W]: (x/255 - mean) / std, torchvision's operations in its order, so the same bits.

    In the memory of a CPU each is looked up in a table of the 256 results, some ten times faster.
    """
    library = _library()
    if library is None or images.device.type != "cpu" or not images.is_contiguous() or images.dtype != torch.uint8:
        return _operations(images, mean, std)
    found = torch.from_numpy(_results.take(tuple(images.shape), np.float32))
    table = _table(mean, std)
    count, plane = images.shape[0], images.shape[2] * images.shape[3]
    library.normalise(images.data_ptr(), table.data_ptr(), count, plane, found.data_ptr())
    return found


def _operations(images: Tensor, mean: Channels, std: Channels) -> Tensor:
    return (images.float() / 255 - _channels(mean, images.device)) / _channels(std, images.device)


@functools.lru_cache(16)
def _channels(values: Channels, device: torch.device) -> Tensor:
    """f32[3, 1, 1], carried to the device once: a step must not wait for it."""
    return torch.tensor(values, device=device).view(3, 1, 1)


@functools.lru_cache(16)
def _table(mean: Channels, std: Channels) -> Tensor:
    """f32[3, 256]: what each byte becomes."""
    levels = torch.arange(256, dtype=torch.uint8).expand(1, 3, 1, 256)
    return _operations(levels, mean, std).reshape(3, 256).contiguous()


@functools.cache
def _library() -> ctypes.CDLL | None:
    library = native.library("stages/lib/data/normalise.c")
    if library is not None:
        library.normalise.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]
        library.normalise.restype = None
    return library


def denormalise(images: Tensor) -> Tensor:
    """f32[B,3,H,W] normalised -> u8[B,3,H,W] for the eye: the inverse, rounded, clamped to 0..255."""
    mean, std = _channels(IMAGENET_MEAN, images.device), _channels(IMAGENET_STD, images.device)
    return ((images * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
