"""The device and compute threads of a process, in full single precision and with repeatable kernels. Both move bits."""

import os
from typing import TypedDict

import torch

from stages.lib.core import ranks
from stages.lib.core.outcome import Refusal
from stages.lib.params.system import System


class Choice(TypedDict):
    """What `system` and the machine come to."""

    device: str
    """cpu or cuda."""
    threads: int
    """Of one process."""


def chosen(system: System) -> Choice:
    """The block's values with auto and 0 filled in by what is here."""
    found = "cuda" if torch.cuda.is_available() else "cpu"
    return {
        "device": found if system.device == "auto" else system.device,
        "threads": system.threads or max(1, (os.cpu_count() or 1) // ranks.local().world),
    }


def use(choice: Choice) -> torch.device:
    """Set this process up for a choice. Raises Refusal where its device is not here."""
    if choice["device"] == "cuda" and not torch.cuda.is_available():
        raise Refusal("a CUDA device is asked for and none is here; set system.device to cpu or auto.")
    torch.set_num_threads(choice["threads"])
    torch.set_float32_matmul_precision("highest")  # until a run chooses kernels of its own
    torch.backends.cudnn.allow_tf32 = False  # on by default: convolutions would keep 10 bits of each factor's fraction
    torch.backends.cudnn.deterministic = True
    return torch.device("cuda", ranks.local().index) if choice["device"] == "cuda" else torch.device("cpu")


def device_of(system: System) -> torch.device:
    """What measuring uses: the block's choice, as it is now."""
    return use(chosen(system))
