"""A loss or gradient that is not finite: noticed before the step that would spread it, by all processes alike, and told in full.

A loss that is not finite makes its gradients NaN (`seed`), and processes average their gradients: the norm of the averaged ones
answers for every loss and every gradient of every process, without a message of its own.

A CPU looks at that norm at once, before anything has moved. On a GPU the host must not wait for it: there the optimizer and the
averages stand still by themselves from the first bad step on, and the host hears of it LAG steps later, or before anything is
written. What it has done in between is thrown away, as the weights were by then no longer moving.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from stages.lib.core import ranks
from stages.lib.core.outcome import Refusal
from stages.lib.training import processes

if TYPE_CHECKING:
    from stages.lib.training.plan import Plan

LAG = 2
"""Steps a GPU may be behind the host's question: one computes, one waits its turn, so nobody stands still for an answer."""
SHOWN = 8
"""Images that are named."""
ADVICE = (
    "Lower the learning rate, lengthen the warm-up, set optimizer.clip_norm, or precision to fp32; or let the run go back an epoch "
    "and on with a lower rate by itself (divergence: {rewinds: 1}). Starting again with the same recipe would diverge again."
)
Keys = Callable[[int, Sequence[int]], list[str]]
"""(epoch, positions) -> the keys of the images that stand there."""


class Diverged(Refusal):
    """A run that would spread numbers that are not finite if it went on from where it is."""

    def __init__(self, step: int, reason: str) -> None:
        """step: the first that went wrong, counted from 1. reason: what was found, without advice."""
        super().__init__(f"{reason} {ADVICE}")
        self.step, self.reason = step, reason


@dataclass(frozen=True)
class Attempt:
    """A step that is under way."""

    step: int
    """Counted from 1."""
    rate: float
    positions: Tensor
    """i64[B] of this process's images, pass by pass."""


class Unstable(Exception):
    """An attempt whose numbers are not finite; the same in every process, but for its losses and images."""

    def __init__(self, attempt: Attempt, norm: float, losses: Sequence[float]) -> None:
        """losses: of this process, one a pass; norm: of the gradient, of all."""
        super().__init__(f"step {attempt.step}: losses {list(losses)}, gradient norm {norm}")
        self.attempt, self.norm, self.losses = attempt, norm, losses


class AtOnce:
    """Asks before every step is made; for a CPU, whose numbers are at hand."""

    bad: Tensor | None = None

    def look(self, attempt: Attempt, norm: Tensor, losses: Sequence[Tensor]) -> None:
        """Raises Unstable where the gradient's norm is not finite."""
        if not math.isfinite(length := norm.item()):
            raise Unstable(attempt, length, [loss.item() for loss in losses])

    def settle(self) -> None:
        """Nothing is open."""


class Lagging:
    """Lets the device decide and hears of it later; for a GPU."""

    def __init__(self, device: torch.device) -> None:
        self.bad: Tensor | None = torch.zeros((), device=device)
        """f32, 1 from the first step on that was not finite: what an optimizer calls found_inf."""
        self.open: deque[tuple[Attempt, Tensor, torch.cuda.Event | None]] = deque()

    def look(self, attempt: Attempt, norm: Tensor, losses: Sequence[Tensor]) -> None:
        """Note how this step went, on the device. Raises Unstable where one of LAG steps ago was bad."""
        assert self.bad is not None
        self.bad.copy_(torch.maximum(self.bad, (~torch.isfinite(norm)).to(self.bad.dtype)))
        told = torch.stack([norm.double(), *(loss.double() for loss in losses)])
        event = None
        if told.is_cuda:
            told = torch.empty(told.shape, dtype=told.dtype, pin_memory=True).copy_(told, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        self.open.append((attempt, told, event))
        while len(self.open) > LAG:
            self._hear()

    def settle(self) -> None:
        """Wait for every step up to now. Raises Unstable where one was bad."""
        while self.open:
            self._hear()

    def _hear(self) -> None:
        attempt, told, event = self.open.popleft()
        if event is not None:
            event.synchronize()
        norm, *losses = told.tolist()
        if not math.isfinite(norm):
            raise Unstable(attempt, norm, losses)


def guard(device: torch.device) -> AtOnce | Lagging:
    """What looks at the steps taken on a device."""
    return Lagging(device) if device.type == "cuda" else AtOnce()


def seed(loss: Tensor) -> Tensor:
    """What a backward pass starts from: exactly 1, or NaN where the loss is not finite."""
    return loss.detach() * 0 + 1


def described(unstable: Unstable, title: str, plan: Plan, keys: Keys) -> Diverged:
    """The whole story, the same in every process: a collective where there are several."""
    attempt, count = unstable.attempt, len(unstable.losses)
    epoch = (attempt.step - 1) // plan.steps_per_epoch
    parts = [
        _part(loss, positions, epoch, keys)
        for loss, positions in zip(unstable.losses, attempt.positions.chunk(count), strict=True)
    ]
    parts = processes.gathered(parts)
    bad = [part for part in parts if not math.isfinite(part["loss"])]
    images = [image for part in bad or parts for image in part["shown"]][:SHOWN]
    total = sum(part["images"] for part in bad or parts)
    more = f" and {total - len(images)} more" if total > len(images) else ""
    if bad:
        what = f"the loss became {bad[0]['loss']}"
        where = sorted({part["rank"] for part in bad})
        whose = f", in process {', '.join(map(str, where))} of {ranks.current().world}" if processes.together() else ""
        which = "The images of the pass" if len(bad) < len(parts) else "Its images"
    else:
        mean = sum(part["loss"] for part in parts) / len(parts)
        what, whose = f"the loss was {mean:.6g}, but the norm of its gradient became {unstable.norm}", ""
        which = "Its images"
    return Diverged(
        attempt.step,
        f"{title}: {what} at step {attempt.step} of {plan.steps} (epoch {epoch}, counted from 0){whose}; learning rate "
        f"{attempt.rate:.6g}. The step was not made: weights, averages and optimizer are those before it. {which}: "
        f"{', '.join(images)}{more}.",
    )


def _part(loss: float, positions: Tensor, epoch: int, keys: Keys) -> dict[str, Any]:
    """One pass of this process, in plain values."""
    shown: list[int] = positions[:SHOWN].tolist()
    names = [f"{key!r} at position {position}" for key, position in zip(keys(epoch, shown), shown, strict=True)]
    return {"rank": ranks.current().index, "loss": loss, "images": len(positions), "shown": names}
