"""What is run on a GPU, in which order, and that a cut run goes on where it was; with a program in place of the benchmark."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import gpu
from benchmarks.step import CASES, END_TO_END
from benchmarks.step_models import MODELS, TEACHER

PROGRAM = """
import json, sys
model, cases = (sys.argv[sys.argv.index(name) + 1] for name in ("--model", "--cases"))
if model == "deit-base":
    sys.exit(1)
for case in cases.split(","):
    print(json.dumps({"case": f"{model}/{case}"}))
"""


@pytest.fixture(autouse=True)
def program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "step.py").write_text(PROGRAM)
    monkeypatch.setattr(gpu, "STEP", (sys.executable, str(tmp_path / "step.py")))


def cases_of(results: Path) -> list[str]:
    return [json.loads(line)["case"] for line in results.read_text().splitlines()]


def test_runs__name_models_and_cases_that_there_are() -> None:
    assert set(gpu.MODELS) == {*MODELS, TEACHER}
    found = list(gpu.runs(gpu.MODELS, images=True))
    assert {case for _, cases in found for case in cases} == {*CASES, END_TO_END}
    assert [model for model, cases in found if "strong" in cases] == list(gpu.MODELS)
    assert not [model for model, cases in found if "encoder" in cases and not MODELS[model].decoder]


def test_main__a_failure_costs_the_others_nothing_and_is_tried_again(tmp_path: Path) -> None:
    results, command = tmp_path / "gpu.jsonl", ["--models", "deit-base,mae-base", "--images", "some.tar"]
    assert gpu.main(["--results", str(results), *command]) == 3
    wanted = ["strong", "end-to-end", "plain", "encoder", "fp32"]
    assert cases_of(results) == [f"mae-base/{case}" for case in wanted]
    (tmp_path / "step.py").write_text(PROGRAM.replace("deit-base", "none"))
    assert gpu.main(["--results", str(results), *command]) == 0
    assert cases_of(results)[5:] == [f"deit-base/{case}" for case in ("strong", "end-to-end", "plain", "fp32")]


def test_main__no_time_left_begins_nothing(tmp_path: Path) -> None:
    results = tmp_path / "gpu.jsonl"
    assert gpu.main(["--results", str(results), "--minutes", "0.5"]) == 0
    assert not results.exists()
