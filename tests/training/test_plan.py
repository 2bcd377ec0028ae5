"""What a block's rates, epochs and batch size come to in steps."""

import pytest

from stages.lib.params.optimizer import Optimizer, Schedule
from stages.lib.training.plan import Plan, planned


def test_plan__looks_about_ten_times_and_at_the_last_epoch() -> None:
    plan = Plan(epochs=35, steps_per_epoch=1, batch_size=8, rate=lambda _: 0.0)
    looked = [epoch for epoch in range(35) if plan.looks(epoch)]
    assert looked[-1] == 34 and 10 <= len(looked) <= 13


def test_planned__scales_the_peak_with_the_batch_and_warms_up_in_steps() -> None:
    optimizer = Optimizer(name="adamw", lr=0.001, lr_per=256, weight_decay=0.0, decay_tokens="none", clip_norm=2.0)
    schedule = Schedule(kind="mae-step", warmup_epochs=1, min_lr=0.0)
    plan = planned(optimizer, schedule, epochs=3, batch_size=512, steps_per_epoch=4, log_steps=7)
    assert (plan.steps, plan.clip_norm, plan.log_steps) == (12, 2.0, 7)
    assert [plan.rate(step) for step in (0, 2, 4)] == pytest.approx(
        [0.0, 0.001, 0.002]
    )  # 0.001 * 512 / 256 at its peak
    assert plan.rate(8) == pytest.approx(0.001)  # half of the cosine
