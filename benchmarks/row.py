"""One line of a benchmark: ours beside a reference, in the same unit, measured in the same process."""

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Row:
    """What was measured for one path."""

    path: str
    """What was done, with its size and number of cores: `shards of 107 kB images, 1 core`."""
    ours: float
    """In `unit`, higher is better."""
    reference: float
    """In `unit`."""
    ratio: float
    """Ours to the reference's: the median of ratios of neighbouring rounds, so not quite ours / reference."""
    goal: float | None
    """Least ratio that is wanted; None: shown for comparison only."""
    unit: str
    """`images/s`, say."""
    psnr_mean: float | None = None
    """dB, of our pixels against the reference's; None where bytes or pixels are equal or not compared."""
    psnr_p1: float | None = None
    """dB, first percentile over images."""
    note: str = ""

    @property
    def reached(self) -> bool:
        """Whether the goal, if there is one, is met."""
        return self.goal is None or self.ratio >= self.goal

    def text(self) -> str:
        """A line for people."""
        goal = "" if self.goal is None else f" (goal {self.goal:g}x: {'reached' if self.reached else 'MISSED'})"
        psnr = "" if self.psnr_mean is None else f"; PSNR {self.psnr_mean:.1f} dB"
        least = "" if self.psnr_p1 is None else f", 1st percentile {self.psnr_p1:.1f} dB"
        note = f"; {self.note}" if self.note else ""
        return (
            f"{self.path}: {self.ours:,.0f} {self.unit}, reference {self.reference:,.0f}, {self.ratio:.2f}x"
            f"{goal}{psnr}{least}{note}"
        )

    def json(self) -> str:
        """One object on one line."""
        return json.dumps(asdict(self))
