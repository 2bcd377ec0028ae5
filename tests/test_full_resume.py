"""The full recipe, killed anywhere: weights, optimizer, EMA, history and log end with the bits of a run left alone (CPU)."""

import json
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from stages.lib.core.ranks import Rank
from stages.lib.data.batches import batches
from tests import killed
from tests.data.test_batches import STEPS, digest, stream
from tests.forks import Forks
from tests.full_recipe import STAGES, differences, finished, fresh_copy, left, rows, run, switch_on
from tests.test_ranks import ROUNDING, STUDENT, apart, follow, same_curve
from tests.workspace import SET, edit, start, workers
from tests.workspace import run as execute

KILL = -9
POINTS = (killed.OPTIMIZER, killed.ROW, killed.SAVE, killed.WRITE)
"""In the middle of a step, after it, before its checkpoint, and while that is being written."""
PIECES = 30
"""A checkpoint is written in at least twice as many."""


@pytest.fixture(scope="module")
def trained(project: Path, forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A project in which this stage, and what it needs, ran undisturbed."""
    done: dict[str, Path] = {}
    needs = {"distill": ("teacher", "pretrain"), "finetune": ("teacher", "distill"), "transfer": ("distill",)}

    def up_to(stage: str) -> Path:
        if "" not in done:
            done[""] = tmp_path_factory.mktemp("full") / "project"
            fresh_copy(project, done[""], stage)
            switch_on(done[""])
        for name in (*needs.get(stage, ()), stage):
            if name not in done:
                for needed in needs.get(name, ()):
                    up_to(needed)
                finished(forks, done[""], name)
                done[name] = done[""]
        return done[""]

    return up_to


def resumed(forks: Forks, whole: Path, folder: Path, stage: str, point: str, number: int, seconds: float = 0.0) -> str:
    """Kill a fresh run of the stage at this call, start it again, compare; the output of the second start."""
    fresh_copy(whole, folder, stage)
    edit(folder, {"system.checkpoint_seconds": seconds})
    said = f"{stage}, killed at call {number} of {point}, checkpoints every {seconds} s"
    ended = run(forks, folder, stage, [point, number])
    assert ended.code == KILL, f"{said}: {ended.output}"
    second = run(forks, folder, stage)
    assert second.code == 0, f"{said}: {second.output}"
    assert differences(left(folder, stage), left(whole, stage)) == [], said
    return second.output


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_full_recipe__killed_at_four_random_steps_ends_bit_for_bit(
    stage: str, trained: Callable[[str], Path], forks: Forks, tmp_path: Path
) -> None:
    """Twenty in all; what was drawn stands in a failure's message."""
    whole = trained(stage)
    steps, draw = len(rows(whole, stage)), random.Random()
    for number, point in enumerate(POINTS):
        call, seconds = draw.randint(2, steps - 1), draw.choice([0.0, 0.02, 0.1])
        if point == killed.WRITE:
            call, seconds = draw.randint(PIECES, PIECES * steps), 0.0
        if point == killed.SAVE and seconds:
            call = 1  # fewer are saved than there are steps
        resumed(forks, whole, tmp_path / str(number), stage, point, call, seconds)


def test_full_recipe__pretrain_killed_at_a_random_step_ends_bit_for_bit(
    trained: Callable[[str], Path], forks: Forks, tmp_path: Path
) -> None:
    """The thin slice of the test above; masks, passes and all."""
    whole = trained("pretrain")
    step = random.randint(2, len(rows(whole, "pretrain")) - 1)
    assert "continuing after step" in resumed(forks, whole, tmp_path / "p", "pretrain", killed.OPTIMIZER, step)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_full_recipe__killed_around_the_end_of_an_epoch(
    stage: str, trained: Callable[[str], Path], forks: Forks, tmp_path: Path
) -> None:
    """In its last step, while validating, between that and the checkpoint, and in the first step of the next epoch."""
    whole = trained(stage)
    epochs = (whole / f"data/history/{STAGES[stage].model}.csv").read_text().count("\n") - 1
    an_epoch = len(rows(whole, stage)) // epochs
    look = killed.PICTURE if stage == "pretrain" else killed.VALIDATE
    for number, (point, call) in enumerate(
        [(killed.OPTIMIZER, an_epoch), (look, 1), (killed.SAVE, an_epoch), (killed.OPTIMIZER, an_epoch + 1)]
    ):
        resumed(forks, whole, tmp_path / str(number), stage, point, call)


@pytest.mark.slow
@pytest.mark.parametrize("call", [killed.SAVE, killed.ROW])
def test_full_recipe__out_of_room_it_ends_with_a_sentence_and_goes_on(
    call: str, trained: Callable[[str], Path], forks: Forks, tmp_path: Path
) -> None:
    """From its fifth checkpoint or row on no file may grow beyond 16 KiB: nothing hangs, what was saved stays."""
    whole = trained("pretrain")
    folder = fresh_copy(whole, tmp_path / "p", "pretrain")
    ended = run(forks, folder, "pretrain", [call, 5, 1 << 14])
    assert ended.code == 1, ended.output
    told = json.loads((folder / f"data/runs/pretrain@{SET}/last_exit.json").read_text())
    assert told["retryable"] and "a file may not become as large as" in told["reason"], told
    assert "the same command continues" in told["reason"] and "Traceback" not in ended.output
    assert "continuing after step 4 of 9" in finished(forks, folder, "pretrain")
    assert differences(left(folder, "pretrain"), left(whole, "pretrain")) == []


def test_full_recipe__killed_twice_with_other_workers_and_threads_each_time(
    trained: Callable[[str], Path], forks: Forks, tmp_path: Path
) -> None:
    """While validating after the first epoch, then in a step of the next. One loader thread, then three, then none; compute threads
    and passes are those of the start, and it is said.
    """
    whole = trained("distill")
    folder = fresh_copy(whole, tmp_path / "p", "distill")
    for threads, kill_at in ((1, [killed.VALIDATE, 1]), (3, [killed.OPTIMIZER, 2])):
        edit(folder, {"system.workers": threads})
        assert run(forks, folder, "distill", kill_at).code == KILL
    edit(folder, {"system.workers": 0, "system.prefetch": 1, "system.threads": 2, "system.device_batch": 0})
    output = finished(forks, folder, "distill")
    assert "continuing after step 4" in output and "keeping this run's device and threads" in output
    assert differences(left(folder, "distill"), left(whole, "distill")) == []


@pytest.mark.parametrize(
    "sabotage", [f"skip {killed.EMA}", pytest.param(f"late {killed.LOAD}", marks=pytest.mark.slow)]
)
def test_full_recipe__a_resume_that_forgets_is_seen(
    sabotage: str, trained: Callable[[str], Path], forks: Forks, tmp_path: Path
) -> None:
    """Negative control: without the averages of before, or one step off, the same comparison fails."""
    whole = trained("distill")
    folder = fresh_copy(whole, tmp_path / "p", "distill")
    assert run(forks, folder, "distill", [killed.OPTIMIZER, 6]).code == KILL
    finished(forks, folder, "distill", sabotage)
    found = differences(left(folder, "distill"), left(whole, "distill"))
    assert "model" in found and any(name.startswith("state/ema") for name in found), found
    if sabotage.startswith("skip"):  # what does not depend on the averages is as it was: only they were forgotten
        assert not any(name.startswith("state/objective") for name in found), found
    else:
        assert "rows" in found


@pytest.mark.parametrize("stopped", [1, 8, 9, 10])
def test_batches__two_processes_and_then_one_see_the_positions_of_one(project: Path, stopped: int) -> None:
    """Every byte of every batch, in order: up to step `stopped` by two processes, the rest by one. An epoch has nine steps."""
    parts = [list(batches(stream(project), 0, stopped, Rank(rank, 2), 1, 2)) for rank in range(2)]
    rest = list(batches(stream(project), stopped, STEPS, Rank(), 3, 2))
    whole = list(batches(stream(project), 0, STEPS, Rank(), 0, 1))
    assert digest(*parts) == digest(whole[:stopped]) and digest(rest) == digest(whole[stopped:])
    seen = [torch.cat([batch.positions for batch in together]) for together in zip(*parts, strict=True)]
    seen += [batch.positions for batch in rest]
    assert [positions.tolist() for positions in seen] == [batch.positions.tolist() for batch in whole]
    off = list(batches(stream(project), stopped - 1, STEPS - 1, Rank(), 0, 1))
    assert digest(off) != digest(whole[stopped:])  # control: one step off


@pytest.mark.slow
def test_full_recipe__two_processes_and_then_one_are_one_to_rounding(
    trained: Callable[[str], Path], tmp_path: Path
) -> None:
    """Mixing groups of 16, so that two processes have three each. Killed outright, launcher and all, and gone on with alone."""
    folders = [fresh_copy(trained("distill"), tmp_path / name, "distill") for name in ("one", "two")]
    for folder, ranks in zip(folders, (1, 2), strict=True):
        edit(folder, {"train.views.mix_group": 16, "system.ranks": ranks, "system.device_batch": 16})
    one, two = folders
    execute(one, "stages.distill", SET)
    process = start(two, "stages.distill", SET)
    follow(process, "step 5 of")
    both = workers(process.pid)
    process.kill()
    process.communicate(timeout=60)
    until_gone(both)
    edit(two, {"system.ranks": 1, "system.workers": 0})
    output = execute(two, "stages.distill", SET)
    assert "there were 2 processes, now there are 1" in output
    assert same_curve(one, two, "student") and apart(one, two, STUDENT) < ROUNDING
    other = fresh_copy(one, tmp_path / "control", "distill")
    edit(other, {"train.views.seed": 1})
    execute(other, "stages.distill", SET)
    assert not same_curve(one, other, "student")


def until_gone(processes: list[int]) -> None:
    """Workers whose launcher was killed leave within their grace; the lease is theirs until then."""
    end = time.monotonic() + 90
    while any(Path(f"/proc/{process}").exists() for process in processes):
        assert time.monotonic() < end
        time.sleep(0.2)
