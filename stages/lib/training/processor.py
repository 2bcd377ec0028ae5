"""What computes here, by name: results keep their last bits only on the same one."""

import os
import platform
from pathlib import Path

import torch


def processor() -> str:
    """Name, family, model and number of cores of the CPU, as far as the system tells."""
    wanted = ("model name", "cpu family", "model\t")
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    facts = sorted({" ".join(line.split()) for line in lines if line.startswith(wanted)})
    return f"{facts} x {os.cpu_count()}"


def name_of(kind: str) -> str:
    """The device that "cpu" or "cuda" is here."""
    return torch.cuda.get_device_name() if kind == "cuda" and torch.cuda.is_available() else processor()
