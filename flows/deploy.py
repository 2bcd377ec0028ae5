"""Tells a Prefect server about Tutelage: pools, the deployments of prefect.yaml, and what marks dead runs as Crashed.

`python -m flows.deploy`, or `make deploy`, for the server at PREFECT_API_URL; embedded.py does it at every start. Doing it
again changes nothing but what changed: schedules that someone paused in the UI stay paused.
"""

import datetime
import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from flows import settings
from flows.result import Kind
from stages.lib.params.credentials import say

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.events.schemas.automations import AutomationCore

log = logging.getLogger(__name__)
ROOT = Path(__file__).parents[1]
WATCH = "Tutelage: a run without a heartbeat has crashed"
PREFECTS = ("Completed", "Failed", "Cancelled", "Crashed", "Paused", "Suspended", "Scheduled", "AwaitingRetry")
OVER = (*PREFECTS, *get_args(Kind))
"""Names of states in which no heartbeat is expected any more; an event has the name of the state, and stages have ours."""
POOLS = {
    "tutelage": "Coordinators: pipeline, experiment, refresh. They start stages, and wait.",
    "tutelage-cpu": "Stages that need no GPU.",
    "tutelage-gpu": "Stages that need GPUs (meta: gpu in dvc.yaml).",
}


def pools(client: "SyncPrefectClient") -> list[str]:
    """Create the work pools that are missing, for process workers; the names of those created."""
    from prefect.client.schemas.actions import WorkPoolCreate

    there = {pool.name for pool in client.read_work_pools()}
    missing = [name for name in POOLS if name not in there]
    for name in missing:
        client.create_work_pool(WorkPoolCreate(name=name, type="process", description=POOLS[name]))
    return missing


def watch(seconds: int = settings.SILENCE_SECONDS) -> "AutomationCore":
    """The automation: after a heartbeat, another one or an end within `seconds`; otherwise that run is marked Crashed."""
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

    heartbeat = "prefect.flow-run.heartbeat"
    return AutomationCore(
        name=WATCH,
        description="Made by `python -m flows.deploy`. A killed machine can't tell what became of its runs; its silence does.",
        trigger=EventTrigger(
            match={"prefect.resource.id": "prefect.flow-run.*"},
            for_each={"prefect.resource.id"},
            after={heartbeat},
            expect={heartbeat, *(f"prefect.flow-run.{state}" for state in OVER)},
            posture=Posture.Proactive,
            threshold=1,
            within=datetime.timedelta(seconds=seconds),
        ),
        actions=[
            ChangeFlowRunState(
                name="Crashed",
                force=False,
                state=StateType.CRASHED,
                message=f"no heartbeat for {seconds} s: the process, its machine or the network between is gone",
            )
        ],
    )


def automation(client: "SyncPrefectClient", wanted: "AutomationCore") -> bool:
    """Create the automation, or replace one of its name that says something else; whether anything was done."""
    there = client.read_automations_by_name(wanted.name)
    if len(there) == 1 and _said(there[0]) == _said(wanted):
        return False
    for old in there:
        client.delete_automation(old.id)
    client.create_automation(wanted)
    return True


def _said(automation: "AutomationCore") -> object:
    """What an automation does, without the ids that a server gives it."""
    said = automation.model_dump(mode="json", include={"name", "description", "trigger", "actions"})
    lists = {name: sorted(said["trigger"][name]) for name in ("after", "expect", "for_each")}  # sets: in any order
    return {**said, "trigger": {**said["trigger"], **lists, "id": None}}


def deployments(root: Path, environment: Mapping[str, str]) -> None:
    """Register what prefect.yaml in `root` says. Raises CalledProcessError, Prefect's words having been passed on.

    $TUTELAGE_CLONE is not passed on: Prefect would write this host's path into what workers on every host read.
    """
    clean = {name: value for name, value in environment.items() if name != "TUTELAGE_CLONE"}
    clean["TUTELAGE_TIMEZONE"] = environment.get("TUTELAGE_TIMEZONE", "UTC")
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    done = subprocess.run(
        command, cwd=root, env=clean, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        log.error("%s", done.stdout)
        done.check_returncode()


def everything(root: Path, environment: Mapping[str, str]) -> None:
    """Pools, deployments and the automation, on the server of this process's Prefect settings and of `environment`."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        if made := pools(client):
            log.info("made the work pools %s", ", ".join(made))
        deployments(root, environment)
        if automation(client, watch()):
            log.info("made the automation %r", WATCH)


def main() -> None:
    """Deploy to PREFECT_API_URL; exit code 2 without it."""
    say()
    logging.getLogger("httpx").setLevel(logging.WARNING)
    api_url = os.environ.get("PREFECT_API_URL")
    if not api_url:
        log.error("PREFECT_API_URL is not set: which server should be told? For example http://<host>:4200/api")
        sys.exit(2)
    home = settings.home(ROOT)
    home.mkdir(parents=True, exist_ok=True)
    environment = settings.client(api_url, home)
    os.environ.update(environment)
    everything(ROOT, environment)
    log.info("deployed to %s", api_url)


if __name__ == "__main__":
    main()
