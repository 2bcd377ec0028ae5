"""Times loaders in turns: a slice of one, a slice of the next, while all others stand still.

Loads on a shared machine change from second to second, so only neighbouring slices can be compared. Two things spoil a slice: a
loader that is not being timed and works ahead all the same, and batches that were ready before the clock started. Hence
before each slice `settle` waits until nobody uses the processor any more (every loader has filled its bounded queue and
blocks), then what lay ready is drawn untimed, and a batch a worker more, so that the clock starts and stops at the same
point of the loader's steady state. Turns in which other processes took more than a tenth of our cores are measured again.
"""

import multiprocessing
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

QUIET = 0.005
"""CPU seconds within `WINDOW`: less than this is nobody working."""
WINDOW = 0.06
"""Seconds; the kernel counts other processes' time in hundredths."""
PATIENCE = 60.0
"""Seconds a loader may take to fill its queue."""
LEAST = 3
"""Slices of each side, however short the run."""
DISTURBED = 0.1
"""Share of the cores' time: a turn in which others use more is measured again, ..."""
TRIES = 2
"""... until this many times the wanted turns have been made; then the quietest count."""
TICK = os.sysconf("SC_CLK_TCK")


class Side(Protocol):
    """A loader under the clock."""

    ahead: int
    """Batches it may hold ready."""
    extra: float
    """Seconds added to every batch: work that is done elsewhere and was measured by itself."""

    def draw(self) -> int:
        """Take the next batch, finished and in memory; returns its images."""

    def close(self) -> None:
        """Stop all work, for good."""


@dataclass(frozen=True)
class Slice:
    """What one side did in one turn."""

    images: int
    clock: float
    """Seconds."""
    cpu: float
    """Seconds, of this process and the workers together."""
    others: float
    """Share of the cores' time that other processes and the hypervisor took."""
    extra: float = 0.0
    """Seconds added for work done elsewhere; `cpu` knows nothing of them."""

    @property
    def wall(self) -> float:
        """Seconds."""
        return self.clock + self.extra

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.images / self.wall


@dataclass(frozen=True)
class Comparison:
    """Slices of the two sides that were timed next to each other."""

    ours: Sequence[Slice]
    reference: Sequence[Slice]

    @property
    def ratios(self) -> list[float]:
        """Ours to the reference's, turn by turn."""
        return [mine.rate / theirs.rate for mine, theirs in zip(self.ours, self.reference, strict=True)]

    @property
    def ratio(self) -> float:
        """Their median."""
        return statistics.median(self.ratios)

    @property
    def cpu_ratio(self) -> float:
        """The same by CPU time, which others on the machine disturb less; cores that stood idle are not seen in it."""
        return statistics.median(
            (mine.images / mine.cpu) / (theirs.images / theirs.cpu)
            for mine, theirs in zip(self.ours, self.reference, strict=True)
        )


def compare(sides: Sequence[Side], seconds: float, cores: int) -> list[list[Slice]]:
    """Slices of each side, turn by turn, about `seconds` of them in all a side, one second each. Closes the sides."""
    try:
        for side in sides:
            _draw(side, side.ahead + cores)  # start-up counts for nobody
        wanted = max(LEAST, round(seconds))
        batches = [_batches(side, seconds / wanted, cores) for side in sides]
        turns: list[list[Slice]] = []
        while sum(map(_quiet, turns)) < wanted and len(turns) < TRIES * wanted:
            turns.append(_turn(sides, batches, cores, forwards=len(turns) % 2 == 0))
        turns = sorted(turns, key=_disturbance)[:wanted]
        return [list(slices) for slices in zip(*turns, strict=True)]
    finally:
        for side in sides:
            side.close()


def timed(side: Side, batches: int, cores: int) -> Slice:
    """`batches` batches of one side in its steady state, all others at rest."""
    settle()
    drain = getattr(side, "drain", None)  # a side that knows how to come into its steady state by itself
    if drain:
        drain()
    else:
        _draw(side, side.ahead + cores)
    all_before, cpu, start = _busy(), cpu_seconds(), time.perf_counter()
    images = _draw(side, batches)
    clock = time.perf_counter() - start
    cpu, everything = cpu_seconds() - cpu, _busy() - all_before
    others = max(0.0, everything - cpu) / (clock * len(os.sched_getaffinity(0)))
    return Slice(images, clock, cpu, others, batches * side.extra)


def settle() -> None:
    """Wait until this process and its workers have stopped working. Raises RuntimeError if they never do."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        before = cpu_seconds()
        time.sleep(WINDOW)
        if cpu_seconds() - before < QUIET:
            return
    raise RuntimeError(f"a loader still works {PATIENCE:.0f} s after its last batch was taken: is its queue unbounded?")


def cpu_seconds() -> float:
    """Used so far by this process, all its threads, and by worker processes that are alive."""
    return time.process_time() + sum(_of_process(child.pid) for child in multiprocessing.active_children())


def _of_process(pid: int | None) -> float:
    """User and system time of all threads of a process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0  # it has just ended
    return (int(fields[11]) + int(fields[12])) / TICK


def _busy() -> float:
    """Seconds our cores have worked for anybody since the machine started, or were withheld by the hypervisor."""
    mine = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    ticks = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *counts = line.split()
        if name in mine:
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, counts[:8])
            ticks += user + nice + system + irq + softirq + steal
    return ticks / TICK


def _turn(sides: Sequence[Side], batches: Sequence[int], cores: int, forwards: bool) -> list[Slice]:
    """A slice of each side; to and fro in turns, so that a steady drift of the machine cancels."""
    order = range(len(sides)) if forwards else range(len(sides) - 1, -1, -1)
    slices = {number: timed(sides[number], batches[number], cores) for number in order}
    return [slices[number] for number in range(len(sides))]


def _disturbance(turn: Sequence[Slice]) -> float:
    return max(one.others for one in turn)


def _quiet(turn: Sequence[Slice]) -> bool:
    return _disturbance(turn) <= DISTURBED


def _draw(side: Side, batches: int) -> int:
    return sum(side.draw() for _ in range(batches))


def _batches(side: Side, seconds: float, cores: int) -> int:
    """How many fill about `seconds`: a multiple of the workers, which may finish theirs together."""
    trial = timed(side, cores, cores)
    return max(1, round(seconds / trial.clock)) * cores
