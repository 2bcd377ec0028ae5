"""Checkpoints: written whole or not at all, verified on load, the newest good one wins, a damaged one is set aside.

Of several processes the first one writes and reads; the others are told what it read.
"""

import errno
import hashlib
import io
import logging
import time
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from stages.lib.core import files, ranks
from stages.lib.training import processes

log = logging.getLogger(__name__)
DIGEST = 64  # hex characters of sha256
COST = 0.02
"""Share of the time that saving may take, whatever the disk."""


class Keeper:
    """Saves and restores one run's state in <run folder>/checkpoints."""

    def __init__(self, folder: Path, every_seconds: float, keep: int) -> None:
        """every_seconds: between two saves that `due` asks for, 0: after every step; keep: newest checkpoints that stay."""
        self.folder, self.every_seconds, self.keep = folder / "checkpoints", every_seconds, keep
        if ranks.first():
            self.folder.mkdir(parents=True, exist_ok=True)
            for stray in self.folder.glob(".*.tmp"):  # of a process killed while saving
                stray.unlink()
        self.saved_at, self.apart = time.monotonic(), every_seconds

    def due(self) -> bool:
        """Whether it is time for the next checkpoint.

        After a slow save it takes longer, so that saving costs at most 2 % of the time; not where every step is to be saved.
        """
        return time.monotonic() - self.saved_at >= self.apart

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write the state after `step` steps: payload and its sha256, flushed, then renamed.

        Raises OSError naming the checkpoint where it cannot be written; those before stay.
        """
        if not ranks.first():
            return
        began, path = time.monotonic(), self._path(step)
        try:
            with files.replace(path) as temporary, temporary.open("wb") as file:
                hashing = _Hashing(file)
                torch.save(state, cast(BinaryIO, hashing))
                # Behind the payload and not beside it: one rename brings both, so no crash can leave one without the other.
                hashing.write(hashing.digest.hexdigest().encode())
                hashing.finish()
        except OSError as error:
            error.filename = error.filename or str(path)  # a failed write does not say where
            raise
        for old in self.all()[self.keep :]:
            old.unlink()
        self.saved_at = time.monotonic()  # of the end: a slow disk is not to be written to all the time
        self._pace(self.saved_at - began)

    def restore(self, device: torch.device) -> dict[str, Any] | None:
        """The newest state that verifies, in every process, or None; says which damaged ones were set aside."""
        payload = processes.bytes_from_first(self._newest)
        if payload is None:
            return None
        state: dict[str, Any] = torch.load(io.BytesIO(payload), map_location=device, weights_only=True)
        return state

    def all(self) -> list[Path]:
        """Checkpoints, newest first, without those set aside."""
        return sorted(self.folder.glob("step-*.pt"), reverse=True)

    def _newest(self) -> bytes | None:
        """Of the checkpoints here, the first that verifies."""
        there = self.all()
        for path in there:
            if (payload := _verified(path)) is not None:
                return payload
            self._set_aside(path)
        if there:
            log.error(
                "NO CHECKPOINT IS LEFT that verifies, of %d in %s: without another, training starts over",
                len(there),
                self.folder,
            )
        return None

    def _set_aside(self, path: Path) -> None:
        """Out of the way under another name: left in place it would count as the newest, and push good ones out."""
        aside = path.with_name(f"damaged-{path.name}")
        path.rename(aside)
        log.warning(
            "checkpoint %s is damaged (its sha256 does not match, or the disk cannot read it); it is kept as %s, remove it if "
            "you have no use for it; trying the one before",
            path,
            aside.name,
        )

    def _pace(self, seconds: float) -> None:
        """Let the next save wait for as long as the last one is a small enough share of."""
        least = seconds * (1 - COST) / COST
        if not self.every_seconds or least <= self.every_seconds:
            self.apart = self.every_seconds
            return
        if self.apart == self.every_seconds:  # once for a stretch of slow ones
            log.info(
                "saving took %.1f s: checkpoints come %.0f s apart now, not %.0f s as system.checkpoint_seconds says, "
                "so that they cost at most %.0f %% of the time",
                seconds,
                least,
                self.every_seconds,
                100 * COST,
            )
        self.apart = least

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:010d}.pt"


def _verified(path: Path) -> bytes | None:
    """What was saved; None where it is not what was written, or lies on a bad sector."""
    try:
        with path.open("rb") as file:
            payload, digest = file.read(max(0, path.stat().st_size - DIGEST)), file.read()
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return None
    return payload if hashlib.sha256(payload).hexdigest().encode() == digest else None


class _Hashing:
    """A file that torch.save writes to piece by piece, with the sha256 of what went through it; the state is held once.

    torch turns an error of `write` into one that no longer says "disk full", so the first is kept for `finish`.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest = file, hashlib.sha256()
        self.error: OSError | None = None

    def write(self, piece: bytes) -> int:
        """Hash and write; nothing more once a write has failed."""
        if self.error is None:
            try:
                self.digest.update(piece)
                self.file.write(piece)
            except OSError as error:
                self.error = error
        return len(piece)

    def flush(self) -> None:
        """torch asks for it; `finish` does it."""

    def finish(self) -> None:
        """Raise what a write raised; everything is with the system now."""
        if self.error is not None:
            raise self.error
        self.file.flush()
