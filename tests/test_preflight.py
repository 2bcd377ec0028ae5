"""`python -m stages.preflight` as people run it: real stages, a few steps, nothing kept."""

import json
import shutil
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from stages import preflight
from stages.lib.core import files
from stages.lib.core.outcome import Refusal
from stages.lib.training import forecast, rehearsal
from tests.workspace import SET, edit, environment, run, start

STAGES = ["teacher", "pretrain", "label", "distill", "finetune", "transfer@digits-0-6"]
Usage = namedtuple("Usage", "total used free")


def contents(folder: Path) -> dict[str, str]:
    """sha256 of every file under data/, without what preflight says it writes."""
    own = ("preflight.json", "last_exit.json")
    names = [path for path in sorted((folder / "data").rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): files.sha256(path) for path in names if path.name not in own}


def predicted(folder: Path) -> dict[str, dict[str, Any]]:
    """What preflight.json says, by name."""
    found = json.loads((folder / "data/runs/preflight.json").read_text())["stages"]
    return {one["name"]: one for one in found}


def took_of(folder: Path) -> dict[str, float]:
    """took.json of the only pretraining."""
    (path,) = (folder / "data/runs/pretrain").glob("*/took.json")
    found: dict[str, float] = json.loads(path.read_text())
    return found


def must_add_up(one: dict[str, Any]) -> None:
    """A stage's hours by hand, from its own numbers."""
    training = one["epochs"] * one["steps_per_epoch"] * one["batch_size"] / one["images_per_second"]
    rest = one["startup_seconds"] + one["validation_seconds"] + one["saving_seconds"]
    assert one["training_seconds"] == pytest.approx(training) and training > 0, one
    assert one["hours"] == pytest.approx((training + rest) / 3600) and one["startup_seconds"] > 1, one
    assert one["slowest"] <= one["images_per_second"] <= one["fastest"] and one["peak_bytes"] > 1e8, one
    assert one["cost"] is None


@pytest.fixture(scope="module")
def tried(project: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, dict[str, str]]:
    """(a project that was tried, what was printed, what lay there before)."""
    folder = tmp_path_factory.mktemp("preflight") / "p"
    shutil.copytree(project, folder, symlinks=True)
    edit(folder, {"train.labels": "stored", "train.init": "mae", "system.checkpoint_seconds": 1.0})
    before = contents(folder)
    return folder, run(folder, "stages.preflight"), before


@pytest.mark.slow
def test_preflight__every_stage_stands_in_the_table_and_nothing_is_kept(
    tried: tuple[Path, str, dict[str, str]],
) -> None:
    folder, printed, before = tried
    assert contents(folder) == before and not (folder / "data/models").exists()
    assert not list((folder / "data/runs").glob(".preflight-*"))
    lines = [line.split(":")[0].split()[0] for line in printed.splitlines() if line.strip()]
    assert [name for name in STAGES if name not in lines] == []
    found = predicted(folder)
    assert list(found) == STAGES
    assert {name for name, one in found.items() if one["status"] == "measured"} == set(STAGES[:-1])
    assert "dvc repro shard@digits-0-6" in found["transfer@digits-0-6"]["reason"]


@pytest.mark.slow
def test_preflight__hours_are_what_its_own_numbers_come_to(tried: tuple[Path, str, dict[str, str]]) -> None:
    for one in predicted(tried[0]).values():
        if one["status"] == "measured":
            must_add_up(one)
    assert predicted(tried[0])["distill"]["epochs"] == 4  # though it was tried with answers to other epochs
    assert predicted(tried[0])["label"]["disk"]["runs"] == 4 * 4 * 96 * 2


@pytest.mark.slow
def test_compare__finds_the_run_of_this_recipe_and_counts_its_starts(tried: tuple[Path, str, dict[str, str]]) -> None:
    folder = tried[0]
    assert "not run" in run(folder, "stages.preflight", "--compare")
    run(folder, "stages.pretrain", SET)  # to its end: nothing of a trial is left behind (negative control)
    took = took_of(folder)
    assert took["steps"] == 6 and took["starts"] == 1 and took["training_seconds"] > 0 and took["validations"] == 2
    assert (folder / "data/models/mae/model.safetensors").exists()
    (row,) = (line.split() for line in run(folder, "stages.preflight", "--compare").splitlines() if "pretrain" in line)
    assert row[-1] == "6/6" and float(row[3]) > 0
    run(folder, "stages.pretrain", SET)  # a start that finds all done adds a start and no step
    took = took_of(folder)
    assert took["steps"] == 6 and took["starts"] == 2
    edit(folder, {"pretrain.seed": 5})
    assert "6/6" in run(folder, "stages.preflight", "--compare")  # what was predicted has not changed


def test_trial__ends_early_with_no_result_and_two_processes(project: Path, tmp_path: Path) -> None:
    folder = tmp_path / "p"
    shutil.copytree(project, folder, symlinks=True)
    edit(folder, {"system.ranks": 2, "pretrain.epochs": 8})
    process = start(folder, "stages.pretrain", SET, TUTELAGE_TRIAL_STEPS="5")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 2 and "after 5 steps" in output
    assert not (folder / "data/models/mae").exists()
    took = took_of(folder)
    assert took["steps"] == 5


def test_preflight__says_what_failed_and_still_measures_the_rest(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process, so that stages can be made up and a disk can be small."""
    folder = tmp_path / "p"
    shutil.copytree(project, folder, symlinks=True)
    before = contents(folder)
    for name in ("OMP_NUM_THREADS", "PATH"):
        monkeypatch.setenv(name, environment()[name])
    monkeypatch.setenv("TUTELAGE_RUNS", str(folder / "data/runs"))
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["preflight", "--json"])
    monkeypatch.setattr(preflight, "stages_of", lambda _: iter([("nothing", SET, ""), ("pretrain", SET, "")]))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10, 0, 10))
    with pytest.raises(Refusal) as refusal:
        preflight.main()
    said = str(refusal.value)
    assert "nothing: failed" in said and "where 1e-08 GB are free" in said and "pretrain (runs)" in said
    assert "$TUTELAGE_RUNS" in said and "pretrain: failed" not in said
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["status"] for one in found] == ["failed", "measured"] and "stages.nothing" in found[0]["reason"]
    assert contents(folder) == before and predicted(folder).keys() == {"nothing", "pretrain"}
    must_add_up(found[1])
    run(folder, "stages.pretrain", SET)  # negative control: without the limit it goes to its end and leaves a model
    assert (folder / "data/models/mae/model.safetensors").exists()
    assert took_of(folder)["steps"] == 6
    assert "6/6" in run(folder, "stages.preflight", "--compare")


def test_preflight__needs_an_index(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    with pytest.raises(Refusal, match="dvc repro shard@imagenet"):
        preflight.must_be_sharded("imagenet")


def rows(*of: tuple[int, float]) -> list[dict[str, float]]:
    return [{"step": step, "images_per_second": rate, "waiting_share": 0.5, "peak_bytes": 1} for step, rate in of]


def test_pace__leaves_the_first_steps_out_and_counts_what_they_took_beyond() -> None:
    """Batches of 10: 4 steps at 1 image/s, 2 at 10, 2 at 20: 40 images in 3 s; the first 40 took 40 s instead of 3."""
    found = forecast.pace(rows((2, 1.0), (4, 1.0), (6, 10.0), (8, 20.0)), 10)
    assert found.images_per_second == pytest.approx(40 / 3) and (found.slowest, found.fastest) == (10.0, 20.0)
    assert found.warm_seconds == pytest.approx(37) and found.steady_steps == 4 and found.waiting_share == 0.5
    assert forecast.pace(rows((2, 4.0)), 10).images_per_second == pytest.approx(4.0)  # no more were taken
    dealt = [{"images": 40.0, "images_per_second": 1.0, "waiting_share": 0, "peak_bytes": 1}]
    dealt += [{"images": 50.0, "images_per_second": 5.0, "waiting_share": 0, "peak_bytes": 1}]
    assert forecast.pace(dealt, 10, processes=4).images_per_second == pytest.approx(20.0)


def test_course__adds_up() -> None:
    found = forecast.pace(rows((4, 1.0), (6, 10.0)), 10)
    took = dict.fromkeys(("startup_seconds", "validations", "validation_seconds"), 0.0)
    took |= {"steps_per_epoch": 6, "batch_size": 10, "saving_seconds": 2.0, "savings": 1.0}
    course = forecast.course(found, took, 100, 300, 60.0)
    assert course["training_seconds"] == 600 and course["saving_seconds"] == 2 * 11
    assert course["validation"] == "estimated" and course["validation_seconds"] == pytest.approx(10 * 300 / 30)
    assert forecast.course(found, took, 100, 0, 60.0)["validation_seconds"] == 0
    assert forecast.looks(100) == 10 and forecast.looks(25) == 13


def test_memory__is_told_from_other_faults() -> None:
    assert rehearsal.short_of_memory(-9, "")  # the kernel's way of making room
    assert rehearsal.short_of_memory(1, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB")
    assert rehearsal.short_of_memory(1, "process 1 died of signal SIGKILL, and so did it whenever it was started again")
    assert not rehearsal.short_of_memory(1, "ValueError: 3") and not rehearsal.short_of_memory(2, "system.ranks")


def test_disk_and_cost__by_hand() -> None:
    assert forecast.label_bytes(300, 1_281_024, 0) == 768_614_400  # 0.77 GB
    assert forecast.label_bytes(1, 10, 10) == 440
    assert forecast.kept_bytes(9, 2, best=False) == 27 and forecast.kept_bytes(9, 2, best=True) == 36
    assert forecast.total_cost(10, 8, 2.5) == 200 and forecast.total_cost(10, 8, 0) is None
    assert forecast.total_cost(10, 0, 2.5) is None
    assert forecast.over([(1, 60, "a"), (1, 50, "b"), (2, 90, "c")], {1: 110, 2: 90}) == []
    assert len(forecast.over([(1, 60, "a"), (1, 51, "b")], {1: 110})) == 1
