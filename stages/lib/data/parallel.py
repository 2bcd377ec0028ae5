"""One function over many tasks in several processes, results in order. What comes out does not depend on their number."""

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import TypeVar

from stages.lib.core.signals import Stopped, Watch

log = logging.getLogger(__name__)
Task = TypeVar("Task")
Result = TypeVar("Result")
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

    def ordered(self, what: str, function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        """function(task) for each task, in order. Raises Stopped between two results after SIGTERM or SIGINT."""
        if self.processes == 1 or len(tasks) < 2:
            yield from self._obeying(what, map(function, tasks), len(tasks))
            return
        # Spawn, as pyarrow may have started threads; a process that is forked while they hold a lock hangs.
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(min(self.processes, len(tasks)), mp_context=context, initializer=_begin)
        try:
            yield from self._obeying(what, pool.map(function, tasks), len(tasks))
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
            if self.watch.signum and number < count:
                raise Stopped(self.watch.signum)
            if time.monotonic() - said > self.log_seconds:
                said = time.monotonic()
                log.info("%s: %d of %d", what, number, count)


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
