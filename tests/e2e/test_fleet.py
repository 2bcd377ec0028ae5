"""A night on a fleet: a schedule fires on three hosts with a clone each, and what comes out is what `dvc repro` makes on one."""

import datetime
import re
from typing import Any

import pytest

from flows import workspace
from tests.e2e.fleet import QUICK, Fleet
from tests.e2e.server import until

pytestmark = pytest.mark.e2e
NIGHT_SECONDS = 900  # on two cores that others use too
STAGES = 29
RAN = re.compile(r"^Running stage '(.+)'", re.MULTILINE)


def test_schedule__runs_every_stage_once_over_hosts_and_equals_dvc_repro(fleet: Fleet) -> None:
    fleet.lay_out(QUICK, cron="* * * * *")
    coordinator, cpu, gpu = fleet.clone("coordinator"), fleet.clone("cpu"), fleet.clone("gpu")
    fleet.deploy(coordinator)
    fleet.worker(coordinator, "tutelage")
    fleet.worker(cpu, "tutelage-cpu", "--limit", "2", TUTELAGE_DEVICES="cpu:1")
    fleet.worker(gpu, "tutelage-gpu", "--limit", "2", TUTELAGE_DEVICES="cpu:2")

    night = fired(fleet)
    assert fleet.ends(night, NIGHT_SECONDS) == "Completed", fleet.said()
    runs = fleet.stages(night)
    assert len(runs) == STAGES
    assert [one["state_name"] for tries in runs.values() for one in tries] == ["Ran"] * STAGES
    (teacher,), (pretrain,) = runs["teacher"], runs["pretrain"]
    assert max(began(teacher), began(pretrain)) < min(ended(teacher), ended(pretrain))
    assert {one["work_pool_name"] for (one,) in (runs["teacher"], runs["distill"])} == {"tutelage-gpu"}

    # what people look at is at hand in the coordinator's clone; what is large is not
    assert (coordinator / "data/reports/index.html").stat().st_size > 10_000
    assert len(list((coordinator / "data/metrics").glob("*.json"))) == 4
    assert set(workspace.entries(coordinator)) == set(runs)
    assert only_scans(fleet.run(coordinator, "dvc", "repro", "--allow-missing", "--dry"))

    # a second run has nothing to do but to look at the raw data again
    again = fleet.server.start_run("pipeline/nightly", across=True)
    assert fleet.ends(again, NIGHT_SECONDS) == "Completed", fleet.said()
    assert all(name.startswith("scan@") for name in fleet.stages(again))
    assert states(fleet, again)["UpToDate"] == STAGES - len(fleet.stages(again))

    # nor has whoever goes on by hand
    fleet.run(coordinator, "dvc", "pull")
    assert only_scans(fleet.run(coordinator, "dvc", "repro"))
    assert only_scans(fleet.run(coordinator, "dvc", "exp", "run"))

    # one host alone comes to the same
    alone = fleet.clone("alone")
    fleet.run(alone, "dvc", "repro")
    assert workspace.entries(alone) == workspace.entries(coordinator)

    fleet.stop()
    until(lambda: not fleet.processes(), 10)
    assert fleet.worktrees() == []
    assert fleet.complaints() == []
    assert fleet.server.errors() == []


def fired(fleet: Fleet) -> str:
    """The run that the schedule starts; none is started after it."""
    nightly = fleet.server.get("/deployments/name/pipeline/nightly")
    running = {"state": {"type": {"any_": ["RUNNING"]}}, "deployment_id": {"any_": [nightly["id"]]}}
    until(lambda: fleet.server.post("/flow_runs/filter", flow_runs=running), 200, fleet.said())
    (run,) = fleet.server.post("/flow_runs/filter", flow_runs=running)
    assert run["auto_scheduled"] and run["parameters"]["across"] is True
    (schedule,) = nightly["schedules"]
    path = f"/deployments/{nightly['id']}/schedules/{schedule['id']}"
    assert fleet.server.http.patch(path, json={"active": False}).is_success
    return str(run["id"])


def only_scans(output: str) -> bool:
    """Whether DVC ran, or would run, `scan` and nothing else."""
    return bool(RAN.findall(output)) and all(stage.startswith("scan@") for stage in RAN.findall(output))


def states(fleet: Fleet, run: str) -> dict[str, int]:
    """Name of a state -> task runs of a flow run that ended in it."""
    found: dict[str, int] = {}
    for one in fleet.server.post("/task_runs/filter", task_runs={"flow_run_id": {"any_": [run]}}):
        found[one["state_name"]] = found.get(one["state_name"], 0) + 1
    return found


def began(run: dict[str, Any]) -> datetime.datetime:
    """When a flow run started."""
    return datetime.datetime.fromisoformat(run["start_time"])


def ended(run: dict[str, Any]) -> datetime.datetime:
    """When a flow run ended."""
    return datetime.datetime.fromisoformat(run["end_time"])
