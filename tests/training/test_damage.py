"""The loop over damaged checkpoints: it goes on from an older one, or from none, and ends with the same bits, best and rows.

And what a resume may not forget: whatever is left out of it, the comparison sees it.
"""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.lib.training import journal
from stages.lib.training.checkpoint import Keeper
from stages.lib.training.ema import Ema
from stages.lib.training.loop import Trained
from tests.training.test_loop import Killed, bits, train

TIMED = ("images_per_second", "waiting_share", "peak_bytes")


def rows(folder: Path) -> list[dict[str, float]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in TIMED} for line in lines]


def left(trained: Trained, folder: Path) -> tuple[list[bytes], list[dict[str, float]], list[dict[str, float]], int]:
    """Weights, averages and best weights; history; rows; when the best was."""
    assert trained.best is not None
    return bits(trained), trained.history, rows(folder), trained.best["step"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("whole")
    return left(train(folder), folder)


def cut(folder: Path, die_at: int) -> list[Path]:
    """Killed while the step after `die_at` begins; the two checkpoints that are kept, the newest first."""
    with pytest.raises(Killed):
        train(folder, die_at)
    return Keeper(folder, 0, 2).all()


@pytest.mark.parametrize("die_at", [6, 11, 12])
@pytest.mark.parametrize("damaged", [1, 2])
def test_fit__from_an_older_checkpoint_or_none_it_ends_with_the_same(
    whole: Any, tmp_path: Path, die_at: int, damaged: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The best weights are found after step 10 and kept inside every later checkpoint: they are there when the one that was
    written with them has long been removed, and found again when all that hold them are damaged."""
    for path in cut(tmp_path, die_at)[:damaged]:
        path.write_bytes(path.read_bytes()[:-1])
    with caplog.at_level(logging.INFO):
        resumed = train(tmp_path)
    assert left(resumed, tmp_path) == whole
    assert caplog.text.count("is damaged") == damaged
    goes_on = f"continuing after step {die_at - 1} of 15" if damaged == 1 else "training starts over"
    assert goes_on in caplog.text


def test_keeper__best_weights_outlive_the_checkpoint_they_came_with(whole: Any, tmp_path: Path) -> None:
    """Of step 10, in the checkpoint of step 14, when only those of 13 and 14 are kept."""
    kept = cut(tmp_path, 14)
    assert [path.name for path in kept] == ["step-0000000014.pt", "step-0000000013.pt"]
    for path in kept:
        state = torch.load(path, weights_only=True)
        assert state["best"]["step"] == 10
        mine = [tensor.numpy().tobytes() for tensor in state["best"]["weights"].values()]
        assert mine == whole[0][-len(mine) :]


def without(what: str) -> Callable[..., dict[str, Any]]:
    """A state in which one part is as at the start."""
    state = Trained.state

    def forgetful(self: Trained) -> dict[str, Any]:
        return state(self) | {what: {"best": None, "history": [], "sums": {}}[what]}

    return forgetful


@pytest.mark.parametrize("forgotten", ["ema", "optimizer", "best", "history", "sums", "a step", "rows"])
def test_fit__what_a_resume_forgets_is_seen(
    whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgotten: str
) -> None:
    """Negative control: each part of the state in turn is left out, and one step, and the taking back of rows."""
    load = Trained.load
    if forgotten in ("best", "history", "sums"):
        monkeypatch.setattr(Trained, "state", without(forgotten))
    cut(tmp_path, 12)
    if forgotten == "ema":
        monkeypatch.setattr(Ema, "load_state_dict", lambda *_: None)
    if forgotten == "optimizer":
        monkeypatch.setattr(torch.optim.AdamW, "load_state_dict", lambda *_: None)
    if forgotten == "a step":
        monkeypatch.setattr(Trained, "load", lambda self, state: load(self, {**state, "step": state["step"] + 1}))
    if forgotten == "rows":
        Keeper(tmp_path, 0, 2).all()[0].unlink()  # killed with rows past its checkpoint
        monkeypatch.setattr(journal, "forget_after", lambda *_: 0)
    resumed = train(tmp_path)
    if forgotten == "best" and resumed.best is None:
        return  # seen: there is none
    assert left(resumed, tmp_path) != whole
