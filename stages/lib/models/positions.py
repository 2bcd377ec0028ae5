"""Position embeddings: the fixed 2-D sine-cosine table of MAE and resampling to another grid."""

import math

import torch
from torch import Tensor
from torch.nn import functional


def sincos_2d(dim: int, grid: int) -> Tensor:
    """f64[grid*grid, dim], patches row-major, no row for the class token (MAE; Vaswani et al. 2017, section 3.5).

    The first half of the channels encodes the column, the second the row; each half is all sines, then all cosines, at
    frequencies 10000^(-k / (dim/4)). `dim` is a multiple of 4, or ValueError.
    """
    if dim % 4:
        raise ValueError(f"sin-cos positions need a width that is a multiple of 4, got {dim}")
    frequencies = 10000.0 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim / 4))
    angles = torch.arange(grid, dtype=torch.float64)[:, None] * frequencies
    line = torch.cat([angles.sin(), angles.cos()], dim=1)
    columns = line[None].expand(grid, grid, -1)
    rows = line[:, None].expand(grid, grid, -1)
    return torch.cat([columns, rows], dim=2).reshape(grid * grid, dim)


def resample(positions: Tensor, grid: int, extra: int) -> Tensor:
    """f[1, extra + old*old, D] -> f[1, extra + grid*grid, D]; the first `extra` (class, distillation) are copied.

    Bicubic, corners not aligned, no antialiasing, in the dtype given: as DeiT and MAE fine-tune at another resolution.
    timm's helper antialiases, which changes the kernel even when enlarging. ValueError if the old grid is no square.
    """
    tokens, patches = positions[:, :extra], positions[:, extra:]
    old = math.isqrt(patches.shape[1])
    if old * old != patches.shape[1]:
        raise ValueError(f"{patches.shape[1]} patch positions after {extra} extra tokens are no square grid")
    image = patches.reshape(1, old, old, -1).permute(0, 3, 1, 2)
    image = functional.interpolate(image, size=(grid, grid), mode="bicubic", align_corners=False, antialias=False)
    return torch.cat([tokens, image.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)
