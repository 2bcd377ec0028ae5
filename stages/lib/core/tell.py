"""What a stage tells whoever started it: two small files in the folder $TUTELAGE_TELL names; without that variable nothing.

    last_exit.json   how it ended (stages/lib/core/outcome.py); two experiments may run one stage at once, so it stands here as
                     well as in the run root
    progress.json    {"title", "step", "steps", "seconds_left", "numbers", "folder"}, of a stage that trains or labels

Best effort: a missing folder or a full disk is no reason to stop training. Nothing here can change an out, so no stage declares
this file (`TELLING` in tests/closure.py).
"""

import json
import os
import time
from pathlib import Path

from stages.lib.core import files

TELL = "TUTELAGE_TELL"
SPEAKER = "TUTELAGE_SPEAKER"
"""Process id of the stage that $TUTELAGE_TELL is meant for: a program that a stage starts has the variable too, and is not it."""
EVERY_SECONDS = 1.0


def folder() -> Path | None:
    """Where to tell, if anybody listens."""
    return Path(os.environ[TELL]) if os.environ.get(TELL) else None


def speak() -> None:
    """Be the one whose ending counts, unless a process that started this one is."""
    os.environ.setdefault(SPEAKER, str(os.getpid()))


def speaks() -> bool:
    """Whether this process is that one."""
    return os.environ.get(SPEAKER, str(os.getpid())) == str(os.getpid())


class Progress:
    """How far a stage is, at most once a second. Only the process that speaks for all of a stage makes one."""

    def __init__(self, title: str, steps: int, run_folder: Path) -> None:
        """steps: of the whole run, in whatever the stage counts."""
        self.title, self.steps, self.run_folder = title, steps, run_folder
        self.spoke = float("-inf")

    def say(self, step: int, seconds_left: float | None, numbers: dict[str, float]) -> None:
        """Replace progress.json, if the last time is a second ago or the end has come. numbers: loss, rates and the like."""
        now = time.monotonic()
        if (place := folder()) is None or (now - self.spoke < EVERY_SECONDS and step < self.steps):
            return
        self.spoke = now
        content = {
            "title": self.title,
            "step": step,
            "steps": self.steps,
            "seconds_left": seconds_left,
            "numbers": numbers,
            "folder": str(self.run_folder.absolute()),
        }
        try:
            with files.replace(place / "progress.json", flush=False) as temporary:
                temporary.write_text(json.dumps(content) + "\n")
        except Exception:  # of no matter to training, and said again a second later
            return
