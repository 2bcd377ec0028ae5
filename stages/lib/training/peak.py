"""What a device can do at most, to say what share of it a step uses (MFU, model FLOPs utilisation)."""

import functools
import resource
from typing import Literal

import torch

from stages.lib.params.precision import Precision
from stages.lib.training.fastest import timed

Source = Literal["table", "measured"]
DENSE = {
    # NVIDIA's data sheets, dense (without sparsity): (bf16 tensor cores, fp32 without tensor cores), TFLOP/s
    "H200 NVL": (835.5, 60.0),  # H200 data sheet: 1,671 with sparsity
    "H200": (989.4, 66.9),  # H200 data sheet: 1,979 with sparsity; SXM
    "H100 NVL": (835.5, 60.0),  # H100 data sheet: 1,671 with sparsity
    "H100 PCIe": (756.0, 51.0),  # H100 PCIe product brief: 1,513 with sparsity
    "H100": (989.4, 66.9),  # H100 data sheet, SXM
    "A100": (312.0, 19.5),  # A100 data sheet
    "L40S": (362.05, 91.6),  # L40S data sheet: 733 with sparsity
    "L40": (181.05, 90.5),  # L40 data sheet: 362.1 with sparsity
    "L4": (121.0, 30.3),  # L4 data sheet: 242 with sparsity
    "A10G": (70.0, 35.0),  # as AWS states for g5
    "RTX 4090": (165.2, 82.6),  # Ada architecture whitepaper, accumulating in fp32
    "RTX 3090": (71.0, 35.6),  # Ampere GA102 whitepaper, accumulating in fp32
}
SIDE = 1024
"""Of the square matrices a device without an entry multiplies."""


def peak_flops(device: torch.device, precision: Precision) -> tuple[float, Source]:
    """FLOP/s of matrix products in this precision, and where the figure is from.

    Of a GPU not in the table, and of a CPU with the threads and kernels set now, it is measured: 2 n^3 over the time of one
    product, the best of several. A measured peak is what products reach, not what the data sheet would say.
    """
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for known, (bf16, fp32) in DENSE.items():
            if known in name:
                return (bf16 if precision == "bf16" else fp32) * 1e12, "table"
    return _measured(device, precision, torch.get_num_threads(), torch.get_float32_matmul_precision()), "measured"


@functools.lru_cache(8)
def _measured(device: torch.device, precision: Precision, threads: int, _kernels: str) -> float:
    side = SIDE * (8 if device.type == "cuda" else 1)
    matrix = torch.ones(side, side, dtype=torch.bfloat16 if precision == "bf16" else torch.float32, device=device)
    least = float("inf")
    with torch.inference_mode():
        for _ in range(8):
            least = min(least, timed(lambda: matrix @ matrix, device) / (threads if device.type == "cpu" else 1))
    return 2 * side**3 / least


def peak_bytes(device: torch.device) -> int:
    """Most memory used so far: by tensors on a GPU, by the whole process (resident) on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
