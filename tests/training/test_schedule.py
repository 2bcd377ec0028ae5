"""Learning rates against the figures of the fact sheets and the papers' repositories."""

import math

import pytest

from stages.lib.params.optimizer import Schedule
from stages.lib.training.schedule import deit_lr, deit_value, learning_rate, mae_lr


@pytest.mark.parametrize(
    ("epoch", "rate"),
    [(0, 0.0), (0.5, 3.0e-5), (20, 1.2e-3), (40, 2.4e-3), (100, 2.36328e-3), (420, 1.2e-3), (800, 0.0)],
)
def test_mae_lr__pretraining(epoch: float, rate: float) -> None:
    assert mae_lr(epoch, 2.4e-3, 0.0, 40, 800) == pytest.approx(rate, rel=1e-5, abs=1e-12)


@pytest.mark.parametrize(("epoch", "rate"), [(2.5, 1.0e-3), (5, 2e-3), (52.5, 1.0005e-3), (100, 1e-6)])
def test_mae_lr__finetuning(epoch: float, rate: float) -> None:
    assert mae_lr(epoch, 2e-3, 1e-6, 5, 100) == pytest.approx(rate, rel=1e-9)


DEIT = {0: 1e-6, 1: 1e-6, 2: 2.008e-4, 3: 4.006e-4, 4: 6.004e-4, 5: 8.002e-4}
LATER = {6: 9.993216e-4, 100: 7.569755e-4, 150: 5.101835e-4, 299: 1.010856e-5}


@pytest.mark.parametrize(("epoch", "rate"), [*DEIT.items(), *LATER.items()])
def test_deit_lr__as_published(epoch: int, rate: float) -> None:
    assert deit_lr(epoch, 1e-3, 1e-5, 1e-6, 5, 300) == pytest.approx(rate, rel=1e-6)


def test_deit_lr__the_peak_is_never_reached() -> None:
    assert max(deit_lr(epoch, 1e-3, 1e-5, 1e-6, 5, 300) for epoch in range(300)) < 1e-3


def test_deit_value__past_the_end_and_without_warm_up() -> None:
    assert deit_value(300, 1e-3, 1e-5, 1e-6, 5, 300) == 1e-5
    assert deit_value(310, 1e-3, 1e-5, 1e-6, 5, 300) == 1e-5
    assert deit_value(0, 1e-3, 1e-5, 1e-6, 0, 300) == 1e-3


def test_deit_lr__a_floor_above_the_peak_lets_it_rise() -> None:
    """DeiT's transfer runs (D#144): min_lr is not scaled with the batch."""
    rates = [deit_lr(epoch, 5e-6, 1e-5, 1e-6, 5, 30) for epoch in range(30)]
    assert rates[-1] > rates[10] > 5e-6


def test_learning_rate__mae_moves_every_step() -> None:
    cfg = Schedule(kind="mae-step", warmup_epochs=2.5, min_lr=1e-6)
    rates = [learning_rate(cfg, 1e-3, step, 4, 10) for step in range(40)]
    assert rates[0] == 0.0
    assert rates[10] == pytest.approx(1e-3)
    assert rates[25] == pytest.approx(1e-6 + (1e-3 - 1e-6) / 2 * (1 + math.cos(math.pi / 2)))
    assert len(set(rates)) == 40


def test_learning_rate__deit_moves_once_an_epoch_and_late() -> None:
    cfg = Schedule(kind="deit-epoch", warmup_epochs=2, min_lr=0.0, warmup_lr=1e-6)
    rates = [learning_rate(cfg, 1e-3, step, 4, 10) for step in range(40)]
    assert rates[:8] == [1e-6] * 8
    assert rates[8:12] == [pytest.approx(1e-6 + (1e-3 - 1e-6) / 2)] * 4
    assert rates[12:16] == [pytest.approx(1e-3 / 2 * (1 + math.cos(math.pi * 2 / 10)))] * 4


@pytest.mark.parametrize("kind", ["mae-step", "deit-epoch"])
def test_learning_rate__a_warm_up_longer_than_the_run(kind: str) -> None:
    cfg = Schedule.model_validate({"kind": kind, "warmup_epochs": 5, "min_lr": 0.0})
    rates = [learning_rate(cfg, 1.0, step, 2, 3) for step in range(6)]
    assert all(0 <= rate < 1 for rate in rates)
    assert rates == sorted(rates)
