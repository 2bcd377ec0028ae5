"""How much memory steps take: on a GPU what tensors took at most, on a CPU by how much the process grew at most."""

import contextlib
import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

import torch

STATUS = Path("/proc/self/status")
RESET = "5\n"
"""Written to clear_refs: the kernel forgets the highest resident size so far (proc(5))."""


def peak(step: Callable[[], object], device: torch.device) -> int:
    """Bytes at most in use over the second of two draws, beyond what lay there before (weights, the other side).

    The first sets up what stays: optimizer state, compiled code.
    """
    step()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device)) - before
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # pages that earlier work has freed but not given back
    before = _kilobytes("VmRSS")
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text(RESET)
    step()
    return max(0, _kilobytes("VmHWM") - before) * 1024


def _kilobytes(field: str) -> int:
    """Of this process, as the kernel counts."""
    lines = STATUS.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))
