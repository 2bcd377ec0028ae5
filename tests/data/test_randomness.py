"""Randomness as a pure function of (seed, epoch, position, purpose)."""

import itertools
import timeit

import numpy as np
import pytest

from stages.lib.data.randomness import Purpose, generator

KNOWN = [2450568934, 2278497954, 4276029359]


def test_generator__is_a_pure_function() -> None:
    first, second = generator(3, 5, 7, Purpose.AUGMENT), generator(3, 5, 7, Purpose.AUGMENT)
    generator(3, 5, 8, Purpose.AUGMENT).random(100)
    assert np.array_equal(first.random(1000), second.random(1000))


def test_generator__known_numbers() -> None:
    """Frozen: other numbers here mean that no old run can be repeated."""
    assert generator(0, 1, 2, Purpose.MIX).integers(0, 2**32, 3).tolist() == KNOWN
    assert [purpose.value for purpose in Purpose] == [1, 2, 3, 4, 5, 6, 7]


def test_generator__streams_never_overlap() -> None:
    """Every argument alone, and exchanged arguments, give unrelated numbers: no 64-bit word occurs twice."""
    arguments = itertools.product((0, 1, 2**32 - 1), (0, 1, 2), (0, 1, 1_281_166), list(Purpose)[:3])
    words = [generator(*one).bit_generator.random_raw(500) for one in arguments]
    together = np.concatenate(words)
    assert len(np.unique(together)) == len(together) == 81 * 500


def test_generator__streams_are_far_apart() -> None:
    """The counter of the next position is 2**64 blocks away: a stream reaches its neighbour by jumping there, not before."""
    here = generator(1, 2, 3, Purpose.NOISE).bit_generator
    here.advance(2**64)  # blocks of four words
    assert np.array_equal(here.random_raw(8), generator(1, 2, 4, Purpose.NOISE).bit_generator.random_raw(8))


def test_generator__neighbours_are_uncorrelated() -> None:
    draws = np.stack([generator(0, 0, position, Purpose.NOISE).random(64) for position in range(500)])
    assert abs(draws.mean() - 0.5) < 6 * np.sqrt(1 / 12 / draws.size)
    correlation = np.corrcoef(draws[:-1].ravel(), draws[1:].ravel())[0, 1]
    assert abs(correlation) < 6 / np.sqrt(draws.size)


def test_generator__refuses_what_it_cannot_key() -> None:
    with pytest.raises((ValueError, OverflowError)):
        generator(-1, 0, 0, Purpose.ORDER)
    with pytest.raises((ValueError, OverflowError)):
        generator(0, 0, 2**64, Purpose.ORDER)


def test_generator__is_cheap() -> None:
    """About 10 microseconds; the bound is loose for busy machines."""
    best = min(timeit.repeat(lambda: generator(0, 1, 2, Purpose.AUGMENT), number=200, repeat=5)) / 200
    assert best < 100e-6
