"""How long a run trains and how fast: what a block's optimizer, schedule, epochs and batch size come to in steps."""

from collections.abc import Callable
from dataclasses import dataclass, field

from stages.lib.params.divergence import Divergence
from stages.lib.params.optimizer import Optimizer, Schedule
from stages.lib.params.precision import Precision
from stages.lib.training import optimizer as optimizers
from stages.lib.training import schedule as schedules


@dataclass(frozen=True)
class Plan:
    """How long, how fast, and how often the run is looked at."""

    epochs: int
    steps_per_epoch: int
    batch_size: int
    """Global."""
    rate: Callable[[int], float]
    """Step, counted from 0 -> learning rate; a group's own is this times its `lr_scale`."""
    clip_norm: float = 0.0
    log_steps: int = 10
    passes: int = 1
    """Forward and backward passes of one process for one step."""
    precision: Precision = "fp32"
    """Of the objective's forward pass."""
    flops_per_image: float = 0.0
    """A training step's, by the model's sizes (docs/performance.md); 0: unknown."""
    divergence: Divergence = field(default_factory=Divergence)

    @property
    def steps(self) -> int:
        """In the whole run."""
        return self.epochs * self.steps_per_epoch

    def looks(self, epoch: int) -> bool:
        """Whether the epoch just finished is validated: about ten times a run, and always the last."""
        return epoch == self.epochs - 1 or (epoch + 1) % max(1, self.epochs // 10) == 0


def planned(
    optimizer: Optimizer,
    schedule: Schedule,
    epochs: int,
    batch_size: int,
    steps_per_epoch: int,
    log_steps: int,
    passes: int = 1,
) -> Plan:
    """The plan these blocks describe; batch_size: global, the peak rate is scaled by it."""
    peak = optimizers.peak_lr(optimizer, batch_size)
    return Plan(
        epochs,
        steps_per_epoch,
        batch_size,
        lambda step: schedules.learning_rate(schedule, peak, step, steps_per_epoch, epochs),
        optimizer.clip_norm,
        log_steps,
        passes,
    )
