"""One stage on a worker, in a working tree of its own at the coordinator's commit. Started by flows/across.py, not by people.

The worker's clone lends its objects, DVC cache, run folders and raw data; its files are not touched.
"""

import functools
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self
from uuid import UUID

import httpx
from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Cancelled, Crashed

from flows import child, execution, telemetry, workspace
from flows.across import artifact_key
from flows.child import Child, Ending
from flows.devices import NO_GPU
from flows.execution import DVC, Demand, Workspace
from flows.graph import Stage
from flows.order import Order
from flows.pipeline import sending, stopping_all
from flows.result import Result
from flows.settings import AWAY_SECONDS
from flows.telemetry import Sender

LOOK_SECONDS = 5.0
NOWHERE = "do not exist neither locally nor on remote"
"""How DVC says that a remote lacks what dvc.lock names."""
UNPUSHED = (
    "What stages before this one made is in dvc.lock but not in DVC's remote: somebody ran them without `dvc push`. Push where "
    "they were run, or take their entries out of the coordinator's dvc.lock, so that workers make it again."
)


@flow(name="stage")
def stage(order: Order) -> State[None]:
    """Run one stage for a pipeline that waits for it; its entry of dvc.lock goes back as an artifact."""
    with sending() as sender, Guard(order.coordinator) as guard:
        with stopping_all():
            result = carry_out(order, sender)
    return guard.state or result.state()


def carry_out(order: Order, sender: Sender) -> Result:
    """Everything between an order and its result."""
    name, log = order.stage.name, get_run_logger().info
    try:
        with workspace.temporary(workspace.ROOT, order.commit, order.params, order.lock, name) as root:
            variables = workspace.variables(workspace.ROOT)
            place = Workspace(root, Path(variables["TUTELAGE_RUNS"]), False, variables)
            result = ready(order.stage, place, log) or _run(order, place, sender, log)
            if result.done:
                deliver(order.recipe, name, workspace.entries(root)[name])
            return result
    except workspace.WorkspaceError as error:
        return Result("Refused", str(error))
    except child.Stopping as stopped:
        return Result("Stopped", str(stopped))


def ready(stage: Stage, place: Workspace, log: Callable[[str], None]) -> Result | None:
    """Bring what the stage reads, and look whether this host's packages are those of params.yaml; why it can't run, if so."""
    with ThreadPoolExecutor() as pool, stopping_all():
        pulled = pool.submit(_step, place, [*DVC, "pull", *stage.inputs], "dvc pull", log) if stage.inputs else None
        if stage.kind != "check" and (
            failed := _step(place, [sys.executable, "-m", "stages.check", "--dry"], "check", log)
        ):
            return Result("Stopped" if failed.stopped else "Refused", failed.reason)
        if pulled and (failed := pulled.result()):
            if NOWHERE in failed.reason:
                return Result("Refused", f"{UNPUSHED}\n{failed.reason}")
            return Result("Stopped" if failed.stopped else "Failed", f"dvc pull: {failed.reason}")
    return None


def _run(order: Order, place: Workspace, sender: Sender, log: Callable[[str], None]) -> Result:
    """Run the stage, show what it made, and push it."""
    one, demand = order.stage, Demand(order.gpus, order.limit_seconds)
    watch = functools.partial(telemetry.progress, sender=sender)
    result = execution.run(one, place, order.recipe, demand, log, watch)
    if result.kind in ("Ran", "Cached", "Refused"):
        telemetry.show(sender, place.root, one.name, one.outs, result.run_folder)
    if result.done and (failed := _step(place, [*DVC, "push", one.name], "dvc push", log)):
        return Result("Stopped" if failed.stopped else "Failed", f"dvc push: {failed.reason}")
    return result


def _step(place: Workspace, command: Sequence[str], what: str, log: Callable[[str], None]) -> Ending | None:
    """Run a command that is no stage; its ending if it failed."""
    with tempfile.TemporaryDirectory(prefix="tutelage-") as tell:
        variables = {**place.variables, **NO_GPU}
        ending = Child(command, place.root, Path(tell), lambda line: log(f"{what}: {line}"), variables).run()
    return None if ending.code == 0 else ending


def deliver(recipe: str, name: str, entry: dict[str, Any]) -> None:
    """Leave the entry where the coordinator looks for it; while the server is away, try for as long as a run may be silent."""
    until = time.monotonic() + AWAY_SECONDS
    while True:
        try:
            create_markdown_artifact(
                key=artifact_key(recipe),
                markdown=f"```json\n{json.dumps(entry, indent=1)}\n```",
                description=f"dvc.lock entry of {name}",
            )
            return
        except (httpx.HTTPError, OSError):
            if time.monotonic() > until or child.stopping():
                raise
            time.sleep(2)


class Guard:
    """Stops the stage when nobody waits for it any more, or when nobody could know that it still runs."""

    def __init__(self, coordinator: UUID | None) -> None:
        self.coordinator, self.left = coordinator, threading.Event()
        self.state: State[None] | None = None

    def __enter__(self) -> Self:
        if self.coordinator:
            threading.Thread(target=self._look, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.left.set()

    def _look(self) -> None:
        seen = time.monotonic()
        while not self.left.wait(LOOK_SECONDS):
            try:
                ended = self._coordinator_ended()
                seen = time.monotonic()
            except Exception:  # a thread that dies silently would guard nothing
                if time.monotonic() - seen > AWAY_SECONDS:
                    reason = f"the API was away for {AWAY_SECONDS:.0f} s; stopped, so that another worker may go on"
                    self.state = Crashed(message=reason)
                    child.stop_all(reason)
                    return
                continue
            if ended:
                self.state = Cancelled(message=ended)
                child.stop_all(ended)
                return

    def _coordinator_ended(self) -> str:
        """Why the coordinator waits no more; empty while it does."""
        assert self.coordinator
        with (
            temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),  # Prefect's own go on for minutes, unseen
            get_client(httpx_settings={"timeout": LOOK_SECONDS}, sync_client=True) as client,
        ):
            try:
                state = client.read_flow_run(self.coordinator).state
            except ObjectNotFound:
                return "the pipeline's run was deleted"
        ended = state is not None and (state.is_final() or state.is_cancelling())
        return f"the pipeline's run is {state.name}" if state and ended else ""
