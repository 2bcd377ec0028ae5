"""Makes the server's picture true again after something was killed: what no process runs any more is marked Crashed.

Prefect leaves a flow run "Running" when its engine is killed together with its worker, and the task runs of a killed engine are
"Running" or "Pending" for ever, whatever became of their flow run. Used by embedded.py at start, by worker.py for the runs of
a worker that ended and every few minutes, and by hand: `python -m flows.settle`, for the server of PREFECT_API_URL.
"""

import argparse
import datetime
import logging
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from stages.lib.params.credentials import say

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun, State

log = logging.getLogger(__name__)
VARIABLE = b"PREFECT__FLOW_RUN_ID="
QUIET = datetime.timedelta(seconds=60)
"""A flow run ended at least so long ago before its task runs are looked at: their own last words may still be on the way."""
AT_ONCE = 200  # what the server gives back for one question at most


def local_runs() -> set[str]:
    """Ids of the flow runs that a process on this machine is at work for, as far as we may look."""
    pids = (int(folder.name) for folder in Path("/proc").glob("[0-9]*"))
    return {run for pid in pids if (run := run_of_process(pid))}


def run_of_process(pid: int) -> str | None:
    """Id of the flow run that a process was started for by a worker; None for other processes, and where we may not look."""
    try:
        lines = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # ended, or somebody else's
        return None
    return next((line.removeprefix(VARIABLE).decode() for line in lines if line.startswith(VARIABLE)), None)


def flow_runs(client: "SyncPrefectClient", gone: Callable[["FlowRun"], bool], why: str) -> list[str]:
    """Mark the flow runs that are Running, Pending or Cancelling, and for which `gone` holds; the names of those marked.

    A run that was being cancelled becomes Cancelled: it was asked to end, and it has.
    """
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.client.schemas.objects import StateType
    from prefect.states import Cancelled, Crashed

    busy = {"state": {"type": {"any_": [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]}}}
    marked = []
    for run in client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(busy), limit=AT_ONCE):
        if not gone(run):
            continue
        cancelling = run.state_type == StateType.CANCELLING
        state: State[None] = Cancelled(message=why) if cancelling else Crashed(message=why)
        client.set_flow_run_state(run.id, state, force=True)
        log.info("flow run %s (%s) is marked %s: %s", run.name, run.id, state.name, why)
        marked.append(run.name)
    return marked


def task_runs(client: "SyncPrefectClient", quiet: datetime.timedelta = QUIET) -> list[str]:
    """Mark as Crashed the task runs that are not over though their flow run ended at least `quiet` ago; their names."""
    from prefect.client.schemas.filters import FlowRunFilter, TaskRunFilter
    from prefect.client.schemas.objects import TERMINAL_STATES, StateType
    from prefect.states import Crashed

    before = datetime.datetime.now(datetime.UTC) - quiet
    over = {"state": {"type": {"any_": list(TERMINAL_STATES)}}, "end_time": {"before_": before}}
    busy = {"state": {"type": {"any_": [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]}}}
    found = client.read_task_runs(
        flow_run_filter=FlowRunFilter.model_validate(over),
        task_run_filter=TaskRunFilter.model_validate(busy),
        limit=AT_ONCE,
    )
    for run in found:
        client.set_task_run_state(run.id, Crashed(message="its flow run ended without it"), force=True)
        log.info("task run %s (%s) is marked Crashed: its flow run ended without it", run.name, run.id)
    return [run.name for run in found]


def crashed(client: "SyncPrefectClient", ids: Collection[str], why: str) -> list[str]:
    """Mark those of the flow runs `ids` that are not over, and that no process here works for; the names of those marked."""
    alive = local_runs()
    return flow_runs(client, lambda run: str(run.id) in ids and str(run.id) not in alive, why)


def abandoned(client: "SyncPrefectClient", why: str) -> list[str]:
    """For a server that serves this machine alone: mark every run that a worker had started and no process here works for."""
    alive = local_runs()
    return flow_runs(client, lambda run: run.infrastructure_pid is not None and str(run.id) not in alive, why)


def main() -> None:
    """Settle what the command line names at the server of PREFECT_API_URL; task runs in any case."""
    parser = argparse.ArgumentParser(description="Mark runs that nobody runs any more as Crashed.")
    parser.add_argument(
        "--runs", nargs="*", type=UUID, default=[], metavar="ID", help="flow runs whose worker here has ended"
    )
    parser.add_argument(
        "--alone", action="store_true", help="this machine is the server's only one: look at all flow runs"
    )
    parser.add_argument("--why", default="the process that ran it is gone")
    chosen = parser.parse_args()
    say()
    logging.getLogger("httpx").setLevel(logging.WARNING)
    from httpx import HTTPError
    from prefect.client.orchestration import get_client

    try:
        with get_client(sync_client=True) as client:
            crashed(client, {str(run) for run in chosen.runs}, chosen.why)
            if chosen.alone:
                abandoned(client, chosen.why)
            task_runs(client)
    except (HTTPError, OSError) as error:
        log.warning(
            "the server was not told what became of runs: %s. Runs without a heartbeat are noticed there.", error
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
