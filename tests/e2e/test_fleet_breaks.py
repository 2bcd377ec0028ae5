"""What breaks on a fleet, broken on purpose: no trainer is left after a minute, states are true, and the next start goes on.

One fleet for all of it; every test trains a teacher of a seed of its own, long enough to be in the middle of it.
"""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from flows import settings
from tests.e2e.fleet import QUICK, Fleet
from tests.e2e.server import until

pytestmark = pytest.mark.e2e
LONG = {
    **QUICK,
    "teacher.views.epochs": 50,
    "system.log_seconds": 0.5,
    "system.log_steps": 5,
    "system.checkpoint_seconds": 1.0,
}
PATIENCE = {"TUTELAGE_AWAY_SECONDS": "15", "TUTELAGE_SILENCE_SECONDS": "90"}
UNDER_WAY_SECONDS, GONE_SECONDS, DONE_SECONDS = 240, 60, 480
TARGETS = ["teacher"]
AGAIN = {"retry_seconds": [1, 1, 1]}
TRAINER = "stages.teacher"


class Wire:
    """A port of loopback that leads to another, until it is cut."""

    def __init__(self, port: int) -> None:
        self.to = port
        self.port = 0
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        self.mend()

    def mend(self) -> None:
        """Let connections through, at the same port as before."""
        self._listener = socket.create_server((settings.LOOPBACK, self.port))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        """Close what is open, and let nothing through any more."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread in accept()
        self._listener.close()
        with self._lock:
            for one in self._open:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
            self._open.clear()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                here = listener.accept()[0]
                there = socket.create_connection((settings.LOOPBACK, self.to))
                with self._lock:
                    self._open += [here, there]
                for pair in ((here, there), (there, here)):
                    threading.Thread(target=_pass_on, args=pair, daemon=True).start()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for one in (source, target):
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def broken(fleet: Fleet) -> Iterator[Fleet]:
    """A fleet whose shards are made; its GPU worker reaches the server through a wire."""
    fleet.lay_out(LONG)
    coordinator, cpu, gpu = fleet.clone("coordinator"), fleet.clone("cpu"), fleet.clone("gpu")
    fleet.deploy(coordinator, **PATIENCE)
    fleet.worker(coordinator, "tutelage", **PATIENCE)
    fleet.worker(cpu, "tutelage-cpu", "--limit", "2", **PATIENCE)
    fleet.wire = Wire(int(urlsplit(fleet.server.url).port or 0))
    start_gpu(fleet, gpu)
    ready = fleet.server.start_run("pipeline/nightly", targets=["validate-shards@digits-0-6"], across=True)
    assert fleet.ends(ready, DONE_SECONDS) == "Completed", fleet.said()
    yield fleet


def start_gpu(fleet: Fleet, clone: Path) -> None:
    url = f"http://{settings.LOOPBACK}:{fleet.wire.port}/api"
    fleet.worker(clone, "tutelage-gpu", PREFECT_API_URL=url, TUTELAGE_DEVICES="cpu:1", **PATIENCE)


def training(fleet: Fleet, seed: int) -> str:
    """A run of the pipeline in the middle of a teacher that nobody has trained yet, and that has a checkpoint."""
    fleet.change(fleet.folder / "coordinator", {"teacher.views.seed": seed})
    before = fleet.checkpoints("teacher")
    run = start(fleet)
    until(lambda: fleet.checkpoints("teacher") - before, UNDER_WAY_SECONDS, fleet.said())
    return run


def start(fleet: Fleet) -> str:
    return fleet.server.start_run("pipeline/nightly", targets=TARGETS, across=True, options=AGAIN)


def trainer_is_gone(fleet: Fleet) -> None:
    """Within a minute no process of the teacher is left."""
    until(lambda: not fleet.processes(TRAINER), GONE_SECONDS, fleet.said())


def kill(fleet: Fleet, clone: str, *words: str) -> None:
    """SIGKILL to processes of a clone."""
    for pid in fleet.processes(*words):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/cwd").readlink() == fleet.folder / clone:
                os.kill(pid, signal.SIGKILL)


def went_on(fleet: Fleet, run: str) -> None:
    """The run's last teacher continued from a checkpoint."""
    teacher = fleet.stages(run)["teacher"][-1]
    assert any("continuing after step" in line for line in fleet.lines(teacher["id"])), fleet.lines(teacher["id"])


def test_coordinator_killed__the_worker_stops_and_a_new_run_goes_on(broken: Fleet) -> None:
    run = training(broken, seed=1)
    kill(broken, "coordinator", "prefect.engine")
    trainer_is_gone(broken)
    assert broken.ends(run, GONE_SECONDS) == "Crashed"
    (teacher,) = broken.stages(run)["teacher"]
    assert broken.ends(teacher["id"], GONE_SECONDS) == "Cancelled"

    again = start(broken)
    assert broken.ends(again, DONE_SECONDS) == "Completed", broken.said()
    assert {name.partition("@")[0] for name in broken.stages(again)} == {"scan", "teacher"}
    went_on(broken, again)


def test_gpu_worker_killed__another_one_goes_on_within_the_same_run(broken: Fleet) -> None:
    run = training(broken, seed=2)
    kill(broken, "gpu", "flows.worker")
    kill(broken, "gpu", "prefect")
    trainer_is_gone(broken)
    start_gpu(broken, broken.folder / "gpu")
    assert broken.ends(run, DONE_SECONDS) == "Completed", broken.said()
    assert [one["state_name"] for one in broken.stages(run)["teacher"]] == ["Crashed", "Ran"]
    went_on(broken, run)


def test_cancel__reaches_the_worker(broken: Fleet) -> None:
    run = training(broken, seed=3)
    broken.server.post(f"/flow_runs/{run}/set_state", state={"type": "CANCELLING", "name": "Cancelling"})
    trainer_is_gone(broken)
    assert broken.ends(run, GONE_SECONDS) == "Cancelled"
    (teacher,) = broken.stages(run)["teacher"]
    assert broken.ends(teacher["id"], GONE_SECONDS) == "Cancelled"


def test_file_changed_in_the_coordinators_clone__is_refused_by_name(broken: Fleet) -> None:
    changed = broken.folder / "coordinator/README.md"
    content = changed.read_text()
    changed.write_text(f"{content}\nwork in progress\n")
    try:
        run = start(broken)
        assert broken.ends(run, UNDER_WAY_SECONDS) == "Failed"
        assert "README.md" in broken.server.get(f"/flow_runs/{run}")["state"]["message"]
        assert not broken.stages(run)
    finally:
        changed.write_text(content)


def test_worker_without_the_server__stops_its_trainer_and_another_try_goes_on(broken: Fleet) -> None:
    run = training(broken, seed=4)
    broken.wire.cut()
    trainer_is_gone(broken)
    until(lambda: broken.stages(run)["teacher"][0]["state_name"] == "Crashed", 240, broken.said())
    broken.wire.mend()
    assert broken.ends(run, DONE_SECONDS) == "Completed", broken.said()
    went_on(broken, run)


def test_nothing_is_left(broken: Fleet) -> None:
    broken.stop()
    until(lambda: not broken.processes(), 10)
    assert broken.worktrees() == []
    assert broken.server.errors() == []
