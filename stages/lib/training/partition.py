"""How a global batch is divided: over processes, and within one over forward passes (gradient accumulation).

The global batch is science. How it is divided is not: the images, their augmented bytes, the numbers for stochastic depth and the
groups of mixing and batch norm are the same, and gradients agree to rounding.
"""

from dataclasses import dataclass

from stages.lib.core.outcome import Refusal


@dataclass(frozen=True)
class Partition:
    """Of one global batch."""

    processes: int
    images: int
    """Of one process."""
    passes: int
    """Forward and backward passes a process takes for one step."""

    def __str__(self) -> str:
        """For a log."""
        several = (
            f"{self.processes} processes of {self.images} images" if self.processes > 1 else f"{self.images} images"
        )
        return several + (f" in {self.passes} passes of {self.images // self.passes}" if self.passes > 1 else "")


def partition(batch_size: int, processes: int, group: int, most: int) -> Partition:
    """Divide a batch among `processes`; each takes at most `most` images at a time, or 0: all of its part.

    group: images that must stay together, whole groups of which make up every pass (mixing, batch norm).
    Raises Refusal with the nearest numbers that work.
    """
    groups = batch_size // group
    if batch_size % group:
        raise Refusal(f"a batch of {batch_size} images is not whole groups of {group} (mix_group, norm_group).")
    if groups % processes:
        raise Refusal(
            f"a batch of {batch_size} images in groups of {group} cannot be divided among {processes} processes; take "
            f"{_nearest(groups, processes)} (system.ranks), or a batch of whole groups for each."
        )
    images = batch_size // processes
    if most and most < group:
        raise Refusal(
            f"system.device_batch {most} is less than a group of {group} images that must be computed together (mix_group, "
            f"norm_group); take {group} or more, or 0 for no limit."
        )
    fitting = max(n for n in _divisors(groups // processes) if n * group <= (most or images))
    return Partition(processes, images, groups // processes // fitting)


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def _nearest(groups: int, processes: int) -> str:
    """The valid numbers of processes on either side of one that is not."""
    divisors = _divisors(groups)
    below, above = [n for n in divisors if n < processes], [n for n in divisors if n > processes]
    return " or ".join(map(str, [*below[-1:], *above[:1]]))
