"""Runs one stage in one workspace on this host: waits for its turn and its GPUs, runs `dvc repro -s` on a
leash.

Used by the pipeline flow for its own host, and by the stage flow on a worker. Nothing here needs a Prefect server.
"""

import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from flows import child, devices, recipes, telemetry
from flows.child import Child, Stopping
from flows.devices import NO_GPU
from flows.graph import Stage
from flows.result import Kind, Result

Watch = Callable[[str, Path], AbstractContextManager[None]]
"""Shows the progress that a stage (its name) writes into a folder, while the context lasts."""
DVC = (sys.executable, "-m", "dvc", "--wait-for-lock")
ADVICE = (
    "To track the changes with git",
    "git add ",
    "To enable auto staging",
    "dvc config core.autostage",
    "Use `dvc push`",
)
"""How lines begin that DVC prints for people at a terminal: nobody follows them from a log."""
SAID: dict[str, Kind] = {"didn't change, skipping": "UpToDate", "is cached - skipping run": "Cached"}
"""What DVC prints where it does not run a stage. There is no other sign: its exit code is 0 either way."""


@dataclass(frozen=True)
class Workspace:
    """Where stages run, and what of it they share with other workspaces."""

    root: Path
    runs: Path
    """The run root: checkpoints, and the locks of recipes."""
    pull: bool
    """Whether DVC may pull what is missing: there is a remote."""
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Demand:
    """What a stage is given."""

    gpus: int
    limit_seconds: float
    """After this long it is stopped, and not tried again; 0: never."""


def run(
    stage: Stage, workspace: Workspace, recipe: str, demand: Demand, log: Callable[[str], None], watch: Watch
) -> Result:
    """Run a stage whose upstream stages are done, unless DVC has its outs already. Blocks; child.stop_all() ends it.

    recipe: as flows/freshness.py gives it; nobody else on this host runs it at the same time.
    """
    try:
        with recipes.turn(
            workspace.runs / ".recipes",
            recipe,
            f"{stage.name} in {workspace.root}",
            lambda who: log(f"waiting: the very same is being made by {who or 'another process'}"),
            child.stopping,
        ) as descriptor:
            if not stage.gpus:
                return _run(stage, workspace, demand, NO_GPU, (descriptor,), log, watch)
            with devices.hold(demand.gpus, stage.name, log, child.stopping) as held:
                log(f"{stage.name} has {', '.join(held.names)}")
                return _run(stage, workspace, demand, held.variables, (descriptor, *held.descriptors), log, watch)
    except (recipes.Cancelled, devices.GivenUp, Stopping) as stopped:
        return Result("Stopped", str(stopped))
    except devices.DeviceError as refused:
        return Result("Refused", str(refused))


def _run(
    stage: Stage,
    workspace: Workspace,
    demand: Demand,
    gpus: Mapping[str, str],
    descriptors: tuple[int, ...],
    log: Callable[[str], None],
    watch: Watch,
) -> Result:
    said: list[Kind] = []

    def line(text: str) -> None:
        said.extend(kind for mark, kind in SAID.items() if mark in text and stage.name in text)
        if text.strip() and not text.strip().startswith(ADVICE):
            log(text)

    command = (*DVC, "repro", "--single-item", *(["--pull"] if workspace.pull else []), stage.name)
    with tempfile.TemporaryDirectory(prefix="tutelage-") as tell, watch(stage.name, Path(tell)):
        variables = {**workspace.variables, **gpus}
        ending = Child(
            command, workspace.root, Path(tell), line, variables, descriptors, limit_seconds=demand.limit_seconds
        ).run()
        seen = telemetry.read(Path(tell) / "progress.json")
    folder = Path(seen.folder) if seen and seen.folder else None
    took = f"{ending.seconds:.0f} s"
    if ending.code == 0:
        kind = said[-1] if said else "Ran"
        return Result(kind, took if kind == "Ran" else f"nothing to run, {took}", folder)
    if ending.stopped:
        return Result("Stopped", ending.reason, folder)
    return Result("Failed" if ending.retryable else "Refused", ending.reason, folder)
