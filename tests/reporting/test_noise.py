"""Differences that are known: published worked examples, scipy's own bootstrap, made-up recipes whose true difference is known."""

import numpy as np
import pytest
from scipy import stats

from stages.lib.data import chance
from stages.lib.reporting import noise
from stages.lib.reporting.noise import Side

IMAGES = 500


def single(right: np.ndarray, name: str = "run") -> Side:
    return noise.side([name], [right])


def discordant(both: int, first: int, second: int, neither: int) -> tuple[Side, Side]:
    """Two runs by the four counts."""
    a = np.repeat([True, True, False, False], [both, first, second, neither])
    b = np.repeat([True, False, True, False], [both, first, second, neither])
    return single(a), single(b)


def test_compare__a_worked_example_of_mcnemar() -> None:
    """1,600 asked twice, 150 and 86 changed their mind (Agresti, Categorical Data Analysis, chapter on matched pairs)."""
    found = noise.compare(*discordant(794, 150, 86, 570))
    assert found.alone == (150, 86) and found.mcnemar == pytest.approx(3.7e-5, rel=0.03)
    assert found.difference == pytest.approx(-4.0)
    assert (found.low, found.high) == pytest.approx((-5.9, -2.1), abs=0.1)  # Wald: -4.0 +- 1.96 x 0.95
    assert found.welch is None


def test_compare__the_interval_is_scipys_paired_bootstrap() -> None:
    a, b = discordant(400, 12, 29, 59)
    found = noise.compare(a, b)
    values = b.right[0].astype(float) - a.right[0]
    theirs = stats.bootstrap((values,), np.mean, n_resamples=9_999, method="percentile", rng=0, vectorized=True)
    ends = theirs.confidence_interval
    assert (found.low, found.high) == pytest.approx((100 * ends.low, 100 * ends.high), abs=0.21)
    # negative control: forgetting that both saw the same images would say twice as much
    apart = [chance.bootstrap(int(one.right.sum()), IMAGES) for one in (a, b)]
    assert apart[1][1] - apart[0][0] > 1.5 * (found.high - found.low)


def test_compare__is_the_same_every_time_and_turns_its_sign() -> None:
    a, b = discordant(400, 12, 29, 59)
    assert noise.compare(a, b) == noise.compare(a, b)
    there, back = noise.compare(a, b), noise.compare(b, a)
    assert there.difference == -back.difference and (there.low, there.high) == pytest.approx(
        (-back.high, -back.low), abs=0.21
    )


def seeds(rng: np.random.Generator, count: int, gain: float, wobble: float) -> Side:
    """Runs of a recipe, images being hard by degrees: `gain` points better, each seed by `wobble` points off."""
    hard = np.linspace(0, 1, IMAGES)
    rows = [
        rng.uniform(size=IMAGES) < np.clip(1.3 - hard + (gain + wobble * rng.normal()) / 100, 0, 1)
        for _ in range(count)
    ]
    return noise.side([f"seed {n}" for n in range(count)], rows)


def test_compare__seeds_by_welch() -> None:
    rng = np.random.default_rng(1)
    a, b = seeds(rng, 4, 0, 1), seeds(rng, 5, 6, 1)
    found = noise.compare(a, b)
    expected = stats.ttest_ind(b.top1, a.top1, equal_var=False)
    assert found.welch == pytest.approx(expected.pvalue) and found.mcnemar is None and found.alone is None
    assert found.difference == pytest.approx(b.top1.mean() - a.top1.mean())
    over = noise.spread(a)
    assert over is not None
    theirs = stats.t.interval(0.95, 3, loc=a.top1.mean(), scale=stats.sem(a.top1))
    assert (over.low, over.high) == pytest.approx(theirs) and over.deviation == pytest.approx(np.std(a.top1, ddof=1))
    assert "more than noise explains" in noise.verdict(a, b, found)


def test_welch__where_one_side_spreads_more_is_scipys() -> None:
    a = np.array([17.2, 20.9, 22.6, 18.1, 21.7, 21.4, 23.5, 24.2, 14.7, 21.8])
    b = np.array([21.5, 22.8, 21.0, 23.0, 21.6, 23.6, 22.5, 20.7, 23.4, 21.8] * 2)
    p, low, high = noise._welch(a, b)
    theirs = stats.ttest_ind(b, a, equal_var=False)
    assert p == pytest.approx(theirs.pvalue) and p > 0.1
    ends = theirs.confidence_interval(0.95)
    assert (low, high) == pytest.approx((ends.low, ends.high))
    assert stats.ttest_ind(b, a).pvalue < 0.05  # negative control: taking both to spread alike would call it
    assert noise._welch(np.ones(3), np.ones(2)) == (1, 0, 0) and noise._welch(np.ones(3), np.zeros(2))[0] == 0


def test_verdict__is_right_about_noise_at_its_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 200 pairs of equal recipes at most 1 in 20, and a little, is called better; of pairs 12 points apart nearly all."""
    monkeypatch.setattr(noise, "DRAWS", 2_000)
    rng = np.random.default_rng(2)
    called = {0.0: 0, 12.0: 0}
    for gain in called:
        for _ in range(200):
            a, b = seeds(rng, 1, 0, 0), seeds(rng, 1, gain, 0)
            called[gain] += "more than noise" in noise.verdict(a, b, noise.compare(a, b))
    assert called[0.0] <= 16 and called[12.0] >= 150, called


def test_verdict__says_what_it_rests_on() -> None:
    a, b = discordant(400, 20, 22, 58)
    said = noise.verdict(a, b, noise.compare(a, b))
    assert said.startswith("B is 0.40 points better than A, which may well be noise (500 images: ")
    assert "A and B are one run: how far another seed would move it was not measured." in said
    a, b = discordant(400, 10, 40, 50)
    said = noise.verdict(a, b, noise.compare(a, b))
    assert said.startswith("B is 6.00 points better than A, more than noise explains (500 images: ")
    assert "no difference to explain" in noise.verdict(a, a, noise.compare(a, a))


def test_verdict__tests_that_disagree_leave_it_open() -> None:
    """Every image says B, the seeds of A spread too far to tell."""
    base = np.arange(IMAGES) < 300
    rows = [base.copy() for _ in range(3)]
    rows[0][:140], rows[2][300:400] = False, True
    better = [np.arange(IMAGES) < 360 for _ in range(3)]
    a, b = noise.side(["1", "2", "3"], rows), noise.side(["4", "5", "6"], better)
    found = noise.compare(a, b)
    assert found.low > 0 and found.welch is not None and found.welch > 0.05
    assert "the tests disagree" in noise.verdict(a, b, found)


def test_table__has_every_number() -> None:
    a, b = discordant(400, 10, 40, 50)
    text = noise.table(a, b)
    assert "top-1  82.00 %" in text and "top-1  88.00 %" in text and "B - A: +6.00 points" in text
    assert "A alone right on 10 images, B alone on 40: McNemar exact p = 2.39e-05" in text
    many = noise.side(["x", "y"], [a.right[0], b.right[0]])
    text = noise.table(many, many)
    assert "2 seeds: mean 85.00 %, sd 4.24" in text and "Welch p = 1" in text
