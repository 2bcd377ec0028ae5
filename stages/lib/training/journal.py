"""Live numbers of a run: metrics.jsonl, TensorBoard, and a bar or lines for people. Rates and times live here only.

Of several processes the first one speaks for all.
"""

import json
import logging
import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from stages.lib.core import files, ranks, tell
from stages.lib.core.runs import Run

log = logging.getLogger(__name__)


class Journal:
    """Writes what happens in a run folder; after a resume no row stands twice."""

    def __init__(self, run: Run, title: str, total_steps: int, log_seconds: float) -> None:
        self.folder, self.title, self.total, self.log_seconds = run.folder, title, total_steps, log_seconds
        self.first, self.mute = 0, not ranks.first()
        self.told = tell.Progress(title, total_steps, run.folder)

    def start(self, step: int, rewinds: Sequence[int] = ()) -> Self:
        """Begin after `step` steps: rows a killed process wrote past its last checkpoint are taken back.

        rewinds: steps that diverged and from which the run went back; each has a row.
        """
        if self.mute:
            return self
        from torch.utils.tensorboard import SummaryWriter  # a second of import that only training pays

        self.first, self.began, self.spoke = step, time.monotonic(), time.monotonic()
        self.told.say(step, None, {})
        path = self.folder / "metrics.jsonl"
        told = forget_after(path, step, len(rewinds))
        self.rows = path.open("a", buffering=1)
        self.board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=step + 1)
        for number in range(told, len(rewinds)):
            self.row(step, {"rewind": number + 1, "diverged_at": rewinds[number]})
        self.bar = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=self.total, initial=step, desc=self.title, unit="step")
        return self

    def go_back(self, step: int, rewinds: Sequence[int]) -> None:
        """Take back the rows past `step`, the last of `rewinds` having diverged; go on from there."""
        if self.mute:
            return
        self._close()
        self.start(step, rewinds)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.mute:
            self._close()

    def _close(self) -> None:
        self.rows.close()
        self.board.close()
        if self.bar is not None:
            self.bar.close()

    def row(self, step: int, numbers: dict[str, float]) -> None:
        """One row of numbers after `step` steps."""
        if self.mute:
            return
        self.rows.write(json.dumps({"step": step, **numbers}) + "\n")
        for name, value in numbers.items():
            self.board.add_scalar(name, value, step)

    def settle(self) -> None:
        """Let a power cut leave the rows so far; before a checkpoint, whose resume does not write them again."""
        if not self.mute:
            os.fsync(self.rows.fileno())

    def seen(self, step: int, numbers: dict[str, float]) -> None:
        """What validation after `step` steps found, for TensorBoard; the history is where it is kept."""
        for name, value in numbers.items() if not self.mute else ():
            self.board.add_scalar(name, value, step)

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """u8[H, W, 3] for TensorBoard."""
        if not self.mute:
            self.board.add_image(name, image, step, dataformats="HWC")

    def progress(self, step: int, loss: float, rates: dict[str, float]) -> None:
        """Move the bar, or write a line with the time left every log_seconds. rates: as `fit` measures them."""
        if self.mute:
            return
        now = time.monotonic()
        left = (now - self.began) / max(1, step - self.first) * (self.total - step)
        self.told.say(step, left, {"loss": loss, **rates})
        if self.bar is not None:
            self.bar.update(step - self.bar.n)
            self.bar.set_postfix(loss=f"{loss:.4f}", waiting=f"{rates['waiting_share']:.0%}")
            return
        if now - self.spoke >= self.log_seconds or step == self.total:
            self.spoke = now
            log.info(
                "%s: step %d of %d, loss %.4f, %.0f s left, %s", self.title, step, self.total, loss, left, speed(rates)
            )


def speed(rates: dict[str, float]) -> str:
    """How fast, and if it waits for data, why: what a loader thread spends on a view."""
    said = f"{rates['images_per_second']:.0f} images/s, {rates['waiting_share']:.0%} of the time waiting for data"
    said += f", MFU {rates['mfu']:.0%}" if "mfu" in rates else ""
    said += f", {rates['peak_bytes'] / 1e9:.1f} GB" if "peak_bytes" in rates else ""
    costs = [f"{name} {rates[f'{name}_ms']:.2f}" for name in ("read", "decode", "augment") if f"{name}_ms" in rates]
    return said + (f" (ms a view and thread: {', '.join(costs)})" if costs else "")


def forget_after(path: Path, step: int, rewinds: int = 0) -> int:
    """Drop the rows of metrics.jsonl past `step`, and what a kill or a power cut left of a line; returns how many tell of a rewind.

    rewinds: times the run went back by then; rows about others are dropped too.
    """
    if not path.exists():
        return 0
    kept, told = [], 0
    for line in path.read_text(errors="replace").splitlines(keepends=True):
        at, rewind = _place_of(line)
        if at <= step and rewind <= rewinds:
            kept.append(line)
            told += rewind > 0
    with files.replace(path) as temporary:
        temporary.write_text("".join(kept))
    return told


def _place_of(line: str) -> tuple[float, int]:
    """(step, number of the rewind it tells of or 0) of a whole row; of anything else a step that never comes."""
    try:
        row = json.loads(line) if line.endswith("\n") else {}
        return int(row["step"]), int(row.get("rewind", 0))
    except (ValueError, TypeError, KeyError, AttributeError):
        return math.inf, 0
