"""The number format of a forward pass."""

import contextlib

import torch
from torch import Tensor

from stages.lib.core.outcome import Refusal
from stages.lib.params.precision import Precision


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[object]:
    """Within it, matrix products and convolutions on `device` compute in `precision`. Raises Refusal where it cannot."""
    if precision == "fp32":
        return torch.autocast(device.type, enabled=False)
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise Refusal(f"{torch.cuda.get_device_name(device)} has no bfloat16; set precision to fp32.")
    return torch.autocast(device.type, torch.bfloat16)


def wide(values: Tensor) -> Tensor:
    """In at least single precision: what a loss is computed from."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
