"""Is the difference between two runs noise? Paired by image, and over seeds where there are several.

Two sources of chance are told apart. Which images happen to be in the split: both sides answered the same ones, so images are
resampled in pairs (bootstrap), and McNemar's test looks at those on which one side alone is right. Which seed was drawn: the runs
of a side are a sample of what its recipe gives, so their means are compared by Welch's t.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from stages.lib.data import chance

DRAWS = 100_000
SEED = 0  # the same runs, the same sentence
LEVEL = 0.05


@dataclass(frozen=True)
class Side:
    """Runs of one recipe, on the same images."""

    names: list[str]
    right: np.ndarray
    """bool[runs, N]."""

    @property
    def by_image(self) -> np.ndarray:
        """f64[N]: share of the runs that are right about an image."""
        found: np.ndarray = self.right.mean(0)
        return found

    @property
    def top1(self) -> np.ndarray:
        """f64[runs] in percent."""
        found: np.ndarray = 100 * self.right.mean(1)
        return found


@dataclass(frozen=True)
class Spread:
    """Of several seeds, in percent."""

    mean: float
    deviation: float
    """Of a sample: divided by runs - 1."""
    low: float
    high: float
    """Student's t interval of the mean, 95 %."""


@dataclass(frozen=True)
class Compared:
    """B less A."""

    difference: float
    """Points of top-1."""
    low: float
    high: float
    """95 % percentile bootstrap over images, both sides on the same."""
    alone: tuple[int, int] | None
    """Images that A alone and B alone gets right; None where a side has several runs."""
    mcnemar: float | None
    welch: float | None
    """p over seeds; None unless both sides have several."""
    welch_low: float | None
    welch_high: float | None


def resampled(values: np.ndarray) -> tuple[float, float]:
    """(low, high): 2.5 % and 97.5 % of the mean of f64[N] over images drawn anew with replacement.

    An image counts by its value alone, so N draws are one draw of how often each of the few values comes: a multinomial.
    """
    kinds, counts = np.unique(values, return_counts=True)
    drawn = np.random.default_rng(SEED).multinomial(len(values), counts / len(values), DRAWS)
    low, high = np.quantile(drawn @ kinds / len(values), [LEVEL / 2, 1 - LEVEL / 2])
    return float(low), float(high)


def interval(side: Side) -> tuple[float, float]:
    """95 % bootstrap over images of a side's mean top-1, in percent; exact for one run."""
    if len(side.names) == 1:
        return chance.bootstrap(int(side.right.sum()), side.right.shape[1])
    low, high = resampled(side.by_image)
    return 100 * low, 100 * high


def spread(side: Side) -> Spread | None:
    """None for a single run."""
    count, values = len(side.names), side.top1
    if count < 2:
        return None
    mean, deviation = float(values.mean()), float(values.std(ddof=1))
    reach = float(stats.t.ppf(1 - LEVEL / 2, count - 1)) * deviation / math.sqrt(count)
    return Spread(mean, deviation, mean - reach, mean + reach)


def compare(a: Side, b: Side) -> Compared:
    """Both on the same images in the same order."""
    difference = b.by_image - a.by_image
    low, high = resampled(difference)
    alone = mcnemar = welch = welch_low = welch_high = None
    if len(a.names) == len(b.names) == 1:
        alone = int((a.right[0] & ~b.right[0]).sum()), int((b.right[0] & ~a.right[0]).sum())
        mcnemar = chance.sign_test(*alone)
    if min(len(a.names), len(b.names)) > 1:
        welch, welch_low, welch_high = _welch(a.top1, b.top1)
    return Compared(100 * float(difference.mean()), 100 * low, 100 * high, alone, mcnemar, welch, welch_low, welch_high)


def _welch(a: np.ndarray, b: np.ndarray) -> tuple[float, float, float]:
    """(p, low, high of b - a) without taking both to spread alike (Welch 1947)."""
    apart, (one, other) = float(b.mean() - a.mean()), (x.var(ddof=1) / len(x) for x in (a, b))
    error = math.sqrt(one + other)
    if not error:  # every seed of a side gave one figure
        return float(apart == 0), apart, apart
    freedom = (one + other) ** 2 / (one**2 / (len(a) - 1) + other**2 / (len(b) - 1))
    reach = float(stats.t.ppf(1 - LEVEL / 2, freedom)) * error
    return 2 * float(stats.t.sf(abs(apart) / error, freedom)), apart - reach, apart + reach


def verdict(a: Side, b: Side, found: Compared) -> str:
    """One or two sentences, with the numbers they rest on."""
    images = a.right.shape[1]
    if np.array_equal(a.by_image, b.by_image):
        return f"the same answers are right on all {images:,} images: there is no difference to explain."
    over_images = found.low > 0 or found.high < 0
    evidence = [f"{images:,} images: {_signed(found.low)} to {_signed(found.high)} points"]
    passed = [over_images]
    if found.mcnemar is not None:
        evidence.append(f"McNemar p = {found.mcnemar:.2g}")
        passed.append(found.mcnemar < LEVEL)
    if found.welch is not None:
        evidence.append(f"seeds: p = {found.welch:.2g}")
        passed.append(found.welch < LEVEL)
    what = f"B is {abs(found.difference):.2f} points {'better' if found.difference > 0 else 'worse'} than A"
    if not any(passed):
        start = f"{what}, which may well be noise"
    elif not all(passed):
        start = f"{what}; the tests disagree, so take it as undecided"
    else:
        start = f"{what}, more than noise explains"
    return f"{start} ({'; '.join(evidence)}).{_unknown(a, b)}"


def _unknown(a: Side, b: Side) -> str:
    """What a single run cannot say."""
    few = [side for side, runs in (("A", a), ("B", b)) if len(runs.names) == 1]
    if not few:
        return ""
    return f" {' and '.join(few)} {'is' if len(few) == 1 else 'are'} one run: how far another seed would move it was not measured."


def table(a: Side, b: Side) -> str:
    """What a person at the terminal reads."""
    found, lines = compare(a, b), []
    width = max(len(name) for name in (*a.names, *b.names))
    for letter, side in (("A", a), ("B", b)):
        for name, top1, right in zip(side.names, side.top1, side.right, strict=True):
            low, high = chance.bootstrap(int(right.sum()), right.size)
            lines.append(
                f"{letter}  {name.ljust(width)}  top-1 {top1:6.2f} %, 95 % {low:.2f} to {high:.2f} (bootstrap over images)"
            )
        if over := spread(side):
            low, high = interval(side)
            lines.append(
                f"{letter}  {len(side.names)} seeds: mean {over.mean:.2f} %, sd {over.deviation:.2f}, 95 % {over.low:.2f} to "
                f"{over.high:.2f} (t, over seeds), {low:.2f} to {high:.2f} (bootstrap over images)"
            )
    ends = f"95 % {_signed(found.low)} to {_signed(found.high)} (paired bootstrap over images)"
    lines.append(f"B - A: {_signed(found.difference)} points, {ends}")
    if found.alone:
        lines.append(
            f"A alone right on {found.alone[0]} images, B alone on {found.alone[1]}: McNemar exact p = {found.mcnemar:.3g}"
        )
    if found.welch is not None and found.welch_low is not None and found.welch_high is not None:
        lines.append(
            f"over seeds: 95 % {_signed(found.welch_low)} to {_signed(found.welch_high)} points, Welch p = {found.welch:.3g}"
        )
    return "\n".join([*lines, f"Verdict: {verdict(a, b, found)}", ""])


def _signed(points: float) -> str:
    return f"{points:+.2f}"


def side(names: Sequence[str], right: Sequence[np.ndarray]) -> Side:
    """Of runs by name, bool[N] each."""
    return Side(list(names), np.stack(right))
