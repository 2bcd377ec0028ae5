"""The server away while a stage runs: a real one, killed or frozen, under a real flow. Telemetry must cost the stage nothing."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
AWAY_SECONDS = 15  # longer than any single request of ours waits
# A stage in miniature: it works in small steps until it is told to stop, and notes how long its longest step took.
FLOW = """
import json, sys, time
from pathlib import Path
from prefect import flow, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from flows import telemetry
from flows.artifacts import Shown

HERE, OURS = Path(sys.argv[1]), sys.argv[2] == "ours"

def work(each):
    longest, last, step = 0.0, time.monotonic(), 0
    while not (HERE / "enough").exists():
        time.sleep(0.05)
        step += 1
        each(step)
        now = time.monotonic()
        longest, last = max(longest, now - last), now
        (HERE / "under way").touch()
    (HERE / "noted.json").write_text(json.dumps({"longest": longest, "steps": step}))
    return step

def tell(step, steps):
    (HERE / "new").write_text(json.dumps({"title": "train", "step": step, "steps": steps}))
    (HERE / "new").replace(HERE / "progress.json")

@task
def ours():
    def each(step):
        tell(step, 100_000)
        if (HERE / "away").exists() and not (HERE / "posted").exists():
            telemetry.post(sender, Shown("markdown", HERE.name + "-posted", "while it was away", "text"))
            (HERE / "posted").touch()
    with telemetry.progress(HERE.name, HERE, sender, every_seconds=0.5):
        done = work(each)
        tell(done, done)

@task
def bare():
    artifact = create_progress_artifact(progress=0.0, key="progress-" + HERE.name)
    work(lambda step: update_progress_artifact(artifact, progress=step / 1000))

@flow
def night():
    global sender
    if OURS:
        sender = telemetry.Sender()
        ours()
        (HERE / "left out").write_text(str(sender.close(60)))
    else:
        bare()

night()
"""


class Server:
    """A Prefect server of its own, in a folder of its own."""

    def __init__(self, home: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self.api = f"http://127.0.0.1:{self.port}/api"
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")} | {
            "PREFECT_HOME": str(home),
            "PREFECT_API_URL": self.api,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "PREFECT_CLIENT_MAX_RETRIES": "2",  # a bare call gives up within AWAY_SECONDS, as it does in a longer outage
            "PYTHONPATH": str(ROOT),
        }
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port)]
        with (Path(self.environment["PREFECT_HOME"]) / "server.log").open("a") as log:
            self.process = subprocess.Popen(
                command, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        end = time.monotonic() + 90
        while not self.answers():
            assert time.monotonic() < end and self.process.poll() is None, "the server does not start"
            time.sleep(0.2)

    def answers(self) -> bool:
        try:
            return httpx.get(f"{self.api}/health", timeout=2).is_success
        except httpx.TransportError:
            return False

    def signal(self, number: int) -> None:
        """To the server and everything it started."""
        os.killpg(self.process.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.process.wait()

    def artifacts(self, key: str) -> list[dict[str, Any]]:
        answer = httpx.post(f"{self.api}/artifacts/filter", json={"artifacts": {"key": {"any_": [key]}}}, timeout=20)
        found: list[dict[str, Any]] = answer.raise_for_status().json()
        return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("home"))
    yield made
    made.signal(signal.SIGCONT)
    made.kill()


def under_way(server: Server, here: Path, kind: str) -> subprocess.Popen[str]:
    """The flow, once its stage takes steps."""
    here.mkdir()
    (here / "flow.py").write_text(FLOW)
    run = subprocess.Popen(
        [sys.executable, "flow.py", str(here), kind],
        cwd=here,
        env=server.environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    end = time.monotonic() + 90
    while not (here / "under way").exists():
        assert time.monotonic() < end and run.poll() is None, "the flow does not start"
        time.sleep(0.1)
    time.sleep(2)
    return run


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_outage__neither_slows_nor_fails_a_stage_and_all_is_shown_afterwards(
    server: Server, tmp_path: Path, how: str
) -> None:
    here = tmp_path / f"stage-{how}"
    run = under_way(server, here, "ours")
    server.kill() if how == "killed" else server.signal(signal.SIGSTOP)
    (here / "away").touch()
    time.sleep(AWAY_SECONDS)
    server.start() if how == "killed" else server.signal(signal.SIGCONT)
    (here / "enough").touch()
    output, _ = run.communicate(timeout=180)
    assert run.returncode == 0, output
    noted = json.loads((here / "noted.json").read_text())
    assert noted["longest"] < AWAY_SECONDS / 5  # it did not wait for the server; a busy machine takes its time too
    assert (here / "left out").read_text() == "0"
    (progress,) = server.artifacts(f"progress-{here.name}")
    assert progress["data"] == 100 and f"all {noted['steps']:,} steps done" in progress["description"]
    (posted,) = server.artifacts(f"{here.name}-posted")  # once, though it may have been sent more often
    assert posted["task_run_id"] == progress["task_run_id"] is not None


def test_outage__fails_a_stage_that_calls_prefect_itself(server: Server, tmp_path: Path) -> None:
    run = under_way(server, tmp_path / "stage-bare", "bare")
    server.kill()
    time.sleep(AWAY_SECONDS)
    server.start()
    output, _ = run.communicate(timeout=180)  # nobody told it that it was enough
    assert run.returncode != 0 and "Task run 'bare" in output and "ConnectError" in output, output
