"""The one training loop. It knows neither masks nor teachers nor labels: objective(batch) -> {"loss": ...}.

Stopped or killed at any step and started again, it ends with the same bits on the same CPU: whatever is random comes with
the batch, and the state below is all there is. Several processes run it side by side, each on its part of every batch.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from stages.lib.core import ranks
from stages.lib.core.outcome import Refusal
from stages.lib.core.signals import Stopped, Watch
from stages.lib.data.ahead import Waiting
from stages.lib.models.precision import autocast
from stages.lib.params.precision import Precision
from stages.lib.training import peak, processes, sharded, trial
from stages.lib.training.arrival import arriving
from stages.lib.training.checkpoint import Keeper
from stages.lib.training.ema import Ema
from stages.lib.training.journal import Journal
from stages.lib.training.plan import Plan
from stages.lib.training.took import Took
from stages.lib.training.trial import TrialOver

if TYPE_CHECKING:
    from stages.lib.data.ahead import Meter
    from stages.lib.data.batch import Batch

log = logging.getLogger(__name__)
Row = dict[str, float]
DIVERGED = (
    "Nothing since the last checkpoint is kept. Lower the learning rate, lengthen the warm-up, or set clip_norm; "
    "starting again with the same recipe would diverge again."
)


@dataclass
class Trained:
    """Everything that moves while training; what a checkpoint holds."""

    objective: nn.Module
    network: nn.Module
    """The part of the objective that becomes an artefact."""
    optimizer: torch.optim.Optimizer
    ema: Ema | None = None
    best_by: str = ""
    """Number of a look by whose highest value the best weights are kept beside the last; empty: none are."""
    settle: Callable[[], None] | None = None
    """Called after the passes of a step: what they left to be put together over passes and processes."""
    sharded: bool = False
    """Of several processes each keeps a share of the weights, gradients and optimizer state; see sharded.py."""

    def __post_init__(self) -> None:
        self.step = 0
        self.best: dict[str, Any] | None = None
        self.history: list[Row] = []
        self.sums: dict[str, Tensor] = {}
        """Of the epoch's scalars up to the last time all processes added theirs, f64."""
        self.fresh: dict[str, Tensor] = {}
        """Of this process since then."""
        self.compute: nn.Module = self.objective

    def connect(self) -> None:
        """With other processes: start from the first one's weights, and average gradients as they come. Raises Refusal."""
        if not processes.together():
            return
        if self.sharded:
            if self.ema or self.settle:
                raise Refusal(
                    "system.shard_weights knows neither ema_decay nor batch norm; set it to false for this stage."
                )
            self.compute, self.optimizer = sharded.divided(self.objective, self.network, self.optimizer)
        else:
            self.compute = DistributedDataParallel(
                self.objective, forward_sync_buffers=False, gradient_as_bucket_view=True
            )

    def state(self) -> dict[str, Any]:
        """Tensors, numbers and lists only, so that loading needs no pickle."""
        return {
            "processes": ranks.current().world,
            "step": self.step,
            "objective": self.objective.state_dict(),
            "optimizer": sharded.whole_state(self.optimizer) if self.sharded else self.optimizer.state_dict(),
            "ema": self.ema.state_dict() if self.ema else None,
            "best": self.best,
            "history": self.history,
            "sums": self.sums,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint of the same recipe."""
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema:
            self.ema.load_state_dict(state["ema"])
        self.step, self.history, self.sums, self.best = state["step"], state["history"], state["sums"], state["best"]
        if (before := state["processes"]) != (now := ranks.current().world):
            log.info(
                "up to step %d there were %d processes, now there are %d: last bits may differ", self.step, before, now
            )

    def add(self, losses: dict[str, Tensor]) -> None:
        """Sum the epoch's scalars on the device, in double precision; nothing waits for the device here."""
        for name, value in losses.items():
            self.fresh[name] = self.fresh[name] + value if name in self.fresh else value

    def gather(self) -> None:
        """Bring the sums up to date: a collective. Doubles hold sums of single-precision losses without rounding."""
        if not self.fresh:
            return
        means = processes.mean_of_all(torch.stack(list(self.fresh.values())))
        for name, value in zip(self.fresh, means, strict=True):
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.fresh = {}

    def bring_home(self) -> None:
        """Let `objective` and `network` hold the weights that are trained, where those are divided: a collective."""
        if self.compute is not self.objective and self.sharded:
            sharded.bring_home(self.compute, self.objective)

    def judge(self, seen: Row) -> None:
        """Keep a copy of the weights if a look found them better than any before; the earlier of equals stays."""
        if self.best_by and (self.best is None or seen[self.best_by] > self.best["value"]):
            weights = {name: tensor.detach().clone() for name, tensor in self.network.state_dict().items()}
            self.best = {"value": seen[self.best_by], "step": self.step, "weights": weights}

    def means(self, steps: int) -> Row:
        """Means over the epoch's first `steps` steps and all processes.

        Raises Refusal if any is not finite, in every process and before anything is saved.
        """
        self.gather()
        means = {name: float(value) / steps for name, value in self.sums.items()}
        for name, value in means.items():
            if not math.isfinite(value):
                raise Refusal(f"{name} became {value} in the {steps} steps up to step {self.step}. {DIVERGED}")
        return means

    def refuse_bad_weights(self) -> None:
        """Raise Refusal naming the first parameter that is not finite."""
        for name, parameter in self.objective.named_parameters():
            if not bool(torch.isfinite(parameter).all()):
                raise Refusal(f"{name} is no longer finite after step {self.step}. {DIVERGED}")


def fit(
    trained: Trained,
    plan: Plan,
    batches: Callable[[int, int], Iterator[Batch]],
    keeper: Keeper,
    journal: Journal,
    look: Callable[[int], Row],
    watch: Watch,
    meter: Meter | None = None,
) -> list[Row]:
    """Train from the newest checkpoint to the end; returns one row of deterministic numbers an epoch.

    batches(first, last) yields the batches of those steps; look(step) validates and returns numbers for the epoch's row.
    meter: of the threads that make batches, for the log.
    Raises Stopped after saving when asked to stop, Refusal when the loss is not finite, TrialOver at the end of a trial.
    """
    device = next(trained.objective.parameters()).device
    state = keeper.restore(device)
    if state is not None:
        trained.load(state)
        log.info("%s: continuing after step %d of %d", journal.title, trained.step, plan.steps)
    trained.connect()
    trained.objective.train()
    accord = processes.Accord()
    tried = min(trial.limit(), plan.steps)
    took = Took(journal.folder, epochs=plan.epochs, steps_per_epoch=plan.steps_per_epoch, batch_size=plan.batch_size)
    with journal.start(trained.step), took:
        clock = _Clock(trained.step, meter, device, plan, took)
        for batch in clock.waiting.through(arriving(batches(trained.step, plan.steps), device)):
            rate = plan.rate(trained.step)
            trained.add(_step(trained, batch, rate, plan.clip_norm, plan.precision, plan.passes))
            trained.step += 1
            took.here["steps"] += 1
            signum, due = accord(watch.signum, keeper.due())
            epoch, within = divmod(trained.step - 1, plan.steps_per_epoch)
            within += 1
            if trained.step % plan.log_steps == 0 or within == plan.steps_per_epoch:
                means = trained.means(within)
                rates = clock.rates(trained.step, plan.batch_size)
                journal.row(trained.step, {**means, "lr": rate, **rates})
                journal.progress(trained.step, means["loss"], rates)
            if within == plan.steps_per_epoch:
                row = {"epoch": epoch, **trained.means(within), "lr": rate}
                trained.sums = {}
                if plan.looks(epoch):
                    trained.bring_home()
                    with took.aside("validation"):
                        row |= (seen := look(trained.step))
                    trained.judge(seen)
                    journal.seen(trained.step, seen)
                trained.history.append(row)
            if due or signum is not None or trained.step in (plan.steps, tried):
                if trained.sums or trained.fresh:
                    trained.means(within)
                trained.bring_home()
                trained.refuse_bad_weights()  # the loss is computed before the update, so finite losses prove too little
                with took.aside("saving"):
                    journal.settle()
                    keeper.save(trained.step, trained.state())
                took.write()
            if signum is not None or trained.step == tried:
                accord.close()
                raise TrialOver if signum is None else Stopped(signum)
    accord.close()
    return trained.history


def _step(
    trained: Trained, batch: Batch, rate: float, clip_norm: float, precision: Precision = "fp32", passes: int = 1
) -> dict[str, Tensor]:
    """One optimizer step in equal passes over this process's images; returns the means of the objective's scalars, f64.

    A backward pass takes its number formats from the forward pass.
    """
    for group in trained.optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)
    trained.optimizer.zero_grad(set_to_none=True)
    means: dict[str, Tensor] = {}
    for number, part in enumerate(batch.parts(passes)):
        with _quiet(trained.compute, last=number == passes - 1):
            with autocast(batch.images.device, precision):
                losses: dict[str, Tensor] = trained.compute(part)
            (losses["loss"] / passes if passes > 1 else losses["loss"]).backward()
        for name, value in losses.items():
            value = value.detach().double() / passes
            means[name] = means[name] + value if name in means else value
    if trained.settle:
        trained.settle()
    if clip_norm:
        nn.utils.clip_grad_norm_(trained.compute.parameters(), clip_norm)
    trained.optimizer.step()
    if trained.ema:
        trained.ema.update(trained.network)
    return means


def _quiet(compute: nn.Module, last: bool) -> contextlib.AbstractContextManager[object]:
    """Gradients of several passes travel once, with the last."""
    if isinstance(compute, FSDPModule):
        compute.set_requires_gradient_sync(last)
    return compute.no_sync() if isinstance(compute, DistributedDataParallel) and not last else contextlib.nullcontext()


class _Clock:
    """How fast it goes since the last row: images a second, the share of time spent waiting for them, what a loader thread spends
    on one, the share of the device's peak that the model's arithmetic is (MFU); and the most memory used so far. Validating and
    saving count for nothing."""

    def __init__(self, step: int, meter: Meter | None, device: torch.device, plan: Plan, took: Took) -> None:
        self.took, self.apart = took, 0.0
        self.since, self.step, self.waiting, self.meter = time.monotonic(), step, Waiting(), meter
        self.device, self.flops_per_image, self.peak = device, plan.flops_per_image, 0.0
        if plan.flops_per_image and ranks.first():
            one, source = peak.peak_flops(device, plan.precision)
            log.info("%.3g TFLOP/s (%s) count as the whole of this %s", one / 1e12, source, device.type)
            self.peak = one * ranks.current().world

    def rates(self, step: int, batch_size: int) -> Row:
        """Numbers of the time since the last call."""
        now = time.monotonic()
        apart = self.took.aside_seconds
        spent = max(now - self.since - (apart - self.apart), 1e-9)
        rate = (step - self.step) * batch_size / spent
        row = {"images_per_second": rate, "waiting_share": self.waiting.seconds / spent}
        if self.peak:
            row["mfu"] = rate * self.flops_per_image / self.peak
        row["peak_bytes"] = float(peak.peak_bytes(self.device))
        self.since, self.step, self.waiting.seconds, self.apart = now, step, 0.0, apart
        return row | (self.meter.milliseconds() if self.meter else {})
