"""A small run that can be made to diverge at a known step, in this process or in two."""

import datetime
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from stages.lib.core import ranks
from stages.lib.core.outcome import Refusal
from stages.lib.core.runs import Run
from stages.lib.core.signals import Watch
from stages.lib.params.divergence import Divergence
from stages.lib.params.precision import Precision
from stages.lib.training import processes
from stages.lib.training.checkpoint import Keeper
from stages.lib.training.ema import Ema
from stages.lib.training.journal import Journal
from stages.lib.training.loop import Trained, fit
from stages.lib.training.plan import Plan

EPOCHS, STEPS, BATCH = 3, 5, 12
BAD = 6  # the step, counted from 0, whose images or loss are not what they should be: the second of epoch 1


@dataclass(frozen=True)
class Points:
    """A batch the loop knows nothing about, and the number of its step."""

    images: Tensor
    positions: Tensor
    step: int

    def to(self, device: torch.device) -> "Points":
        return Points(self.images.to(device), self.positions.to(device), self.step)

    def used_on(self, _: Any) -> None:
        """Its memory is not used again."""

    def parts(self, count: int) -> list["Points"]:
        both = zip(self.images.chunk(count), self.positions.chunk(count), strict=True)
        return [Points(images, positions, self.step) for images, positions in both]


Spoil = Callable[[Tensor, Points], Tensor]
"""(loss, batch) -> the loss that is trained on."""


class Regress(nn.Module):
    def __init__(self, spoil: Spoil) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net, self.spoil = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 1)), spoil

    def forward(self, batch: Points) -> dict[str, Tensor]:
        predicted = self.net(batch.images).float()
        loss = (predicted - batch.images.sum(1, keepdim=True)).square().mean()
        return {"loss": self.spoil(loss, batch)}


class Killed(BaseException):
    """Stands for SIGKILL in one process."""


@dataclass
class Course:
    """What to train, how, and what goes wrong."""

    folder: Path
    spoil: Spoil = lambda loss, _: loss
    poisoned: tuple[int, ...] = ()
    """Places in the batch of step BAD whose images are NaN."""
    divergence: Divergence = field(default_factory=Divergence)
    precision: Precision = "fp32"
    passes: int = 1
    every_seconds: float = 0.0
    optimizer: str = "adamw"
    guard: Any = None
    factor: Callable[[int], float] = lambda _: 1.0
    """Of the learning rate, by step."""
    die: Callable[[int], bool] = lambda _: False
    """Whether the process dies while the batch of this step is made."""
    clip_norm: float = 1.0
    rate: float = 0.01
    device: str = "cpu"

    def __post_init__(self) -> None:
        objective = Regress(self.spoil).to(self.device)
        weights = list(objective.parameters())
        build: Any = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[self.optimizer]
        more = {"momentum": 0.9, "nesterov": True} if self.optimizer == "sgd" else {}
        made = build([{"params": weights, "lr_scale": 0.5}], lr=0.0, fused=True, **more)
        self.trained = Trained(objective, objective.net, made, Ema(objective.net, 0.9))
        if self.guard:
            self.trained.restart = self.restart  # type: ignore[method-assign]
            self.restart()
        self.journal = Journal(Run(self.folder, "x"), "small", EPOCHS * STEPS, 1.0)

    def restart(self) -> None:
        """As if the device were another."""
        Trained.restart(self.trained)
        self.trained.guard = self.guard(torch.device("cpu"))

    def run(self) -> Trained:
        plan = Plan(
            EPOCHS,
            STEPS,
            BATCH,
            rate=lambda step: self.rate * (1 + step) * self.factor(step),
            clip_norm=self.clip_norm,
            log_steps=2,
            passes=self.passes,
            precision=self.precision,
            divergence=self.divergence,
        )
        watch = Watch.__new__(Watch)
        watch.signum = None
        keeper = Keeper(self.folder, self.every_seconds, 2)
        fit(self.trained, plan, self.batches, keeper, self.journal, lambda _: {}, watch, keys=keys)
        return self.trained

    def batches(self, first: int, last: int) -> Iterator[Any]:
        part = ranks.current().slice(BATCH)
        for step in range(first, last):
            if self.die(step):
                raise Killed
            images = torch.randn(BATCH, 4, generator=torch.Generator().manual_seed(step))
            if step == BAD:
                images[list(self.poisoned)] = float("nan")
            positions = step % STEPS * BATCH + torch.arange(BATCH)
            yield Points(images[part], positions[part], step)


def keys(epoch: int, positions: Sequence[int]) -> list[str]:
    """Names that say where an image stands."""
    return [f"e{epoch}p{position}" for position in positions]


def one_of_two(index: int, folder: str, poisoned: list[int]) -> None:
    """Process `index` of a pair that meets in a file; leaves with 3 and what was refused on its stderr."""
    os.environ.update(RANK=str(index), WORLD_SIZE="2")
    patience = datetime.timedelta(seconds=60)
    processes.join(dist.FileStore(f"{folder}/meet", 2), torch.device("cpu"), patience)
    course = Course(Path(folder), poisoned=tuple(poisoned))
    try:
        course.run()
    except Refusal as refusal:
        finite = all(bool(torch.isfinite(weight).all()) for weight in course.trained.objective.parameters())
        steps = course.trained.step
        sys.stderr.write(f"process {index} after {steps} steps, weights finite: {finite}: {refusal}\n")
        sys.stderr.flush()
        os._exit(3)


def pair(folder: str, poisoned: list[int]) -> None:
    """Both, in forks of this fork (tests/forks.py); leaves with 0 if both refused."""
    children = []
    for index in range(2):
        if child := os.fork():
            children.append(child)
            continue
        try:
            one_of_two(index, folder, poisoned)
        finally:
            os._exit(0)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    sys.stdout.write(f"codes {codes}\n")
