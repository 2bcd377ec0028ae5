"""The one training loop. It knows neither masks nor teachers nor labels: objective(batch) -> {"loss": ...}.

Stopped or killed at any step and started again, it ends with the same bits on the same CPU: whatever is random comes with
the batch, and the state below is all there is. Several processes run it side by side, each on its part of every batch.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from stages.lib.core import ranks
from stages.lib.core.outcome import Refusal
from stages.lib.core.signals import Stopped, Watch
from stages.lib.data.ahead import Waiting
from stages.lib.models.precision import autocast
from stages.lib.params.precision import Precision
from stages.lib.training import divergence, peak, processes, sharded, trial
from stages.lib.training.arrival import arriving
from stages.lib.training.checkpoint import Keeper
from stages.lib.training.divergence import Attempt, Diverged, Keys, Unstable
from stages.lib.training.ema import Ema
from stages.lib.training.journal import Journal
from stages.lib.training.plan import Plan
from stages.lib.training.rewind import Rewinder
from stages.lib.training.took import Took
from stages.lib.training.trial import TrialOver

if TYPE_CHECKING:
    from stages.lib.data.ahead import Meter
    from stages.lib.data.batch import Batch

log = logging.getLogger(__name__)
Row = dict[str, float]


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
        self.saved: int | None = None
        """Step of the newest checkpoint."""
        self.rewinds: list[int] = []
        """Steps that diverged and from which the run went back."""
        self.best: dict[str, Any] | None = None
        self.history: list[Row] = []
        self.sums: dict[str, Tensor] = {}
        """Of the epoch's scalars up to the last time all processes added theirs, f64."""
        self.fresh: dict[str, Tensor] = {}
        """Of this process since then."""
        self.compute: nn.Module = self.objective
        self.restart()

    def restart(self) -> None:
        """Look at the steps to come as if none had been bad; sums of an epoch that is not finished are forgotten."""
        self.guard = divergence.guard(next(self.objective.parameters()).device)
        self.fresh = {}

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
            "rewinds": self.rewinds,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint of the same recipe."""
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema:
            self.ema.load_state_dict(state["ema"])
        self.step, self.history, self.sums, self.best = state["step"], state["history"], state["sums"], state["best"]
        self.rewinds, self.saved = state["rewinds"], state["step"]
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

        Raises Diverged if any is not finite, in every process and before anything is saved; Unstable if a step was not made.
        """
        self.guard.settle()
        self.gather()
        means = {name: float(value) / steps for name, value in self.sums.items()}
        for name, value in means.items():
            if not math.isfinite(value):
                raise Diverged(self.step, f"{name} became {value} in the {steps} steps up to step {self.step}.")
        return means

    def refuse_bad_weights(self) -> None:
        """Raise Diverged naming the first parameter that is not finite, Unstable if a step was not made."""
        self.guard.settle()
        for name, parameter in self.objective.named_parameters():
            if not bool(torch.isfinite(parameter).all()):
                raise Diverged(self.step, f"{name} is no longer finite after step {self.step}.")


def _unnamed(_epoch: int, positions: Sequence[int]) -> list[str]:
    return ["?"] * len(positions)


def fit(
    trained: Trained,
    plan: Plan,
    batches: Callable[[int, int], Iterator[Batch]],
    keeper: Keeper,
    journal: Journal,
    look: Callable[[int], Row],
    watch: Watch,
    meter: Meter | None = None,
    keys: Keys = _unnamed,
) -> list[Row]:
    """Train from the newest checkpoint to the end; returns one row of deterministic numbers an epoch.

    batches(first, last) yields the batches of those steps; look(step) validates and returns numbers for the epoch's row.
    meter: of the threads that make batches, for the log. keys: names of images, for what is said of a step that went wrong.
    Raises Stopped after saving when asked to stop, Diverged when loss or gradient is not finite and the run may not go back,
    TrialOver at the end of a trial.
    """
    if trained.sharded and plan.divergence.rewinds and processes.together():
        raise Refusal(
            "divergence.rewinds does not go with system.shard_weights yet; set rewinds to 0, or shard_weights to false."
        )
    device = next(trained.objective.parameters()).device
    rewinder = Rewinder(keeper, plan.divergence, device)
    state = rewinder.restore()
    if state is not None:
        trained.load(state)
        log.info("%s: continuing after step %d of %d", journal.title, trained.step, plan.steps)
    else:
        rewinder.keep(trained)
    trained.connect()
    trained.objective.train()
    took = Took(journal.folder, epochs=plan.epochs, steps_per_epoch=plan.steps_per_epoch, batch_size=plan.batch_size)
    with journal.start(trained.step, trained.rewinds), took:
        clock = _Clock(trained.step, meter, device, plan, took)
        course = _Course(trained, plan, batches, keeper, journal, look, watch, rewinder, clock, took)
        while fault := course.until_done_or_bad(keys):
            rewinder.back(trained, fault)
            journal.go_back(trained.step, trained.rewinds)
            clock.restart(trained.step)
    course.accord.close()
    return trained.history


@dataclass
class _Course:
    """Steps one after the other, and what is due after each."""

    trained: Trained
    plan: Plan
    batches: Callable[[int, int], Iterator[Batch]]
    keeper: Keeper
    journal: Journal
    look: Callable[[int], Row]
    watch: Watch
    rewinder: Rewinder
    clock: _Clock
    took: Took

    def __post_init__(self) -> None:
        self.accord = processes.Accord()
        self.tried = min(trial.limit(), self.plan.steps)

    def until_done_or_bad(self, keys: Keys) -> Diverged | None:
        """Train to the end; or to the first step whose numbers are not finite, which is described."""
        try:
            self._steps()
        except Unstable as unstable:
            return divergence.described(unstable, self.journal.title, self.plan, keys)
        except Diverged as fault:
            return fault
        return None

    def _steps(self) -> None:
        trained, plan, device = self.trained, self.plan, self.clock.device
        with contextlib.closing(arriving(self.batches(trained.step, plan.steps), device)) as coming:
            for batch in self.clock.waiting.through(coming):
                rate = plan.rate(trained.step) * self.rewinder.factor(trained)
                trained.add(_step(trained, batch, rate, plan.clip_norm, plan.precision, plan.passes))
                trained.step += 1
                self.took.here["steps"] += 1
                signum, due = self.accord(self.watch.signum, self.keeper.due())
                self._write_down(rate)
                if due or signum is not None or trained.step in (plan.steps, self.tried):
                    self._save()
                if signum is not None or trained.step == self.tried:
                    self.accord.close()
                    raise TrialOver if signum is None else Stopped(signum)

    def _write_down(self, rate: float) -> None:
        """Rows of the log and of the history, where the step ends one."""
        trained, plan = self.trained, self.plan
        epoch, within = divmod(trained.step - 1, plan.steps_per_epoch)
        within += 1
        if trained.step % plan.log_steps == 0 or within == plan.steps_per_epoch:
            means = trained.means(within)
            rates = self.clock.rates(trained.step, plan.batch_size)
            self.journal.row(trained.step, {**means, "lr": rate, **rates})
            self.journal.progress(trained.step, means["loss"], rates)
        if within == plan.steps_per_epoch:
            self._end_epoch({"epoch": epoch, **trained.means(within), "lr": rate})

    def _end_epoch(self, row: Row) -> None:
        trained = self.trained
        trained.sums = {}
        if self.plan.looks(int(row["epoch"])):
            trained.bring_home()
            with self.took.aside("validation"):
                row |= (seen := self.look(trained.step))
            trained.judge(seen)
            self.journal.seen(trained.step, seen)
        if self.plan.divergence.rewinds:
            row["rewinds"] = float(len(trained.rewinds))
        trained.history.append(row)
        if self.plan.divergence.rewinds:
            trained.refuse_bad_weights()
            with self.took.aside("saving"):
                self.journal.settle()
                self.rewinder.keep(trained)

    def _save(self) -> None:
        trained = self.trained
        if trained.sums or trained.fresh:
            trained.means((trained.step - 1) % self.plan.steps_per_epoch + 1)
        trained.bring_home()
        trained.refuse_bad_weights()  # the loss is computed before the update, so finite losses prove too little
        with self.took.aside("saving"):
            self.journal.settle()
            self.keeper.save(trained.step, trained.state())
        trained.saved = trained.step
        self.took.write()


def _step(
    trained: Trained, batch: Batch, rate: float, clip_norm: float, precision: Precision = "fp32", passes: int = 1
) -> dict[str, Tensor]:
    """One optimizer step in equal passes over this process's images; returns the means of the objective's scalars, f64.

    A backward pass takes its number formats from the forward pass. Raises Unstable, with everything as it was before, where loss or
    gradient is not finite; on a GPU a later step does, and until then nothing moves.
    """
    for group in trained.optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)
    trained.optimizer.zero_grad(set_to_none=True)
    means: dict[str, Tensor] = {}
    said: list[Tensor] = []
    for number, part in enumerate(batch.parts(passes)):
        with _quiet(trained.compute, last=number == passes - 1):
            with autocast(batch.images.device, precision):
                losses: dict[str, Tensor] = trained.compute(part)
            loss = losses["loss"] / passes if passes > 1 else losses["loss"]
            loss.backward(divergence.seed(loss))
        said.append(losses["loss"].detach())
        for name, value in losses.items():
            value = value.detach().double() / passes
            means[name] = means[name] + value if name in means else value
    weights = [weight for weight in trained.compute.parameters() if weight.grad is not None]
    norm = nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None])
    whole = norm.full_tensor() if isinstance(norm, DTensor) else norm
    trained.guard.look(Attempt(trained.step + 1, rate, batch.positions), whole, said)
    if trained.settle:
        trained.settle()
    if clip_norm:
        nn.utils.clip_grads_with_norm_(weights, clip_norm, norm)
    if trained.guard.bad is not None:
        trained.optimizer.found_inf = trained.guard.bad  # type: ignore[attr-defined]  # a fused optimizer asks for it
    trained.optimizer.step()
    if trained.ema:
        trained.ema.update(trained.network, trained.guard.bad)
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

    def restart(self, step: int) -> None:
        """Count from here: the run went back."""
        self.since, self.step, self.waiting.seconds, self.apart = time.monotonic(), step, 0.0, self.took.aside_seconds

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
