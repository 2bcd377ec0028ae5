"""Where a model is measured: device and compute threads, in full single precision and with repeatable kernels."""

import os

import torch

from stages.lib.core.outcome import Refusal
from stages.lib.params.system import System


def device_of(system: System) -> torch.device:
    """Set the threads and return the device. Raises Refusal where a demanded GPU is not here."""
    torch.set_num_threads(system.threads or os.cpu_count() or 1)
    torch.backends.cudnn.allow_tf32 = False  # on by default: convolutions would keep 10 bits of each factor's fraction
    torch.backends.cudnn.deterministic = True
    if system.device == "cuda" and not torch.cuda.is_available():
        raise Refusal("system.device is cuda, and no CUDA device is here. Set it to cpu or auto.")
    found = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(found if system.device == "auto" else system.device)
