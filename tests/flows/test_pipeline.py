"""The pipeline flow over a small DVC project, with Prefect's own harness: order, parallelism, retries, who is told what."""

import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import TaskRunFilter, TaskRunFilterFlowRunId
from prefect.client.schemas.objects import State
from prefect.client.schemas.sorting import TaskRunSort

from flows import child, pipeline, workspace
from flows.pipeline import Options
from tests.flows.test_freshness import run

STAGE = """
import json, os, sys, time
from pathlib import Path
name, *words = sys.argv[1:]
ran = Path(os.environ["TUTELAGE_RUNS"]) / "ran"
def note(what):
    line = {"stage": name, "what": what, "at": time.time(), "gpus": os.environ.get("CUDA_VISIBLE_DEVICES")}
    with ran.open("a") as file:
        file.write(json.dumps(line) + "\\n")
def leave(code, reason, retryable):
    (Path(os.environ["TUTELAGE_TELL"]) / "last_exit.json").write_text(
        json.dumps({"code": code, "reason": reason, "retryable": retryable}))
    sys.exit(code)
note("began")
tries = sum(1 for line in ran.read_text().splitlines() if json.loads(line)["stage"] == name and json.loads(line)["what"] == "began")
time.sleep(0.6)
for trouble in Path("trouble").read_text().split():
    stage, what = trouble.split(":")
    if stage == name and what == "refuse":
        leave(2, "the loss is not finite", False)
    if stage == name and what == "once" and tries == 1:
        leave(1, "the disk is full", True)
    if stage == name and what == "slow":
        time.sleep(600)
Path(f"{name}.out").write_text(name + str(Path("params.yaml").read_text()))
note("ended")
"""
DVC_YAML = """
stages:
  first:
    cmd: python stage.py first
    deps: [stage.py]
    outs: [first.out]
  left:
    cmd: python stage.py left
    deps: [first.out]
    outs: [left.out]
    meta: {gpu: 1}
  right:
    cmd: python stage.py right
    deps: [first.out]
    params: [n]
    outs: [right.out]
    meta: {gpu: 1}
  last:
    cmd: python stage.py last
    deps: [left.out, right.out]
    outs: [last.out]
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four stages of a second each, two of them side by side, on a host of two GPUs."""
    root = tmp_path / "project"
    root.mkdir()
    run(root, "git", "init", "-q")
    run(root, "dvc", "init", "-q")
    files = {
        "dvc.yaml": DVC_YAML,
        "stage.py": STAGE,
        "params.yaml": "n: 1\n",
        "trouble": "",
        ".gitignore": "/*.out\n/runs\n",
    }
    for name, text in files.items():
        (root / name).write_text(text)
    (root / "runs").mkdir()
    monkeypatch.setenv("TUTELAGE_RUNS", str(root / "runs"))
    monkeypatch.setenv("TUTELAGE_DEVICES", "4,7")
    monkeypatch.setenv("TUTELAGE_DEVICE_LOCKS", str(tmp_path / "locks"))
    child.open_again()
    return root


def go(root: Path, targets: list[str] | None = None, **options: Any) -> State[Any]:
    """The flow's final state."""

    @flow(name="pipeline")
    def over(targets: list[str]) -> State[None]:
        return pipeline.run(root, targets, False, Options(**{"retry_seconds": [], **options}))

    return over(targets or [], return_state=True)


def ran(root: Path) -> list[dict[str, Any]]:
    path = root / "runs" / "ran"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def began(root: Path) -> list[str]:
    return [line["stage"] for line in ran(root) if line["what"] == "began"]


def task_states(state: State[Any]) -> dict[str, str]:
    """Task run name -> name of its state, as the server has them."""
    of_run = TaskRunFilter(flow_run_id=TaskRunFilterFlowRunId(any_=[state.state_details.flow_run_id]))
    with get_client(sync_client=True) as client:
        for _ in range(100):  # the server learns of task runs from events
            runs = client.read_task_runs(task_run_filter=of_run, limit=100, sort=TaskRunSort.NAME_ASC)
            if runs and all(one.state and (one.state.is_final() or one.state.is_pending()) for one in runs):
                break
            time.sleep(0.1)
        return {one.name: one.state.name or "" for one in runs if one.state}


@pytest.mark.usefixtures("harness")
def test_stages__run_once_in_order_side_by_side_on_gpus_of_their_own(project: Path) -> None:
    state = go(project)
    assert state.is_completed(), state.message
    assert sorted(began(project)) == ["first", "last", "left", "right"]
    at = {(line["stage"], line["what"]): line["at"] for line in ran(project)}
    assert max(at["left", "began"], at["right", "began"]) < min(at["left", "ended"], at["right", "ended"])
    assert at["first", "ended"] < at["left", "began"] and at["right", "ended"] < at["last", "began"]
    gpus = {line["stage"]: line["gpus"] for line in ran(project)}
    assert {gpus["left"], gpus["right"]} == {"4", "7"} and gpus["first"] == gpus["last"] == ""
    assert set(task_states(state).values()) == {"Ran"}
    assert "changed" not in run(project, "dvc", "status")

    again = go(project)
    assert len(began(project)) == 4 and set(task_states(again).values()) == {"UpToDate"}
    (project / "params.yaml").write_text("n: 2\n")
    third = go(project)
    assert began(project)[4:] == ["right", "last"]
    assert task_states(third) == {"first": "UpToDate", "left": "UpToDate", "right": "Ran", "last": "Ran"}
    (project / "params.yaml").write_text("n: 1\n")  # DVC's run cache has these outs
    assert task_states(go(project))["right"] == "Cached" and len(began(project)) == 6


@pytest.mark.e2e
@pytest.mark.usefixtures("harness")
def test_one_gpu__two_stages_take_turns(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUTELAGE_DEVICES", "4")
    assert go(project, ["left", "right"]).is_completed()
    at = {(line["stage"], line["what"]): line["at"] for line in ran(project)}
    assert at["left", "ended"] < at["right", "began"] or at["right", "ended"] < at["left", "began"]


@pytest.mark.usefixtures("harness")
def test_failure_of_the_infrastructure__is_tried_again_and_a_refusal_is_not(project: Path) -> None:
    (project / "trouble").write_text("left:once right:refuse")
    state = go(project, retry_seconds=[0.1, 0.1])
    assert state.is_failed() and "right: Refused: the loss is not finite" in str(state.message)
    assert "not started: last" in str(state.message)
    assert sorted(began(project)) == ["first", "left", "left", "right"]
    assert task_states(state) == {"first": "Ran", "left": "Ran", "right": "Refused", "last": "NotReady"}


@pytest.mark.e2e
@pytest.mark.usefixtures("harness")
def test_stage_past_its_limit__is_stopped_and_not_tried_again(project: Path) -> None:
    (project / "trouble").write_text("left:slow")
    state = go(project, ["left"], limit_hours={"left": 3 / 3600}, retry_seconds=[0.1])
    assert "longer than its limit of 3 s" in str(state.message)
    assert began(project) == ["first", "left"]


@pytest.mark.e2e
@pytest.mark.usefixtures("harness")
def test_stop__ends_what_runs_and_starts_nothing_more(project: Path) -> None:
    (project / "trouble").write_text("left:slow")
    timer = threading.Timer(0, _when, (lambda: "left" in began(project), lambda: child.stop_all("somebody said so")))
    timer.start()
    state = go(project, ["left", "last"], retry_seconds=[0.1, 0.1])
    timer.join()
    assert not state.is_completed() and began(project).count("left") == 1 and "last" not in began(project)
    assert task_states(state)["left"] == "Cancelled"
    child.open_again()
    (project / "trouble").write_text("")
    assert go(project).is_completed() and began(project).count("first") == 1


def _when(condition: Callable[[], bool], do: Callable[[], None]) -> None:
    while not condition():
        time.sleep(0.1)
    do()


@pytest.mark.e2e
@pytest.mark.usefixtures("harness")
def test_two_workspaces_of_one_recipe__run_it_once(project: Path, tmp_path: Path) -> None:
    """Two experiments that share a stage, in working trees that share DVC's cache."""
    run(project, "git", "add", "-A")
    run(project, "git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "all")
    head = workspace.resolve(project, "HEAD")
    states: list[State[Any]] = []
    with (
        workspace.temporary(project, head, "n: 1\n", None, "a") as one,
        workspace.temporary(project, head, "n: 2\n", None, "b") as two,
    ):
        threads = [threading.Thread(target=lambda root=root: states.append(go(root))) for root in (one, two)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        shutil.copy(one / "left.out", tmp_path / "left")
        assert (two / "left.out").read_text() == (tmp_path / "left").read_text()
    assert all(state.is_completed() for state in states), states
    assert sorted(began(project)) == ["first", "last", "last", "left", "right", "right"]


@pytest.mark.e2e
@pytest.mark.usefixtures("harness")
def test_more_gpus_than_there_are__is_refused(project: Path) -> None:
    state = go(project, ["left"], gpus={"left": 3})
    assert "3 GPUs are needed and this host has 2" in str(state.message) and began(project) == ["first"]
