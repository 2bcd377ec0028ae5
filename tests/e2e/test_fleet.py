"""A server and workers with clones of their own: each runs its own code, and whatever is killed, nothing goes on unseen."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows import deploy, service
from tests.e2e import standins
from tests.e2e.server import Server, running, until

pytestmark = pytest.mark.e2e
SECONDS = 90.0  # for a run to start or to end, on two busy cores


class Host:
    """A clone and its worker, as on a host of its own."""

    def __init__(self, folder: Path, server: Server, pool: str) -> None:
        self.clone = standins.clone(folder / "clone")
        self.told = folder / "told"
        environment = {name: value for name, value in server.environment.items() if name != "PREFECT_HOME"}
        environment |= {"TUTELAGE_TOLD": str(self.told)}
        command = [sys.executable, "-m", "flows.worker", "--pool", pool]
        self.service = service.Service(pool, command, environment, self.clone, folder / "worker.log")
        self.service.start()

    @property
    def said(self) -> str:
        return "".join(path.read_text() for path in [self.service.output, *self.clone.glob("data/runs/prefect/*.log")])

    @property
    def pids(self) -> dict[str, int]:
        """Of flows.worker, Prefect's worker, the engine and its child, when the stand-in of the pipeline runs."""
        engine, child = map(int, self.told.read_text().splitlines()[2:4])
        assert self.service.process is not None
        return {"ours": self.service.process.pid, "worker": parent(engine), "engine": engine, "child": child}


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def tasks(server: Server, run: str) -> Any:
    """The task runs of a flow run, which the server hears of a little later."""
    return server.post("/task_runs/filter", flow_runs={"id": {"any_": [run]}})


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("fleet")
    with running(folder / "server") as one:
        clone = standins.clone(folder / "coordinator")
        environment = {**one.environment, "TUTELAGE_CLONE": str(clone)}  # must not get into the deployments
        for _ in range(2):  # again: nothing to do, nothing wrong
            subprocess.run([sys.executable, "-m", "flows.deploy"], cwd=clone, env=environment, check=True, timeout=100)
        assert [a["name"] for a in one.post("/automations/filter")].count(deploy.WATCH) == 1
        yield one
        assert one.errors() == []


@pytest.fixture
def hosts(tmp_path: Path, server: Server) -> Iterator[Any]:
    started: list[Host] = []

    def start(pool: str) -> Host:
        started.append(Host(tmp_path / f"host{len(started)}", server, pool))
        return started[-1]

    yield start
    for host in started:
        host.service.stop(80)


def at_work(server: Server, host: Host) -> str:
    """A run of the pipeline's stand-in that stays at work; its id."""
    host.told.unlink(missing_ok=True)
    run = server.start_run("pipeline/nightly", seconds=600)
    until(lambda: host.told.exists() or server.state(run) == "Cancelled", SECONDS, host.said)
    assert server.state(run) == "Running"
    return run


def test_each_worker_runs_its_own_clone(server: Server, hosts: Any) -> None:
    cpu, gpu = hosts("tutelage-cpu"), hosts("tutelage-gpu")
    runs = [server.start_run("stage/cpu", name="shard"), server.start_run("stage/gpu", name="distill")]
    until(lambda: [server.state(run) for run in runs] == ["Completed", "Completed"], SECONDS, cpu.said + gpu.said)
    for host, name in ((cpu, "shard"), (gpu, "distill")):
        assert [path.name for path in host.told.iterdir()] == [name]
        where, flow, imported = (host.told / name).read_text().splitlines()
        assert where == str(host.clone)
        assert flow.startswith(where) and imported.startswith(where)


def test_a_worker_that_dies_is_started_again_and_its_run_is_told_and_stopped(server: Server, hosts: Any) -> None:
    host = hosts("tutelage")
    run = at_work(server, host)
    pids = host.pids
    os.kill(pids["worker"], signal.SIGKILL)
    until(lambda: gone(pids["engine"]) and gone(pids["child"]), 30, host.said)
    until(lambda: server.state(run) == "Crashed", 30, host.said)
    again = at_work(server, host)  # the worker is back
    assert host.pids["worker"] != pids["worker"] and host.pids["ours"] == pids["ours"]

    pids = host.pids
    host.service.stop(80)  # SIGTERM: the run is stopped, and told
    assert host.service.process.returncode == 0
    assert server.state(again) == "Crashed"
    assert all(gone(pid) for pid in pids.values())


def test_an_engine_that_is_killed(server: Server, hosts: Any) -> None:
    host = hosts("tutelage")
    run = at_work(server, host)
    pids = host.pids
    until(lambda: [task["state_name"] for task in tasks(server, run)] == ["Running"], 30)
    os.kill(pids["engine"], signal.SIGKILL)
    until(lambda: server.state(run) == "Crashed", 30, host.said)
    os.kill(pids["child"], signal.SIGKILL)  # the stand-in's; stages ask the kernel to end with their parent
    time.sleep(3)
    environment = {**host.service.environment, "PREFECT_HOME": str(host.clone / "data/runs/prefect")}
    code = (
        "import datetime; from prefect.client.orchestration import get_client; from flows import settle\n"
        "with get_client(sync_client=True) as client: print(settle.task_runs(client, datetime.timedelta(seconds=1)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=host.clone,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == "['one']", done.stderr
    assert [task["state_name"] for task in tasks(server, run)] == ["Crashed"]


def test_a_host_that_vanishes_is_told_by_its_silence(server: Server, hosts: Any) -> None:
    """With a minute of patience instead of four, for the test's sake."""
    code = (
        "from prefect.client.orchestration import get_client; from flows import deploy\n"
        "with get_client(sync_client=True) as client: deploy.automation(client, deploy.watch(60))"
    )
    host = hosts("tutelage")
    subprocess.run([sys.executable, "-c", code], cwd=host.clone, env=server.environment, check=True, timeout=60)
    run = at_work(server, host)
    time.sleep(2)  # the first heartbeat
    for pid in host.pids.values():
        os.kill(pid, signal.SIGKILL)
    until(lambda: server.state(run) == "Crashed", 120)
    assert "no heartbeat for 60 s" in server.get(f"/flow_runs/{run}")["state"]["message"]


def test_our_own_part_of_a_worker_is_killed(server: Server, hosts: Any) -> None:
    host = hosts("tutelage")
    at_work(server, host)
    pids = host.pids
    os.kill(pids["ours"], signal.SIGKILL)
    until(lambda: all(gone(pid) for pid in pids.values()), 30, host.said)
