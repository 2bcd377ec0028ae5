"""How torch's backends are set while a side is under the clock: they are set for a whole process, so each side sets its own."""

from collections.abc import Callable

import torch

from stages.lib.training import kernels
from stages.lib.training.kernels import Matmul


def ours(matmul: Matmul) -> Callable[[], None]:
    """As stages/lib/training/device.py sets them: full single precision, repeatable convolutions."""

    def begin() -> None:
        kernels.multiply(matmul)
        _convolutions(tf32=False, repeatable=True)

    return begin


def timm(device: torch.device) -> Callable[[], None]:
    """As timm's own scripts do beside a GPU: TF32 for products and convolutions, cuDNN's fastest found by trying."""

    def begin() -> None:
        torch.set_float32_matmul_precision("high" if device.type == "cuda" else "highest")
        _convolutions(tf32=True, repeatable=False)

    return begin


def single() -> None:
    """The same in full single precision."""
    torch.set_float32_matmul_precision("highest")
    _convolutions(tf32=False, repeatable=False)


def _convolutions(tf32: bool, repeatable: bool) -> None:
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.deterministic = repeatable
    torch.backends.cudnn.benchmark = not repeatable
