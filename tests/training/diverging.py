"""A small run that can be made to diverge at a known step, in this process or in two."""

import datetime
import hashlib
import json
import os
import sys
import traceback
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


def too_fast(course: Course, limit: float) -> Course:
    """Let step BAD diverge wherever its rate is above a limit: something a lower rate cures."""

    def spoiled(loss: Tensor, batch: Points) -> Tensor:
        fast = course.trained.optimizer.param_groups[0]["lr"] > limit
        return loss * float("nan") if batch.step == BAD and fast else loss

    course.trained.objective.spoil = spoiled  # type: ignore[assignment]
    return course


def halved(step: int) -> float:
    """Of the rate, from epoch 1 on: what one rewind makes of it."""
    return 0.5 if step >= STEPS else 1.0


def stopped(folder: Path) -> Course:
    """The last process's third image is NaN."""
    return Course(folder, poisoned=(8,))


def stopped_by_the_first(folder: Path) -> Course:
    return Course(folder, poisoned=(2,))


def went_back(folder: Path) -> Course:
    return too_fast(Course(folder, divergence=Divergence(rewinds=1)), 0.02)


def as_planned(folder: Path) -> Course:
    return Course(folder, factor=halved)


def one_of_two(index: int, folder: str, course: Callable[[Path], Course]) -> None:
    """Process `index` of a pair that meets in a file; says how it ended, and the digest of its weights."""
    os.environ.update(RANK=str(index), WORLD_SIZE="2")
    torch.set_num_threads(1)
    patience = datetime.timedelta(seconds=60)
    processes.join(dist.FileStore(f"{folder}/meet", 2), torch.device("cpu"), patience)
    one, said = course(Path(folder)), "finished"
    try:
        one.run()
    except Refusal as refusal:
        said = str(refusal)
    weights = b"".join(weight.detach().numpy().tobytes() for weight in one.trained.objective.parameters())
    ending = {"said": said, "steps": one.trained.step, "weights": hashlib.sha256(weights).hexdigest()}
    Path(folder, f"ending-{index}.json").write_text(json.dumps(ending))


def pair(folder: str, course: str) -> None:
    """Both, in forks of this fork (tests/forks.py); the name of one of the functions above."""
    children = []
    for index in range(2):
        if child := os.fork():
            children.append(child)
            continue
        try:
            one_of_two(index, folder, globals()[course])
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(0)
    for child in children:
        os.waitpid(child, 0)
