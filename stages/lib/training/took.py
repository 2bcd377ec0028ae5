"""What a run took, over all its starts: took.json of its run folder. No out holds a time (design law 4).

Written with every checkpoint and at the end, however a process ends; a SIGKILL loses what came after the last checkpoint, as it
loses the steps, which are then taken, and counted, again.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from stages.lib.core import files, ranks

NAME = "took.json"
Aside = Literal["validation", "saving"]
ZERO = {
    "starts": 0.0,
    "steps": 0.0,
    "startup_seconds": 0.0,
    "training_seconds": 0.0,
    "validation_seconds": 0.0,
    "validations": 0.0,
    "saving_seconds": 0.0,
    "savings": 0.0,
}


def age() -> float:
    """Seconds since this process began: imports, reading the index and building a model count as start-up."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


class Took:
    """Seconds of one process, added to those of earlier ones. Of several processes the first one writes."""

    def __init__(self, folder: Path, **course: int) -> None:
        """course: of the whole run, for whoever reads the file: epochs, steps_per_epoch, batch_size."""
        self.path, self.course = folder / NAME, course
        self.before = dict(ZERO)
        with contextlib.suppress(
            OSError, ValueError
        ):  # none yet, or torn by a power cut: what it said is lost, no more
            self.before |= json.loads(self.path.read_text())
        self.here = ZERO | {"starts": 1.0}

    def __enter__(self) -> Self:
        self.began = time.monotonic()
        self.here["startup_seconds"] = age()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # a full disk must not hide what really happened
            self.write()

    @contextlib.contextmanager
    def aside(self, what: Aside) -> Iterator[None]:
        """Time that is no training."""
        began = time.monotonic()
        yield
        self.here[f"{what}_seconds"] += time.monotonic() - began
        self.here[f"{what}s"] += 1

    @property
    def aside_seconds(self) -> float:
        """Of this process, so far."""
        return self.here["validation_seconds"] + self.here["saving_seconds"]

    def write(self) -> None:
        """Replace the file."""
        if not ranks.first():
            return
        self.here["training_seconds"] = time.monotonic() - self.began - self.aside_seconds
        total = {name: self.before[name] + self.here[name] for name in ZERO}
        with files.replace(self.path, flush=False) as temporary:
            temporary.write_text(json.dumps(self.course | total, indent=1) + "\n")
