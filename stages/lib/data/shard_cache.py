"""A folder of whole shards that came from a bucket: bounded, each compared with its sha256 before anybody sees it.

Any number of processes may share it. <sha256>-<bytes>.tar is a shard; the same with a dot in front and `.part` behind is one on
its way, locked by whoever fetches it. The file `lock` is held while files appear or go, never while bytes travel.
"""

import contextlib
import fcntl
import io
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from stages.lib.core import files, objects
from stages.lib.core.outcome import Refusal

log = logging.getLogger(__name__)
WAIT_SECONDS = 0.02  # between two looks whether another has fetched a shard or made room


class Wanted(NamedTuple):
    """One shard."""

    uri: str
    sha256: str
    bytes: int

    @property
    def name(self) -> str:
        """In the cache."""
        return f"{self.sha256}-{self.bytes}.tar"


@dataclass(frozen=True)
class ShardCache:
    """The folder, and how many bytes of shards it may hold."""

    folder: Path
    limit: int

    def keep(self, wanted: Wanted) -> bool:
        """Whether the shard is there now; it then is the last to be dropped."""
        try:
            _touch(self.folder / wanted.name)
        except FileNotFoundError:
            return False
        return True

    def open(self, wanted: Wanted, still: Callable[[], bool] = lambda: True) -> int | None:
        """A descriptor of the shard, fetched first where it is not there; the caller closes it. Raises Refusal or Unavailable.

        What is read from it stays right when the shard is dropped from the cache meanwhile. still: asked before each attempt to
        fetch; None is returned when it says no.
        """
        if wanted.bytes > self.limit:
            raise Refusal(
                f"{wanted.uri} has {wanted.bytes / 1e9:.3g} GB, and system.shard_cache_gb is {self.limit / 1e9:.3g}; raise it."
            )
        waited = False
        while True:
            with contextlib.suppress(FileNotFoundError):
                descriptor = os.open(self.folder / wanted.name, os.O_RDONLY)
                _touch(descriptor)  # the last to be dropped
                return descriptor
            if not still():
                return None
            if part := self._begun(wanted):
                with part:
                    return self._fetched(wanted, part)
            if not waited:
                log.debug("%s: waiting for another who fetches it, or for room", wanted.uri)
            waited = True
            time.sleep(WAIT_SECONDS)

    def _fetched(self, wanted: Wanted, part: io.BufferedRandom) -> int:
        try:
            objects.fill(wanted.uri, part, wanted.sha256, wanted.bytes)
        except Refusal:  # nobody will go on with it
            with self._locked():
                self._path(wanted).unlink(missing_ok=True)
            raise
        with self._locked():
            descriptor = os.open(self._path(wanted), os.O_RDONLY)
            self._path(wanted).rename(self.folder / wanted.name)
        return descriptor

    def _begun(self, wanted: Wanted) -> io.BufferedRandom | None:
        """The unfinished shard, locked, with room for all of it; None where another has it, or all room is taken."""
        with self._locked():
            if (self.folder / wanted.name).is_file():
                return None
            part = self._path(wanted).open("a+b")
            if _lock(part) and self._room(wanted):
                return part
            part.close()
        return None

    def _room(self, wanted: Wanted) -> bool:
        """Drop what was not used for longest until all there is, `wanted` at its full length included, fits."""
        own = self._path(wanted)
        held = {path: _bytes(path) for path in self.folder.iterdir() if path.suffix in (".tar", ".part")}
        total = sum(held.values())
        for path in sorted(held.keys() - {own}, key=lambda path: path.stat().st_mtime_ns):
            if total <= self.limit:
                break
            if path.suffix == ".tar" or _abandoned(path):
                path.unlink()
                total -= held[path]
        if total > self.limit:
            own.unlink(missing_ok=True)  # an empty promise would take room from others
        return total <= self.limit

    def _path(self, wanted: Wanted) -> Path:
        return self.folder / f".{wanted.name}.part"

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def here(limit_gb: float) -> ShardCache:
    """The cache of this run root. limit_gb: 10^9 bytes."""
    return ShardCache(files.root() / "shard-cache", int(limit_gb * 1e9))


def _touch(file: Path | int) -> None:
    """Used now, to the nanosecond: the system's own stamp ticks every few milliseconds, and among equals the wrong one would go."""
    now = time.time_ns()
    os.utime(file, ns=(now, now))


def _bytes(path: Path) -> int:
    """What the shard has or will have."""
    return int(path.name.removesuffix(".part").removesuffix(".tar").rsplit("-", 1)[1])


def _lock(file: io.BufferedIOBase) -> bool:
    """Take it, if nobody has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _abandoned(part: Path) -> bool:
    """Whether the process that fetched it is gone."""
    with part.open("rb") as file:
        return _lock(file)
