"""A run keeps the device and threads of its first start: both move bits, and a resumed run must equal an undisturbed one."""

import logging

import torch

from stages.lib.core.outcome import Refusal
from stages.lib.core.runs import Run
from stages.lib.params.system import System
from stages.lib.training.device import Choice, chosen, use

log = logging.getLogger(__name__)


def prepare(run: Run, system: System) -> torch.device:
    """Set threads and kernels and return the device, as recorded in the run folder at its first start.

    Raises Refusal where the recorded device is not here.
    """
    wanted = chosen(system)
    recorded = run.recall("machine", dict(wanted))
    kept: Choice = {"device": recorded["device"], "threads": recorded["threads"]}
    if kept == wanted:
        return use(kept)
    log.info("keeping this run's device and threads %s; the machine or `system` would now choose %s", kept, wanted)
    try:
        return use(kept)
    except Refusal as refusal:
        raise Refusal(f"{refusal} Or remove {run.folder} to start this run over on this machine.") from None
