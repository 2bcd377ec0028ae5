"""What breaks on one host, broken on purpose: no trainer is left after a minute, states are true, and the next start goes on.

One host with a worker for all of it; every test trains a teacher of a seed of its own and breaks something in the middle of it.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.fleet import Fleet
from tests.e2e.server import until
from tests.e2e.test_fleet_breaks import AGAIN, DONE_SECONDS, GONE_SECONDS, LONG, TRAINER, UNDER_WAY_SECONDS

pytestmark = pytest.mark.e2e
TARGETS = ["teacher"]
RAN = re.compile(r"^Running stage '(.+)'", re.MULTILINE)
CONTINUES = "continuing after step"


class Host:
    """A clone and its worker, and a teacher nobody has trained yet."""

    def __init__(self, fleet: Fleet) -> None:
        fleet.lay_out(LONG)
        self.fleet, self.clone, self.seed = fleet, fleet.clone("host"), 0
        fleet.deploy(self.clone)
        fleet.worker(self.clone, "tutelage")
        assert fleet.ends(self.start(["validate-shards@digits-0-6"]), DONE_SECONDS) == "Completed", fleet.said()

    @property
    def runs(self) -> Path:
        return self.clone / "data/runs"

    def start(self, targets: list[str] = TARGETS) -> str:
        """A run of the nightly deployment on this host alone."""
        return self.fleet.server.start_run("pipeline/nightly", targets=targets, across=False, options=AGAIN)

    def teacher_of_another_seed(self) -> None:
        self.seed += 1
        self.fleet.change(self.clone, {"teacher.views.seed": self.seed})

    def in_the_middle(self, start: "Callable[[], str] | None" = None) -> str:
        """A run whose trainer has written a checkpoint."""
        self.teacher_of_another_seed()
        before = self.fleet.checkpoints("teacher")
        run = (start or self.start)()
        until(lambda: self.fleet.checkpoints("teacher") - before, UNDER_WAY_SECONDS, self.fleet.said())
        return run

    def pids(self, *words: str, but: str = "\0") -> list[int]:
        """Processes of the clone with all these words and not that one."""
        aside = self.fleet.processes(but)
        return [pid for pid in self.fleet.processes(*words) if pid not in aside]

    def signal(self, signum: signal.Signals, *words: str, but: str = "\0") -> None:
        found = self.pids(*words, but=but)
        assert found, words
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signum)

    def trainer_is_gone(self) -> None:
        until(lambda: not self.pids(TRAINER), GONE_SECONDS, self.fleet.said())

    def went_on(self, run: str) -> None:
        """The run trained the teacher from where it was, and ran nothing again that had been done."""
        assert self.fleet.ends(run, DONE_SECONDS) == "Completed", self.fleet.said()
        lines = self.fleet.lines(run)
        assert any(CONTINUES in line for line in lines), lines
        assert {found[1].partition("@")[0] for line in lines if (found := RAN.search(line))} <= {
            "check",
            "scan",
            "teacher",
        }


@pytest.fixture(scope="module")
def host(fleet: Fleet) -> Iterator[Host]:
    """One host whose shards are made."""
    yield Host(fleet)


def test_cancel(host: Host) -> None:
    run = host.in_the_middle()
    host.fleet.server.post(f"/flow_runs/{run}/set_state", state={"type": "CANCELLING", "name": "Cancelling"})
    host.trainer_is_gone()
    assert host.fleet.ends(run, GONE_SECONDS) == "Cancelled"
    host.went_on(host.start())


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL], ids=str)
def test_flow_gets(host: Host, signum: signal.Signals) -> None:
    run = host.in_the_middle()
    host.signal(signum, "prefect.engine")
    host.trainer_is_gone()
    assert host.fleet.ends(run, GONE_SECONDS) in ("Crashed", "Cancelled")
    host.went_on(host.start())


@pytest.mark.parametrize("words", [("prefect", "worker", "start"), ("flows.worker",)], ids=["prefects", "ours"])
def test_worker_is_killed(host: Host, words: tuple[str, ...]) -> None:
    host.in_the_middle()
    host.signal(signal.SIGKILL, *words)
    host.trainer_is_gone()
    if words == ("flows.worker",):
        until(lambda: not host.pids("prefect"), GONE_SECONDS, host.fleet.said())
        host.fleet.worker(host.clone, "tutelage")
    host.went_on(host.start())


@pytest.mark.parametrize(
    ("words", "but"),
    [(("dvc", "repro"), "leash.py"), (("leash.py",), "\0"), ((TRAINER,), "\0")],
    ids=["dvc", "leash", "trainer"],
)
def test_what_a_flow_started_is_killed__it_tries_again_by_itself(host: Host, words: tuple[str, ...], but: str) -> None:
    run = host.in_the_middle()
    host.signal(signal.SIGKILL, *words, but=but)
    host.went_on(run)


def test_server_is_away_for_two_minutes__nothing_stops_and_the_state_is_true(host: Host) -> None:
    run = host.in_the_middle()
    assert host.fleet.server.errors() == []  # before it is stopped, which it says with a traceback
    host.fleet.server.stop()
    time.sleep(120)
    host.fleet.server.start()
    assert host.fleet.ends(run, DONE_SECONDS) == "Completed", host.fleet.said()
    log = (host.runs / "prefect/worker-tutelage.log").read_text(errors="replace")
    assert CONTINUES not in log[log.rindex("Running stage 'teacher'") :]
    assert (host.clone / "data/models/teacher/model.safetensors").is_file()


def test_ctrl_c_at_a_terminal(host: Host) -> None:
    started: list[subprocess.Popen[bytes]] = []

    def by_hand() -> str:
        with (host.fleet.folder / "terminal.log").open("ab") as log:
            command = [sys.executable, "-m", "flows.pipeline", *TARGETS]
            where = {"cwd": host.clone, "env": host.fleet.environment(), "start_new_session": True}
            started.append(subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, **where))  # type: ignore[call-overload]
        return ""

    host.in_the_middle(by_hand)
    os.killpg(started[0].pid, signal.SIGINT)
    host.trainer_is_gone()
    assert started[0].wait(GONE_SECONDS)
    host.went_on(host.start())


def test_full_disk__is_said_and_the_run_goes_on_once_there_is_room(host: Host) -> None:
    """A file system of its own for the run folders, too small for a checkpoint."""
    if os.getuid():
        pytest.skip("only root can mount a small file system")
    host.teacher_of_another_seed()
    (host.runs / "teacher").mkdir(exist_ok=True)
    small = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(host.runs / "teacher")]
    if subprocess.run(small, capture_output=True).returncode:
        pytest.skip("this machine mounts no tmpfs")
    try:
        options = {"retry_seconds": [20, 20, 20]}
        run = host.fleet.server.start_run("pipeline/nightly", targets=TARGETS, across=False, options=options)
        until(
            lambda: any("the disk is full" in line for line in host.fleet.lines(run)),
            UNDER_WAY_SECONDS,
            host.fleet.said(),
        )
        subprocess.run(["mount", "-o", "remount,size=512m", str(host.runs / "teacher")], check=True)
        assert host.fleet.ends(run, DONE_SECONDS) == "Completed", host.fleet.said()
    finally:
        subprocess.run(["umount", "-l", str(host.runs / "teacher")], check=True)


def test_nothing_is_left(host: Host) -> None:
    host.fleet.stop()
    until(lambda: not host.fleet.processes(), 10)
