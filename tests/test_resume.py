"""A stage killed at a random step and started again ends with the same bits as one left alone (CPU)."""

import json
import os
import random
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from stages.lib.core import files
from tests.workspace import SET, edit, run, start

STUDENT = Path("data/models/student/model.safetensors")


@pytest.fixture(scope="module")
def taught(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of its own with a trained teacher."""
    folder = tmp_path_factory.mktemp("resume") / "project"
    shutil.copytree(project, folder, symlinks=True)
    run(folder, "stages.teacher", SET)
    return folder


def distil(taught: Path, tmp_path: Path, **changes: object) -> Path:
    """A copy of the project, ready to distil."""
    folder = tmp_path / "project"
    shutil.copytree(taught, folder, symlinks=True)
    edit(folder, {key.replace("__", "."): value for key, value in changes.items()})
    return folder


def read_until(process: "subprocess.Popen[str]", step: int) -> str:
    """Follow the output until the line of `step`."""
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if f"step {step} of" in line:
            return seen
    raise AssertionError(f"step {step} never came:\n{seen}")


def kill(folder: Path, step: int, signum: signal.Signals) -> int:
    """Start distilling, send a signal after `step`, return the exit code."""
    process = start(folder, "stages.distill", SET)
    read_until(process, step)
    os.kill(process.pid, signum)
    process.communicate(timeout=60)
    return process.returncode


@pytest.fixture(scope="module")
def undisturbed(taught: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = distil(taught, tmp_path_factory.mktemp("undisturbed"))
    run(folder, "stages.distill", SET)
    return folder


def rows(folder: Path) -> list[dict[str, float]]:
    """metrics.jsonl without the rates, which are times."""
    (path,) = (folder / "data/runs/distill").glob("*/metrics.jsonl")
    timed = ("images_per_second", "waiting_share", "mfu", "peak_bytes", "read_ms", "decode_ms", "augment_ms")
    return [{k: v for k, v in json.loads(line).items() if k not in timed} for line in path.read_text().splitlines()]


def test_distill__killed_at_a_random_step_ends_bit_for_bit(taught: Path, undisturbed: Path, tmp_path: Path) -> None:
    folder = distil(taught, tmp_path)
    step = random.randint(2, 13)  # 432 images in batches of 96 are 4 steps an epoch, 16 in all
    assert kill(folder, step, signal.SIGKILL) == -signal.SIGKILL
    assert not (folder / STUDENT).exists()
    output = run(folder, "stages.distill", SET)
    assert "continuing after step" in output, f"killed after {step}: {output}"
    assert files.sha256(folder / STUDENT) == files.sha256(undisturbed / STUDENT), f"killed after step {step}"
    history = Path("data/history/student.csv")
    assert (folder / history).read_text() == (undisturbed / history).read_text()
    assert rows(folder) == rows(undisturbed)


def test_distill__asked_to_stop_it_saves_and_says_how_to_go_on(taught: Path, undisturbed: Path, tmp_path: Path) -> None:
    folder = distil(taught, tmp_path, system__checkpoint_seconds=1e6)
    assert kill(folder, 3, signal.SIGTERM) == 128 + signal.SIGTERM
    ending = json.loads((folder / f"data/runs/distill@{SET}/last_exit.json").read_text())
    assert ending["retryable"] and "continues" in ending["reason"]
    run(folder, "stages.distill", SET)
    assert files.sha256(folder / STUDENT) == files.sha256(undisturbed / STUDENT)


def test_distill__a_changed_recipe_starts_fresh(taught: Path, undisturbed: Path, tmp_path: Path) -> None:
    """Negative control: another recipe is another run, neither continued nor equal."""
    folder = distil(taught, tmp_path)
    kill(folder, 5, signal.SIGKILL)
    edit(folder, {"train.alpha": 0.3})
    output = run(folder, "stages.distill", SET)
    assert "continuing" not in output
    assert len(list((folder / "data/runs/distill").glob("*/identity.json"))) == 2
    assert files.sha256(folder / STUDENT) != files.sha256(undisturbed / STUDENT)


def test_distill__a_finished_run_is_not_trained_again(undisturbed: Path) -> None:
    before = files.sha256(undisturbed / STUDENT)
    output = run(undisturbed, "stages.distill", SET)
    assert "continuing after step 16 of 16" in output
    assert files.sha256(undisturbed / STUDENT) == before
