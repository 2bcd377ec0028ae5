"""A run keeps the device, threads and torch of its first start: they move bits, and a resumed run must equal an undisturbed one."""

import logging
from typing import Any

import torch

from stages.lib.core import ranks
from stages.lib.core.outcome import Refusal
from stages.lib.core.runs import Run
from stages.lib.params.system import System
from stages.lib.training import partition, processes
from stages.lib.training.device import Choice, chosen, use
from stages.lib.training.partition import Partition
from stages.lib.training.processor import name_of

log = logging.getLogger(__name__)


def prepare(run: Run, system: System) -> torch.device:
    """Set threads and return the device, as recorded in the run folder at its first start.

    Another number of processes is another record: such a run goes on, with other last bits. So it does on another processor of the
    same kind, and says so. Raises Refusal where the recorded kind of device is not here, or torch is another one.
    """
    wanted = chosen(system)
    here: dict[str, Any] = {**wanted, "torch": torch.__version__, "processor": name_of(wanted["device"])}
    recorded = here | remembered(run, "machine", here)
    if recorded["torch"] != here["torch"]:
        raise Refusal(
            f"this run began with torch {recorded['torch']}, and torch {here['torch']} is installed: its last bits would differ. "
            f"Install what it began with (`make setup`), or remove {run.folder} to start this run over."
        )
    kept: Choice = {"device": recorded["device"], "threads": recorded["threads"]}
    if kept != wanted:
        log.info("keeping this run's device and threads %s; the machine or `system` would now choose %s", kept, wanted)
    try:
        device = use(kept)
    except Refusal as refusal:
        if kept == wanted:
            raise
        raise Refusal(f"{refusal} Or remove {run.folder} to start this run over on this machine.") from None
    if (began := recorded["processor"]) != (now := name_of(kept["device"])):
        log.warning("this run began on %s and goes on on %s: last bits may differ", began, now)
    return device


def divided(run: Run, system: System, batch_size: int, group: int) -> Partition:
    """How the global batch is divided, in passes as they were at the run's first start. Raises Refusal.

    group: images that must be computed together.
    """
    world = ranks.current().world
    wanted = partition.partition(batch_size, world, group, system.device_batch)
    recorded = remembered(run, "passes", {"passes": wanted.passes})
    kept = Partition(world, wanted.images, recorded["passes"])
    if world > 1 or kept.passes > 1:
        log.info("a batch of %d images: %s", batch_size, kept)
    return kept


def remembered(run: Run, name: str, chosen: dict[str, Any]) -> dict[str, Any]:
    """What the first process finds recorded in the run folder for this number of processes, or records now; in all of them."""
    world = ranks.current().world
    return processes.from_first(lambda: run.recall(name if world == 1 else f"{name}-{world}", chosen))
