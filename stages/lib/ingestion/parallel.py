"""One function over many tasks in several processes, results in order. What comes out does not depend on their number."""

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import TypeVar

from stages.lib.core.signals import Stopped, Watch

log = logging.getLogger(__name__)
Task = TypeVar("Task")
Result = TypeVar("Result")
AHEAD = 3  # tasks a process
SMALL = 32 << 20  # bytes to work on that are done before a second process has started


def processes(wanted: int, size: int) -> int:
    """How many to use: `wanted`, 0 for every core this process may use; 1 where there are few bytes to work on."""
    return 1 if size < SMALL else wanted or len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Crew:
    """How a stage's tasks are worked on."""

    processes: int
    watch: Watch
    log_seconds: float

    def ordered(self, what: str, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """function(task) for each task, in order. Raises Stopped between two results after SIGTERM or SIGINT.

        Tasks are taken as they are needed, a few ahead, so they may be made on the way and be large.
        """
        count = len(tasks) if isinstance(tasks, Sequence) else 0
        if self.processes == 1 or count == 1:
            yield from self._obeying(what, map(function, tasks), count)
            return
        # Spawn, as pyarrow may have started threads; a process that is forked while they hold a lock hangs.
        context = multiprocessing.get_context("spawn")
        number = min(self.processes, count or self.processes)
        pool = ProcessPoolExecutor(number, mp_context=context, initializer=_begin)
        try:
            yield from self._obeying(what, _few_ahead(pool, function, tasks, AHEAD * number), count)
        except BrokenProcessPool:
            if self.watch.signum:  # the whole process group was told to stop
                raise Stopped(self.watch.signum) from None
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def _obeying(self, what: str, results: Iterator[Result], count: int) -> Iterator[Result]:
        said = time.monotonic()
        for number, result in enumerate(results, start=1):
            yield result
            if self.watch.signum and number != count:
                raise Stopped(self.watch.signum)
            if time.monotonic() - said > self.log_seconds:
                said = time.monotonic()
                log.info("%s: %d%s", what, number, f" of {count}" if count else "")


def _few_ahead(
    pool: ProcessPoolExecutor, function: Callable[[Task], Result], tasks: Iterable[Task], ahead: int
) -> Iterator[Result]:
    """Results in order, with at most `ahead` tasks handed to the pool and not yet returned."""
    waiting: deque[Future[Result]] = deque()
    for task in tasks:
        waiting.append(pool.submit(function, task))
        if len(waiting) == ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _begin() -> None:
    """In a new process: leave a keyboard's SIGINT to the parent, which lets this one finish its task; end when the parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Where the parent is killed outright, nobody else would tell: the pool's queue stays open in this very process."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
