"""Batches in order, made ahead of their use by threads, and what that costs.

Three queues, each bounded: batches whose bytes the system was told to bring (READ_AHEAD), batches being made (`prefetch`), and the
one in use. Threads take a few images at a time, so that handing out work costs nothing beside it.
"""

import collections
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

from stages.lib.data.batch import Batch

READ_AHEAD = 2  # batches
PORTION = 8  # images a thread takes at a time, at most


T = TypeVar("T")


def portions(work: Sequence[T]) -> list[Sequence[T]]:
    """What a thread takes at a time: so few of a small batch that all threads work on the oldest one."""
    each = max(1, min(PORTION, len(work) // PORTION))
    return [work[start : start + each] for start in range(0, len(work), each)]


class Making(Protocol):
    """One batch to be made. All but `jobs` run in the thread that asks for batches."""

    def announce(self) -> None:
        """It will be made soon."""

    def jobs(self) -> Sequence[Callable[[], None]]:
        """Its work, for any threads in any order. Called once; arrays are made here."""

    def expect(self) -> None:
        """It is the oldest whose work is not done."""

    def batch(self) -> Batch:
        """It, when all jobs are done."""


def made(tasks: Iterable[Making], workers: int, prefetch: int) -> Iterator[Batch]:
    """Their batches, in order; `workers` threads (0: none) prepare up to `prefetch` of them ahead."""
    if not workers:
        for task in _announced(tasks):
            task.expect()
            for job in task.jobs():
                job()
            yield task.batch()
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="loader") as pool:
        begun: _Begun = collections.deque()
        try:
            for task in _announced(tasks):
                if not begun:
                    task.expect()
                begun.append((task, [pool.submit(job) for job in task.jobs()]))
                if len(begun) > prefetch:
                    yield _first(begun)
            while begun:
                yield _first(begun)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _announced(tasks: Iterable[Making]) -> Iterator[Making]:
    """The tasks, each announced READ_AHEAD before its turn."""
    waiting: collections.deque[Making] = collections.deque()
    for task in tasks:
        task.announce()
        waiting.append(task)
        if len(waiting) > READ_AHEAD:
            yield waiting.popleft()
    yield from waiting


_Begun = collections.deque[tuple[Making, list[Future[None]]]]


def _first(begun: _Begun) -> Batch:
    """Wait for the oldest batch and take it out."""
    for task, futures in begun:
        if not all(future.done() for future in futures):
            task.expect()  # this one, not the one that is handed out: threads may be ahead of whoever asks
            break
    task, futures = begun.popleft()
    for future in futures:
        future.result()
    return task.batch()


class Meter:
    """Where loader threads spend their time: seconds and views since it was last read."""

    KINDS = ("read", "decode", "augment")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds, self._views = [0.0, 0.0, 0.0], 0

    def add(self, views: int, read: float, decode: float, augment: float) -> None:
        """From any thread."""
        with self._lock:
            self._views += views
            for place, seconds in enumerate((read, decode, augment)):
                self._seconds[place] += seconds

    def milliseconds(self) -> dict[str, float]:
        """read_ms, decode_ms, augment_ms: a thread's time for one view, on average since the last call; empty: no view."""
        with self._lock:
            views, seconds = self._views, self._seconds
            self._seconds, self._views = [0.0, 0.0, 0.0], 0
        return (
            {f"{kind}_ms": 1e3 * value / views for kind, value in zip(self.KINDS, seconds, strict=True)}
            if views
            else {}
        )


class Lap:
    """A stopwatch."""

    def __init__(self) -> None:
        self._since = time.perf_counter()

    def __call__(self) -> float:
        """Seconds since the start or the last call."""
        now = time.perf_counter()
        spent, self._since = now - self._since, now
        return spent


class Waiting:
    """How long somebody waited for items."""

    def __init__(self) -> None:
        self.seconds = 0.0
        """Since it was last set to 0."""

    def through(self, items: Iterator[T]) -> Iterator[T]:
        """The items, with the time until each noted."""
        while True:
            asked = time.monotonic()
            try:
                item = next(items)
            except StopIteration:
                return
            finally:
                self.seconds += time.monotonic() - asked
            yield item
