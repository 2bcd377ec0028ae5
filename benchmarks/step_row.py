"""A measured line about steps."""

import json
import math
from dataclasses import asdict, dataclass

HEADER = (
    f"{'case':<22}{'ours':>10}{'reference':>11}  {'ratio':>6}{'min..max':>13}  {'goal':<26}"
    f"{'MFU':>6}{'theirs':>8}{'peak MB':>9}{'theirs':>8}"
)


@dataclass(frozen=True)
class StepRow:
    """Rates are images a second, medians over slices; the ratio is the median of ratios of neighbouring slices."""

    case: str
    """model/reference."""
    ours: float
    reference: float
    ratio: float
    goal: float | None
    """Least ratio."""
    mfu: float
    """Model FLOPs of our images a second, as a share of the device's peak in our precision."""
    reference_mfu: float
    """In the reference's precision."""
    peak_bytes: int
    reference_peak_bytes: int
    ratio_min: float = math.nan
    ratio_max: float = math.nan
    ratio_cpu: float | None = None
    """The ratio by CPU time, which others on the machine disturb less; none on a GPU, where it says nothing."""
    goal_mfu: float | None = None
    goal_images_per_second: float | None = None
    slices: int = 0
    batch: int = 0
    precision: str = ""
    reference_precision: str = ""
    peak_flops: float = 0.0
    """Of the device, FLOP/s, in our precision."""
    peak_source: str = ""
    """table or measured."""
    flops_per_image: float = 0.0
    waiting_share: float | None = None
    """End to end: of the time, what the host waited for batches. Beside a GPU that still works it is no loss; 1 - ratio is."""
    workers: int = 0
    """End to end: loader threads."""
    others: float = 0.0
    """Largest share of the cores' time that somebody else took in a slice that counts."""
    machine: str = ""

    @property
    def misses(self) -> list[str]:
        """Goals not reached."""
        found = [f"{self.goal:g}x"] if self.goal is not None and self.ratio < self.goal else []
        found += [f"MFU {self.goal_mfu:.0%}"] if self.goal_mfu is not None and self.mfu < self.goal_mfu else []
        wanted = self.goal_images_per_second
        return found + ([f"{wanted:,.0f} images/s"] if wanted is not None and self.ours < wanted else [])

    def text(self) -> str:
        """A line of the table under HEADER."""
        goals = [f"{self.goal:g}x"] if self.goal is not None else []
        goals += [f"MFU {self.goal_mfu:.0%}"] if self.goal_mfu is not None else []
        goals += [f"{self.goal_images_per_second:,.0f}/s"] if self.goal_images_per_second is not None else []
        goal = (
            f"{', '.join(goals)} {'MISSED: ' + ', '.join(self.misses) if self.misses else 'reached'}" if goals else ""
        )
        if self.waiting_share is not None:
            goal = f"{self.waiting_share:.0%} waiting for data"
        spread = f"{self.ratio_min:.2f}..{self.ratio_max:.2f}"
        return (
            f"{self.case:<22}{self.ours:>10,.1f}{self.reference:>11,.1f}  {self.ratio:>6.2f}{spread:>13}  {goal:<26}"
            f"{self.mfu:>6.0%}{self.reference_mfu:>8.0%}{self.peak_bytes / 1e6:>9,.0f}{self.reference_peak_bytes / 1e6:>8,.0f}"
        )

    def json(self) -> str:
        """One object on one line."""
        return json.dumps(asdict(self))
