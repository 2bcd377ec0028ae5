"""What the encoder of an autoencoder says of whole images: apart from mae.py, since training one never asks."""

import torch
from torch import Tensor

from stages.lib.models.mae import MAE, patchify


def class_token(mae: MAE, images: Tensor) -> Tensor:
    """f[B,3,H,W] normalised -> f32[B,D]: the class token after the last norm, every patch visible.

    What the exported encoder gives as `features`, and what MAE's linear probe reads (main_linprobe.py without --global_pool).
    """
    patches = patchify(images, mae.patch_size)
    every = torch.arange(patches.shape[1], device=images.device).expand(len(images), -1)
    return mae.latent(patches, every)[:, 0].float()
