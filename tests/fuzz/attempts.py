"""Reads one bad file after the other in this very process, under a limit of memory and of time, and says what came of each."""

import json
import resource
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from stages.lib.core.outcome import Refusal
from tests.fuzz.mutation import mutated
from tests.fuzz.target import Target

LIMIT_SECONDS = 2.0  # of processor time: the machine may be busy with other things
ROOM = 1 << 30  # bytes of address space beyond what reading the good files took
SAYING_SECONDS = 1.0  # between two words to the parent


class TooLong(BaseException):
    """Past the limit. No Exception: what is under test must not catch it."""


class Came(NamedTuple):
    """What one input led to."""

    how: str
    """`read`, `refused`, or the defect: its kind and the place where it was raised."""
    seconds: float
    """Of processor time."""
    said: str = ""
    """The Refusal's first words, or a defect's traceback."""


def attempt(target: Target, path: Path) -> Came:
    """Read one file."""
    began = time.process_time()
    try:
        with _limited(LIMIT_SECONDS):
            target.read(path)
        how, said = "read", ""
    except Refusal as refusal:
        how, said = "refused", str(refusal)
    except (Exception, TooLong, KeyboardInterrupt) as error:
        how, said = _defect(error), "".join(traceback.format_exception(error)[-12:])
    seconds = time.process_time() - began
    if seconds > LIMIT_SECONDS and how in ("read", "refused"):
        how = f"{how}, but only after {LIMIT_SECONDS:g} s"
    return Came(how, seconds, said)


def series(target: Target, seed: int, first: int, path: Path) -> Iterator[tuple[int, Came]]:
    """(number, what came of it) of every input from `first` on; the one at hand lies in `path`, whatever happens."""
    number = first
    while True:
        path.write_bytes(mutated(number, seed, target.good, target.tokens, target.changes))
        yield number, attempt(target, path)
        number += 1


def hold_to(target: Target, path: Path, room: int = ROOM) -> int:
    """Read the good files, then give this process `room` bytes more than that took. Peak memory so far, bytes."""
    for good in target.good:
        path.write_bytes(good)
        came = attempt(target, path)
        if came.how not in ("read", "refused"):
            raise AssertionError(f"a good file was not read: {came.how}\n{came.said}")
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + room, size + room))
    return peak()


def peak() -> int:
    """Most memory this process has held, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def child(target: Target, seed: int, first: int, last: int, folder: Path) -> None:
    """Read inputs first..last, telling the parent by lines of JSON: progress, refusals never heard before, defects."""
    path = folder / "input"
    before = hold_to(target, path)
    _tell(ready=True)
    words: set[str] = set()
    counts = {"read": 0, "refused": 0}
    slowest, said = (0.0, first), 0.0
    for number, came in series(target, seed, first, path):
        slowest = max(slowest, (came.seconds, number))
        if came.how in counts:
            counts[came.how] += 1
            if came.how == "refused":
                words.add(_gist(came.said))
        else:
            _tell(defect=came.how, number=number, said=came.said)
        if number >= last or time.monotonic() - said > SAYING_SECONDS:
            said = time.monotonic()
            _tell(number=number, counts=counts, slowest=slowest, grew=peak() - before, peak=peak(), words=len(words))
        if number >= last:
            return


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raise TooLong in the block after so much processor time."""
    usual = signal.signal(signal.SIGPROF, _too_long)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, usual)


def _too_long(_signum: int, _frame: FrameType | None) -> None:
    raise TooLong


def _defect(error: BaseException) -> str:
    """Kind of the error and the last line of this project that it came through: what makes two defects the same."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/stages/" in frame.filename]
    place = f"{frames[-1].filename.rpartition('/stages/')[2]}:{frames[-1].lineno}" if frames else "?"
    return f"{type(error).__name__} at {place}"


def _gist(said: str) -> str:
    """A message without what differs from file to file."""
    return "".join(letter for letter in said[:200] if letter.isalpha() or letter == " ")[:60]


def _tell(**what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()
