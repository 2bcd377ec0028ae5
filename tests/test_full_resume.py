"""The full recipe, killed anywhere: weights, optimizer, EMA, history and log end with the bits of a run left alone (CPU)."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import killed
from tests.forks import Forks
from tests.full_recipe import STAGES, differences, finished, fresh_copy, left, rows, run, switch_on
from tests.workspace import edit

KILL = -9
POINTS = (killed.OPTIMIZER, killed.ROW, killed.SAVE, killed.RENAMED)
"""In the middle of a step, after it, before its checkpoint, and while that is being written (this last one also at other files)."""


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
    output = finished(forks, folder, stage)
    assert differences(left(folder, stage), left(whole, stage)) == [], said
    return output


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_full_recipe__killed_at_four_random_steps_ends_bit_for_bit(
    stage: str, trained: Callable[[str], Path], forks: Forks, tmp_path: Path
) -> None:
    """Twenty in all; what was drawn stands in a failure's message."""
    whole = trained(stage)
    steps, draw = len(rows(whole, stage)), random.Random()
    for number, point in enumerate(POINTS):
        step, seconds = draw.randint(2, steps - 1), draw.choice([0.0, 0.02, 0.1])
        if point == killed.SAVE and seconds:
            step = 1  # fewer are saved than there are steps
        resumed(forks, whole, tmp_path / str(number), stage, point, step, seconds)


def test_full_recipe__distill_killed_at_a_random_step_ends_bit_for_bit(
    trained: Callable[[str], Path], forks: Forks, tmp_path: Path
) -> None:
    """The thin slice of the test above."""
    whole = trained("distill")
    step = random.randint(2, len(rows(whole, "distill")) - 1)
    assert "continuing after step" in resumed(forks, whole, tmp_path / "p", "distill", killed.OPTIMIZER, step)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_full_recipe__killed_around_the_end_of_an_epoch(
    stage: str, trained: Callable[[str], Path], forks: Forks, tmp_path: Path
) -> None:
    """In its last step, while validating, between that and the checkpoint, and in the first step of the next epoch."""
    whole = trained(stage)
    an_epoch = next(number for number, row in enumerate(rows(whole, stage), 1) if row["step"] % 3 == 0 or number == 4)
    look = killed.PICTURE if stage == "pretrain" else killed.VALIDATE
    for number, (point, call) in enumerate(
        [(killed.OPTIMIZER, an_epoch), (look, 1), (killed.SAVE, an_epoch), (killed.OPTIMIZER, an_epoch + 1)]
    ):
        resumed(forks, whole, tmp_path / str(number), stage, point, call)


def test_full_recipe__killed_twice_with_other_workers_and_threads_each_time(
    trained: Callable[[str], Path], forks: Forks, tmp_path: Path
) -> None:
    """While validating after the first epoch, then in a step of the next. One loader thread, then three, then none; the compute
    threads are those of the start, and it is said.
    """
    whole = trained("distill")
    folder = fresh_copy(whole, tmp_path / "p", "distill")
    for workers, kill_at in ((1, [killed.VALIDATE, 1]), (3, [killed.OPTIMIZER, 2])):
        edit(folder, {"system.workers": workers})
        assert run(forks, folder, "distill", kill_at).code == KILL
    edit(folder, {"system.workers": 0, "system.prefetch": 1, "system.threads": 2})
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
