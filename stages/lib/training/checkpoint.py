"""Checkpoints: written whole or not at all, verified on load, the newest good one wins.

Of several processes the first one writes and reads; the others are told what it read.
"""

import hashlib
import io
import logging
import time
from pathlib import Path
from typing import Any

import torch

from stages.lib.core import files, ranks
from stages.lib.training import processes

log = logging.getLogger(__name__)
DIGEST = 64  # hex characters of sha256


class Keeper:
    """Saves and restores one run's state in <run folder>/checkpoints."""

    def __init__(self, folder: Path, every_seconds: float, keep: int) -> None:
        """every_seconds: between two saves that `due` asks for; keep: newest checkpoints that stay."""
        self.folder, self.every_seconds, self.keep = folder / "checkpoints", every_seconds, keep
        if ranks.first():
            self.folder.mkdir(parents=True, exist_ok=True)
            for stray in self.folder.glob(".*.tmp"):  # of a process killed while saving
                stray.unlink()
        self.saved_at = time.monotonic()

    def due(self) -> bool:
        """Whether it is time for the next checkpoint."""
        return time.monotonic() - self.saved_at >= self.every_seconds

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write the state after `step` steps: payload and its sha256 in one file, flushed, then renamed."""
        if not ranks.first():
            return
        buffer = io.BytesIO()
        torch.save(state, buffer)
        payload = buffer.getbuffer()
        with files.replace(self._path(step)) as temporary, temporary.open("wb") as file:
            file.write(payload)
            file.write(hashlib.sha256(payload).hexdigest().encode())
        for old in self.all()[self.keep :]:
            old.unlink()
        self.saved_at = time.monotonic()  # of the end: a slow disk is not to be written to all the time

    def restore(self, device: torch.device) -> dict[str, Any] | None:
        """The newest state that verifies, in every process, or None; says which damaged ones were passed over."""
        payload = processes.bytes_from_first(self._newest)
        if payload is None:
            return None
        state: dict[str, Any] = torch.load(io.BytesIO(payload), map_location=device, weights_only=True)
        return state

    def _newest(self) -> memoryview | None:
        """Of the checkpoints here, the first that verifies."""
        for path in self.all():
            data = path.read_bytes()
            payload, digest = memoryview(data)[:-DIGEST], data[-DIGEST:]
            if hashlib.sha256(payload).hexdigest().encode() == digest:
                return payload
            log.warning("checkpoint %s is damaged (its sha256 does not match); trying the one before", path)
        return None

    def all(self) -> list[Path]:
        """Checkpoints, newest first."""
        return sorted(self.folder.glob("step-*.pt"), reverse=True)

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:010d}.pt"
