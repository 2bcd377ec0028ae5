"""Kernels for the same arithmetic, of which a run takes the fastest: recorded at its first start, kept on resume.

What is fastest depends on the processor, and it moves the last bits. So the machine also remembers a choice, for the next run
of the same sizes: two runs of one recipe on one machine end with the same bits.
"""

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable
from typing import Literal

import torch

from stages.lib.core.outcome import Refusal
from stages.lib.core.runs import Run
from stages.lib.training import kernel_memory, processes
from stages.lib.training.processor import processor

log = logging.getLogger(__name__)
Matmul = Literal["default", "onednn"]
Choice = dict[str, str]
"""What is chosen -> which way, as it stands in the run folder's kernels.json."""


def chosen(run: Run, allowed: dict[str, tuple[str, ...]], sizes: object, measure: Callable[[], Choice]) -> Choice:
    """What the run recorded; else what this machine remembers of such `sizes`; else what is measured now.

    allowed: the ways of each thing that is chosen. A memory of the machine that says anything else is not used, but measured again;
    a record of the run that does is refused. Of several processes the first one measures, while the others wait, and all take what
    it chose.
    """
    return processes.from_first(lambda: _chosen(run, allowed, sizes, measure))


def _chosen(run: Run, allowed: dict[str, tuple[str, ...]], sizes: object, measure: Callable[[], Choice]) -> Choice:
    """The same in the first process."""
    if (path := run.folder / "kernels.json").exists():
        recorded = run.recall("kernels", {})
        if not _fits(recorded, allowed):
            raise Refusal(
                f"{path} records kernels {recorded}, and this run knows {allowed}. Put it right, or remove it to choose "
                "again: the run then goes on with other last bits."
            )
        return recorded
    name = signature(sizes)
    choice = kernel_memory.remembered(name)
    if choice is None or not _fits(choice, allowed):
        began = time.monotonic()
        choice = measure()
        log.info("measured kernels in %.1f s: %s", time.monotonic() - began, choice)
        kernel_memory.remember(name, choice)
    return run.recall("kernels", choice)


def _fits(choice: Choice, allowed: dict[str, tuple[str, ...]]) -> bool:
    """Whether a choice says one of the ways for each thing, and nothing else."""
    return choice.keys() == allowed.keys() and all(choice[key] in allowed[key] for key in allowed)


def signature(sizes: object) -> str:
    """Under which a choice is remembered: sizes (as JSON writes them), device, threads and torch."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    described = [sizes, device, processor(), torch.get_num_threads(), torch.__version__]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]


def multiply(matmul: Matmul) -> None:
    """How this process multiplies in single precision on a CPU.

    "medium" would let a product compute in bfloat16. What it does on processors without AMX is to take oneDNN instead of MKL, in
    single precision; who chooses it has compared with double precision before.
    """
    torch.set_float32_matmul_precision("medium" if matmul == "onednn" else "highest")


def refuse_without_compiler(device: torch.device) -> None:
    """Raise Refusal where torch.compile would find no compiler: C++ for a CPU, C for what Triton builds beside a GPU's code."""
    variable, default = ("CXX", "g++") if device.type == "cpu" else ("CC", "gcc")
    command = os.environ.get(variable) or default
    if shutil.which(command) is None and not (device.type == "cuda" and shutil.which("clang")):
        raise Refusal(
            f"compile: true needs a compiler on this machine, and {command} is not here. Install one, name one in "
            f"${variable}, or set compile to false."
        )
