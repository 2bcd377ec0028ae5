"""Batches ahead of their use: in order, bounded, announced before they are read, and an error is an error."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import cast

import pytest

from stages.lib.data.ahead import PORTION, READ_AHEAD, Meter, made, portions
from stages.lib.data.batch import Batch


class Task:
    """A batch that is its number; `events` remembers what happened to all of them."""

    def __init__(self, number: int, events: list[tuple[str, int]], fail: bool = False) -> None:
        self.number, self.events, self.fail, self.done = number, events, fail, 0

    def announce(self) -> None:
        self.events.append(("announce", self.number))

    def expect(self) -> None:
        self.events.append(("expect", self.number))

    def jobs(self) -> list[Callable[[], None]]:
        self.events.append(("begin", self.number))
        return [self.job] * 3

    def job(self) -> None:
        if self.fail:
            raise ValueError(f"batch {self.number}")
        time.sleep(0.001)
        self.done += 1

    def batch(self) -> Batch:
        assert self.done == 3  # no batch leaves before its work is done
        self.events.append(("leave", self.number))
        return cast(Batch, self.number)


def run(count: int, workers: int, prefetch: int, fail_at: int = -1) -> tuple[list[int], list[tuple[str, int]]]:
    events: list[tuple[str, int]] = []
    tasks = (Task(number, events, number == fail_at) for number in range(count))
    return cast(list[int], list(made(tasks, workers, prefetch))), events


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("prefetch", [1, 4])
def test_made__in_order_bounded_and_announced_ahead(workers: int, prefetch: int) -> None:
    batches, events = run(20, workers, prefetch)
    assert batches == list(range(20))
    for number in range(20 - READ_AHEAD):
        assert events.index(("announce", number + READ_AHEAD)) < events.index(("begin", number))
    begun = left = most = told = 0
    for what, _ in events:
        begun, left, told = begun + (what == "begin"), left + (what == "leave"), told + (what == "announce")
        most = max(most, begun - left)
        assert told - left <= prefetch + 1 + READ_AHEAD + 1  # nothing runs away
    assert most == (prefetch + 1 if workers else 1)
    expected = [number for what, number in events if what == "expect"]
    assert expected == sorted(expected) and expected[0] == 0
    assert workers or expected == list(range(20))


@pytest.mark.parametrize("count", [0, 1, 2])
def test_made__few_batches(count: int) -> None:
    assert run(count, 2, 4)[0] == list(range(count))


@pytest.mark.parametrize("workers", [0, 2])
def test_made__a_failing_job_is_raised_and_nothing_hangs(workers: int) -> None:
    with pytest.raises(ValueError, match="batch 5"):
        run(20, workers, 2, fail_at=5)


def test_made__threads_end_when_nobody_asks_for_more() -> None:
    before = threading.active_count()
    events: list[tuple[str, int]] = []
    source = made((Task(number, events) for number in range(10**9)), 3, 2)
    assert next(source) == 0  # type: ignore[comparison-overlap]
    cast(Iterator[Batch], source).close()  # type: ignore[attr-defined]
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_portions__whole_work_in_order_and_small_batches_in_small_ones() -> None:
    for count in (0, 1, 5, 8, 64, 100):
        found = portions(list(range(count)))
        assert [item for portion in found for item in portion] == list(range(count))
        assert all(len(portion) <= PORTION for portion in found)
    assert len(portions(list(range(8)))) == 8 and len(portions(list(range(128)))) == 16


def test_meter__milliseconds_a_view_since_last_asked() -> None:
    meter = Meter()
    assert meter.milliseconds() == {}
    meter.add(2, 0.002, 0.01, 0.0)
    meter.add(2, 0.002, 0.03, 0.004)
    assert meter.milliseconds() == pytest.approx({"read_ms": 1.0, "decode_ms": 10.0, "augment_ms": 1.0})
    assert meter.milliseconds() == {}
