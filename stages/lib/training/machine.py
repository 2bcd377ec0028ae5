"""What the machine decides for a run: device and thread count. Both move bits, so a resumed run keeps its first choice."""

import logging
import os

import torch

from stages.lib.core.outcome import Refusal
from stages.lib.core.runs import Run
from stages.lib.params.system import System

log = logging.getLogger(__name__)


def prepare(run: Run, system: System) -> torch.device:
    """Set threads and return the device, as recorded in the run folder at its first start.

    Raises Refusal where the recorded device is not here.
    """
    found = "cuda" if torch.cuda.is_available() else "cpu"
    wanted = {
        "device": found if system.device == "auto" else system.device,
        "threads": system.threads or os.cpu_count() or 1,
    }
    kept = run.recall("machine", wanted)
    if kept != wanted:
        log.info("keeping this run's device and threads %s; the machine or `system` would now choose %s", kept, wanted)
    if kept["device"] == "cuda" and found != "cuda":
        raise Refusal(
            f"this run needs a CUDA device and none is here (system.device: {system.device}). Set system.device to cpu or auto"
            + (f", or remove {run.folder} to start it over on this machine." if kept != wanted else ".")
        )
    torch.set_num_threads(kept["threads"])
    return torch.device(kept["device"])
