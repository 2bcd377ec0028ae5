"""A measured line about loading: Row and what a reader needs to believe it."""

import math
from dataclasses import dataclass, field

from benchmarks.interleaved import DISTURBED
from benchmarks.row import Row

HEADER = f"{'path':<15}{'output':<10}{'ours':>10}{'reference':>11}  {'unit':<11}{'ratio':>6}{'min..max':>13}  {'goal':<12}quality"


@dataclass(frozen=True)
class LoaderRow(Row):
    """One path and output. Rates are medians over slices; the ratio is the median of ratios of neighbouring slices."""

    output: str = ""
    """`float32`: like for like, normalised [B, 3, H, W] out of both; `uint8`: as shipped; `bytes`; `tars`."""
    ratio_min: float | None = None
    ratio_max: float | None = None
    ratio_cpu: float | None = None
    """By CPU seconds instead of wall seconds: steadier on a shared machine, blind to idle cores."""
    slices: int = 0
    """Timed, of each side."""
    images: int = 0
    """Ours delivered in the timed slices."""
    reference_images: int = 0
    batch: int = 0
    cores: int = 0
    cores_ours: float | None = None
    """CPU seconds a second while ours was timed: less than `cores` where it waits, or where others use the machine."""
    cores_reference: float | None = None
    others: float | None = None
    """The largest share of the cores' time that somebody else took in a slice that counts."""
    crops: int = 0
    """Compared for quality."""
    identical: float | None = None
    """Share of them that equals the reference in every byte; each counts as 100 dB in psnr_mean and psnr_p1."""
    spent: dict[str, float] = field(default_factory=dict)
    """Milliseconds one of our threads spends on a view, by what it does."""
    extra: dict[str, float] = field(default_factory=dict)
    """Further numbers of this path alone; units in their names."""
    source: str = ""
    machine: str = ""

    @property
    def reached(self) -> bool:
        """Goals of reading are microseconds, all others ratios."""
        if self.goal is not None and self.unit == "us/sample":
            return self.ours <= self.goal
        return super().reached

    def text(self) -> str:
        """A line of the table under HEADER."""
        spread = "" if self.ratio_min is None else f"{self.ratio_min:.2f}..{self.ratio_max:.2f}"
        goal = "" if self.goal is None else f"{self.goal:g} {'reached' if self.reached else 'MISSED'}"
        digits = 0 if max(self.ours, self.reference) >= 1000 else 1
        return (
            f"{self.path:<15}{self.output:<10}{self.ours:>10,.{digits}f}{_number(self.reference, digits):>11}  "
            f"{self.unit:<11}{_number(self.ratio, 2):>6}{spread:>13}  {goal:<12}{'; '.join(self._remarks())}"
        ).rstrip()

    def _remarks(self) -> list[str]:
        """Quality, where the time went, the rest."""
        remarks = []
        if self.psnr_mean is not None and self.psnr_p1 is not None and self.identical is not None:
            same = f", {self.identical:.0%} identical"
            remarks.append(f"PSNR {self.psnr_mean:.1f} dB, 1st percentile {self.psnr_p1:.1f}{same}")
        if self.spent:
            parts = (f"{name.removesuffix('_ms')} {value:.2f}" for name, value in self.spent.items())
            remarks.append(f"a view costs a thread {' + '.join(parts)} ms")
        if self.cores_ours is not None and self.cores_reference is not None:
            remarks.append(f"cores {self.cores_ours:.2f}/{self.cores_reference:.2f}")
        if self.others is not None and self.others > DISTURBED:
            remarks.append(f"disturbed: others took up to {self.others:.0%} of the cores")
        return [*remarks, self.note] if self.note else remarks


def _number(value: float, digits: int) -> str:
    return "" if math.isnan(value) else f"{value:,.{digits}f}"
