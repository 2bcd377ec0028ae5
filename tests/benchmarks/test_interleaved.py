"""Slices are steady state: nobody else works, and what lay ready is not counted."""

import threading
import time

import pytest

from benchmarks import interleaved
from benchmarks.interleaved import Comparison, Slice, compare, settle


class Counted:
    """A side that notes when it was drawn from."""

    extra = 0.25
    ahead = 3

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log, self.closed = name, log, False

    def draw(self) -> int:
        self.log.append(self.name)
        time.sleep(0.001)
        return 10

    def close(self) -> None:
        self.closed = True


def test_compare__draws_what_lay_ready_before_the_clock_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interleaved, "TRIES", 1)
    monkeypatch.setattr(interleaved, "_batches", lambda *_: 4)
    log: list[str] = []
    sides = [Counted("a", log), Counted("b", log)]
    first, second = compare(sides, 0.01, cores=2)
    assert [len(first), len(second)] == [3, 3] and all(side.closed for side in sides)
    assert {one.images for one in first + second} == {40}
    assert all(one.wall > 4 * 0.25 and one.clock < 0.25 for one in first)  # the work done elsewhere is added
    drawn = 3 + 2 + 4  # ahead, a worker more, the slice
    turns = log[2 * (3 + 2) :]
    assert turns == [name for pair in ("ab", "ba", "ab") for name in pair for _ in range(drawn)]


def test_compare__repeats_a_disturbed_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = iter([0.0, 0.5, 0.0, 0.0])
    monkeypatch.setattr(interleaved, "_batches", lambda *_: 1)
    monkeypatch.setattr(interleaved, "timed", lambda *_: Slice(1, 1.0, 1.0, next(shares)))
    (slices,) = compare([Counted("a", [])], 0.01, cores=1)
    assert [one.others for one in slices] == [0.0, 0.0, 0.0]


def test_comparison__is_the_median_of_pairs() -> None:
    ours = [Slice(100, clock, 1.0, 0.0) for clock in (1.0, 2.0, 1.0)]
    reference = [Slice(50, clock, 2.0, 0.0) for clock in (1.0, 2.0, 2.0)]
    found = Comparison(ours, reference)
    assert found.ratios == [2.0, 2.0, 4.0] and found.ratio == 2.0 and found.cpu_ratio == 4.0


def test_settle__waits_for_a_thread_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            sum(range(1000))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        monkeypatch.setattr(interleaved, "PATIENCE", 0.3)
        with pytest.raises(RuntimeError, match="still works"):
            settle()
    finally:
        stop.set()
        thread.join()
    monkeypatch.setattr(interleaved, "PATIENCE", 30.0)
    settle()
