"""`make prefect` for real: it opens, runs a deployment in this clone, stops, and a killed one is settled by the next."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows import deploy, settings
from tests.doors import doors, open_to_others
from tests.e2e import standins
from tests.e2e.server import clean, until
from tests.e2e.started import Started

pytestmark = pytest.mark.e2e


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Started]:
    one = Started(standins.clone(tmp_path / "clone"), "--bare")
    yield one
    one.service.stop(100)
    one.server.http.close()
    assert one.server.errors() == []


def test_a_day_with_it(started: Started) -> None:
    server = started.server
    listening = started.processes()
    assert (settings.LOOPBACK, server.port) in doors(listening) and not open_to_others(listening)
    assert sorted(pool["name"] for pool in server.post("/work_pools/filter")) == sorted(deploy.POOLS)
    names = {d["name"]: d for d in server.post("/deployments/filter")}
    assert set(names) == {"nightly", "form", "raw-data", "cpu", "gpu"}
    assert names["nightly"]["schedules"][0]["schedule"]["timezone"] == "UTC"
    assert str(started.clone) not in str(names)  # workers elsewhere have other paths

    run = server.start_run("pipeline/nightly")
    until(lambda: server.state(run) == "Completed", 90, started.said)
    assert started.told.read_text().splitlines()[0] == str(started.clone)

    # a second start on the same folder is refused, in words
    second = subprocess.run(
        [sys.executable, "-m", "flows.embedded"],
        cwd=started.clone,
        env=clean(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert second.returncode == 2 and started.url in second.stderr, second.stderr

    # an event starts the refresh
    subprocess.run(
        [
            sys.executable,
            "-c",
            "from prefect.events import emit_event as e; e('tutelage.raw-data.arrived', {'prefect.resource.id': 'digits'})",
        ],
        env={**server.environment},
        timeout=60,
        check=True,
    )
    refresh = {
        "deployments": {"name": {"any_": ["raw-data"]}},
        "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}},
    }
    until(lambda: server.post("/flow_runs/filter", **refresh), 90, started.said)

    # stopped while a run is at work: it is told, it leaves, and its state is true
    started.told.unlink()
    run = server.start_run("pipeline/nightly", seconds=600)
    until(started.told.exists, 90, started.said)
    engine, child = map(int, started.told.read_text().splitlines()[2:4])
    os.kill(started.service.process.pid, signal.SIGTERM)
    started.service.process.wait(90)
    assert started.service.process.returncode == 0
    until(lambda: not started.processes(), 5)
    assert not Path(f"/proc/{engine}").exists() and not Path(f"/proc/{child}").exists()

    again = Started(started.clone, "--bare")  # the state survived
    assert again.server.state(run) == "Crashed"

    # killed altogether: the next start knows
    started.told.unlink()
    run = again.server.start_run("pipeline/nightly", seconds=600)
    until(
        started.told.exists, 400, again.said
    )  # the concurrency limit's slot of the crashed run is given back after 5 min
    for pid in [again.service.process.pid, *again.processes()]:
        os.kill(pid, signal.SIGKILL)
    until(lambda: not again.processes(), 5)
    third = Started(started.clone, "--bare")
    try:
        assert third.server.state(run) == "Crashed", third.said
    finally:
        third.service.stop(100)
