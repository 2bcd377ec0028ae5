"""The experiment flow on a small project: DVC, git and Prefect are real, the pipeline is a plain `dvc repro`."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.exceptions import ParameterTypeError
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import validate

from flows import child, experiment, pipeline, workspace
from flows.form import Refused, Vary, combinations
from flows.pipeline import Options
from tests.flows.test_workspace import everything_of, experiments, ran, worktrees
from tests.flows.tiny_project import ROOT, lay_out

TARGET = "evaluate@student"


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small project that the flow takes for its own."""
    root = lay_out(tmp_path / "clone")
    monkeypatch.setattr(workspace, "ROOT", root)
    for name in ("TUTELAGE_RUNS", "TUTELAGE_RAW"):
        monkeypatch.delenv(name, raising=False)
    child.open_again()
    return root


def table(key: str) -> Any:
    """The artifact's rows, as Prefect's page would show them."""
    with get_client(sync_client=True) as client:
        (found,) = client.request("POST", "/artifacts/filter", json={"artifacts": {"key": {"any_": [key]}}}).json()
    return json.loads(found["data"])


@pytest.mark.usefixtures("harness")
def test_experiment__a_grid_of_which_one_fails(clone: Path) -> None:
    """Three seeds, of which thirteen brings bad luck; somebody is editing meanwhile."""
    (clone / "params.yaml").write_text("# half a thought\n")
    (clone / "stage.py").write_text("raise SystemExit('unfinished')\n")
    before = everything_of(clone)
    state = experiment.experiment(
        Vary(distill=["hard"], seeds=[0, 13, 1]),
        targets=[TARGET],
        name="grid",
        options=Options(retry_seconds=[]),
        return_state=True,
    )
    assert state.is_failed()
    assert "1 of 3 experiment(s) failed, the others are saved:\n  grid_distill-hard_seed-13: " in str(state.message)
    assert everything_of(clone) == before and worktrees(clone) == 1
    assert len(ran(clone)) == 3
    assert sorted(experiments(clone)) == ["grid_distill-hard_seed-0", "grid_distill-hard_seed-1"]
    rows = {row["experiment"]: row for row in table("experiment-grid")}
    assert {name: (row["seeds"], row["student.top1"]) for name, row in rows.items()} == {
        "grid_distill-hard_seed-0": (0, 70),
        "grid_distill-hard_seed-13": (13, ""),
        "grid_distill-hard_seed-1": (1, 71),
    }
    assert rows["grid_distill-hard_seed-13"]["result"].startswith("failed: ")
    top1 = next(row for row in table("experiment-grid-over-seeds") if row["metric"] == "student.top1")
    assert (top1["distill"], top1["mean"], top1["n"]) == ("hard", 70.5, 2) and abs(top1["sd"] - 0.5**0.5) < 1e-12


@pytest.mark.usefixtures("harness")
def test_experiment__what_is_wrong_stops_it_before_anything_starts(clone: Path) -> None:
    state = experiment.experiment(Vary(batch_size=[64, 33]), targets=[TARGET], return_state=True)
    assert state.is_failed() and "1 of 2 combination(s) can't be run, so none was started" in str(state.message)
    with pytest.raises(Refused):
        state.result()
    with get_client(sync_client=True) as client:
        assert client.read_flow_run(state.state_details.flow_run_id).name == "batch_size 64, 33"
    assert not ran(clone) and worktrees(clone) == 1


@pytest.mark.usefixtures("harness")
@pytest.mark.usefixtures("clone")
def test_experiment__no_table_is_worth_failing_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ConnectionError("the server is away")

    monkeypatch.setattr(experiment, "create_table_artifact", broken)
    monkeypatch.setattr(experiment, "run", lambda *_: {})
    assert experiment.experiment(targets=[TARGET]) == ["as-params"]
    assert experiment.experiment(targets=[TARGET], name="named") == ["named"]


@pytest.mark.usefixtures("harness")
def test_experiment__stopped_it_tells_what_runs_and_leaves_no_workspace(
    clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prefect raises in the main thread alone; the pipelines run in others."""
    started = threading.Barrier(3, timeout=30)
    stopped = []

    def endless(root: Path, *_: object) -> Mapping[str, str]:
        started.wait()
        until = time.monotonic() + 30
        while not child.stopping():
            assert time.monotonic() < until
            time.sleep(0.1)
        stopped.append(root)
        raise InterruptedError("stopped")

    def interrupted(_: object) -> object:
        started.wait()
        raise KeyboardInterrupt

    monkeypatch.setattr(experiment, "run", endless)
    monkeypatch.setattr(experiment, "as_completed", interrupted)
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        experiment.experiment(Vary(seeds=[0, 1, 2]), targets=[TARGET], at_once=2)
    assert time.monotonic() - begin < 25 and len(stopped) == 2
    assert worktrees(clone) == 1 and not experiments(clone)


@pytest.mark.usefixtures("harness")
def test_experiment__two_at_once_and_no_more(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive, most, lock = 0, 0, threading.Lock()
    second = threading.Event()

    def counted(*_: object) -> Mapping[str, str]:
        nonlocal alive, most
        with lock:
            alive += 1
            most = max(most, alive)
            if alive == 2:
                second.set()
        assert second.wait(30)
        with lock:
            alive -= 1
        return {}

    monkeypatch.setattr(experiment, "run", counted)

    @flow
    def four() -> int:
        made = combinations((ROOT / "params.yaml").read_text(), Vary(seeds=[0, 1, 2, 3]))
        with pipeline.sending() as sender:
            job = experiment._Job(workspace.resolve(clone, "HEAD"), (TARGET,), False, pipeline.DEFAULTS, sender)
            return len({outcome.saved for outcome in experiment._all(made, job, 2)})

    assert four() == 4 and most == 2


SCHEMA = parameter_schema(experiment.experiment.fn).model_dump_for_openapi()
GOOD = {"vary": {"tau": [3], "seeds": [0, 1]}, "overrides": ["train.drop_path=0.1"], "at_once": 3, "name": "a-b_c"}


def test_parameters__as_a_deployment_sends_them() -> None:
    sent = json.loads(json.dumps(GOOD))
    assert validate(sent, SCHEMA) == []
    parameters = experiment.experiment.validate_parameters(sent)
    assert parameters["vary"] == Vary(tau=[3.0], seeds=[0, 1])
    again = experiment.experiment.serialize_parameters(parameters)
    assert experiment.experiment.validate_parameters(json.loads(json.dumps(again))) == parameters
    assert "Stages to reach" in SCHEMA["properties"]["targets"]["description"]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"vary": {"distill": ["banana"]}}, "'banana' is not one of ['none', 'soft', 'hard']"),
        ({"vary": {"distil": ["hard"]}}, "Additional properties are not allowed ('distil' was unexpected)"),
        ({"vary": {"alpha": [7]}}, "7 is greater than the maximum of 1"),
        ({"at_once": 0}, "0 is less than the minimum of 1"),
        ({"name": "a/b"}, "'a/b' does not match '^([A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?)?$'"),
    ],
)
def test_parameters__bad_ones_are_refused(changed: dict[str, Any], words: str) -> None:
    sent = GOOD | changed
    assert words in [error.message for error in validate(sent, SCHEMA)]
    with pytest.raises(ParameterTypeError):
        experiment.experiment.validate_parameters(sent)


def test_import__nothing_heavy() -> None:
    code = "import sys, flows.experiment; print(sorted({'torch', 'pandas', 'great_expectations'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
