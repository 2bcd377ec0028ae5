"""The loop: interrupted anywhere it ends with the same bits; a loss that is not finite never reaches a checkpoint."""

import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from stages.lib.core.outcome import Refusal
from stages.lib.core.runs import Run
from stages.lib.core.signals import Stopped, Watch
from stages.lib.training import loop
from stages.lib.training.checkpoint import Keeper
from stages.lib.training.ema import Ema
from stages.lib.training.journal import Journal
from stages.lib.training.loop import Row, Trained, fit
from stages.lib.training.plan import Plan
from stages.lib.training.took import Took

EPOCHS, STEPS = 3, 5
PEAK = {5: 1.0, 10: 3.0, 15: 3.0}  # what the looks find: the second is the best, the third only as good


@dataclass(frozen=True)
class Points:
    """A batch the loop knows nothing about."""

    images: Tensor
    positions: Tensor = field(default_factory=lambda: torch.arange(6))

    def to(self, _: torch.device) -> "Points":
        return self

    def parts(self, count: int) -> list["Points"]:
        return [Points(part) for part in self.images.chunk(count)]


class Regress(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 1))

    def forward(self, batch: Points) -> dict[str, Tensor]:
        loss = (self.net(batch.images) - batch.images.sum(1, keepdim=True)).square().mean()
        return {"loss": loss, "half": loss / 2}


class Killed(BaseException):
    """Stands for SIGKILL in one process."""


def batches(die_at: int | None, bad_at: int | None = None):  # type: ignore[no-untyped-def]
    def stream(first: int, last: int) -> Iterator[Points]:
        for step in range(first, last):
            if step == die_at:
                raise Killed
            points = torch.randn(6, 4, generator=torch.Generator().manual_seed(step))
            yield Points(points * float("nan") if step == bad_at else points)

    return stream


def train(folder: Path, die_at: int | None = None, bad_at: int | None = None, signum: int | None = None) -> Trained:
    objective = Regress()
    optimizer = torch.optim.AdamW([{"params": list(objective.parameters()), "lr_scale": 0.5}], lr=0.0)
    trained = Trained(objective, objective.net, optimizer, Ema(objective.net, 0.9), best_by="val_peak")
    plan = Plan(EPOCHS, STEPS, 6, rate=lambda step: 0.01 * (1 + step), clip_norm=1.0, log_steps=2)
    watch = Watch.__new__(Watch)
    watch.signum = signum

    def look(step: int) -> Row:
        return {
            "val_loss": float(objective.net[0].weight.detach().sum()),
            "val_top1": float(step),
            "val_peak": PEAK[step],
        }

    fit(
        trained,
        plan,
        batches(die_at, bad_at),
        Keeper(folder, 0, 2),
        Journal(Run(folder, "x"), "t", 15, 1.0),
        look,
        watch,
    )
    return trained


def bits(trained: Trained) -> list[bytes]:
    assert trained.ema is not None
    assert trained.best is not None
    kept = [trained.network.state_dict(), trained.ema.state_dict(), trained.best["weights"]]
    return [tensor.detach().numpy().tobytes() for state in kept for tensor in state.values()]


@pytest.mark.parametrize("die_at", [1, 4, 5, 7, 14])
def test_fit__killed_and_started_again_ends_with_the_same_bits(tmp_path: Path, die_at: int) -> None:
    whole = train(tmp_path / "whole")
    with pytest.raises(Killed):
        train(tmp_path / "cut", die_at)
    resumed = train(tmp_path / "cut")
    assert bits(resumed) == bits(whole)
    assert resumed.history == whole.history and len(whole.history) == EPOCHS
    rows = [(tmp_path / name / "metrics.jsonl").read_text().count("\n") for name in ("whole", "cut")]
    assert rows[0] == rows[1]


def test_fit__without_the_optimizer_state_the_bits_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control of the test above."""
    whole = train(tmp_path / "whole")
    with pytest.raises(Killed):
        train(tmp_path / "cut", 7)
    monkeypatch.setattr(torch.optim.AdamW, "load_state_dict", lambda *_: None)
    assert bits(train(tmp_path / "cut")) != bits(whole)


def test_fit__history_is_the_mean_over_the_epoch(tmp_path: Path) -> None:
    history = train(tmp_path).history
    assert [row["epoch"] for row in history] == [0, 1, 2]
    assert all(row["half"] == pytest.approx(row["loss"] / 2) for row in history)
    assert history[-1]["val_top1"] == EPOCHS * STEPS


def test_fit__a_loss_that_is_not_finite_is_refused_and_never_saved(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="loss became nan"):
        train(tmp_path, bad_at=6)
    state = Keeper(tmp_path, 0, 2).restore(torch.device("cpu"))
    assert state is not None and state["step"] == 6
    assert all(bool(torch.isfinite(t).all()) for t in state["objective"].values())


def test_fit__asked_to_stop_it_saves_and_leaves(tmp_path: Path) -> None:
    with pytest.raises(Stopped, match="SIGTERM"):
        train(tmp_path, signum=signal.SIGTERM)
    state = Keeper(tmp_path, 0, 2).restore(torch.device("cpu"))
    assert state is not None and state["step"] == 1


def test_fit__the_best_weights_are_those_of_the_first_best_look(tmp_path: Path) -> None:
    """Equal to the weights of a run stopped right there; the last ones are others."""
    with pytest.raises(Killed):
        train(tmp_path / "to the look", die_at=10)
    state = Keeper(tmp_path / "to the look", 0, 2).restore(torch.device("cpu"))
    assert state is not None and state["step"] == 10
    best = train(tmp_path / "whole").best
    assert best is not None and (best["step"], best["value"]) == (10, 3.0)
    there = {name.removeprefix("net."): tensor for name, tensor in state["objective"].items()}
    assert all(torch.equal(best["weights"][name], there[name]) for name in there)
    end = train(tmp_path / "whole").network.state_dict()
    assert not all(torch.equal(best["weights"][name], end[name]) for name in end)


def test_clock__mfu_is_model_flops_over_the_peak(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """100 images of 3 GFLOP in 2 s on a device of 1 TFLOP/s: 15 %. Of a model of unknown FLOPs nothing is said."""
    monkeypatch.setattr(loop.peak, "peak_flops", lambda *_: (1e12, "table"))
    seconds = iter([10.0, 12.0, 10.0, 12.0])
    monkeypatch.setattr(loop.time, "monotonic", lambda: next(seconds))
    known = Plan(1, 10, 8, rate=lambda _: 0.1, flops_per_image=3e9)
    row = loop._Clock(0, None, torch.device("cpu"), known, Took(tmp_path)).rates(4, 25)
    assert row["images_per_second"] == 50.0 and row["mfu"] == pytest.approx(0.15) and row["peak_bytes"] > 0
    unknown = Plan(1, 10, 8, rate=lambda _: 0.1)
    assert "mfu" not in loop._Clock(0, None, torch.device("cpu"), unknown, Took(tmp_path)).rates(4, 25)
