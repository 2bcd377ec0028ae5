"""The same drills with a stage that really trains, in one process and in two, through the real dvc.yaml."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from flows import child, leash
from flows.child import Child, Ending
from tests.flows.staged import kill, left, until
from tests.workspace import ROOT, SET, THREADS, edit, lay_out

pytestmark = pytest.mark.slow
REPRO = ["dvc", "--wait-for-lock", "repro", "-s", "pretrain"]
MODEL = Path("data/models/mae/model.safetensors")
FLOW = """
import sys
from pathlib import Path
from flows.child import Child
Child(sys.argv[2:], Path(sys.argv[1]), Path(sys.argv[1]) / "told").run()
"""


@pytest.fixture(scope="module")
def ready(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository in which pretraining is the next stage; what comes before it is there, without DVC having seen it made."""
    folder = tmp_path_factory.mktemp("trained") / "repository"
    folder.mkdir()
    lay_out(folder)
    for name in ("stages", "dvc.yaml", "presets", "data/expectations"):  # DVC follows no links
        (folder / name).unlink()
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, folder / name)
    for name in ("index", "shards", "listing", "manifest"):
        shutil.copytree(project / "data" / name, folder / "data" / name)
    (folder / "data/gates").mkdir()
    (folder / f"data/gates/shards-{SET}.json").write_text("{}")
    (folder / "data/checked").write_text("")
    for command in (["git", "init", "-q"], ["dvc", "init", "-q"]):
        subprocess.run(command, cwd=folder, check=True, env=child.environment({}, folder))
    edit(folder, {"pretrain.epochs": 12, "system.checkpoint_seconds": 1e6})
    return folder


@pytest.fixture(params=[1, 2])
def repository(ready: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A copy for one test, that trains in one process or in two."""
    folder = Path(shutil.copytree(ready, tmp_path / "repository"))
    edit(folder, {"system.ranks": request.param})
    return folder


def training(folder: Path, command: list[str] = REPRO, said: list[str] | None = None) -> Child:
    on_line = (lambda _: None) if said is None else said.append
    return Child(command, folder, folder / "told", on_line, THREADS)


def started(one: Child) -> "Future[Ending]":
    """Running, and past its first steps."""
    found = ThreadPoolExecutor(1).submit(one.run)
    wait_for_step(one.folder)
    return found


def wait_for_step(folder: Path) -> None:
    def step() -> bool:
        told = folder / "told/progress.json"
        return told.exists() and json.loads(told.read_text())["step"] >= 2

    until(step, 90)


def stage_of(folder: Path) -> int:
    """The process id of the stage, or of its launcher: DVC's child."""
    (dvc,) = [process for process in left(folder) if words(process)[1:2] and words(process)[1].endswith("/dvc")]
    (stage,) = [process for process, parent in leash.parents().items() if parent == dvc]
    return stage


def words(process: int) -> list[str]:
    return Path(f"/proc/{process}/cmdline").read_bytes().decode().split("\0")


def goes_on(folder: Path) -> None:
    """Nobody is left, and the same command continues at once from a checkpoint and finishes."""
    assert not left(folder)
    said: list[str] = []
    ending = training(folder, said=said).run()
    assert ending.code == 0, (ending, said)
    assert any("continuing after step" in line for line in said) and (folder / MODEL).exists()


def saved(folder: Path, signum: int) -> None:
    """The stage's own record says that it was stopped, and that trying again makes sense."""
    told = json.loads((folder / "told/last_exit.json").read_text())
    assert (told["code"], told["retryable"]) == (128 + signum, True)


def test_stopped(repository: Path) -> None:
    one = training(repository)
    found = started(one)
    one.stop("cancelled")
    ending = found.result(60)
    assert ending.stopped and "continues from the last checkpoint" in ending.reason
    saved(repository, signal.SIGINT)
    goes_on(repository)


def dvc_of(folder: Path, _: Child) -> int:
    return leash.parents()[stage_of(folder)]


def leash_of(_: Path, one: Child) -> int:
    assert one._process is not None
    return one._process.pid


@pytest.mark.parametrize("victim", [dvc_of, leash_of])
def test_dvc_or_leash_killed(repository: Path, victim: Callable[[Path, Child], int]) -> None:
    one = training(repository)
    found = started(one)
    kill(victim(repository, one))
    ending = found.result(60)
    assert (ending.code, ending.retryable) == (128 + signal.SIGTERM, True), ending
    saved(repository, signal.SIGTERM)
    goes_on(repository)


def test_stage_killed(repository: Path) -> None:
    """The stage itself, or the launcher of its two processes, which then save; what one process had not saved is lost."""
    one = training(repository)
    found = started(one)
    kill(stage_of(repository))
    ending = found.result(60)
    assert ending.retryable and "exited with -9" in ending.reason, ending
    assert not left(repository)
    assert training(repository).run().code == 0


def test_flow_killed(repository: Path) -> None:
    environment = {**os.environ, **THREADS, "PYTHONPATH": str(ROOT)}
    flow = subprocess.Popen([sys.executable, "-c", FLOW, str(repository), *REPRO], env=environment)
    wait_for_step(repository)
    flow.kill()
    flow.wait()
    until(lambda: not left(repository), 60)
    saved(repository, signal.SIGINT)
    goes_on(repository)
