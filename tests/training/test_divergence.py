"""A loss or gradient that is not finite stops a run before the step, and says where; or the run goes back by its recipe alone."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stages.lib.core.outcome import Refusal
from stages.lib.params.divergence import Divergence
from stages.lib.training import divergence, history, loop
from stages.lib.training.checkpoint import Keeper
from stages.lib.training.divergence import Diverged, Lagging
from stages.lib.training.loop import Trained
from tests.forks import Forks
from tests.training.diverging import BAD, BATCH, EPOCHS, STEPS, Course, Killed, Points, halved, too_fast
from tests.workspace import SET, edit

STEP = BAD + 1  # as it is told, counted from 1
BACK = Divergence(rewinds=1, lr_factor=0.5)


def diverged(course: Course) -> str:
    """What is said of a run that must diverge."""
    with pytest.raises(Diverged) as caught:
        course.run()
    assert caught.value.step == STEP
    return str(caught.value)


def moving(trained: Trained) -> dict[str, bytes]:
    """Everything that moves: weights, averages, the optimizer's state; names and bytes."""
    assert trained.ema is not None
    state = trained.optimizer.state_dict()["state"]
    found = {f"weights {name}": value for name, value in trained.objective.state_dict().items()}
    found |= {f"averages {name}": value for name, value in trained.ema.state_dict().items()}
    found |= {f"optimizer {number} {name}": value for number, kept in state.items() for name, value in kept.items()}
    return {name: value.detach().cpu().numpy().tobytes() for name, value in found.items() if isinstance(value, Tensor)}


def before(tmp_path: Path, **course: Any) -> dict[str, bytes]:
    """The same of a run killed where the bad step would begin, which meets nothing bad."""
    good = Course(tmp_path / "good", die=lambda step: step == BAD, **course)
    with pytest.raises(Killed):
        good.run()
    return moving(good.trained)


def saved_step(folder: Path) -> int:
    state = Keeper(folder, 0, 2).restore(torch.device("cpu"))
    assert state is not None and all(bool(torch.isfinite(value).all()) for value in state["objective"].values())
    return int(state["step"])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_fit__a_poisoned_image_stops_it_before_the_step(tmp_path: Path, precision: Any, optimizer: str) -> None:
    how = {"precision": precision, "optimizer": optimizer, "rate": 0.001}
    course = Course(tmp_path / "bad", poisoned=(3,), **how)
    said = diverged(course)
    assert "small: the loss became nan at step 7 of 15 (epoch 1, counted from 0); learning rate 0.007." in said
    assert "Its images: 'e1p12' at position 12, 'e1p13' at position 13," in said
    assert "'e1p19' at position 19 and 4 more." in said and "'e1p20'" not in said
    assert "The checkpoint after step 6 is kept, and nothing since." in said and "divergence: {rewinds: 1}" in said
    assert moving(course.trained) == before(tmp_path, **how)
    assert saved_step(tmp_path / "bad") == BAD


def test_fit__unwatched_it_would_spread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control of the test above: the same poison, and nobody looks before the step."""
    monkeypatch.setattr(divergence.AtOnce, "look", lambda *_: None)
    course = Course(tmp_path / "bad", poisoned=(3,), every_seconds=1e9)
    with pytest.raises(Refusal):  # by the row of the log at the latest, when it is too late
        course.run()
    assert any(bool(torch.isnan(weight).any()) for weight in course.trained.objective.parameters())
    assert moving(course.trained) != before(tmp_path)


def infinite_loss(loss: Tensor, batch: Points) -> Tensor:
    """Its gradient is finite."""
    return loss + float("inf") if batch.step == BAD else loss


def infinite_gradient(loss: Tensor, batch: Points) -> Tensor:
    """The loss itself is finite: the root of 0 has no slope."""
    return loss + (loss * 0).sqrt() if batch.step == BAD else loss


@pytest.mark.parametrize(
    ("spoil", "words"),
    [(infinite_loss, "the loss became inf at"), (infinite_gradient, "but the norm of its gradient became nan at")],
)
@pytest.mark.parametrize("guard", [None, Lagging])
def test_fit__a_loss_or_a_gradient_alone_is_enough(tmp_path: Path, spoil: Any, words: str, guard: Any) -> None:
    course = Course(tmp_path / "bad", spoil=spoil, guard=guard, every_seconds=1e9)
    assert words in diverged(course)
    assert moving(course.trained) == before(tmp_path, every_seconds=1e9)


def test_fit__of_several_passes_the_images_of_the_bad_one_are_named(tmp_path: Path) -> None:
    """Three passes of four images; the second holds the poison."""
    said = diverged(Course(tmp_path, poisoned=(5,), passes=3))
    shown = ", ".join(f"'e1p{place}' at position {place}" for place in range(16, 20))
    assert f"The images of the pass: {shown}." in said


def test_fit__a_rate_beyond_reason_is_stopped_with_finite_weights_kept(tmp_path: Path) -> None:
    """The update itself overflows, after a loss and a gradient that were finite: found before it is saved."""
    course = Course(tmp_path, optimizer="sgd", rate=0.1, clip_norm=0.0, factor=lambda step: 1e60 if step == BAD else 1)
    with pytest.raises(Diverged, match=r"is no longer finite after step 7\. The checkpoint after step 6 is kept"):
        course.run()
    assert saved_step(tmp_path) == BAD


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("every_seconds", [0.0, 1e9])
def test_fit__a_device_that_is_asked_late_stands_still_meanwhile(
    tmp_path: Path, optimizer: str, every_seconds: float
) -> None:
    """The GPU's way, on a CPU's tensors: the same step and images are told, and nothing has moved though steps were taken since."""
    how = {"optimizer": optimizer, "every_seconds": every_seconds, "guard": Lagging, "rate": 0.001}
    course = Course(tmp_path / "bad", poisoned=(3,), **how)
    said = diverged(course)
    assert "the loss became nan at step 7 of 15" in said and "'e1p12' at position 12" in said
    if every_seconds:
        assert "No checkpoint had been written yet." in said and course.trained.step > BAD
    else:
        assert saved_step(tmp_path / "bad") == BAD
    at_once = before(tmp_path, **how | {"guard": None})
    assert moving(course.trained) == at_once


def test_fit__without_the_flag_a_device_asked_late_has_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control of the test above."""
    step = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda own: (setattr(own, "found_inf", None), step(own)))
    course = Course(tmp_path / "bad", poisoned=(3,), every_seconds=1e9, guard=Lagging)
    diverged(course)
    assert moving(course.trained) != before(tmp_path, every_seconds=1e9)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gpu__stands_still_and_goes_back(tmp_path: Path, optimizer: str, precision: Any) -> None:
    """On a real one: the step and its images are told, nothing has moved, and a rewind equals the run it should."""
    how = {"optimizer": optimizer, "precision": precision, "device": "cuda", "rate": 0.001, "every_seconds": 1e9}
    course = Course(tmp_path / "bad", poisoned=(3,), **how)
    said = diverged(course)
    assert "the loss became nan at step 7 of 15" in said and "'e1p12' at position 12" in said
    assert course.trained.step > BAD and moving(course.trained) == before(tmp_path, **how)
    went = healing(tmp_path / "went", limit=0.002, **how).run()
    planned = Course(tmp_path / "planned", factor=halved, **how).run()
    assert moving(went) == moving(planned)


@pytest.mark.parametrize("guard", [None, Lagging])
def test_fit__watching_changes_no_bit_of_a_healthy_run(tmp_path: Path, guard: Any) -> None:
    """Against torch's own clip and a backward pass from nothing but the loss."""
    ours = Course(tmp_path, guard=guard).run()
    plain = Course(tmp_path / "plain")
    network, optimizer = plain.trained.objective, plain.trained.optimizer
    assert plain.trained.ema is not None
    for step, batch in enumerate(plain.batches(0, EPOCHS * STEPS)):
        optimizer.param_groups[0]["lr"] = 0.01 * (1 + step) * 0.5
        optimizer.zero_grad()
        network(batch)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        plain.trained.ema.update(plain.trained.network)
    mine, theirs = moving(ours), moving(plain.trained)
    if guard:  # averages by another kernel: rounding
        mine, theirs = ({k: v for k, v in found.items() if not k.startswith("averages")} for found in (mine, theirs))
    assert mine == theirs


def both(forks: Forks, folder: Path, course: str) -> list[dict[str, Any]]:
    """How two processes of six images each ended, by the name of what they train."""
    folder.mkdir()
    ended = forks.run("tests.training.diverging:pair", str(folder), course, folder=folder, kill_after=60)
    paths = [folder / f"ending-{index}.json" for index in range(2)]
    assert all(path.exists() for path in paths), ended.output
    return [json.loads(path.read_text()) for path in paths]


@pytest.mark.parametrize(("course", "whose"), [("stopped", 1), ("stopped_by_the_first", 0)])
def test_fit__one_process_with_a_bad_loss_stops_both(forks: Forks, tmp_path: Path, course: str, whose: int) -> None:
    """The same words from both, the images of the one that met them; no step made, and both have the same weights."""
    one, other = both(forks, tmp_path / "two", course)
    assert one == other and one["steps"] == BAD
    first = 12 + 6 * whose
    shown = ", ".join(f"'e1p{place}' at position {place}" for place in range(first, first + 6))
    assert f"nan at step 7 of 15 (epoch 1, counted from 0), in process {whose} of 2; learning rate 0.07." in one["said"]
    assert f"The images of the pass: {shown}." in one["said"]
    assert saved_step(tmp_path / "two") == BAD


def test_rewind__two_processes_go_back_together(forks: Forks, tmp_path: Path) -> None:
    """Known answer, as for one process below: half the rate from epoch 1 on."""
    went, planned = (both(forks, tmp_path / course, course) for course in ("went_back", "as_planned"))
    assert went[0] == went[1] == planned[0] == planned[1] and went[0]["said"] == "finished"


def healing(folder: Path, limit: float = 0.02, divergence: Divergence = BACK, **course: Any) -> Course:
    """The rate of step BAD is 0.07 times its group's 0.5: two halvings bring it below 0.01, one below 0.02."""
    return too_fast(Course(folder, divergence=divergence, **course), limit)


def rows(folder: Path) -> list[dict[str, float]]:
    kept = ("step", "loss", "lr", "rewind", "diverged_at")
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key in kept} for line in lines]


@pytest.mark.parametrize("guard", [None, Lagging])
def test_rewind__goes_on_from_the_epochs_end_with_half_the_rate(tmp_path: Path, guard: Any) -> None:
    """Known answer: a run whose plan has half the rate from epoch 1 on, and which never diverges."""
    went = healing(tmp_path / "went", guard=guard).run()
    planned = Course(tmp_path / "planned", guard=guard, factor=halved).run()
    assert moving(went) == moving(planned)
    assert [row.pop("rewinds") for row in went.history] == [0, 1, 1]
    assert went.history == planned.history
    told = {"step": STEPS, "rewind": 1, "diverged_at": STEP}
    mine, theirs = rows(tmp_path / "went"), rows(tmp_path / "planned")
    assert told in mine and [row for row in mine if row != told] == theirs
    other = healing(tmp_path / "other", divergence=Divergence(rewinds=1, lr_factor=0.25), guard=guard).run()
    assert moving(other) != moving(planned)  # negative control


def test_rewind__tensorboard_and_the_history_file_say_it(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    went = healing(tmp_path).run()
    for number, path in enumerate(sorted((tmp_path / "tensorboard").glob("events*"))):
        path.rename(path.with_name(f"events.out.tfevents.{number}"))
    found = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in found.Scalars("rewind")] == [(STEPS, 1.0)]
    history.write(tmp_path / "history.csv", went.history)
    with (tmp_path / "history.csv").open() as file:
        assert [row["rewinds"] for row in csv.DictReader(file)] == ["0", "1", "1"]


def test_rewind__none_in_the_recipe_leaves_no_trace(tmp_path: Path) -> None:
    """Negative control: by default there is neither a column nor a copy of every epoch."""
    trained = Course(tmp_path).run()
    assert all("rewinds" not in row for row in trained.history) and not (tmp_path / "epochs").exists()


def test_rewind__at_most_so_often_and_then_it_stops(tmp_path: Path) -> None:
    said = diverged(healing(tmp_path, limit=0.0))
    assert "It had gone back 1 time(s), after steps [7]." in said
    assert saved_step(tmp_path) == BAD
    twice = healing(tmp_path / "twice", limit=0.01, divergence=Divergence(rewinds=2, lr_factor=0.5)).run()
    assert [row["rewinds"] for row in twice.history] == [0, 2, 2]


def test_rewind__in_the_first_epoch_goes_back_to_the_start(tmp_path: Path) -> None:
    """Equal to a run with half the rate throughout."""
    course = Course(tmp_path / "went", divergence=BACK)

    def spoiled(loss: Tensor, batch: Points) -> Tensor:
        fast = course.trained.optimizer.param_groups[0]["lr"] > 0.01
        return loss * float("nan") if batch.step == 3 and fast else loss

    course.trained.objective.spoil = spoiled  # type: ignore[assignment]
    assert moving(course.run()) == moving(Course(tmp_path / "half", factor=lambda _: 0.5).run())
    assert rows(tmp_path / "went")[0] == {"step": 0, "rewind": 1, "diverged_at": 4}


@pytest.mark.parametrize("every_seconds", [0.0, pytest.param(1e9, marks=pytest.mark.slow)])
@pytest.mark.parametrize("die_at", [(BAD, 1), (STEPS, 2), (BAD, 2), (BAD + 1, 1), (STEPS * 2, 1), (STEPS * 2 + 1, 1)])
def test_rewind__killed_around_it_and_started_again_ends_with_the_same_bits(
    tmp_path: Path, every_seconds: float, die_at: tuple[int, int]
) -> None:
    """(step, how often it has begun by then): before the divergence, right after the rewind, and later."""
    whole = healing(tmp_path / "whole").run()
    seen: list[int] = []

    def die(step: int) -> bool:
        seen.append(step)
        return step == die_at[0] and seen.count(step) == die_at[1]

    with pytest.raises(Killed):
        healing(tmp_path / "cut", every_seconds=every_seconds, die=die).run()
    resumed = healing(tmp_path / "cut", every_seconds=every_seconds).run()
    assert moving(resumed) == moving(whole) and resumed.history == whole.history
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")


@pytest.mark.parametrize("where", ["load", "keep", "kept", "unlink", "go_back"])
def test_rewind__killed_within_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """At each of its acts: whoever continues goes back once, not twice."""
    whole = healing(tmp_path / "whole").run()
    course = healing(tmp_path / "cut")

    def killed(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        if where == "load":
            patched.setattr(loop.Trained, "load", killed)
        elif where in ("keep", "kept"):
            save = Keeper.save

            def one(keeper: Keeper, step: int, state: dict[str, Any]) -> None:
                if state["rewinds"]:
                    if where == "kept":
                        save(keeper, step, state)
                    raise Killed
                save(keeper, step, state)

            patched.setattr(Keeper, "save", one)
        elif where == "unlink":
            unlink = Path.unlink
            patched.setattr(
                Path, "unlink", lambda own, **how: killed() if own.name == "step-0000000005.pt" else unlink(own, **how)
            )
        else:
            patched.setattr(course.journal, "go_back", killed)
        with pytest.raises(Killed):
            course.run()
    resumed = healing(tmp_path / "cut").run()
    assert moving(resumed) == moving(whole) and resumed.history == whole.history
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")


def test_rewind__forgotten_by_who_continues_the_bits_differ(tmp_path: Path) -> None:
    """Negative control: without the count in the checkpoint the rate would be the plan's again."""
    whole = healing(tmp_path / "whole").run()
    with pytest.raises(Killed):
        healing(tmp_path / "cut", die=lambda step: step == STEPS * 2).run()
    resumed = healing(tmp_path / "cut")
    load = resumed.trained.load

    def forgetful(state: dict[str, Any]) -> None:
        load({**state, "rewinds": []})

    resumed.trained.load = forgetful  # type: ignore[method-assign]
    assert moving(resumed.run()) != moving(whole)


def test_rewind__with_divided_weights_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    course = Course(tmp_path, divergence=BACK)
    course.trained.sharded = True
    monkeypatch.setattr(loop.processes, "together", lambda: True)
    with pytest.raises(Refusal, match=r"divergence\.rewinds does not go with system.shard_weights"):
        course.run()


def test_batch__of_a_course_is_as_large_as_it_says(tmp_path: Path) -> None:
    """The tests above count on it."""
    assert [len(batch.images) for batch in Course(tmp_path).batches(0, 2)] == [BATCH, BATCH]


def poisoned(folder: Path, stage: str, forks: Forks) -> tuple[int, str]:
    ended = forks.run("tests.training.poison:run", stage, SET, 5, folder=folder, kill_after=120)
    return ended.code, ended.output


@pytest.mark.parametrize("stage", ["pretrain", pytest.param("teacher", marks=pytest.mark.slow)])
def test_stage__names_the_keys_and_writes_no_model(project: Path, forks: Forks, tmp_path: Path, stage: str) -> None:
    """A real stage whose fifth step meets an image that is not finite."""
    folder = tmp_path / "project"
    shutil.copytree(project, folder, symlinks=True)
    code, said = poisoned(folder, stage, forks)
    assert code == 2, said
    ending = json.loads((folder / f"data/runs/{stage}@{SET}/last_exit.json").read_text())
    assert not ending["retryable"] and f"{stage}: the loss became nan at step 5 of" in ending["reason"]
    expected = (folder / "expected.txt").read_text().split()
    named = [f"'{key}'" for key in expected]
    assert len(named) == 8 and all(key in ending["reason"] for key in named), (named, ending)
    assert not (folder / "data/models" / {"pretrain": "mae"}.get(stage, stage)).exists()
    (run,) = (folder / f"data/runs/{stage}").glob("*/checkpoints")
    assert max(run.glob("step-*.pt")).name == "step-0000000004.pt"


@pytest.mark.slow
def test_stage__goes_back_and_says_so_in_its_history(project: Path, forks: Forks, tmp_path: Path) -> None:
    """Poisoned at step 5 while the rate is the plan's: the teacher's history counts the rewind, its norms are clean."""
    folder = tmp_path / "project"
    shutil.copytree(project, folder, symlinks=True)
    edit(folder, {"teacher.divergence": {"rewinds": 1, "lr_factor": 0.5}})
    ended = forks.run("tests.training.poison:run", "teacher", SET, 5, 1, folder=folder, kill_after=120)
    assert ended.code == 0, ended.output
    assert "(rewind 1 of 1)" in ended.output
    with (folder / "data/history/teacher.csv").open() as file:
        assert [row["rewinds"] for row in csv.DictReader(file)][-1] == "1"
